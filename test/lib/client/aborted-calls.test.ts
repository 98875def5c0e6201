/**
 * Calls that are aborted, generated: every method of registries, archives, images and content that takes a signal × the point at which it is
 * aborted. A point is a request that the registry does not answer, half of an answer, half of a request's body, an event, a chunk of a stream
 * that brings or takes no more, a credential helper that does not answer, a wait for the store's lock, which another process has had from the
 * beginning or from an event on, or a step of the program.
 *
 * The call fails with the class of the reason within moments, and leaves nothing: no file, no descriptor, no connection, no process, no lease
 * and no ingest, unless the next call resumes it. Another call then has the result that it has without an abort.
 *
 * By default a sample, with `BERTH_TEST_TORTURE=1` all.
 */
import assert from 'node:assert/strict';
import {createHash} from 'node:crypto';
import {getEventListeners} from 'node:events';
import {chmodSync, existsSync, mkdirSync, readdirSync, readFileSync, readlinkSync, rmSync, statSync, writeFileSync} from 'node:fs';
import {dirname, join, relative} from 'node:path';
import {Writable} from 'node:stream';
import {after, describe, it, type TestContext} from 'node:test';
import {setTimeout as sleep} from 'node:timers/promises';
import {gzipSync} from 'node:zlib';
import {guard} from '../../../src/lib/client/guard-methods.ts';
import {CLIENT} from '../../../src/lib/client/method-arguments.ts';
import type {Client, NamespaceClient, ProgressEvent} from '../../../src/lib/client/types/index.ts';
import {isErrdefs} from '../../../src/lib/errdefs.ts';
import {isTemporary} from '../../../src/lib/fs/durable.ts';
import {acquireLock, withLockWaitsUntil} from '../../../src/lib/fs/lock.ts';
import type {Descriptor} from '../../../src/lib/oci/descriptor.ts';
import {OCI_MANIFEST} from '../../../src/lib/oci/mediatypes.ts';
import {digestOf, type FakeRegistry, type Fault, startFakeRegistry} from '../../fakes/registry.ts';
import {abortAt, failure, METHODS, REASONS, validFor} from '../../support/client-methods.ts';
import {newSigner, publishSimple, SIMPLE_SIGNING} from '../../support/cosign.ts';
import {hasWaiters, type OtherProcess, otherProcess} from '../../support/held-lock.ts';
import {is, newClient, requiresRoot, SAMPLE, TORTURE, temporaryDirectory, temporaryInMemory} from '../../support/helpers.ts';
import {checkStore} from '../../support/invariants.ts';
import {publishImage} from '../../support/published-images.ts';
import {sample} from '../../support/sample-cases.ts';
import {BASE_LAYER, file, tar} from '../../support/tartest.ts';

temporaryInMemory({after});

/** Longest time from an abort to the end of the call, in milliseconds, on a busy machine. No timeout of a call is shorter. */
const PROMPT_MS = 4000;

const LOGIN = {username: 'me', password: 'open sesame'};
const SIGNER = newSigner();
/** The head of one for this machine, which needs no interpreter. Nothing runs it. */
const PROGRAM = Buffer.concat([readFileSync(process.execPath).subarray(0, 32), Buffer.alloc(32)]);
const LAYERS = [BASE_LAYER, tar(file('f', Buffer.alloc(400_000, 'bytes')), file('x', PROGRAM, 0o755))];
const ADDED = tar(file('added', Buffer.alloc(150_000, 'more')));
const NEVER = new Promise<never>(() => {});

interface World {
  readonly registry: FakeRegistry;
  readonly client: Client;
  readonly ns: NamespaceClient;
  /** Takes locks. */
  readonly other: OtherProcess;
  /** For files; has a directory `tmp` for temporary ones. */
  readonly dir: string;
  /** The image, signed. */
  readonly ref: string;
  readonly image: Descriptor;
}

/** One call. */
interface Attempt {
  /** Of this call and its repetition only. */
  readonly name: string;
  /** A file of this name. */
  readonly path: string;
  /** Signal and events. */
  readonly o: {readonly signal: AbortSignal; readonly onEvent: (event: ProgressEvent) => void};
  /** As `o`, with credentials. */
  readonly remote: Attempt['o'] & {readonly credentials: typeof LOGIN};
  /** A stream whose chunks are counted. */
  source(path: string): AsyncIterable<Uint8Array>;
  sink(): Writable & {readonly bytes: () => Buffer};
  all<T>(items: AsyncIterable<T>): Promise<readonly T[]>;
}

interface Operation {
  readonly method: string;
  /** Tells several of one method apart. */
  readonly variant?: string;
  readonly requires?: (t: TestContext) => boolean;
  /** Whether a call goes on where an aborted one ended: its lease and ingests stay. */
  readonly resumes?: boolean;
  /** Calls a credential helper. */
  readonly helper?: boolean;
  /** Makes what every call needs, once. */
  prepare?(w: World): Promise<unknown>;
  /** Brings back the state in which a call begins. */
  before?(w: World, a: Attempt): unknown;
  /** @returns what has to be the same after an abort */
  call(w: World, a: Attempt): Promise<unknown>;
}

const sha256 = (bytes: Uint8Array): string => createHash('sha256').update(bytes).digest('hex');

/** Paths and contents of a directory. */
const treeOf = (path: string): readonly string[] =>
  readdirSync(path, {recursive: true, withFileTypes: true})
    .filter((entry) => entry.isFile())
    .map((entry) => join(entry.parentPath, entry.name))
    .map((name) => `${relative(path, name)} ${sha256(readFileSync(name))}`)
    .sort();

