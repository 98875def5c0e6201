/** The example of README.md that starts a database. */
import assert from 'node:assert/strict';
import {readFileSync} from 'node:fs';
import {join} from 'node:path';
import {describe, it} from 'node:test';
import {openClient} from '../../../src/lib/client/index.ts';
import {requiresImage} from '../../support/cached-images.ts';
import {onEnd, temporaryDirectory} from '../../support/helpers.ts';
import {requiresTasks, until} from '../../support/tasks.ts';

const AsyncFunction = (async () => undefined).constructor as new (
  ...words: readonly string[]
) => (client: unknown, console: unknown) => Promise<void>;

describe('README.md', () => {
  it('shows how a test suite starts a database, uses it, reads its log and stops it', async (t) => {
    if (!requiresTasks(t)) return;
    const image = requiresImage(t, 'redis');
    if (image === undefined) return;
    const example = /^const ns = client\.namespace\('tests'\);\n[^`]*/m.exec(
      readFileSync(join(import.meta.dirname, '../../../README.md'), 'utf8'),
    )![0];
    const program = [process.execPath, join(import.meta.dirname, '../../../src/main.ts')];
    const client = openClient({root: temporaryDirectory(t), state: temporaryDirectory(t), program});
    onEnd(t, async () => {
      for (const {id} of await client.namespace('tests').tasks.list()) await client.namespace('tests').tasks.delete(id, {force: true});
      await client.namespaces.delete('tests', {recursive: true}).catch(() => undefined);
      await client.close();
    });
    const ns = client.namespace('tests');
    await ns.images.import(image.layout, {baseName: 'registry.example/redis'});
    const [imported] = await ns.images.list();
    await ns.images.tag(imported!.name, 'docker.io/library/redis:latest');
    const printed: string[] = [];
    await new AsyncFunction('client', 'console', example)(client, {log: (text: string) => printed.push(text)});
    assert.equal(printed[0], '1', 'redis counts from one');
    assert.ok(printed.length > 1 && /Ready|redis|server/i.test(printed.slice(1).join('\n')), printed.join('\n'));
    await until('it is gone', async () => (await ns.containers.list()).length === 0 && (await ns.tasks.list()).length === 0);
  });
});
