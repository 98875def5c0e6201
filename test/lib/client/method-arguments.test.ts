/**
 * Every failure of the library is an `ErrdefsError` of the right class: for any arguments, after `close()`, and for an abort at any point.
 * The guards' table lists the methods.
 */
import assert from 'node:assert/strict';
import {getEventListeners} from 'node:events';
import {createReadStream, existsSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync} from 'node:fs';
import {tmpdir} from 'node:os';
import {join} from 'node:path';
import {after, before, describe, it, type TestContext} from 'node:test';
import type {ArgumentKind} from '../../../src/lib/client/argument-kinds.ts';
import {openClient} from '../../../src/lib/client/index.ts';
import type {Client, ProgressEvent} from '../../../src/lib/client/types/index.ts';
import {isErrdefs} from '../../../src/lib/errdefs.ts';
import {digestOf, type FakeRegistry, startFakeRegistry} from '../../fakes/registry.ts';
import {abortAt, failure, METHODS, nothing, REASONS, REF, validFor} from '../../support/client-methods.ts';
import {findProgram, is, newClient, requiresProgram, requiresRoot, TORTURE, temporaryDirectory} from '../../support/helpers.ts';
import {checkStore} from '../../support/invariants.ts';
import {ARCHITECTURE} from '../../support/layouts.ts';
import {BASE_LAYER, file, tar} from '../../support/tartest.ts';

const LIVE = new AbortController();

/** Unusual arguments; some are valid for some parameters. */
const ODD: readonly unknown[] = [
  ...[undefined, null, 0, -1, 1.5, Number.NaN, Number.POSITIVE_INFINITY, 10n, true, '', 'x', '\0', '../..', 'a'.repeat(5000), Symbol('s')],
  ...[
    [],
    [1],
    ['x'],
    [undefined],
    {},
    {x: 1},
    {x: Symbol('s')},
    new Date(),
    new Map(),
    () => 1,
    /x/,
    Object.create(null),
    new Proxy({}, {}),
    nothing(),
  ],
  ...[
    {signal: 1},
    {signal: {}},
    {signal: null},
    {labels: 'x'},
    {labels: {a: 1}},
    {labels: null},
    {filters: 'x'},
    {filters: [1]},
    {filters: ['(']},
  ],
  ...[
    {onEvent: 1},
    {platforms: 'linux'},
    {platforms: [null]},
    {snapshotter: 1},
    {snapshotter: ''},
    {expiresMs: 'x'},
    {expiresMs: -1},
    {kinds: ['x']},
  ],
  ...[
    {credentials: 'me'},
    {credentials: {username: 'me'}},
    {maxConcurrentDownloads: 0},
    {mounts: [1]},
    {mounts: [{type: 'bind'}]},
    {stdio: [0]},
  ],
  ...[
    {expectedSize: '1'},
    {expectedDigest: 1},
    {keepBytes: Number.NaN},
    {cpus: 0},
    {memoryLimit: -1},
    {env: 'A=b'},
    {args: 'sh'},
    {connectTimeoutMs: -1},
    {limitRate: 0},
    {pull: 'sometimes'},
    {registry: {limitRate: 'x'}},
  ],
];

// References that the odd values make lead to no registry in the world.
const hosts = mkdtempSync(join(tmpdir(), 'berth-hosts-'));
before(() => {
  mkdirSync(join(hosts, 'docker.io'));
  writeFileSync(join(hosts, 'docker.io/hosts.toml'), 'server = "http://127.0.0.1:1"');
  Object.assign(process.env, {BERTH_HOSTS_DIR: hosts});
});
after(() => rmSync(hosts, {recursive: true}));

/** Valid arguments. */
const argumentsOf = (kinds: readonly ArgumentKind[]): unknown[] => kinds.map(validFor);

