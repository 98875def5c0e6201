/** docs/FROM-*.md: every command that they show is run, in the order of the page, on one store; every refusal is what berth says. */
import assert from 'node:assert/strict';
import {randomBytes} from 'node:crypto';
import {chmodSync, readFileSync, writeFileSync} from 'node:fs';
import {delimiter, join} from 'node:path';
import {describe, it} from 'node:test';
import {OCI_CONFIG, OCI_LAYER, OCI_MANIFEST} from '../src/lib/oci/mediatypes.ts';
import {environment, root, run} from './cli/harness.ts';
import {ctrHere} from './cli/run-in-process.ts';
import {digestOf, startFakeRegistry} from './fakes/registry.ts';
import {requiresImage} from './support/cached-images.ts';
import {is, newClient, onEnd, requiresRoot, temporaryDirectory} from './support/helpers.ts';
import {ARCHITECTURE} from './support/layouts.ts';
import {pushImage, startRegistry} from './support/registry.ts';
import {criuFault, requiresTasks} from './support/tasks.ts';

interface Row {
  readonly theirs: string;
  readonly answer: string;
}

/** Rows of the tables with this second heading. */
function rows(page: string, heading: string): readonly Row[] {
  const text = readFileSync(join(root, 'docs', page), 'utf8');
  const tables = text.split('\n\n').filter((part) => part.split('\n', 1)[0]!.split('|')[2]?.trim() === heading);
  return tables.flatMap((table) =>
    table
      .trim()
      .split('\n')
      .slice(2)
      .map((line) => {
        const [, theirs, answer] = line.split(/(?<!\\)\|/).map((cell) => cell.trim().replaceAll('\\|', '|'));
        return {theirs: theirs!.replaceAll('`', ''), answer: answer!};
      }),
  );
}

describe('what other tools encrypt', () => {
  it('is refused by name before it is downloaded, and stored as it is when it is only fetched', async (t) => {
    const registry = await startFakeRegistry(t);
    const bytes = randomBytes(1000);
    const mediaType = `${OCI_LAYER}+gzip+encrypted`;
    const encrypted = registry.addBlob(bytes, mediaType);
    const config = registry.addBlob(
      Buffer.from(JSON.stringify({architecture: ARCHITECTURE, os: 'linux', rootfs: {type: 'layers', diff_ids: [digestOf(bytes)]}})),
      OCI_CONFIG,
    );
    registry.addManifest('app', {schemaVersion: 2, mediaType: OCI_MANIFEST, config, layers: [encrypted]}, OCI_MANIFEST, 'latest');
    const client = await newClient(t);
    const ref = `${registry.host}/app:latest`;
    await assert.rejects(client.namespace('x').pull(ref, {snapshotter: 'native'}), (err: Error) => {
      assert.match(err.message, /is encrypted \(application\/vnd\.oci\.image\.layer\.v1\.tar\+gzip\+encrypted\)/);
      return is('not_implemented')(err);
    });
    assert.ok(!registry.requests.some(({method, path}) => method === 'GET' && path.includes(encrypted.digest)));
    await client.namespace('x').pull(ref, {unpack: false});
  });
});

for (const page of ['FROM-DOCKER.md', 'FROM-CTR.md', 'FROM-SKOPEO.md'])
  describe(`docs/${page}`, () => {
    it('shows what works, line after line', async (t) => {
      if (!requiresRoot(t) || !requiresTasks(t)) return;
      const image = requiresImage(t, 'busybox');
      if (image === undefined) return;
      const registry = await startRegistry(t);
      await pushImage(registry, 'app:1', image.layout);
      const dir = temporaryDirectory(t);
      chmodSync(dir, 0o711); // a container with mapped users passes through it
      const host = registry.url.replace('http://', '');
      const env = {
        BERTH_ROOT: join(dir, 'root'),
        BERTH_STATE: join(dir, 'state'),
        CONTAINERD_NAMESPACE: `from-${process.pid}`,
        HOME: dir,
        XDG_RUNTIME_DIR: dir,
        PATH: `${join(root, 'bin')}${delimiter}${environment().PATH}`,
      };
      onEnd(t, () => run('berth', ['namespaces', 'rm', '--recursive', env.CONTAINERD_NAMESPACE], {env}));
      writeFileSync(join(dir, 'images.yaml'), `"${host}":\n  tls-verify: false\n  images:\n    app: ["1"]\n`);
      const shown = rows(page, 'berth');
      const hasCriu = criuFault() === undefined;
      assert.ok(shown.length > 10);
      for (const {answer} of shown) {
        const command = /^`(.+)`$/.exec(answer)?.[1] ?? answer;
        assert.match(command, /\bberth /);
        if (/(containers|tasks) (checkpoint|restore)/.test(command) && !hasCriu) continue;
        const {status, stderr} = await run('sh', ['-ec', command.replaceAll('registry.example', host)], {cwd: dir, env});
        assert.equal(status, 0, `${command}: ${stderr}`);
      }
    });

    const refused = rows(page, 'answer');
    it('lists what is refused', () => assert.ok(refused.length > 3));
    for (const {theirs, answer} of refused)
      it(`${theirs} is answered as it says`, async (t) => {
        const dir = temporaryDirectory(t);
        const place = {root: join(dir, 'root'), state: join(dir, 'state')};
        const {status, stderr} = await ctrHere(place, theirs.split(' ').slice(1));
        assert.equal(status, 3);
        const here = `ctr --root ${place.root} --state ${place.state} `;
        assert.equal(/^hint: (.*)$/m.exec(stderr)?.[1], answer.replaceAll('"berth ', `"${here}`));
      });
  });