const bytesOf = async (items: Promise<readonly Uint8Array[]>): Promise<string> => sha256(Buffer.concat(await items));
const forget = (w: World): Promise<unknown> => w.client.namespaces.delete('default', {recursive: true}).catch(() => undefined);
const published = (w: World, a: Attempt, tag = 'latest'): string => sha256(w.registry.manifestIn(a.name, tag) ?? Buffer.from('nothing'));
const archive = (w: World): string => join(w.dir, 'archive.tar');
const archived = async (w: World): Promise<void> => {
  await w.ns.pull(w.ref, {credentials: LOGIN, snapshotter: 'native'});
  await w.ns.images.export(archive(w), [w.ref]);
};
const stored = (w: World): Promise<unknown> => w.ns.pull(w.ref, {credentials: LOGIN, snapshotter: 'native'});
const own = (w: World, a: Attempt): void => void publishImage(w.registry, a.name, LAYERS);
/** A copy in each form. */
const places = (w: World): readonly string[] => ['oci', 'oci-archive', 'docker-archive', 'dir'].map((kind) => `${kind}:${w.dir}/${kind}`);
const registryOptions = (a: Attempt) => ({...a.o, source: {credentials: LOGIN}, destination: {credentials: LOGIN}});
const listOf = (w: World): string => `${JSON.stringify(w.registry.host)}:\n  images:\n    team/app: ["latest"]\n`;

const PULLS: readonly Operation[] = [
  {
    method: 'namespace().pull',
    call: (w, a) => w.ns.pull(w.ref, {...a.remote, snapshotter: 'native'}),
  },
  {
    method: 'namespace().pull',
    variant: 'of a signed image',
    call: (w, a) => w.ns.pull(w.ref, {...a.remote, unpack: false, verifyKeys: [SIGNER.publicPEM]}),
  },
  {
    method: 'namespace().pull',
    variant: 'with a helper',
    helper: true,
    call: (w, a) => w.ns.pull(w.ref, {...a.o, unpack: false, authFile: join(w.dir, 'helper.json')}),
  },
  {
    method: 'namespace().pullAll',
    prepare: async (w) => publishImage(w.registry, 'team/other', [ADDED]),
    call: async (w, a) => {
      const outcomes = await w.ns.pullAll([w.ref, `${w.registry.host}/team/other`], {...a.remote, snapshotter: 'native'});
      const failed = outcomes.find((outcome) => 'error' in outcome);
      if (failed !== undefined && 'error' in failed) throw failed.error;
      return outcomes;
    },
  },
  {method: 'namespace().content.fetch', call: (w, a) => w.ns.content.fetch(w.ref, a.remote)},
];

const BUILDS: readonly Operation[] = (
  [
    ['convert', (w, a) => w.ns.images.convert(w.ref, a.name, {...a.o, compression: 'zstd'})],
    ['flatten', (w, a) => w.ns.images.flatten(w.ref, a.name, a.o)],
    ['append', (w, a) => w.ns.images.append(w.ref, a.name, [join(w.dir, 'added.tar')], a.o)],
    ['append', (w, a) => w.ns.images.append(w.ref, a.name, [a.source(join(w.dir, 'added.tar'))], a.o), 'of a stream'],
    ['mutate', (w, a) => w.ns.images.mutate(w.ref, a.name, {...a.o, env: ['A=1']})],
    [
      'rebase',
      (w, a) => w.ns.images.rebase(w.ref, a.name, {...a.o, oldBase: `${w.registry.host}/base/old`, newBase: `${w.registry.host}/base/new`}),
    ],
  ] as const satisfies readonly (readonly [string, Operation['call'], string?])[]
).map(
  ([name, call, variant]): Operation => ({
    method: `namespace().images.${name}`,
    ...(variant === undefined ? {} : {variant}),
    call,
    prepare: async (w) => {
      await stored(w);
      if (name !== 'rebase') return;
      publishImage(w.registry, 'base/old', [BASE_LAYER]);
      publishImage(w.registry, 'base/new', [ADDED]);
      for (const base of ['old', 'new']) await w.ns.pull(`${w.registry.host}/base/${base}`, {credentials: LOGIN, snapshotter: 'native'});
    },
  }),
);

