/** A store with an image of two layers, pulled from a registry on loopback, for tests that damage it. */
import assert from 'node:assert/strict';
import {execFileSync} from 'node:child_process';
import {readdirSync, readFileSync, rmSync, writeFileSync} from 'node:fs';
import {join} from 'node:path';
import type {CheckResult, Client, Finding, OpenOptions, PullOptions} from '../../../src/lib/client/types/index.ts';
import {bootId} from '../../../src/lib/fs/process.ts';
import {type Digest, digestParts} from '../../../src/lib/oci/descriptor.ts';
import {recordFile} from '../../../src/lib/store/layout.ts';
import type {ContainerRecord} from '../../../src/lib/store/records.ts';
import {SnapshotStore} from '../../../src/lib/store/snapshots.ts';
import {Store} from '../../../src/lib/store/store.ts';
import type {StoreTransaction} from '../../../src/lib/store/transaction-types.ts';
import {digestOf, type FakeImage, type FakeOptions, type FakeRegistry, startFakeRegistry} from '../../fakes/registry.ts';
import {newClient, type Scope} from '../../support/helpers.ts';
import {BASE_LAYER, file, tar} from '../../support/tartest.ts';

/** The upper layer has implicit parents, so it depends on the lower. */
export const LAYERS = [BASE_LAYER, tar(file('b', 'world'), file('etc/c', 'below'))];
export const DIFF_IDS = LAYERS.map((layer) => digestOf(layer));

const architecture = {x64: 'amd64', arm64: 'arm64'}[process.arch as string]!;
export const CONFIG = {architecture, os: 'linux', config: {Cmd: ['/b']}, rootfs: {type: 'layers', diff_ids: DIFF_IDS}};

/** Identity of a dead process of another boot; leftovers begin with it. */
export const DEAD = `1.1.${'0'.repeat(32)}.1`;

export interface PulledStore {
  readonly registry: FakeRegistry;
  readonly image: FakeImage;
  readonly ref: string;
  readonly client: Client;
  readonly snapshotter: string;
  /** Path below the root. */
  path(...parts: string[]): string;
  blob(digest: Digest): string;
  /** File of a record in namespace `default`. */
  record(kind: string, key: string): string;
  /** Directories under `layers/`, sorted: those of the image's layers, bottom first. */
  layer(n: number): string;
}

export async function pulled(
  scope: Scope,
  snapshotter: string,
  {auth, root, state, ...options}: FakeOptions & PullOptions & Pick<OpenOptions, 'root' | 'state'> = {},
): Promise<PulledStore> {
  const registry = await startFakeRegistry(scope, auth === undefined ? {} : {auth});
  const image = registry.addImage('app', 'latest', LAYERS, CONFIG);
  const ref = `${registry.host}/app:latest`;
  const client = await newClient(scope, {...(root === undefined ? {} : {root}), ...(state === undefined ? {} : {state})});
  await client.namespace('default').pull(ref, {...options, snapshotter});
  const path = (...parts: string[]): string => join(client.root, ...parts);
  const chain = await client.namespace('default').snapshots(snapshotter).list();
  const bottomFirst = [...chain].sort((a, b) => (a.parent === undefined ? -1 : b.parent === undefined ? 1 : 0));
  return {
    registry,
    image,
    ref,
    client,
    snapshotter,
    path,
    blob: (digest) => path('content/blobs', ...digestParts(digest)),
    record: (kind, key) => path('namespaces/default', kind, recordFile(key)),
    layer: (n) => path('layers', bottomFirst[n]!.layer!),
  };
}

export const readJSON = (path: string): Record<string, unknown> => JSON.parse(readFileSync(path, 'utf8')) as Record<string, unknown>;
export const writeJSON = (path: string, value: unknown): void => writeFileSync(path, `${JSON.stringify(value)}\n`);

/** Turns one bit of a file. */
export function flip(path: string, at: number): void {
  const bytes = readFileSync(path);
  bytes[at < 0 ? bytes.length + at : at]! ^= 1;
  rmSync(path);
  writeFileSync(path, bytes);
}

/** Simulates a reboot after a layer was unpacked. */
export function fromAnotherBoot(layer: string): void {
  const info = readJSON(join(layer, 'layer.json'));
  assert.equal(info.bootId, bootId());
  writeJSON(join(layer, 'layer.json'), {...info, bootId: 'f'.repeat(32)});
}

/** Changes with every lock that is taken. */
const UNSTEADY = '-path ./locks -prune -o';

/** Everything below a directory: names, types, bytes, attributes; without times, which reading may change. */
export const contents = (path: string): string =>
  execFileSync(
    'sh',
    ['-c', `find . ${UNSTEADY} -printf "%P %y %m %s %l\\n" | sort; find . ${UNSTEADY} -type f -print0 | sort -z | xargs -0 sha256sum`],
    {
      cwd: path,
      encoding: 'latin1',
      maxBuffer: 1 << 28,
    },
  );

/** A finding as text, without its path. */
export const says = ({severity, object, problem}: Finding): string => `${severity}: ${object}: ${problem}`;

export const saysAll = ({findings}: CheckResult): readonly string[] => findings.map(says).sort();

export const names = (path: string): readonly string[] => readdirSync(path).sort();

/** A container that was never run, with a file in the snapshot that it would write to. */
export async function withContainer(
  {client, snapshotter, ref}: Pick<PulledStore, 'client' | 'snapshotter' | 'ref'>,
  id = 'c1',
  labels: Readonly<Record<string, string>> = {},
): Promise<{readonly layer: string}> {
  const store = new Store({root: client.root, lockTimeoutMs: 10_000});
  const snapshots = new SnapshotStore(store, 'default', snapshotter);
  const committed = snapshots.list().filter(({kind}) => kind === 'committed');
  const top = committed.find(({key, parent}) => parent !== undefined && !committed.some((other) => other.parent === key));
  const now = new Date().toISOString();
  const record: ContainerRecord = {
    id,
    image: ref,
    labels,
    runtime: {name: 'io.containerd.runc.v2'},
    snapshotter,
    snapshotKey: id,
    spec: null,
    createdAt: now,
    updatedAt: now,
  };
  const within = (tx: StoreTransaction): void => void tx.namespace('default').containers.put(record);
  const {layer} = await snapshots.prepare(id, top!.key, {}, within, {transient: labels['berth/rm'] !== undefined});
  writeFileSync(join(client.root, 'layers', layer!, 'fs/mine'), 'what a user made');
  return {layer: layer!};
}

/** Every record of namespace `default`, by its path below the root. */
export function records(root: string): Map<string, string> {
  const found = readdirSync(join(root, 'namespaces/default'), {recursive: true, encoding: 'utf8'})
    .filter((name) => name.endsWith('.json') && !name.startsWith('refs/'))
    .sort();
  return new Map(found.map((name) => [`namespaces/default/${name}`, readFileSync(join(root, 'namespaces/default', name), 'utf8')]));
}

/** Makes so many changes that the journal no longer has the earlier ones. */
export function forgetJournal(root: string): void {
  const journal = join(root, 'journal');
  const records = names(journal).filter((name) => /^\d{16}$/.test(name));
  const checkpoint = join(journal, 'checkpoint');
  writeJSON(checkpoint, {...readJSON(checkpoint), generation: Number(records.at(-1))});
  for (const name of records) rmSync(join(journal, name));
}
