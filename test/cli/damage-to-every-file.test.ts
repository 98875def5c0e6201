/**
 * Every kind of file that berth keeps, below its root and its state directory, in a store that everything was done with: whatever
 * happens to one, `check` finds it and goes on, `check --repair` mends it or says why not, and then the next pull and the next run
 * succeed. What `check` does not see is a table of docs/STORE.md. The kinds are derived from that store: a file of none of them fails
 * the test.
 *
 * Commands run in this process. By default each kind meets one state, with `BERTH_TEST_TORTURE=1` all.
 */
import assert from 'node:assert/strict';
import {execFileSync, spawn} from 'node:child_process';
import {
  existsSync,
  lstatSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  statSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import {tmpdir} from 'node:os';
import {basename, dirname, join} from 'node:path';
import {Readable} from 'node:stream';
import {describe, it} from 'node:test';
import {CLASSES} from '../../src/lib/errdefs.ts';
import {hasFreeLoopDevice} from '../../src/lib/runtime/verify-loop-devices.ts';
import {LocalContentStore} from '../../src/lib/store/local-content-store.ts';
import {Store} from '../../src/lib/store/store.ts';
import {eventually, fileScope, names} from '../e2e/fixtures.ts';
import {digestOf, startFakeRegistry} from '../fakes/registry.ts';
import {makeUnreadable} from '../fakes/unreadable.ts';
import {DEAD, withContainer} from '../lib/client/pulled-store.ts';
import {
  newClient,
  onEnd,
  requiresOneClock,
  requiresProgram,
  requiresRoot,
  type Skippable,
  TORTURE,
  temporaryDirectory,
} from '../support/helpers.ts';
import {checkStore} from '../support/invariants.ts';
import {ARCHITECTURE} from '../support/layouts.ts';
import {stateOnLoops} from '../support/loop-devices.ts';
import {program} from '../support/static-programs.ts';
import {BASE_LAYER, file, tar} from '../support/tartest.ts';
import {environment, root as project} from './harness.ts';
import {ctrHere, type Place} from './run-in-process.ts';

/** Kinds of files, by their path from above both directories. What is named after a hash there is named after its meaning here. */
const KINDS: Readonly<Record<string, RegExp>> = {
  version: /^root\/version$/,
  'record of a namespace': /^root\/namespaces\/[^/]+\/namespace\.json$/,
  'record of an image': /^root\/namespaces\/[^/]+\/images\/[^/]+$/,
  'record of content': /^root\/namespaces\/[^/]+\/content\/[^/]+$/,
  'record of a snapshot': /^root\/namespaces\/[^/]+\/snapshots\/[^/]+\/[^/]+$/,
  'record of a container': /^root\/namespaces\/[^/]+\/containers\/[^/]+$/,
  'record of a lease': /^root\/namespaces\/[^/]+\/leases\/[^/]+$/,
  'count of references': /^root\/(?:namespaces\/[^/]+\/)?refs\/(?!complete|uncounted)[^/]+$/,
  'complete.json': /^root\/(?:namespaces\/[^/]+\/)?refs\/complete\.json$/,
  'uncounted.json': /^root\/refs\/uncounted\.json$/,
  "a manifest's blob": /^root\/content\/blobs\/sha256\/manifest$/,
  "a config's blob": /^root\/content\/blobs\/sha256\/config$/,
  "a layer's blob": /^root\/content\/blobs\/sha256\/layer$/,
  "a user's blob": /^root\/content\/blobs\/sha256\/user$/,
  "an ingest's info.json": /^root\/content\/ingest\/[^/]+\/info\.json$/,
  "an ingest's data": /^root\/content\/ingest\/[^/]+\/data$/,
  "a layer's layer.json": /^root\/layers\/[a-z]+-(?!own-)[^/]+\/layer\.json$/,
  "a user's layer.json": /^root\/layers\/[a-z]+-own-[^/]+\/layer\.json$/,
  "a layer's layer.tar": /^root\/layers\/[^/]+\/layer\.tar$/,
  "a layer's layer.erofs": /^root\/layers\/[^/]+\/layer\.erofs$/,
  "a layer's layer.img": /^root\/layers\/[^/]+\/layer\.img$/,
  "a file in a layer's tree": /^root\/layers\/[a-z]+-(?!own-)[^/]+\/fs\/.+$/,
  "a file in a user's tree": /^root\/layers\/[a-z]+-own-[^/]+\/fs\/.+$/,
  "overlayfs's own file in a user's layer": /^root\/layers\/[a-z]+-own-[^/]+\/work\/.+$/,
  'record of the journal': /^root\/journal\/\d{16}$/,
  'journal/checkpoint': /^root\/journal\/checkpoint$/,
  'journal/applied': /^root\/journal\/applied$/,
  'journal/unswept': /^root\/journal\/unswept$/,
  'cache/': /^root\/cache\//,
  'damaged/': /^root\/damaged\//,
  'erofs.json': /^state\/erofs\.json$/,
  'a token of a registry': /^state\/tokens\/[^/]+$/,
  'the log of events': /^state\/events\/\d+$/,
  'mount.json of a mount': /^state\/mounts\/mounted\/mount\.json$/,
  'mount.json of an earlier mount': /^state\/mounts\/earlier\/mount\.json$/,
  "a running container's owner": /^state\/runs\/[^/]+\/bundles\/live\/owner\..*$/,
  "a running container's runtime": /^state\/runs\/[^/]+\/bundles\/live\/runtime\..*$/,
  "a running container's init.pid": /^state\/runs\/[^/]+\/bundles\/live\/init\.pid$/,
  "a running container's task.json": /^state\/runs\/[^/]+\/bundles\/live\/task\.json$/,
  "a running container's log.json": /^state\/runs\/[^/]+\/bundles\/live\/log\.json$/,
  "a running container's bundle": /^state\/runs\/[^/]+\/bundles\/live\/bundle\/.+$/,
  "a running container's state.json": /^state\/runs\/[^/]+\/runtime\/live\/state\.json$/,
  "a dead run's owner": /^state\/runs\/[^/]+\/bundles\/dead\/owner\..*$/,
  "a dead run's runtime": /^state\/runs\/[^/]+\/bundles\/dead\/runtime\..*$/,
  "a dead run's init.pid": /^state\/runs\/[^/]+\/bundles\/dead\/init\.pid$/,
  "a dead run's task.json": /^state\/runs\/[^/]+\/bundles\/dead\/task\.json$/,
  "a dead run's log.json": /^state\/runs\/[^/]+\/bundles\/dead\/log\.json$/,
  "a dead run's bundle": /^state\/runs\/[^/]+\/bundles\/dead\/bundle\/.+$/,
  "a dead run's state.json": /^state\/runs\/[^/]+\/runtime\/dead\/state\.json$/,
  'left in locks/ by a dead process': /^root\/locks\/.+$/,
  'left in work/ by a dead process': /^root\/work\/.+$/,
  'left in trash/ by a dead process': /^root\/trash\/.+$/,
  'left in views/ by a dead process': /^state\/views\/.+$/,
  'half-written by a dead process': /^(?:root|state)\/(?:.+\/)?\.tmp\.[^/]+$/,
};

/** What happens to a file. @returns undoes what is not of the file itself */
const STATES: Readonly<Record<string, (path: string) => (() => void) | undefined>> = {
  missing: (path) => void rmSync(path),
  empty: (path) => void truncate(path, 0),
  truncated: (path) => void truncate(path, statSync(path).size >> 1),
  // Of JSON the first byte: a value that was changed and still fits its field is not seen.
  flipped: (path) =>
    statSync(path).size === 0
      ? undefined
      : void flip(path, /\/(?:blobs|fs)\/|\.(?:tar|erofs|img)$/.test(path) ? statSync(path).size >> 1 : 0),
  unreadable: (path) => makeUnreadable(path, 'EIO'),
  withheld: (path) => makeUnreadable(path, 'EACCES'),
  'a directory': (path) => {
    rmSync(path);
    mkdirSync(path, {mode: 0o700});
    return undefined;
  },
  'a link': (path) => {
    rmSync(path);
    symlinkSync(join(tmpdir(), 'nonesuch'), path);
    return undefined;
  },
};

/** Turns a bit of one file, which may have other names. */
function flip(path: string, at: number): void {
  const bytes = readFileSync(path);
  const {mode} = statSync(path);
  bytes[at]! ^= 1;
  rmSync(path);
  writeFileSync(path, bytes, {mode});
}

/** Files of a store may have several names: this one alone is cut. */
function truncate(path: string, size: number): void {
  const bytes = readFileSync(path).subarray(0, size);
  const {mode} = statSync(path);
  rmSync(path);
  writeFileSync(path, bytes, {mode});
}

/** What `check` does not see of a file, as docs/STORE.md has it. `deep`: only `check --deep` does; `hand`: nothing goes on without a person. */
function unseen(): ReadonlyMap<string, 'deep' | 'never' | 'hand'> {
  const text = readFileSync(join(project, 'docs/STORE.md'), 'utf8');
  const table = /\| file \| state \| seen \|.*?\n\n/s.exec(text)![0];
  const rows = [...table.matchAll(/^\| ([^|]+) \| ([^|]+) \| (never|--deep|by hand)[^|]* \|$/gm)];
  return new Map(
    rows.flatMap(([, kinds = '', states = '', seen]) =>
      kinds
        .split('; ')
        .flatMap((kind) =>
          (states === 'any' ? Object.keys(STATES) : states.split(', ')).map(
            (state) =>
              [
                `${kind}: ${state}`,
                ({never: 'never', '--deep': 'deep', 'by hand': 'hand'} as const)[seen as 'never' | '--deep' | 'by hand'],
              ] as const,
          ),
        ),
    ),
  );
}

const scope = fileScope();
const requires = (t: Skippable): boolean => requiresRoot(t) && requiresProgram(t, 'runc', 'unshare', 'mount');

interface Used extends Place {
  readonly ref: string;
  /** One file of each kind, below the directory of both. */
  readonly files: ReadonlyMap<string, string>;
  /** Puts everything back. */
  restore(): void;
  /** Whether the container that runs still does. */
  isLive(): boolean;
}

/** A store after everything that leaves files, in a directory that is `root` and `state` again and again. */
async function use(): Promise<Used> {
  const top = temporaryDirectory(scope);
  const [root, state, pristine] = ['root', 'state', 'pristine'].map((name) => join(top, name)) as [string, string, string];
  const registry = await startFakeRegistry(scope, {auth: {kind: 'token', expiresIn: 3600}});
  const blobs = new Map<string, string>();
  const push = (name: string, ...layers: readonly Buffer[]): string => {
    const config = {
      os: 'linux',
      architecture: ARCHITECTURE,
      config: {Cmd: ['/exit']},
      rootfs: {type: 'layers', diff_ids: layers.map((layer) => digestOf(layer))},
    };
    const made = registry.addImage(name, 'latest', layers, config);
    for (const [kind, {digest}] of [
      ['manifest', made.manifest],
      ['config', made.config],
      ...made.layers.map((layer) => ['layer', layer] as const),
    ] as const)
      blobs.set(digest.slice('sha256:'.length), kind);
    return `${registry.host}/${name}:latest`;
  };
  const programs = [file('exit', program('exit'), 0o755), file('wait', program('wait'), 0o755)];
  // The upper one leaves a parent to the lower, and so depends on it.
  const ref = push('app', BASE_LAYER, tar(...programs, file('etc/c', 'below')));
  // What is in use is left alone: it has an image of its own.
  const busy = push('busy', tar(...programs, file('busy', 'in use')));
  const looped = push('looped', tar(...programs, file('looped', 'on a loop device')));

  mkdirSync(state, {mode: 0o700});
  if (await hasFreeLoopDevice()) {
    stateOnLoops(scope, state);
    const onLoops = await newClient(scope, {root, state});
    await onLoops.namespace('loops').pull(looped, {snapshotter: 'erofs'});
    await onLoops.close();
    rmSync(join(state, 'erofs.json'));
  }
  const client = await newClient(scope, {root, state});
  const [ns, other] = [client.namespace('default'), client.namespace('other')];
  await ns.pull(ref, {snapshotter: 'erofs'});
  await other.pull(ref, {snapshotter: 'overlayfs'});
  await ns.pull(busy, {snapshotter: 'erofs'});
  await other.pull(busy, {snapshotter: 'overlayfs'});
  await withContainer({client, snapshotter: 'erofs', ref}, 'c1');
  await ns.leases.create({id: 'kept'});
  await ns.content.ingest('key', Readable.from([Buffer.from('bytes of a user')]));
  await ns.images.list();
  await client.gc();
  const writer = await new LocalContentStore(new Store({root, lockTimeoutMs: 1000}), 'default').writer('half');
  writer.write(Buffer.from('half of it'));
  writer.close();

  const {pid: live} = await runs({root, state}, ['run', busy, 'live', '/wait']);
  const dead = await runs({root, state}, ['run', '--rm', ref, 'dead', '/wait']);
  for (const pid of dead.pids) process.kill(pid, 'SIGKILL');
  await eventually('their end', () => dead.pids.every((pid) => !existsSync(`/proc/${pid}`)));

  const targets = ['mounted', 'earlier'].map((name) => join(top, name));
  for (const target of targets) {
    mkdirSync(target);
    await other.images.mount(busy, target, {snapshotter: 'overlayfs'});
  }
  onEnd(scope, () => execFileSync('umount', [targets[0]!]));
  execFileSync('umount', [targets[1]!]);
  const inUse: string[] = [];
  for (const snapshots of [ns.snapshots('erofs'), other.snapshots('overlayfs')]) {
    const records = await snapshots.list();
    const tops = records.filter(({key}) => key === 'live' || key === targets[0]).map(({parent}) => parent);
    inUse.push(...records.filter(({key}) => tops.includes(key)).map(({layer}) => `root/layers/${layer!}/`));
  }
  assert.equal(inUse.length, 2);
  await client.close();

  for (const path of [
    `root/work/${DEAD}.x/half`,
    `root/trash/${DEAD}.x/half`,
    `root/locks/ingest-ref-${'a'.repeat(64)}.${DEAD}.x/${DEAD}.x`,
    `root/.tmp.${DEAD}.x`,
    `state/.tmp.${DEAD}.x`,
    `state/views/view-${DEAD}.1/fstab`,
    'root/journal/unswept',
    'root/damaged/x/version',
  ]) {
    mkdirSync(dirname(join(top, path)), {recursive: true, mode: 0o700});
    writeFileSync(join(top, path), path.endsWith('unswept') ? '' : 'left');
  }
  mkdirSync(pristine);
  for (const directory of [root, state]) renameSync(directory, join(pristine, basename(directory)));
  return {
    root,
    state,
    ref,
    files: filesOf(pristine, blobs, inUse),
    restore: () => execFileSync('sh', ['-c', 'rm -rf root state && cp -a pristine/root pristine/state .'], {cwd: top}),
    isLive: () => existsSync(`/proc/${live}`),
  };
}

/** Starts a container that waits. @returns the pid of its first process, and those of all that run it */
async function runs({root, state}: Place, words: readonly string[]): Promise<{readonly pid: number; readonly pids: readonly number[]}> {
  const id = words.at(-2)!;
  const child = spawn(join(project, 'bin/ctr'), words, {env: {...environment(), BERTH_ROOT: root, BERTH_STATE: state}, stdio: 'ignore'});
  const bundle = join(state, 'runs/default/bundles', id);
  const pid = await eventually(
    `container ${id}`,
    () => existsSync(join(bundle, 'init.pid')) && Number(readFileSync(join(bundle, 'init.pid'), 'latin1')),
  );
  onEnd(scope, () => {
    try {
      process.kill(pid, 'SIGKILL');
    } catch {
      // It has ended.
    }
  });
  const runtime = names(bundle).find((name) => name.startsWith('runtime.'))!;
  return {pid, pids: [child.pid!, Number(runtime.split('.')[1]), pid]};
}

/** Its name in `KINDS`. @param blobs kinds of those that images have, by their names */
function kindName(top: string, path: string, blobs: ReadonlyMap<string, string>): string {
  if (path.startsWith('root/content/blobs/')) return join(dirname(path), blobs.get(basename(path)) ?? 'user');
  const [, directory] = /^(state\/mounts\/[^/]+)\//.exec(path) ?? [];
  if (directory === undefined) return path;
  const {target} = JSON.parse(readFileSync(join(top, directory, 'mount.json'), 'utf8')) as {target: string};
  return path.replace(directory, `state/mounts/${basename(target)}`);
}

/** One file of each kind. */
function filesOf(top: string, blobs: ReadonlyMap<string, string>, inUse: readonly string[]): ReadonlyMap<string, string> {
  const found = new Map<string, string>();
  for (const path of readdirSync(top, {recursive: true, encoding: 'utf8'}).sort()) {
    if (!lstatSync(join(top, path)).isFile()) continue;
    const name = kindName(top, path, blobs);
    const kinds = Object.keys(KINDS).filter((kind) => KINDS[kind]!.test(name));
    assert.equal(
      kinds.length,
      1,
      `${path} is of kinds ${JSON.stringify(kinds)}: add it to KINDS, and to docs/STORE.md what check does not see of it`,
    );
    if (!found.has(kinds[0]!) && !inUse.some((directory) => path.startsWith(directory))) found.set(kinds[0]!, path);
  }
  return found;
}

interface FindingLine {
  readonly severity: string;
  readonly path: string;
  readonly repaired: boolean;
  readonly action?: string;
}

interface Checked {
  readonly findings: readonly FindingLine[];
  readonly text: string;
}

async function checked(store: Place, ...flags: readonly string[]): Promise<Checked> {
  const {status, stdout, stderr} = await ctrHere(store, ['check', '--json', '--progress', 'none', ...flags]);
  const text = `check ${flags.join(' ')} ended with ${status}: ${stderr}${stdout}`;
  assert.ok(status === 0 || status === CLASSES.data_loss.exit, text);
  return {findings: (JSON.parse(stdout) as {findings: FindingLine[]}).findings, text};
}

const damageOf = ({findings}: Checked): readonly FindingLine[] =>
  findings.filter(({severity, repaired}) => severity === 'damage' && !repaired);

/** One finding tells of all counts, of those too that a lost record leaves wrong. */
const isCount = (kind: string, path: string): boolean =>
  /^(?:count|record) of|^(?:complete|uncounted)\.json/.test(kind) && path.includes('/refs/');

const READS = [
  ['images', 'ls'],
  ['images', 'check'],
  ['namespaces', 'ls'],
  ['content', 'ls'],
  ['snapshots', 'ls'],
  ['leases', 'ls'],
  ['volumes', 'ls'],
  ['containers', 'ls'],
  ['tasks', 'ls'],
  ['images', 'mount'],
  ['df'],
] as const;
const COMPLAINTS = (['data_loss', 'permission_denied', 'failed_precondition'] as const).map((code) => CLASSES[code]);

/** A command does what it is for, or says in one line which file is in its way, and in another what to do. */
async function assertClear(store: Place, words: readonly string[], what: string, refuses?: 'refuses'): Promise<void> {
  const {status, stderr} = await ctrHere(store, words);
  if (status === 0 && refuses === undefined) return;
  const about = `${what}: ${words.join(' ')} ended with ${status}: ${stderr}`;
  const complaint = COMPLAINTS.find(({exit}) => exit === status);
  assert.ok(complaint !== undefined, about);
  const [line = '', hint = ''] = stderr.split('\n');
  assert.ok(line.startsWith('ctr: ') && line.endsWith(`: ${complaint.text}`), about);
  assert.match(hint, /^hint: \S/, about);
}

/** What the runtime has of a run is told with the run. */
const runOf = (path: string): string => path.replace(/(\/runs\/[^/]+)\/runtime\//, '$1/bundles/');

let using: Promise<Used> | undefined;

async function meet(t: Skippable, kind: string, state: string): Promise<void> {
  if (kind.startsWith('an ingest') && !requiresOneClock(t, 'the age of an ingest is a file time')) return;
  using ??= use();
  const store = await using;
  const below = store.files.get(kind);
  if (below === undefined) return t.skip(`no such file: ${kind}`);
  const what = `${kind} (${below}) that is ${state}`;
  store.restore();
  const path = join(dirname(store.root), below);
  const undo = STATES[state]!(path);
  try {
    // A finding names the file, or the layer, the ingest, the run or the mount that it is part of.
    const names = (found: FindingLine): boolean =>
      path === found.path || runOf(path).startsWith(`${found.path}/`) || isCount(kind, found.path);
    const expected = unseen().get(`${kind}: ${state}`) ?? 'plain';
    for (const words of READS) await assertClear(store, words, what);
    if (expected === 'hand') {
      for (const words of [['check'], ['check', '--repair'], ['pull', store.ref]]) await assertClear(store, words, what, 'refuses');
      return;
    }
    const plain = await checked(store);
    const isSeen = plain.findings.some(names);
    const flags = isSeen ? [] : ['--deep'];
    const repair = await checked(store, ...flags, '--repair');
    const seen = isSeen ? 'plain' : repair.findings.some(names) ? 'deep' : 'never';
    assert.equal(seen, expected, `${what}: ${plain.text}${repair.text}`);
    const left = damageOf(repair);
    assert.ok(
      left.every(({action}) => action !== undefined),
      `${what}: ${repair.text}`,
    );
    const again = await checked(store, ...flags);
    // A user's own things are nowhere else.
    if (!kind.includes("user's")) assert.deepEqual(left, [], `${what}: ${repair.text}`);
    assert.ok(damageOf(again).length === 0 || left.length > 0, `${what}: ${repair.text}${again.text}`);
    assert.ok(store.isLive(), `${what}: the container that runs was ended`);

    for (const [namespace, snapshotter] of [
      ['default', 'erofs'],
      ['other', 'overlayfs'],
      ['new', 'erofs'],
    ] as const) {
      const on = ['-n', namespace, '--snapshotter', snapshotter];
      for (const words of [
        ['pull', '--progress', 'none', ...on, store.ref],
        ...(namespace === 'new' ? [] : [['run', '--rm', ...on, store.ref, 'next']]),
      ]) {
        const {status, stderr} = await ctrHere(store, words);
        assert.equal(status, 0, `${what}: ${words.join(' ')}: ${stderr}`);
      }
    }
    assert.deepEqual(
      checkStore(store.root).filter((line) => !line.startsWith('damaged/')),
      [],
      what,
    );
  } finally {
    undo?.();
  }
}

describe('a file of each kind', () => {
  it('is named above', async (t) => {
    if (!requires(t)) return;
    using ??= use();
    const {files} = await using;
    const none = (await hasFreeLoopDevice()) ? [] : ["a layer's layer.img"];
    assert.deepEqual(
      Object.keys(KINDS).filter((kind) => !files.has(kind)),
      none,
      'kinds of which the store has no file',
    );
  });

  for (const [turn, kind] of Object.keys(KINDS).entries())
    for (const [i, state] of Object.keys(STATES).entries())
      if (TORTURE || (i + turn * 3) % 8 === 0)
        it(`${kind}, ${state}, is found and mended`, async (t) => {
          if (!requires(t)) return;
          await meet(t, kind, state);
        });
});