const ARCHIVES: readonly Operation[] = [
  ...(['a file', 'a directory', 'a stream', 'a compressed stream'] as const).map(
    (from): Operation => ({
      method: 'namespace().images.import',
      variant: `of ${from}`,
      requires: requiresRoot,
      prepare: async (w) => {
        await archived(w);
        writeFileSync(`${archive(w)}.gz`, gzipSync(readFileSync(archive(w))));
        if (from === 'a directory') await w.ns.images.export(`${w.dir}/layout/`, [w.ref]);
      },
      before: forget,
      call: (w, a) => {
        const sources = {
          'a file': archive(w),
          'a directory': `${w.dir}/layout`,
          'a stream': a.source(archive(w)),
          'a compressed stream': a.source(`${archive(w)}.gz`),
        };
        return w.ns.images.import(sources[from], {...a.o, snapshotter: 'native'});
      },
    }),
  ),
  {
    method: 'namespace().images.export',
    variant: 'to a file',
    prepare: stored,
    call: async (w, a) => [await w.ns.images.export(a.path, [w.ref], a.o), sha256(readFileSync(a.path))],
  },
  {
    method: 'namespace().images.export',
    variant: 'to a directory',
    prepare: stored,
    call: async (w, a) => [await w.ns.images.export(`${a.path}/`, [w.ref], a.o), treeOf(a.path)],
  },
  {
    method: 'namespace().images.export',
    variant: 'to a stream',
    prepare: stored,
    call: async (w, a) => {
      const sink = a.sink();
      return [await w.ns.images.export(sink, [w.ref], {...a.o, compression: 'zstd'}), sha256(sink.bytes())];
    },
  },
  {
    method: 'namespace().images.changes',
    prepare: stored,
    call: (w, a) => w.ns.images.changes(w.ref, {...a.o, snapshotter: 'native'}),
  },
  {
    method: 'namespace().images.unpack',
    requires: requiresRoot,
    prepare: stored,
    before: (_, a) => rmSync(a.path, {recursive: true, force: true}),
    call: async (w, a) => [await w.ns.images.unpack(w.ref, a.path, a.o), treeOf(join(a.path, 'rootfs'))],
  },
  {
    method: 'namespace().images.repack',
    requires: requiresRoot,
    prepare: stored,
    before: async (w, a) => {
      if (existsSync(a.path)) return;
      await w.ns.images.unpack(w.ref, a.path);
      writeFileSync(join(a.path, 'rootfs/new'), ADDED);
    },
    call: (w, a) =>
      w.ns.images.repack(a.path, a.name, {...a.o, snapshotter: 'native', created: '2024-01-01T00:00:00Z', compression: 'gzip'}),
  },
];

const STORE: readonly Operation[] = [
  {
    method: 'namespace().push',
    prepare: stored,
    call: async (w, a) => [(await w.ns.push(`${w.registry.host}/${a.name}`, {...a.remote, from: w.ref})).target, published(w, a)],
  },
  {
    method: 'namespace().content.push',
    prepare: stored,
    // The manifest after its blobs, which are everywhere.
    call: async (w, a) => [
      (await w.ns.content.push(`${w.registry.host}/${a.name}:latest`, w.image.digest, a.remote)).digest,
      published(w, a),
    ],
  },
  {
    method: 'namespace().images.verify',
    prepare: stored,
    call: (w, a) => w.ns.images.verify(w.ref, {...a.remote, keys: [SIGNER.publicPEM]}),
  },
  {
    method: 'namespace().content.ingest',
    call: async (w, a) => (await w.ns.content.ingest(a.name, a.source(join(w.dir, 'added.tar')), {signal: a.o.signal})).digest,
    before: (w) => w.ns.content.delete(digestOf(ADDED)).catch(() => undefined),
  },
  {
    method: 'namespace().content.open',
    prepare: stored,
    call: async (w, a) => bytesOf(a.all(await w.ns.content.open(w.image.digest, {signal: a.o.signal}))),
  },
  {
    method: 'namespace().content.writer',
    call: async (w, a) => {
      const writer = await w.ns.content.writer(a.name, {signal: a.o.signal});
      await writer.close();
      return writer.ref;
    },
    resumes: true,
  },
];

const COPIES: readonly Operation[] = [
  {
    method: 'registry.copy',
    variant: 'to a registry, with referrers',
    prepare: (w) => w.client.registry.attach(w.ref, 'application/x', [{path: join(w.dir, 'added.tar')}], {credentials: LOGIN}),
    call: async (w, a) => [
      (await w.client.registry.copy(w.ref, `${w.registry.host}/${a.name}`, {...registryOptions(a), referrers: true})).target,
      published(w, a),
      published(w, a, w.image.digest.replace(':', '-')),
    ],
  },
  ...[0, 1, 2, 3].flatMap((i): Operation[] => [
    {
      method: 'registry.copy',
      variant: `to number ${i} of the archives`,
      before: (_, a) => rmSync(a.path, {recursive: true, force: true}),
      call: async (w, a) => {
        const place = places(w)[i]!.replace(/:.*/, `:${a.path}`);
        const {target} = await w.client.registry.copy(w.ref, place, registryOptions(a));
        return [target, statSync(a.path).isDirectory() ? treeOf(a.path) : sha256(readFileSync(a.path))];
      },
    },
    {
      method: 'registry.copy',
      variant: `from number ${i} of the archives`,
      prepare: (w) => w.client.registry.copy(w.ref, places(w)[i]!, {source: {credentials: LOGIN}}),
      call: async (w, a) => [
        (await w.client.registry.copy(places(w)[i]!, `${w.registry.host}/${a.name}`, registryOptions(a))).target,
        published(w, a),
      ],
    },
  ]),
  {
    method: 'registry.sync',
    variant: 'to a registry',
    call: async (w, a) => [
      (await w.client.registry.sync(listOf(w), `${w.registry.host}/${a.name}`, registryOptions(a))).images,
      sha256(w.registry.manifestIn(`${a.name}/app`, 'latest') ?? Buffer.alloc(0)),
    ],
  },
  {
    method: 'registry.sync',
    variant: 'through a directory',
    call: async (w, a) => {
      const {images} = await w.client.registry.sync(listOf(w), `dir:${a.path}`, registryOptions(a));
      const second = await w.client.registry.sync({directory: a.path}, `${w.registry.host}/${a.name}`, registryOptions(a));
      return [images, treeOf(a.path), second.images];
    },
  },
];

