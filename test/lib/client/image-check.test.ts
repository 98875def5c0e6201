/** `images check`, with any part of an image missing. */
import assert from 'node:assert/strict';
import {describe, it, type TestContext} from 'node:test';
import type {ImageCheck, NamespaceClient} from '../../../src/lib/client/types/index.ts';
import type {Digest} from '../../../src/lib/oci/descriptor.ts';
import {digestOf, type FakeImage, type FakeRegistry, startFakeRegistry} from '../../fakes/registry.ts';
import {newClient} from '../../support/helpers.ts';
import {file, tar} from '../../support/tartest.ts';

const HOST = {x64: 'amd64', arm64: 'arm64'}[process.arch as string]!;
const FOREIGN = 's390x';

function add(registry: FakeRegistry, architecture: string, layer = tar(file('a', architecture))): FakeImage {
  return registry.addImage('app', architecture, [layer], {
    architecture,
    os: 'linux',
    rootfs: {type: 'layers', diff_ids: [digestOf(layer)]},
  });
}

interface World {
  readonly ns: NamespaceClient;
  readonly host: FakeImage;
  readonly foreign: FakeImage;
  readonly index: Digest;
  readonly foreignIndex: Digest;
  pull(tag: string, ...platforms: string[]): Promise<void>;
  check(): Promise<ImageCheck>;
}

async function world(t: TestContext): Promise<World> {
  const registry = await startFakeRegistry(t);
  const [host, foreign] = [add(registry, HOST), add(registry, FOREIGN)];
  const of = (image: FakeImage, architecture: string) => ({...image.manifest, platform: {os: 'linux', architecture}});
  const attestation = {...add(registry, 'unknown').manifest, platform: {os: 'unknown', architecture: 'unknown'}};
  const index = registry.addIndex('app', 'index', [of(host, HOST), of(foreign, FOREIGN), attestation]).digest;
  const foreignIndex = registry.addIndex('app', 'foreign-index', [of(foreign, FOREIGN), attestation]).digest;
  const ns = (await newClient(t)).namespace('default');
  return {
    ns,
    host,
    foreign,
    index,
    foreignIndex,
    pull: async (tag, ...platforms) => void (await ns.pull(`${registry.host}/app:${tag}`, {unpack: false, platforms})),
    check: async () => (await ns.images.check({snapshotter: 'native'}))[0]!,
  };
}

describe('images check', () => {
  const ROWS: readonly (readonly [
    what: string,
    tag: string,
    platforms: readonly string[],
    lost: (w: World) => readonly Digest[],
    says: (w: World) => readonly [status: ImageCheck['status'], have: number, need: number | undefined, missing: readonly Digest[]],
  ])[] = [
    ['an image of this machine', HOST, [], () => [], () => ['complete', 3, 3, []]],
    ['an index, pulled for this machine', 'index', [], () => [], () => ['complete', 4, 4, []]],
    ['an index, pulled for another platform', 'index', [FOREIGN], () => [], () => ['complete', 4, 4, []]],
    ['an index, pulled for both', 'index', [HOST, FOREIGN], () => [], () => ['complete', 4, 4, []]],
    ['an index without this machine', 'foreign-index', [FOREIGN], () => [], () => ['complete', 4, 4, []]],
    ['an image of another platform', FOREIGN, [FOREIGN], () => [], () => ['complete', 3, 3, []]],
    [
      'a layer of this machine that is missing',
      'index',
      [],
      ({host}) => [host.layers[0]!.digest],
      ({host}) => ['incomplete', 3, 4, [host.layers[0]!.digest]],
    ],
    [
      'a layer of another platform that is missing',
      'index',
      [FOREIGN],
      ({foreign}) => [foreign.layers[0]!.digest],
      ({foreign}) => ['incomplete', 3, 4, [foreign.layers[0]!.digest]],
    ],
    [
      'a config that is missing',
      'index',
      [],
      ({host}) => [host.config.digest],
      ({host}) => ['unavailable', 2, undefined, [host.config.digest]],
    ],
    [
      'a manifest that is missing, with all that it needs here',
      'index',
      [],
      ({host}) => [host.manifest.digest],
      ({host}) => ['unavailable', 1, undefined, [host.manifest.digest]],
    ],
    [
      'the only manifest of an index without this machine that is missing',
      'foreign-index',
      [FOREIGN],
      ({foreign}) => [foreign.manifest.digest],
      () => ['unavailable', 1, undefined, []],
    ],
    ['an index that is missing', 'index', [], ({index}) => [index], ({index}) => ['unavailable', 0, undefined, [index]]],
  ];
  for (const [what, tag, platforms, lost, says] of ROWS)
    it(`judges ${what} by the local content`, async (t) => {
      const w = await world(t);
      await w.pull(tag, ...platforms.map((architecture) => `linux/${architecture}`));
      for (const digest of lost(w)) await w.ns.content.delete(digest);
      const {status, have, need, missing, unpacked} = await w.check();
      assert.deepEqual([status, have, need, missing], says(w));
      assert.equal(unpacked, false);
    });
});
