/** A journal that cannot be read or applied: the error names the file, and `check --repair` continues with the rest. */
import assert from 'node:assert/strict';
import {existsSync, mkdirSync, readdirSync, readFileSync, rmSync, writeFileSync} from 'node:fs';
import {join} from 'node:path';
import {describe, it} from 'node:test';
import type {Client} from '../../../src/lib/client/types/index.ts';
import {Store} from '../../../src/lib/store/store.ts';
import {is, newClient, type Scope} from '../../support/helpers.ts';
import {leaseRecord} from '../../support/records.ts';
import {readJSON, says, writeJSON} from './pulled-store.ts';

/** A store with leases `1` to `n`, one change each. */
async function leased(t: Scope, n: number) {
  const client = await newClient(t);
  const store = new Store({root: client.root, lockTimeoutMs: 1000});
  for (let i = 1; i <= n; i++) await store.update('lease', (tx) => tx.namespace('default').leases.put(leaseRecord(String(i))));
  const path = (...parts: string[]): string => join(client.root, ...parts);
  const record = (generation: number): string => path('journal', String(generation).padStart(16, '0'));
  return {client, store, path, record};
}

const ids = async (client: Client): Promise<readonly string[]> => (await client.namespace('default').leases.list()).map(({id}) => id);

/** Simulates a power loss: the boot ID changes. */
function reboot(path: (...parts: string[]) => string): void {
  writeJSON(path('journal/checkpoint'), {...readJSON(path('journal/checkpoint')), bootId: '0'.repeat(32)});
}

const damages: Readonly<Record<string, (file: string) => void>> = {
  'is not valid JSON': (file) => writeFileSync(file, readFileSync(file, 'utf8').slice(0, 40)),
  'is not a record of the journal': (file) => writeFileSync(file, '{"version":1,"generation":77,"writes":{},"before":{}}'),
  'is missing, although later ones exist': (file) => rmSync(file),
};

describe('a damaged record of the journal', () => {
  for (const [problem, damage] of Object.entries(damages)) {
    it(`${problem}: is reported while nothing needs it, and removed without loss`, async (t) => {
      const {client, path, record} = await leased(t, 4);
      damage(record(2));
      const finding = `damage: entry journal/${'2'.padStart(16, '0')}: ${problem}`;
      assert.deepEqual((await client.check()).findings.map(says), [finding]);
      const {findings, damage: remains} = await client.check({repair: true});
      assert.deepEqual([findings.map(says), remains], [[finding], 0]);
      assert.match(findings[0]!.action!, /the records hold its changes$/);
      assert.deepEqual((await client.check({deep: true})).findings, []);
      reboot(path);
      assert.deepEqual(await ids(client), ['1', '2', '3', '4'], 'after a power loss it would have been needed');
      await client.gc();
      assert.deepEqual((await client.check()).findings, []);
    });

    it(`${problem}: after a power loss, makes every command fail until it is removed`, async (t) => {
      const {client, store, path, record} = await leased(t, 4);
      reboot(path);
      damage(record(2));
      // Only the synced record files remain.
      for (const id of ['3', '4']) rmSync(path(`namespaces/default/leases/${id}.json`));
      const [found] = (await client.check()).findings;
      assert.equal(says(found!), `damage: entry journal/${'2'.padStart(16, '0')}: ${problem}`);
      const {findings, damage: remains} = await client.check({repair: true});
      assert.equal(remains, 0, findings.map((finding) => `${says(finding)}: ${finding.action}`).join('\n'));
      assert.match(findings.find(({path: at}) => at === record(2))!.action!, /changes that only it held may be lost$/);
      assert.deepEqual(await ids(client), ['1', '2', '3', '4']);
      await store.update('next', (tx) => tx.namespace('default').leases.put(leaseRecord('5')));
      reboot(path);
      await store.update('next', (tx) => tx.namespace('default').leases.delete('1'));
      assert.deepEqual(await ids(client), ['2', '3', '4', '5']);
      await client.gc();
      assert.deepEqual((await client.check({deep: true})).findings, []);
    });
  }

  it('is named in the error, with a hint', async (t) => {
    const {client, path, record} = await leased(t, 3);
    reboot(path);
    writeFileSync(record(2), '');
    const says = (err: Error & {hint?: string}): boolean =>
      is('data_loss')(err) && err.message.includes(record(2)) && /check --repair/.test(err.hint ?? '');
    await assert.rejects(ids(client), says);
    await assert.rejects(client.namespaces.create('new'), says);
    await client.check({repair: true});
    const [when] = readdirSync(path('damaged'));
    assert.ok(existsSync(path('damaged', when!, 'journal', '2'.padStart(16, '0'))), 'it is kept aside');
    await client.namespaces.create('new');
  });
});

describe('a directory in the place of a record', () => {
  for (const change of ['made', 'removed'])
    it(`that is about to be ${change}: is reported, and moved away`, async (t) => {
      const {client, store, path, record} = await leased(t, 2);
      const at = path('namespaces/default/leases/3.json');
      // Committed by a process that was killed before it applied it.
      const writes = {'namespaces/default/leases/3.json': change === 'made' ? {version: 1, ...leaseRecord('3')} : null};
      writeJSON(record(3), {version: 1, generation: 3, writes, before: {'namespaces/default/leases/3.json': null}});
      mkdirSync(join(at, 'foreign'), {recursive: true});
      await assert.rejects(
        store.update('next', (tx) => tx.namespace('default').leases.put(leaseRecord('4'))),
        (err: Error & {hint?: string}) =>
          is('data_loss')(err) && err.message.includes(`${at} is a directory`) && /check --repair/.test(err.hint ?? ''),
      );
      const {damage, findings} = await client.check({repair: true});
      assert.equal(damage, 0, findings.map(says).join('\n'));
      assert.deepEqual(await ids(client), change === 'made' ? ['1', '2', '3'] : ['1', '2']);
      await store.update('next', (tx) => tx.namespace('default').leases.put(leaseRecord('4')));
      const [when] = readdirSync(path('damaged'));
      assert.ok(existsSync(path('damaged', when!, 'namespaces/default/leases/3.json/foreign')));
      assert.deepEqual((await client.check()).findings, []);
    });
});