const REGISTRY: readonly Operation[] = [
  {method: 'registry.resolve', call: (w, a) => w.client.registry.resolve(w.ref, a.remote)},
  {method: 'registry.tags', call: async (w, a) => a.all(await w.client.registry.tags(`${w.registry.host}/team/app`, a.remote))},
  {method: 'registry.catalog', call: async (w, a) => a.all(await w.client.registry.catalog(w.registry.host, a.remote))},
  {method: 'registry.inspect', call: (w, a) => w.client.registry.inspect(w.ref, a.remote)},
  {method: 'registry.config', call: (w, a) => w.client.registry.config(w.ref, a.remote)},
  {method: 'registry.fetchObject', call: (w, a) => w.client.registry.fetchObject(w.ref, a.remote)},
  {
    method: 'registry.fetchBlob',
    call: async (w, a) => bytesOf(a.all(await w.client.registry.fetchBlob(w.ref, digestOf(gzipSync(LAYERS[1]!)), a.remote))),
  },
  ...(['a file', 'a stream'] as const).map(
    (from): Operation => ({
      method: 'registry.pushObject',
      variant: `of ${from}`,
      call: async (w, a) => {
        const path = join(w.dir, 'added.tar');
        const {digest} = await w.client.registry.pushObject(
          `${w.registry.host}/${a.name}`,
          from === 'a file' ? path : a.source(path),
          a.remote,
        );
        return [digest, sha256(w.registry.blobIn(a.name, digest) ?? Buffer.alloc(0))];
      },
    }),
  ),
  {
    method: 'registry.referrers',
    prepare: (w) => w.client.registry.attach(w.ref, 'application/x', [{path: join(w.dir, 'added.tar')}], {credentials: LOGIN}),
    call: (w, a) => w.client.registry.referrers(w.ref, a.remote),
  },
  {
    method: 'registry.attach',
    before: own,
    call: async (w, a) => [
      await w.client.registry.attach(
        `${w.registry.host}/${a.name}`,
        'application/x',
        [{path: join(w.dir, 'added.tar')}, {path: join(w.dir, 'list')}],
        a.remote,
      ),
      published(w, a, w.image.digest.replace(':', '-')),
    ],
  },
  {
    method: 'registry.attach',
    variant: 'of a signature',
    before: (w, a) => {
      own(w, a);
      writeFileSync(join(w.dir, 'payload'), JSON.stringify({critical: {image: {'docker-manifest-digest': w.image.digest}}}));
    },
    call: async (w, a) => [
      await w.client.registry.attach(`${w.registry.host}/${a.name}`, SIMPLE_SIGNING, [{path: join(w.dir, 'payload')}], {
        ...a.remote,
        signature: 'c2lnbmVk',
      }),
      published(w, a, `${w.image.digest.replace(':', '-')}.sig`),
    ],
  },
  {
    method: 'registry.delete',
    before: own,
    call: async (w, a) => [
      await w.client.registry.delete(`${w.registry.host}/${a.name}:latest`, {...a.remote, manifest: true}),
      published(w, a),
    ],
  },
  {
    method: 'registry.login',
    call: async (w, a) => {
      const options = {authFile: a.path, signal: a.o.signal};
      return [await w.client.registry.login(w.registry.host, LOGIN.username, LOGIN.password, options), readFileSync(a.path, 'utf8')];
    },
  },
  {
    method: 'registry.login',
    variant: 'with a helper',
    helper: true,
    before: (w, a) => writeFileSync(a.path, readFileSync(join(w.dir, 'helper.json'))),
    call: (w, a) => w.client.registry.login(w.registry.host, LOGIN.username, LOGIN.password, {authFile: a.path, signal: a.o.signal}),
  },
  {
    method: 'registry.logout',
    variant: 'with a helper',
    helper: true,
    before: (w, a) => writeFileSync(a.path, readFileSync(join(w.dir, 'helper.json'))),
    call: (w, a) => w.client.registry.logout(w.registry.host, {authFile: a.path, signal: a.o.signal}),
  },
  {
    method: 'registry.loggedIn',
    variant: 'with a helper',
    helper: true,
    call: (w, a) => w.client.registry.loggedIn(w.registry.host, {authFile: join(w.dir, 'helper.json'), signal: a.o.signal}),
  },
  {method: 'registry.ping', call: async (w, a) => (await w.client.registry.ping(w.ref, a.remote)).map(({code}) => code)},
  {method: 'registry.explain', call: async (w, a) => (await w.client.registry.explain(w.ref, a.remote)).order},
];

const OPERATIONS: readonly Operation[] = [
  ...PULLS.map((operation): Operation => ({...operation, resumes: true, before: forget})),
  ...BUILDS,
  ...ARCHIVES,
  ...STORE,
  ...COPIES,
  ...REGISTRY,
];

const ID = 'one';
const DIGEST = digestOf(BASE_LAYER);
const label = {a: 'b'};

