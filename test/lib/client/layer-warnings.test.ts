/** Warnings about attributes that a layer could not be given: a pull returns them, other commands warn. */
import assert from 'node:assert/strict';
import {mkdirSync, readdirSync, rmSync} from 'node:fs';
import {join} from 'node:path';
import {describe, it} from 'node:test';
import {digestOf, startFakeRegistry} from '../../fakes/registry.ts';
import {newClient, requiresProgram, requiresRoot, temporaryDirectory} from '../../support/helpers.ts';
import {ARCHITECTURE} from '../../support/layouts.ts';
import {program} from '../../support/static-programs.ts';
import {char, file, tar} from '../../support/tartest.ts';

const LAYER = tar(file('exit', program('exit'), 0o755), char('zero', 0, 0));

/** Commands that unpack a missing layer. */
const COMMANDS = ['run', 'images mount', 'check --repair'] as const;

for (const snapshotter of ['overlayfs', 'erofs'] as const)
  describe(`missing attributes of a layer, ${snapshotter}`, () => {
    it('are reported by each command that unpacks the layer, and by no other', async (t) => {
      if (!requiresRoot(t) || !requiresProgram(t, 'runc', 'unshare', 'mount')) return;
      const registry = await startFakeRegistry(t);
      const config = {
        os: 'linux',
        architecture: ARCHITECTURE,
        config: {Cmd: ['/exit']},
        rootfs: {type: 'layers', diff_ids: [digestOf(LAYER)]},
      };
      const {layers} = registry.addImage('app', 'latest', [LAYER], config);
      const ref = `${registry.host}/app:latest`;
      const lack = `layer ${layers[0]!.digest}: device "zero" is 0/0, which overlayfs takes for a whiteout`;
      let told: string[] = [];
      const client = await newClient(t, {onWarning: (warning) => void told.push(warning.message)});
      const ns = client.namespace('default');
      assert.deepEqual((await ns.pull(ref, {snapshotter})).warnings, [lack]);
      assert.deepEqual((await ns.pull(ref, {snapshotter})).warnings, [], 'nothing is unpacked the second time');

      const target = temporaryDirectory(t);
      const commands: Readonly<Record<(typeof COMMANDS)[number], () => Promise<unknown>>> = {
        run: async () => assert.equal((await ns.run(ref, 'c1', {rm: true, snapshotter})).exitStatus, 0),
        'images mount': async () => {
          mkdirSync(target, {recursive: true});
          await ns.images.mount(ref, target, {snapshotter});
          await ns.images.unmount(target, {rm: true});
        },
        'check --repair': () => client.check({repair: true}),
      };
      for (const name of COMMANDS) {
        for (const layer of readdirSync(join(client.root, 'layers'))) rmSync(join(client.root, 'layers', layer), {recursive: true});
        told = [];
        await commands[name]();
        assert.deepEqual(told, [`${lack}: failed precondition`], name);
        told = [];
        await commands[name]();
        assert.deepEqual(told, [], `${name}, of a layer that is here`);
      }
    });
  });