describe('arguments of the wrong type', () => {
  for (const {name, kinds, of} of METHODS)
    it(`${name} are refused, and change nothing`, async (t) => {
      const client = await newClient(t);
      for (const [i, kind] of kinds.entries())
        for (const odd of ODD) {
          const args = argumentsOf(kinds);
          args[i] = odd;
          const err = await failure(() => of(client)(...args));
          const what = `argument ${i + 1}, number ${ODD.indexOf(odd)}: ${String(err)}`;
          if (kind.accepts(odd)) {
            // Right by its type: any other error has a class.
            if (err !== undefined) assert.ok(isErrdefs(err) && !['unknown', 'internal'].includes(err.code), what);
          } else {
            assert.ok(isErrdefs(err) && err.code === 'invalid_argument', what);
            assert.match(err.message, new RegExp(`${name.split('.').at(-1)}: argument ${i + 1}`), what);
          }
        }
      // Valid calls changed only their own objects.
      assert.deepEqual(checkStore(client.root), []);
    });

  it('are reported with the name of the option', async (t) => {
    const ns = (await newClient(t)).namespace('default');
    for (const [options, message] of [
      [{platforms: 'linux/amd64'}, 'pull: argument 2.platforms must be an array, each of it a string, not a string: invalid argument'],
      [{credentials: {username: 'me'}}, 'pull: argument 2.credentials.password must be a string, not undefined: invalid argument'],
      ['x', 'pull: argument 2 must be an object, not a string: invalid argument'],
    ] as const)
      await assert.rejects(ns.pull(REF, options as never), {code: 'invalid_argument', message});
  });

  it('of openClient, namespace and snapshots are refused at once', async (t) => {
    const client = await newClient(t);
    for (const odd of [null, 1, [], {}, Symbol('s'), () => 1]) {
      if (odd !== null && (typeof odd !== 'object' || Array.isArray(odd)))
        assert.throws(() => openClient(odd as never), is('invalid_argument'));
      assert.throws(() => openClient({root: odd} as never), is('invalid_argument'));
      assert.throws(() => client.namespace(odd as never), is('invalid_argument'));
      assert.throws(() => client.namespace('x').snapshots(odd as never), is('invalid_argument'));
    }
  });
});

describe('a closed client', () => {
  for (const {name, kinds, of} of METHODS)
    it(`refuses ${name}`, async (t) => {
      const client = openClient({root: temporaryDirectory(t), state: temporaryDirectory(t)});
      const method = of(client);
      await client.close();
      for (const call of [method, of(client)]) await assert.rejects(call(...argumentsOf(kinds)), is('failed_precondition'));
      await client.close();
      assert.deepEqual(readdirSync(client.root), []);
    });

  it('fails the calls in progress, with the right class', async (t) => {
    const registry = await startFakeRegistry(t);
    registry.addImage('app', 'latest', [BASE_LAYER]);
    registry.fault({path: /blobs/, trickle: {bytes: 100, everyMs: 20}});
    const client = openClient({root: temporaryDirectory(t), state: temporaryDirectory(t)});
    const pulling = client.namespace('default').pull(`${registry.host}/app:latest`, {snapshotter: 'native', signal: LIVE.signal});
    const ended = assert.rejects(pulling, (err) => isErrdefs(err) && err.code !== 'unknown');
    while (registry.count('GET', /blobs/) === 0) await new Promise((resolve) => setTimeout(resolve, 5));
    await client.close();
    registry.clear();
    await ended;
  });
});

interface World {
  readonly t: TestContext;
  readonly registry: FakeRegistry;
  readonly client: Client;
  readonly ref: string;
}

interface Operation {
  readonly name: string;
  readonly requires: (t: TestContext) => boolean;
  prepare(world: World): Promise<unknown>;
  call(world: World, signal: AbortSignal, n: number): Promise<unknown>;
  /** Objects that must not exist after the abort. */
  left(world: World): Promise<readonly string[]>;
}

const pullIt = ({client, ref}: World, signal: AbortSignal): Promise<unknown> =>
  client.namespace('default').pull(ref, {snapshotter: 'native', signal});

/** Where imports and exports have their archive. */
const archiveOf = ({client}: World): string => join(client.state, 'images.tar');

