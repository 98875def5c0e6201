/** `info`: it agrees with the lists, and needs neither a store nor a runtime. */
import assert from 'node:assert/strict';
import {existsSync} from 'node:fs';
import {join} from 'node:path';
import {describe, it} from 'node:test';
import {newClient, temporaryDirectory} from '../../support/helpers.ts';

describe('info', () => {
  it('counts what each namespace lists, and names the default of the machine, not of a namespace', async (t) => {
    const client = await newClient(t);
    const {defaultSnapshotter} = await client.info();
    await client.namespaces.create('a', {'containerd.io/defaults/snapshotter': 'native'});
    await client.namespaces.create('b');
    const info = await client.info();
    assert.deepEqual(info.namespaces, [
      {name: 'a', images: 0, containers: 0, running: 0},
      {name: 'b', images: 0, containers: 0, running: 0},
    ]);
    assert.equal(info.defaultSnapshotter, defaultSnapshotter);
    assert.ok(info.snapshotters.includes(defaultSnapshotter));
    assert.deepEqual([info.root, info.state], [client.root, client.state]);
  });

  it('of a machine without a store or a runtime creates nothing', async (t) => {
    const root = join(temporaryDirectory(t), 'root');
    const before = process.env.RUNC;
    process.env.RUNC = '/nowhere/runc';
    try {
      const {namespaces, runtime} = await (await newClient(t, {root})).info();
      assert.deepEqual([namespaces, runtime, existsSync(root)], [[], undefined, false]);
    } finally {
      if (before === undefined) delete process.env.RUNC;
      else process.env.RUNC = before;
    }
  });
});