/** Methods that wait for nothing but the store's lock, and change the store at once. */
const CHANGES: Readonly<Record<string, (w: World, o: Attempt['o']) => Promise<unknown>>> = {
  'namespaces.create': (w, o) => w.client.namespaces.create('new', label, o),
  'namespaces.label': (w, o) => w.client.namespaces.label('default', label, o),
  'namespaces.delete': (w, o) => w.client.namespaces.delete('default', {...o, recursive: true}),
  'namespace().images.delete': (w, o) => w.ns.images.delete(w.ref, o),
  'namespace().images.tag': (w, o) => w.ns.images.tag(w.ref, 'other', o),
  'namespace().images.label': (w, o) => w.ns.images.label(w.ref, label, o),
  'namespace().content.delete': (w, o) => w.ns.content.delete(DIGEST, o),
  'namespace().content.label': (w, o) => w.ns.content.label(DIGEST, label, o),
  'namespace().content.edit': (w, o) => w.ns.content.edit(w.image.digest, 'sed -i s/{/{\\\\n/', o),
  'namespace().content.prune': (w, o) => w.ns.content.prune(o),
  'namespace().snapshots().prepare': (w, o) => w.ns.snapshots('native').prepare('new', undefined, o),
  'namespace().snapshots().view': (w, o) => w.ns.snapshots('native').view('new', undefined, o),
  'namespace().snapshots().commit': (w, o) => w.ns.snapshots('native').commit('new', 'active', o),
  'namespace().snapshots().delete': (w, o) => w.ns.snapshots('native').delete('active', o),
  'namespace().snapshots().label': (w, o) => w.ns.snapshots('native').label('active', label, o),
  'namespace().leases.create': (w, o) => w.ns.leases.create({...o, id: 'new'}),
  'namespace().leases.delete': (w, o) => w.ns.leases.delete(ID, o),
  'namespace().leases.addResource': (w, o) => w.ns.leases.addResource(ID, {id: DIGEST, type: 'content'}, o),
  'namespace().leases.deleteResource': (w, o) => w.ns.leases.deleteResource(ID, {id: DIGEST, type: 'content'}, o),
  'namespace().volumes.create': (w, o) => w.ns.volumes.create('new', o),
  'namespace().volumes.delete': (w, o) => w.ns.volumes.delete(ID, o),
  'namespace().volumes.prune': (w, o) => w.ns.volumes.prune(o),
  'namespace().containers.create': (w, o) => w.ns.containers.create(w.ref, 'new', {...o, snapshotter: 'native', args: ['/x']}),
  'namespace().containers.label': (w, o) => w.ns.containers.label(ID, label, o),
  'namespace().containers.update': (w, o) => w.ns.containers.update(ID, {memoryLimit: 1 << 27}, o),
  'namespace().containers.delete': (w, o) => w.ns.containers.delete(ID, o),
  'namespace().containers.commit': (w, o) => w.ns.containers.commit(ID, 'new', o),
  'namespace().run': (w, o) => w.ns.run(w.ref, 'new', {...o, snapshotter: 'native', args: ['/x']}),
  'namespace().snapshots().unpack': (w, o) => w.ns.snapshots('overlayfs').unpack(w.image.digest, o),
  prune: (w, o) => w.client.prune(o),
  gc: (w, o) => w.client.gc(o),
};

/** Methods of containers, tasks and the machine, whose aborts have other tests. */
const OTHERS = /^(?:check|events|namespace\(\)\.(?:containers\..*|tasks\..*|snapshots\(\)\.(?:diff|mount)|images\.(?:un)?mount))$/;

type Kind = 'hold' | 'half answer' | 'half body' | 'event' | 'chunk' | 'helper' | 'lock' | 'step' | 'never';

/** Where a call is aborted: at the n-th of its kind, from 0 on. */
interface Point {
  readonly kind: Kind;
  readonly n: number;
  /** For a request. */
  readonly fault?: Fault;
}

interface Outcome {
  readonly err?: unknown;
  readonly result?: unknown;
  readonly signal: AbortSignal;
  /** From the abort to the end of the call, in milliseconds. */
  readonly tookMs: number | undefined;
  /** What happened, for the points of other calls. */
  readonly events: number;
  readonly chunks: number;
  readonly steps: number;
  readonly helperCalls: number;
  readonly requests: FakeRegistry['requests'];
}

const without = new Set(['elapsedMs', 'transferredBytes', 'blobs', 'objects', 'status', 'createdAt', 'updatedAt', 'ms']);
const comparable = (result: unknown, {name}: Attempt): unknown =>
  JSON.parse(JSON.stringify(result, (key, value: unknown) => (without.has(key) ? undefined : value)).replaceAll(name, 'NAME'));

let numbers = 0;

const storeLock = ({client}: Pick<World, 'client'>): string => join(client.root, 'locks/store');