const OPERATIONS: readonly Operation[] = [
  {
    name: 'pull',
    requires: () => true,
    prepare: async () => {},
    call: async (world, signal) => {
      // Each call starts from the same state.
      await world.client.namespaces.delete('default', {recursive: true}).catch(() => {});
      return pullIt(world, signal);
    },
    // Its lease protects downloaded blobs for the next attempt.
    left: async ({client}) => {
      const ns = client.namespace('default');
      return [
        ...(await ns.images.records()).map(({name}) => `image ${name}`),
        ...(await ns.snapshots('native').list()).map(({key}) => `snapshot ${key}`),
      ];
    },
  },
  ...(['file', 'stream'] as const).map(
    (from): Operation => ({
      name: `import of a ${from}`,
      requires: requiresRoot,
      prepare: async (world) => {
        await pullIt(world, LIVE.signal);
        await world.client.namespace('default').images.export(archiveOf(world), [world.ref]);
      },
      call: async (world, signal) => {
        await world.client.namespaces.delete('default', {recursive: true}).catch(() => {});
        const path = archiveOf(world);
        // Opened by its first read: an import that is refused at once leaves it alone.
        const opened = async function* () {
          yield* createReadStream(path);
        };
        const source = from === 'file' ? path : opened();
        return world.client.namespace('default').images.import(source, {snapshotter: 'overlayfs', signal});
      },
      // Nothing is kept: an archive can be read again.
      left: async ({client}) => {
        const ns = client.namespace('default');
        const names = (directory: string): readonly string[] =>
          existsSync(join(client.root, directory)) ? readdirSync(join(client.root, directory)).map((name) => `${directory}/${name}`) : [];
        return [
          ...(await ns.images.records()).map(({name}) => `image ${name}`),
          ...(await ns.leases.list()).map(({id}) => `lease ${id}`),
          ...['content/ingest', 'content/blobs/sha256', 'layers', 'work'].flatMap(names),
        ];
      },
    }),
  ),
  {
    name: 'export',
    requires: requiresRoot,
    prepare: (world) => pullIt(world, LIVE.signal),
    call: async (world, signal) => {
      rmSync(archiveOf(world), {force: true});
      return world.client.namespace('default').images.export(archiveOf(world), [world.ref], {signal});
    },
    left: async ({client}) => readdirSync(client.state).filter((name) => !name.endsWith('.json') && name !== 'events'),
  },
  {
    name: 'images.flatten',
    requires: () => true,
    prepare: (world) => pullIt(world, LIVE.signal),
    call: ({client, ref}, signal) => client.namespace('default').images.flatten(ref, 'flat:1', {compression: 'none', signal}),
    left: async ({client}) => {
      const ns = client.namespace('default');
      const left = [
        ...(await ns.content.active()).map(({ref}) => `ingest ${ref}`),
        ...(await ns.leases.list()).map(({id}) => `lease ${id}`),
      ];
      await ns.images.delete('flat:1').catch(() => {});
      return left;
    },
  },
  {
    name: 'copy',
    requires: () => true,
    prepare: async () => {},
    call: ({client, ref}, signal, n) => client.registry.copy(ref, `oci:${join(client.state, `copy-${n}`)}`, {signal}),
    // Whole blobs stay in a layout, for another copy may count on them; nothing that is half done.
    left: async ({client}) => {
      const copies = existsSync(client.state) ? readdirSync(client.state).filter((name) => name.startsWith('copy-')) : [];
      const half = copies
        .flatMap((name) => readdirSync(join(client.state, name), {recursive: true, encoding: 'utf8'}))
        .filter((path) => path.includes('.tmp.') || path.includes('.lock'));
      for (const name of copies) rmSync(join(client.state, name), {recursive: true});
      return half;
    },
  },
  {
    name: 'check',
    requires: () => true,
    prepare: (world) => pullIt(world, LIVE.signal),
    call: ({client}, signal) => client.check({deep: true, signal}),
    left: async () => [],
  },
  {
    name: 'run',
    requires: (t) => requiresRoot(t) && requiresProgram(t, 'runc', 'unshare', 'mount', 'busybox'),
    prepare: (world) => pullIt(world, LIVE.signal),
    call: ({client, ref}, signal, n) =>
      client.namespace('default').run(ref, `c${n}`, {
        rm: true,
        args: ['/busybox', 'sleep', '0.02'],
        snapshotter: 'native',
        stdio: ['ignore', 'ignore', 'ignore'],
        signal,
      }),
    left: async ({client}) => {
      const ns = client.namespace('default');
      const below = ['bundles', 'runtime'].map((name) => join(client.state, 'runs/default', name));
      return [
        ...(await ns.containers.list()).map(({id}) => `container ${id}`),
        ...(await ns.snapshots('native').list({filters: ['kind==active']})).map(({key}) => `snapshot ${key}`),
        ...below.flatMap((dir) => (existsSync(dir) ? readdirSync(dir).map((name) => `run ${name}`) : [])),
      ];
    },
  },
];

