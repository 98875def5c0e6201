/**
 * After each removing command nothing is left to collect: random graphs and random commands, compared with a model of containerd's
 * collector.
 */
import assert from 'node:assert/strict';
import {existsSync, mkdirSync, rmSync, writeFileSync} from 'node:fs';
import {dirname, join} from 'node:path';
import {describe, it, type TestContext} from 'node:test';
import type {Client} from '../../../src/lib/client/types/index.ts';
import {isErrdefs} from '../../../src/lib/errdefs.ts';
import {collectAll} from '../../../src/lib/store/gc.ts';
import type {Labels} from '../../../src/lib/store/records.ts';
import {Store} from '../../../src/lib/store/store.ts';
import type {StoreTransaction} from '../../../src/lib/store/transaction-types.ts';
import {type Random, randomOf} from '../../fuzz/seeded-random.ts';
import {isShort, newClient, TORTURE} from '../../support/helpers.ts';
import {checkStore} from '../../support/invariants.ts';
import {containerRecord, contentRecord, digestOf, imageRecord, leaseRecord, snapshotRecord} from '../../support/records.ts';
import {collectWorld, expiry, isRooted, named, type World} from './gc-model.ts';

const START = Date.parse('2026-06-01T00:00:00Z');
const MINUTE = 60_000;

const SNAPSHOTTERS = ['overlayfs', 'native'] as const;
const DIGESTS = Array.from({length: 9}, (_, i) => digestOf(`${i}`));
const IMAGES = ['a', 'b', 'c', 'd', 'e'].map((name) => `x.example/${name}:1`);
const KEYS = ['s0', 's1', 's2', 's/3', 's4', 's5'];
const CONTAINERS = ['c0', 'c1', 'c2'];

/** Generates labels that direct a collection, and some that only look similar. */
class LabelMaker {
  readonly #random: Random;
  readonly #now: () => number;
  /** Whether back references and flat leases are among them, which counts cannot express. */
  readonly hasIndirect: boolean;

  constructor(random: Random, now: () => number, hasIndirect: boolean) {
    this.#random = random;
    this.#now = now;
    this.hasIndirect = hasIndirect;
  }

