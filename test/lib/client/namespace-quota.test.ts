/** A namespace with `berth/quota-bytes` holds no more than that, whichever command brings what, and another one is not bound by it. */
import assert from 'node:assert/strict';
import {randomBytes} from 'node:crypto';
import {join} from 'node:path';
import {describe, it, type TestContext} from 'node:test';
import type {Client} from '../../../src/lib/client/index.ts';
import {type FakeRegistry, startFakeRegistry} from '../../fakes/registry.ts';
import {is, newClient, requiresRoot, temporaryDirectory} from '../../support/helpers.ts';
import {publishImage} from '../../support/published-images.ts';
import {file, tar} from '../../support/tartest.ts';

const KB = 1000;
const QUOTA = 'berth/quota-bytes';

/** Blobs and layers, as the quota counts them. */
async function used(client: Client, name: string): Promise<number> {
  const found = (await client.df()).namespaces.find((usage) => usage.name === name);
  return found === undefined ? 0 : found.content.size + found.snapshots.disk + found.writable.disk;
}

const layer = (bytes: number): Buffer => tar(file('data', randomBytes(bytes)));
/** Zeros: a small blob that becomes a large layer. */
const swelling = (bytes: number): Buffer => tar(file('zeros', Buffer.alloc(bytes)));

interface World {
  readonly client: Client;
  readonly registry: FakeRegistry;
  readonly ref: (name: string) => string;
}

async function world(t: TestContext, bytes: number): Promise<World> {
  const registry = await startFakeRegistry(t);
  const client = await newClient(t);
  await client.namespaces.create('small', {[QUOTA]: String(bytes)});
  return {client, registry, ref: (name) => `${registry.host}/${name}:latest`};
}

const fetches = (registry: FakeRegistry): number =>
  registry.requests.filter(({path, method}) => method === 'GET' && path.includes('/blobs/')).length;

describe('a namespace with a quota', () => {
  it('takes no image that is larger, before a layer of it is fetched', async (t) => {
    const {client, registry, ref} = await world(t, 500 * KB);
    publishImage(registry, 'large', [layer(600 * KB)]);
    await assert.rejects(client.namespace('small').pull(ref('large'), {unpack: false}), is('resource_exhausted'));
    assert.equal(fetches(registry), 1, 'only the config');
    assert.equal(await used(client, 'small'), 0);
    await client.namespace('other').pull(ref('large'), {unpack: false});
    await assert.rejects(client.namespace('small').pull(ref('large'), {unpack: false}), is('resource_exhausted'));
  });

  for (const snapshotter of ['native', 'overlayfs', 'erofs'])
    it(`ends the unpacking of a layer that would be larger, with ${snapshotter}`, async (t) => {
      if (!requiresRoot(t)) return;
      const {client, registry, ref} = await world(t, 3000 * KB);
      publishImage(registry, 'bomb', [swelling(20_000 * KB)]);
      await assert.rejects(client.namespace('small').pull(ref('bomb'), {snapshotter}), is('resource_exhausted'));
      assert.ok((await used(client, 'small')) <= 3000 * KB);
      await client.namespace('other').pull(ref('bomb'), {snapshotter});
      // It is unpacked now, for another namespace.
      await assert.rejects(client.namespace('small').pull(ref('bomb'), {snapshotter}), is('resource_exhausted'));
    });

  it('holds what it may, whoever pulls at once', async (t) => {
    const {client, registry, ref} = await world(t, 1000 * KB);
    const names = ['a', 'b', 'c', 'd'];
    for (const name of names) publishImage(registry, name, [layer(400 * KB)]);
    const outcomes = await Promise.allSettled(names.map((name) => client.namespace('small').pull(ref(name), {unpack: false})));
    for (const outcome of outcomes) if (outcome.status === 'rejected') is('resource_exhausted')(outcome.reason);
    assert.equal(outcomes.filter(({status}) => status === 'fulfilled').length, 2);
    assert.ok((await used(client, 'small')) <= 1000 * KB);
    // What is here is no growth, and what is removed makes room.
    const [kept] = await client.namespace('small').images.list();
    await client.namespace('small').pull(kept!.name, {unpack: false});
    await client.namespace('small').images.delete(kept!.name);
    const other = names.find((name) => !outcomes.some((o) => o.status === 'fulfilled' && o.value.image.name === ref(name)))!;
    await client.namespace('small').pull(ref(other), {unpack: false});
  });

  it('takes no archive, and no blob, that is larger', async (t) => {
    const {client, registry, ref} = await world(t, 300 * KB);
    publishImage(registry, 'large', [layer(400 * KB)]);
    const other = client.namespace('other');
    await other.pull(ref('large'), {unpack: false});
    const archive = join(temporaryDirectory(t), 'large.tar');
    await other.images.export(archive, [ref('large')]);
    await assert.rejects(client.namespace('small').images.import(archive, {unpack: false}), is('resource_exhausted'));
    assert.equal(await used(client, 'small'), 0);
  });

  it('has a whole number as its quota', async (t) => {
    const client = await newClient(t);
    for (const value of ['10G', '-1', '1.5', 'x', '1e3'])
      await assert.rejects(client.namespaces.create('small', {[QUOTA]: value}), is('invalid_argument'));
  });
});