async function attempt(
  w: World,
  {before, call}: Operation,
  point: Point,
  reason: unknown,
  name = `attempt-${numbers++}`,
): Promise<Outcome> {
  const controller = new AbortController();
  const {signal} = controller;
  const abort = (): void => controller.abort(reason);
  let aborted: number | undefined;
  const onAbort = (): void => {
    aborted = performance.now();
  };
  signal.addEventListener('abort', onAbort, {once: true});
  let over = false;
  const seen = {event: 0, chunk: 0};
  /** @returns whether this was the point */
  const passes = (kind: 'event' | 'chunk'): boolean => {
    const isIt = point.kind === kind && seen[kind] === point.n;
    seen[kind]++;
    if (isIt) abort();
    return isIt;
  };
  let giveLock: (() => void) | undefined;
  let events = 0;
  /** Another process takes the lock as soon as it is free, and the call is aborted once it waits. */
  const takeLock = (): void => {
    const lock = storeLock(w);
    void (async () => {
      for (; !over && giveLock === undefined; await sleep(1)) giveLock = w.other.take(lock);
      while (!over && !hasWaiters(lock)) await sleep(1);
      abort();
    })();
  };
  const onEvent = (): void => {
    passes('event');
    if (point.kind === 'lock' && ++events === point.n) takeLock();
  };
  const o = {signal, onEvent};
  const made: Attempt = {
    name,
    path: join(w.dir, name),
    o,
    remote: {...o, credentials: LOGIN},
    source: async function* (path) {
      const bytes = readFileSync(path);
      for (let at = 0; at < bytes.length; at += 50_000) {
        if (passes('chunk')) await NEVER;
        yield bytes.subarray(at, at + 50_000);
      }
    },
    sink: () => {
      const chunks: Buffer[] = [];
      const stream = new Writable({
        write: (chunk: Buffer, _, done) => {
          chunks.push(Buffer.from(chunk));
          if (!passes('chunk')) done();
        },
      });
      return Object.assign(stream, {bytes: () => Buffer.concat(chunks)});
    },
    all: async (items) => {
      const found = [];
      for await (const item of items) {
        found.push(item);
        passes('chunk');
      }
      return found;
    },
  };
  // Each call asks for a token.
  w.registry.revokeTokens();
  await before?.(w, made);
  w.registry.clear();
  if (point.fault !== undefined) {
    const {faulted} = w.registry;
    w.registry.fault(point.fault);
    void (async () => {
      while (w.registry.faulted === faulted && !over) await sleep(1);
      if (point.kind !== 'hold') await sleep(20);
      abort();
    })();
  }
  if (point.kind === 'lock' && point.n === 0) takeLock();
  if (point.kind === 'helper') {
    writeFileSync(join(w.dir, 'hang'), String(point.n + 1));
    void (async () => {
      while (!existsSync(join(w.dir, 'hanging')) && !over) await sleep(1);
      abort();
    })();
  }
  let result: unknown;
  const called = abortAt(
    point.kind === 'step' ? point.n + 1 : -1,
    reason,
    async () => {
      result = await call(w, made);
    },
    controller,
  );
  // One that hangs is not waited for.
  const hangs = sleep(60_000, {err: new Error('it has not ended in a minute'), points: 0}, {ref: false});
  const {err, points} = await Promise.race([called, hangs]);
  const tookMs = aborted === undefined ? undefined : performance.now() - aborted;
  over = true;
  giveLock?.();
  signal.removeEventListener('abort', onAbort);
  const requests = [...w.registry.requests];
  w.registry.clear();
  const calls = join(w.dir, 'calls');
  const helperCalls = existsSync(calls) ? readFileSync(calls, 'utf8').split('\n').length - 1 : 0;
  for (const name of ['hang', 'hanging', 'calls']) rmSync(join(w.dir, name), {force: true});
  return {
    ...(err === undefined ? {result: comparable(result, made)} : {err}),
    signal,
    tookMs,
    events: seen.event,
    chunks: seen.chunk,
    steps: points,
    helperCalls,
    requests,
  };
}

/** Files of the test's own directories that this process has open. */
const openFiles = (w: World): readonly string[] =>
  readdirSync('/proc/self/fd')
    .map((fd) => {
      try {
        return readlinkSync(`/proc/self/fd/${fd}`);
      } catch {
        return ''; // that of the listing
      }
    })
    .filter((path) => [w.dir, w.client.root, w.client.state].some((dir) => path.startsWith(`${dir}/`)))
    .sort();

const children = (): readonly string[] =>
  readdirSync('/proc/self/task')
    .flatMap((task) => {
      try {
        return readFileSync(`/proc/self/task/${task}/children`, 'utf8').split(' ');
      } catch {
        return []; // it has ended
      }
    })
    .filter((pid) => pid !== '')
    .sort();

/** What an aborted call must not leave, and does not have before. */
async function leftovers(w: World, {resumes = false}: Operation): Promise<readonly string[]> {
  const temporary = readdirSync(w.dir, {recursive: true, encoding: 'utf8'}).filter((path) => isTemporary(path) || path.includes('.lock.'));
  const isThere = existsSync(w.client.root) && (await w.client.namespaces.list()).some(({name}) => name === 'default');
  return [
    ...temporary.map((path) => `file ${path}`),
    ...readdirSync(join(w.dir, 'tmp')).map((path) => `temporary file ${path}`),
    ...openFiles(w).map((path) => `open ${path}`),
    ...children().map((pid) => `process ${pid}`),
    ...(isThere && !resumes
      ? [
          ...(await w.ns.leases.list()).map(({id}) => `lease ${id}`),
          ...(await w.ns.content.active()).map(({ref}) => `ingest ${ref}`),
          ...checkStore(w.client.root, {deep: false, litter: true}),
        ]
      : checkStore(w.client.root, {deep: false})),
    ...((await w.registry.openConnections()) > 0 ? ['connections'] : []),
  ];
}

/** What ends soon after a call has ended is waited for. */
async function settled(what: () => Promise<readonly string[]>, before: readonly string[]): Promise<readonly string[]> {
  const extra = async (): Promise<readonly string[]> => (await what()).filter((line) => !before.includes(line));
  for (const end = performance.now() + 2000; performance.now() < end; await sleep(10)) {
    const lines = await extra();
    if (lines.length === 0) return lines;
  }
  return extra();
}

/** Every point of a call, by what happened in one that was not aborted. */
function pointsOf(w: World, {requests, events, chunks, helperCalls}: Outcome): readonly Point[] {
  const counted = (kind: Kind, count: number): Point[] => Array.from({length: count}, (_, n) => ({kind, n}));
  const held = requests.flatMap(({method, bytesSent, bodySize}, n): Point[] => [
    {kind: 'hold', n, fault: {after: n, times: 1, until: NEVER}},
    ...(method === 'GET' && bytesSent > 10
      ? [{kind: 'half answer', n, fault: {after: n, times: 1, stallAt: Math.floor(bytesSent / 2)}} as const]
      : []),
    ...(bodySize > 10
      ? [{kind: 'half body', n, fault: {after: n, times: 1, readAt: Math.floor(bodySize / 2), until: NEVER}} as const]
      : []),
  ]);
  return [
    ...held,
    ...counted('event', events),
    ...counted('chunk', chunks),
    ...counted('helper', helperCalls),
    ...(existsSync(dirname(storeLock(w))) ? counted('lock', events + 1) : []),
  ];
}