for (const {name, requires, prepare, call, left} of OPERATIONS)
  describe(`an aborted ${name}`, () => {
    let layers: Buffer[];
    before(() => {
      const busybox = findProgram('busybox');
      layers = [BASE_LAYER, tar(file('busybox', busybox === undefined ? 'none' : readFileSync(busybox), 0o755))];
    });

    async function world(t: TestContext): Promise<World> {
      const registry = await startFakeRegistry(t);
      const config = {
        architecture: ARCHITECTURE,
        os: 'linux',
        config: {},
        rootfs: {type: 'layers', diff_ids: layers.map((layer) => digestOf(layer))},
      };
      registry.addImage('app', 'latest', layers, config);
      const made = {t, registry, client: await newClient(t), ref: `${registry.host}/app:latest`};
      await prepare(made);
      return made;
    }

    it('fails with the class of the reason before it starts, and does nothing', async (t) => {
      if (!requires(t)) return;
      const here = await world(t);
      for (const [reason, code] of REASONS) {
        const {err} = await abortAt(0, reason, (signal) => call(here, signal, 0));
        assert.ok(isErrdefs(err) && err.code === code, `${String(reason)}: ${String(err)}`);
        assert.deepEqual(await left(here), []);
      }
    });

    it('fails with the class of the reason wherever it is aborted, and leaves nothing', async (t) => {
      if (!requires(t)) return;
      const here = await world(t);
      const {points, err} = await abortAt(-1, undefined, (signal) => call(here, signal, 1_000_000));
      assert.equal(err, undefined);
      assert.ok(points > 10, `${points} points`);
      const tries = TORTURE ? Math.min(points, 400) : 24;
      let aborted = 0;
      for (let i = 0; i < tries; i++) {
        const n = 1 + Math.floor((i * points) / tries);
        const [reason, code] = REASONS[i % REASONS.length]!;
        const {err, signal} = await abortAt(n, reason, (s) => call(here, s, n));
        const what = `at point ${n} of ${points}, reason ${String(reason)}: ${err instanceof Error ? err.stack : String(err)}`;
        assert.deepEqual(getEventListeners(signal, 'abort').length, 0, `${what}: listeners`);
        if (err === undefined) continue; // it had ended, or could not be stopped any more
        aborted++;
        assert.ok(isErrdefs(err) && err.code === code, what);
        assert.deepEqual(await left(here), [], what);
        assert.deepEqual(checkStore(here.client.root, {deep: false}), [], what);
      }
      // A check reads its signal while it reads files, and otherwise completes.
      assert.ok(aborted > tries / 10, `only ${aborted} of ${tries} were aborted`);
      assert.equal(await failure(() => call(here, LIVE.signal, points + 1)), undefined, 'and then it succeeds');
      assert.deepEqual(await here.client.namespace('default').leases.list(), []);
    });
  });

describe('an abort after the end', () => {
  it('changes nothing', async (t) => {
    const registry = await startFakeRegistry(t);
    registry.addImage('app', 'latest', [BASE_LAYER], {
      architecture: ARCHITECTURE,
      os: 'linux',
      rootfs: {type: 'layers', diff_ids: [digestOf(BASE_LAYER)]},
    });
    const ns = (await newClient(t)).namespace('default');
    const controller = new AbortController();
    const events: ProgressEvent[] = [];
    await ns.pull(`${registry.host}/app:latest`, {
      snapshotter: 'native',
      signal: controller.signal,
      onEvent: (event) => events.push(event),
    });
    const seen = events.length;
    controller.abort();
    await new Promise((resolve) => setTimeout(resolve, 50));
    assert.equal(events.length, seen);
    assert.equal((await ns.images.records()).length, 1);
  });
});
