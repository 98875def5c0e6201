import assert from 'node:assert/strict';
import {readFileSync} from 'node:fs';
import {join} from 'node:path';
import {describe, it} from 'node:test';
import {digestOf, startFakeRegistry} from '../../fakes/registry.ts';
import {newClient, requiresProgram, requiresRoot} from '../../support/helpers.ts';
import {withMounted} from '../../support/mounted-snapshot.ts';
import {dir, file, tar} from '../../support/tartest.ts';
import {CONFIG} from './pulled-store.ts';

describe('a layer without the padding of its last file can be read to its end', () => {
  const content = 'x'.repeat(700);
  const cut = (archive: Buffer): Buffer => archive.subarray(0, archive.length - 1024 - 324);
  for (const snapshotter of ['erofs', 'overlayfs'])
    for (const [how, upper] of [
      ['with its parents', [dir('d'), file('d/f', content)]],
      ['without its parents', [file('d/f', content)]],
    ] as const)
      it(`${how}, ${snapshotter}`, async (t) => {
        if (!requiresRoot(t) || !requiresProgram(t, 'unshare')) return;
        const registry = await startFakeRegistry(t);
        const layers = [tar(dir('d', 0o700)), cut(tar(...upper))];
        const config = {...CONFIG, rootfs: {type: 'layers', diff_ids: layers.map((layer) => digestOf(layer))}};
        registry.addImage('app', 'latest', layers, config);
        const ns = (await newClient(t)).namespace('default');
        const {unpacked} = await ns.pull(`${registry.host}/app:latest`, {snapshotter});
        const mounts = await ns.snapshots(snapshotter).view('v', unpacked[0]!.chainID);
        await withMounted(mounts, (root) => assert.equal(readFileSync(join(root, 'd/f'), 'utf8'), content));
      });
});