const HELPER = `#!/bin/sh
cat >/dev/null
echo "$1" >>"$HELPER_DIR/calls"
if [ "$(wc -l <"$HELPER_DIR/calls")" = "$(cat "$HELPER_DIR/hang" 2>/dev/null)" ]; then : >"$HELPER_DIR/hanging"; sleep 300; fi
[ "$1" != get ] || echo '{"Username":"me","Secret":"open sesame"}'
`;

async function world(t: TestContext, operation: Operation): Promise<World> {
  const dir = temporaryDirectory(t, 'berth-calls-');
  for (const name of ['tmp', 'bin', 'run']) mkdirSync(join(dir, name), {mode: 0o700});
  writeFileSync(join(dir, 'bin/docker-credential-slow'), HELPER);
  chmodSync(join(dir, 'bin/docker-credential-slow'), 0o755);
  writeFileSync(join(dir, 'added.tar'), ADDED);
  writeFileSync(join(dir, 'list'), 'a list');
  const registry = await startFakeRegistry(t, {auth: {kind: 'token', login: LOGIN}});
  writeFileSync(join(dir, 'helper.json'), JSON.stringify({credHelpers: {[registry.host]: 'slow'}}));
  const client = await newClient(t);
  const image = publishImage(registry, 'team/app', LAYERS);
  publishSimple(registry, 'team/app', {...image, mediaType: OCI_MANIFEST}, SIGNER);
  const {PATH, TMPDIR, XDG_RUNTIME_DIR} = process.env;
  Object.assign(process.env, {PATH: `${join(dir, 'bin')}:${PATH}`, HELPER_DIR: dir, XDG_RUNTIME_DIR: join(dir, 'run')});
  const made = {
    registry,
    client,
    other: otherProcess(t),
    ns: client.namespace('default'),
    dir,
    ref: `${registry.host}/team/app:latest`,
    image,
  };
  t.after(() => {
    Object.assign(process.env, {PATH, TMPDIR});
    if (XDG_RUNTIME_DIR === undefined) delete process.env.XDG_RUNTIME_DIR;
    else process.env.XDG_RUNTIME_DIR = XDG_RUNTIME_DIR;
  });
  await operation.prepare?.(made);
  process.env.TMPDIR = join(dir, 'tmp');
  return made;
}

/** Methods that take no signal, by their last names: they read what is there, ask the kernel or runc, or belong to a writer that has one. */
const TAKE_NO_SIGNAL =
  'active check commit defaultSpec df doctor get info inspect kill list metrics mountScript mounts pause ps records resources resume settle status systemdUnit truncate unshare usage write'.split(
    ' ',
  );

describe('a wait for a lock that another process has', () => {
  it('ends with the signal of the call, in every method that takes one', async (t) => {
    const path = join(temporaryDirectory(t), 'lock');
    assert.ok(otherProcess(t).take(path));
    const wait = async (): Promise<void> => (await acquireLock(path, {timeoutMs: 60_000})).release();
    /** What has the methods of a table, which all wait. */
    const waiting = (table: object): object =>
      Object.fromEntries(
        Object.entries(table).map(([name, entry]: [string, object]) => {
          if (Array.isArray(entry)) return [name, wait];
          if ('gives' in entry) return [name, () => waiting(entry.gives as object)];
          if ('resolves' in entry) return [name, async () => ({...waiting(entry.resolves as object), close: async () => {}})];
          return [name, waiting(entry)];
        }),
      );
    const client = guard(waiting(CLIENT) as Client, CLIENT, {closed: false});
    const calls = METHODS.flatMap(({name, kinds, of}) => {
      const controller = new AbortController();
      const {signal} = controller;
      const at = kinds.findIndex((kind) => kind.accepts({signal}) && !kind.accepts({signal: 1}));
      // A writer's methods have its signal.
      if (at < 0) return [];
      const args = kinds.map((kind, i) => (i === at ? {signal} : validFor(kind)));
      if (name.endsWith('.writer')) return [];
      return [{name, controller, ended: failure(() => of(client)(...args))}];
    });
    const writing = new AbortController();
    const writer = await client.namespace('default').content.writer('ref', {signal: writing.signal});
    calls.push({name: 'commit of a writer', controller: writing, ended: failure(() => writer.commit())});
    assert.ok(calls.length > 60);
    while (!hasWaiters(path)) await sleep(1);
    for (const [i, {controller}] of calls.entries()) controller.abort(REASONS[i % REASONS.length]![0]);
    const began = performance.now();
    for (const [i, {name, ended}] of calls.entries()) {
      const [, code] = REASONS[i % REASONS.length]!;
      const err = await ended;
      assert.ok(isErrdefs(err) && err.code === code, `${name}: ${String(err)}`);
      assert.ok(performance.now() - began < 2500, name);
    }
  });

  it('goes on for a moment after the abort, so that the call can clean up', async (t) => {
    const path = join(temporaryDirectory(t), 'lock');
    const other = otherProcess(t);
    for (const when of ['before', 'meanwhile'] as const) {
      const wait = async (abort = new AbortController()): Promise<void> => {
        if (when === 'before') abort.abort();
        else setTimeout(() => abort.abort(), 50);
        const options = {timeoutMs: 60_000, whileAlive: true};
        await withLockWaitsUntil(abort.signal, async () => (await acquireLock(path, options)).release());
      };
      await wait();
      const give = other.take(path)!;
      await assert.rejects(wait(), is('canceled'));
      const waiting = wait();
      while (!hasWaiters(path)) await sleep(1);
      await sleep(100);
      give();
      await waiting;
    }
  });

  it('ends with the signal, and the store stays as it was, of each method that changes it', async (t) => {
    if (!requiresRoot(t)) return;
    const w = await world(t, {method: '', call: async () => undefined});
    await stored(w);
    await w.ns.snapshots('native').prepare('active');
    await w.ns.leases.create({id: ID});
    await w.ns.volumes.create(ID);
    await w.ns.containers.create(w.ref, ID, {snapshotter: 'native', args: ['/x']});
    const records = (): readonly string[] => treeOf(join(w.client.root, 'namespaces'));
    const before = records();
    const give = w.other.take(storeLock(w));
    assert.ok(give);
    const wrong: string[] = [];
    await Promise.all(
      Object.entries(CHANGES).map(async ([name, call], i) => {
        const [reason, code] = REASONS[i % REASONS.length]!;
        const controller = new AbortController();
        const ended = failure(() => call(w, {signal: controller.signal, onEvent: () => {}}));
        await sleep(1000);
        controller.abort(reason);
        const began = performance.now();
        const err = await ended;
        const tookMs = performance.now() - began;
        if (!isErrdefs(err) || err.code !== code || tookMs > PROMPT_MS)
          wrong.push(`${name}, ${tookMs} ms: ${err instanceof Error ? err.stack : String(err)}`);
      }),
    );
    assert.deepEqual(wrong, []);
    assert.deepEqual(records(), before);
    give();
    await w.client.gc();
    assert.deepEqual(checkStore(w.client.root, {deep: false, litter: true}), []);
  });
});