  make(most: number): Labels {
    return Object.fromEntries(Array.from({length: this.#random.below(most + 1)}, () => this.reference()));
  }

  time(): string {
    const {below, pick} = this.#random;
    return pick([new Date(this.#now() + (below(12) - 2) * MINUTE).toISOString(), '2200-01-01T00:00:00Z', 'never', '1']);
  }

  root(): Labels {
    const {chance, pick} = this.#random;
    return chance(0.3) ? {[pick(['containerd.io/gc.root', 'containerd.io/gc.root', 'containerd.io/gc.root.mine'])]: 'yes'} : {};
  }

  reference(): readonly [string, string] {
    const {pick, chance} = this.#random;
    const direction = this.hasIndirect && chance(0.3) ? 'bref' : 'ref';
    const [kind, value] = pick([
      ['content', pick(DIGESTS)],
      ['content', pick(DIGESTS)],
      ['image', pick(IMAGES)],
      ['container', pick(CONTAINERS)],
      [`snapshot.${pick(SNAPSHOTTERS)}`, pick(KEYS)],
    ] as const);
    const suffix = kind.startsWith('snapshot') ? pick(['', '', '/x', '/y']) : pick(['', '.0', '.1', '/x', '-x', 'bad']);
    return [`containerd.io/gc.${direction}.${kind}${suffix}`, value];
  }
}

class Walk {
  readonly #client: Client;
  readonly #store: Store;
  readonly #random: Random;
  readonly #labels: LabelMaker;
  #now = START;
  readonly #setTime: (time: number) => void;
  readonly #log: string[] = [];

  constructor(t: TestContext, client: Client, random: Random, hasIndirect: boolean) {
    this.#client = client;
    this.#store = new Store({root: client.root, lockTimeoutMs: 1000});
    this.#store.ensureCreated();
    this.#random = random;
    this.#labels = new LabelMaker(random, () => this.#now, hasIndirect);
    this.#setTime = (time) => t.mock.timers.setTime(time);
  }

  async run(steps: number): Promise<void> {
    for (const ns of ['one', 'two']) await this.#grow(ns, 12);
    for (let step = 0; step < steps; step++) {
      const ns = this.#random.pick(['one', 'two', 'two']);
      if (this.#random.chance(0.25)) await this.#grow(ns, 1 + this.#random.below(4));
      if (this.#random.chance(0.25)) {
        this.#now += this.#random.below(5) * MINUTE;
        this.#setTime(this.#now);
      }
      if (this.#random.chance(0.05)) await this.#age();
      await this.#remove(ns);
    }
    await this.#store.update('the last', (tx) => tx.namespace('three').images.put(imageRecord('last', DIGESTS[0]!)));
    await this.#client.namespace('three').images.delete('last');
    const collected = await this.#client.gc();
    assert.deepEqual(collected, {images: 0, content: 0, snapshots: 0, leases: 0, blobs: 0, layers: 0, settled: 0}, this.#told());
    assert.deepEqual(this.#complaints(), [], this.#told());
  }

  #told = (): string => this.#log.join('\n');

  /** Records may refer to missing objects, as in containerd. */
  #complaints(): readonly string[] {
    const meant = /points to content|has parent|which is missing|content [0-9]+ B|has layer|is not what generation/;
    return checkStore(this.#client.root, {deep: false, litter: true}).filter((line) => !meant.test(line));
  }

  #worlds(): Map<string, World> {
    return this.#store.view(
      (tx) =>
        new Map(
          tx.namespaces.list().map(({name}): [string, World] => {
            const ns = tx.namespace(name);
            const by = <T>(records: readonly T[], key: (record: T) => string): Map<string, T> =>
              new Map(records.map((record) => [key(record), record]));
            const snapshots = ns.snapshotters().flatMap((snapshotter) => ns.snapshots(snapshotter).list());
            return [
              name,
              {
                images: by(ns.images.list(), (r) => r.name),
                containers: by(ns.containers.list(), (r) => r.id),
                content: by(ns.content.list(), (r) => r.digest),
                snapshots: by(snapshots, (r) => `${r.snapshotter}/${r.key}`),
                leases: by(ns.leases.list(), (r) => r.id),
              },
            ];
          }),
        ),
    );
  }

  /** Makes the counts those of a berth that knew neither expiry nor what may wait for a collection. */
  async #age(): Promise<void> {
    this.#log.push('an older berth');
    await this.#store.update('older', (tx) => tx.replace('refs/uncounted.json', undefined));
    const {root} = this.#client;
    for (const directory of ['refs', 'namespaces/one/refs', 'namespaces/two/refs']) {
      const path = join(root, directory, 'complete.json');
      if (existsSync(dirname(path))) writeFileSync(path, '{"version":1}');
    }
  }

  /** Adds records, kept by something or not, as pulls and users of the library do. */
  async #grow(ns: string, count: number): Promise<void> {
    await this.#store.update('growth', (tx) => {
      for (let i = 0; i < count; i++) this.#add(tx, ns);
    });
  }

  #add(tx: StoreTransaction, ns: string): void {
    const {pick, chance, below} = this.#random;
    const labels = this.#labels;
    const {images, containers, content, leases, ...space} = tx.namespace(ns);
    const kind = pick(['image', 'content', 'content', 'content', 'snapshot', 'snapshot', 'container', 'lease'] as const);
    this.#log.push(`${ns}: + ${kind}`);
    switch (kind) {
      case 'image': {
        const expire = chance(0.3) ? {'containerd.io/gc.expire': labels.time()} : {};
        images.put(imageRecord(pick(IMAGES), pick(DIGESTS), {...labels.make(1), ...expire}));
        break;
      }
      case 'content': {
        const digest = pick(DIGESTS);
        const path = this.#store.blobs.path(digest);
        mkdirSync(dirname(path), {recursive: true, mode: 0o700});
        rmSync(path, {force: true});
        writeFileSync(path, String(DIGESTS.indexOf(digest)), {mode: 0o444});
        content.put(contentRecord(digest, {...labels.make(3), ...labels.root()}));
        break;
      }
      case 'snapshot': {
        const snapshotter = pick(SNAPSHOTTERS);
        const snapshots = space.snapshots(snapshotter);
        const n = below(KEYS.length);
        if (snapshots.find(KEYS[n]!) !== undefined) break;
        const parent = chance(0.6) ? snapshots.find(KEYS[n - 1] ?? '')?.key : undefined;
        const layer = `${snapshotter}-own-${digestOf(`${ns} ${n}`).slice(-24)}`;
        mkdirSync(this.#store.layers.path(layer), {recursive: true, mode: 0o700});
        const over = {snapshotter, layer, labels: {...labels.make(1), ...labels.root()}, ...(parent === undefined ? {} : {parent})};
        snapshots.put(snapshotRecord(KEYS[n]!, over));
        break;
      }
      case 'container': {
        const [snapshotter, snapshotKey] = [pick(SNAPSHOTTERS), pick([...KEYS, ''])];
        containers.put(containerRecord(pick(CONTAINERS), {snapshotter, snapshotKey, labels: labels.make(1)}));
        break;
      }
      case 'lease': {
        const flat = labels.hasIndirect && chance(0.5) ? {'containerd.io/gc.flat': 'yes'} : {};
        const [byLabel, byField] = [chance(0.2), chance(0.3)];
        leases.put(
          leaseRecord(pick(['l0', 'l1', 'l2']), {
            content: chance(0.7) ? [pick(DIGESTS), pick(DIGESTS)] : [],
            snapshots: chance(0.5) ? [`${pick(SNAPSHOTTERS)}/${pick(KEYS)}`] : [],
            labels: {...labels.make(1), ...flat, ...(byLabel ? {'containerd.io/gc.expire': labels.time()} : {})},
            ...(byField ? {expiresAt: new Date(this.#now + (below(10) - 2) * MINUTE).toISOString()} : {}),
          }),
        );
        break;
      }
    }
  }

  /** Runs a command that removes something, and compares. */
  async #remove(ns: string): Promise<void> {
    const before = this.#worlds();
    const world = before.get(ns);
    if (world === undefined) return;
    const expected = structuredClone(before);
    const command = this.#command(ns, world, expected.get(ns)!);
    if (command === undefined) return;
    this.#log.push(`${ns}: ${command.name}`);
    if (command.isGone === true) expected.delete(ns);
    if (command.isCollected !== false) for (const each of expected.values()) collectWorld(each, this.#now);
    try {
      await command.run();
    } catch (err) {
      if (!isErrdefs(err) || err.code !== 'failed_precondition') throw err;
      // A container in use: nothing changes.
      assert.deepEqual(this.#worlds(), before, this.#told());
      return;
    }
    assert.deepEqual(shape(this.#worlds()), shape(expected), this.#told());
    if (command.isCollected === false) return;
    const left = this.#store.dryRun((tx) => collectAll(this.#store, tx));
    assert.deepEqual(left, {images: 0, content: 0, snapshots: 0, leases: 0, blobs: 0, layers: 0}, this.#told());
    const blobs = new Set<string>();
    const layers = new Set<string>();
    for (const {content, leases, snapshots} of expected.values()) {
      for (const digest of content.keys()) blobs.add(digest);
      for (const lease of leases.values()) for (const digest of lease.content) blobs.add(digest);
      for (const {layer} of snapshots.values()) layers.add(layer!);
    }
    assert.deepEqual(
      [this.#store.blobs.list().filter((digest) => !blobs.has(digest)), this.#store.layers.list().filter((id) => !layers.has(id))],
      [[], []],
      this.#told(),
    );
  }

  /** @param world as it is @param after to be changed to what the command itself makes of it */
  #command(
    ns: string,
    world: World,
    after: World,
  ): {readonly name: string; readonly run: () => Promise<unknown>; readonly isCollected?: boolean; readonly isGone?: boolean} | undefined {
    const {pick, chance} = this.#random;
    const {images, content, containers, leases, snapshots, name} = this.#client.namespace(ns);
    const kind = pick([
      ...(['image', 'image', 'content', 'snapshot', 'lease', 'container', 'image label', 'image label', 'content label'] as const),
      ...(['content label', 'content label', 'snapshot label', 'tag', ...(chance(0.1) ? (['namespace'] as const) : [])] as const),
    ]);
    const of = kind.startsWith('image') || kind === 'tag' ? world.images : kind.startsWith('content') ? world.content : undefined;
    const from = of ?? (kind.startsWith('snapshot') ? world.snapshots : kind === 'lease' ? world.leases : world.containers);
    if (kind === 'namespace')
      return {name: 'namespaces rm --recursive', run: () => this.#client.namespaces.delete(name, {recursive: true}), isGone: true};
    if (from.size === 0) return undefined;
    const key = pick([...from.keys()]);
    switch (kind) {
      case 'image':
        after.images.delete(key);
        return {name: `images rm ${key}`, run: () => images.delete(key)};
      case 'content':
        after.content.delete(key);
        return {name: `content rm ${key}`, run: () => content.delete(key)};
      case 'snapshot': {
        const {snapshotter, key: own} = world.snapshots.get(key)!;
        after.snapshots.delete(key);
        return {name: `snapshots rm ${key}`, run: () => snapshots(snapshotter).delete(own)};
      }
      case 'lease':
        after.leases.delete(key);
        return {name: `leases rm ${key}`, run: () => leases.delete(key)};
      case 'container': {
        const {snapshotter, snapshotKey} = world.containers.get(key)!;
        const keepSnapshot = chance(0.3);
        const snapshot = after.snapshots.get(`${snapshotter}/${snapshotKey}`);
        after.containers.delete(key);
        if (!keepSnapshot) after.snapshots.delete(`${snapshotter}/${snapshotKey}`);
        else if (snapshot !== undefined)
          after.snapshots.set(`${snapshotter}/${snapshotKey}`, {...snapshot, labels: {...snapshot.labels, 'containerd.io/gc.root': 'now'}});
        return {name: `containers rm ${key}`, run: () => containers.delete(key, {keepSnapshot})};
      }
      case 'tag': {
        const target = pick(IMAGES);
        if (target === key) return undefined;
        const [old, record] = [world.images.get(target), {...world.images.get(key)!, name: target}];
        after.images.set(target, record);
        const isCollected = losesHold(
          old === undefined ? undefined : {labels: old.labels, target: old.target.digest},
          {labels: record.labels, target: record.target.digest},
          true,
        );
        return {name: `images tag --force ${key} ${target}`, run: () => images.tag(key, target, {force: true}), isCollected};
      }
      default: {
        const record = from.get(key)! as {readonly labels: Labels};
        const changes = this.#changes(record.labels, kind === 'image label');
        const labels = Object.fromEntries(Object.entries({...record.labels, ...changes}).filter(([, value]) => value !== ''));
        (after[kind === 'image label' ? 'images' : kind === 'content label' ? 'content' : 'snapshots'] as Map<string, unknown>).set(key, {
          ...record,
          labels,
        });
        const run = (): Promise<unknown> => {
          if (kind === 'image label') return images.label(key, changes);
          if (kind === 'content label') return content.label(key, changes);
          const {snapshotter, key: own} = world.snapshots.get(key)!;
          return snapshots(snapshotter).label(own, changes);
        };
        const isCollected = losesHold({labels: record.labels}, {labels}, kind === 'image label');
        return {name: `${kind} ${key} ${JSON.stringify(changes)}`, run, isCollected};
      }
    }
  }

  #changes(labels: Labels, isImage: boolean): Labels {
    const {pick, chance} = this.#random;
    if (isImage && chance(0.3)) return {'containerd.io/gc.expire': this.#labels.time()};
    const present = Object.keys(labels);
    if (present.length === 0) return {'x.example/label': 'x'};
    const key = pick(present);
    return {[key]: chance(0.7) ? '' : this.#labels.reference()[1]};
  }
}

interface Holding {
  readonly labels: Labels;
  readonly target?: string;
}

/** Whether a change of a record may leave something unreferenced: then it collects, as a removal does. */
function losesHold(before: Holding | undefined, after: Holding, isImage: boolean): boolean {
  const expires = ({labels}: Holding): number | undefined => (isImage ? expiry(labels['containerd.io/gc.expire']) : undefined);
  const [old, now] = [before === undefined ? undefined : expires(before), expires(after)];
  if (now !== undefined && now !== old) return true;
  if (before === undefined) return false;
  const refs = ({labels, target}: Holding): readonly string[] => [
    ...named(labels, 'ref'),
    ...(target === undefined ? [] : [`content ${target}`]),
  ];
  const isMissing = (one: readonly string[], other: readonly string[]): boolean => one.some((each) => !other.includes(each));
  return (
    isMissing(refs(before), refs(after)) ||
    isMissing(named(before.labels, 'bref'), named(after.labels, 'bref')) ||
    (!isImage && isRooted(before.labels) && !isRooted(after.labels))
  );
}

/** All objects, by namespace and kind, with their labels. */
const shape = (worlds: ReadonlyMap<string, World>): unknown =>
  [...worlds].map(([ns, world]) => [
    ns,
    Object.entries(world).map(([kind, records]: [string, Map<string, {labels: Labels}>]) => [
      kind,
      [...records].map(([key, {labels}]) => [key, Object.keys(labels).sort()]).sort(([a], [b]) => (a! < b! ? -1 : 1)),
    ]),
  ]);

describe('after a command that removes something', () => {
  const walks = TORTURE ? 400 : isShort() ? 3 : 12;
  for (const hasIndirect of [false, true])
    it(`what is there is what containerd would keep, and gc finds nothing (${hasIndirect ? 'with' : 'without'} back references and flat leases)`, async (t) => {
      t.mock.timers.enable({apis: ['Date'], now: START});
      const seed = Number(process.env.BERTH_TEST_SEED ?? 5);
      for (let n = 0; n < walks; n++) {
        t.mock.timers.setTime(START);
        try {
          await new Walk(t, await newClient(t), randomOf(seed, n * 2 + Number(hasIndirect)), hasIndirect).run(15);
        } catch (err) {
          throw new Error(`BERTH_TEST_SEED=${seed}, walk ${n}`, {cause: err});
        }
      }
    });
});