describe('a call that can be aborted', () => {
  it('has a row here, or belongs to containers, tasks or the machine', () => {
    const {signal} = new AbortController();
    const takesSignal = METHODS.filter(({kinds}) => kinds.some((kind) => kind.accepts({signal}) && !kind.accepts({signal: 1})));
    const names = takesSignal.map(({name}) => name).filter((name) => !OTHERS.test(name));
    const rows = [...OPERATIONS.map(({method}) => method), ...Object.keys(CHANGES).filter((name) => !OTHERS.test(name))];
    assert.deepEqual([...new Set(names)].sort(), [...new Set(rows)].sort());
  });

  it('is one that changes something, or waits for something', () => {
    const {signal} = new AbortController();
    const takesNone = METHODS.filter(({kinds}) => !kinds.some((kind) => kind.accepts({signal}) && !kind.accepts({signal: 1})));
    const others = takesNone.map(({name}) => name.split('.').at(-1)!);
    assert.deepEqual([...new Set(others)].sort(), TAKE_NO_SIGNAL);
  });

  for (const operation of OPERATIONS) {
    const name = `${operation.method}${operation.variant === undefined ? '' : ` ${operation.variant}`}`;
    it(`${name} ends at once, and leaves nothing`, {timeout: TORTURE ? 3_000_000 : 240_000}, async (t) => {
      if (operation.requires?.(t) === false) return;
      const w = await world(t, operation);
      const never: Point = {kind: 'never', n: 0};
      // The first one loads what it needs, and the second has nothing left to begin with.
      await attempt(w, operation, never, undefined);
      const whole = await attempt(w, operation, never, undefined);
      assert.equal(whole.err, undefined, String((whole.err as Error | undefined)?.stack));
      const clean = await leftovers(w, operation);
      const all = pointsOf(w, whole);
      const steps = Array.from(
        {length: TORTURE ? 60 : 2},
        (_, i): Point => ({kind: 'step', n: Math.floor(((i + 0.5) * whole.steps) / (TORTURE ? 60 : 2))}),
      );
      const kinds = [...new Set(all.map(({kind}) => kind))];
      const chosen = TORTURE
        ? all
        : kinds.flatMap((kind) =>
            sample(
              all.filter((point) => point.kind === kind),
              1,
              SAMPLE + numbers,
            ),
          );
      let ended = 0;
      for (const [i, point] of [...chosen, ...steps].entries()) {
        const [reason, code] = REASONS[i % REASONS.length]!;
        const name = `attempt-${numbers++}`;
        const {err, signal, tookMs, result} = await attempt(w, operation, point, reason, name);
        const what = `${point.kind} ${point.n}, reason ${String(reason)}: ${err instanceof Error ? err.stack : String(err)}`;
        if (err === undefined) {
          // It had ended, or could not be stopped any more.
          assert.notEqual(point.kind, 'hold', what);
          assert.deepEqual(result, whole.result, what);
        } else {
          ended++;
          assert.ok(isErrdefs(err) && err.code === code, what);
          assert.ok(tookMs! < PROMPT_MS, `${tookMs} ms; ${what}`);
        }
        assert.equal(getEventListeners(signal, 'abort').length, 0, `${what}: listeners`);
        // Without the lock it cannot remove its lease: the next call does.
        const resumes = operation.resumes === true || point.kind === 'lock';
        assert.deepEqual(await settled(() => leftovers(w, {...operation, resumes}), clean), [], what);
        const again = await attempt(w, operation, never, undefined, name);
        assert.equal(again.err, undefined, `again after ${what}: ${(again.err as Error | undefined)?.stack}`);
        assert.deepEqual(again.result, whole.result, `again after ${what}`);
        assert.deepEqual(await settled(() => leftovers(w, {...operation, resumes: false}), clean), [], `again after ${what}`);
      }
      t.diagnostic(`${ended} of ${chosen.length + steps.length} aborted, of ${all.length} points and ${whole.steps} steps`);
    });
  }
});
