/**
 * A power loss at each change that a command makes to the disk. Whatever a filesystem keeps of it: committed data is complete, nothing
 * torn is trusted, the same command succeeds, and lost layers are rebuilt.
 *
 * A recorded child runs the commands. Each prefix of its log gives the disk states of fakes/powerloss.ts, and this process inspects them
 * as if in a later boot. By default it tries some prefixes, with `BERTH_TEST_TORTURE=1` all.
 */
import assert from 'node:assert/strict';
import {execFileSync, spawnSync} from 'node:child_process';
import {createHash} from 'node:crypto';
import {existsSync, lstatSync, mkdirSync, readdirSync, readFileSync, readlinkSync, rmSync} from 'node:fs';
import {basename, join} from 'node:path';
import {describe, it} from 'node:test';
import {readXattrs} from '../../../src/lib/archive/special-files.ts';
import {planLocally} from '../../../src/lib/client/api/find-image.ts';
import type {Context} from '../../../src/lib/client/context.ts';
import {check} from '../../../src/lib/client/fsck/check.ts';
import {openClient} from '../../../src/lib/client/index.ts';
import {ensureUnpacked} from '../../../src/lib/client/pull/ensure-unpacked.ts';
import {pull} from '../../../src/lib/client/pull/pull.ts';
import type {Client} from '../../../src/lib/client/types/index.ts';
import {WorkerPool} from '../../../src/lib/client/workers/pool.ts';
import {openRemote} from '../../../src/lib/remotes/index.ts';
import {isOwnLayer} from '../../../src/lib/store/layer-store.ts';
import {getSnapshotter} from '../../../src/lib/store/snapshotters.ts';
import {Store} from '../../../src/lib/store/store.ts';
import {type RecordSurvey, surveyRecords} from '../../../src/lib/store/survey-records.ts';
import {type Change, compareTree, Disk, type DiskState, fingerprint, materialise, readLog, recorderOptions} from '../../fakes/powerloss.ts';
import {type FakeRegistry, startFakeRegistry} from '../../fakes/registry.ts';
import {randomNumbers} from '../../fuzz/seeded-random.ts';
import {runScript} from '../../support/children.ts';
import {isShort, onEnd, requiresRoot, type Scope, type Skippable, TORTURE, temporaryDirectory} from '../../support/helpers.ts';
import {checkStore} from '../../support/invariants.ts';
import {MemoryBackend} from '../../support/metadata-memory.ts';
import {digestOf} from '../../support/records.ts';
import {file, tar} from '../../support/tartest.ts';
import {visible as see} from '../store/change-sequences.ts';
import {type Command, KILLED_RUN, OWN_BYTES, OWN_FILE, SEQUENCES} from './command-sequences.ts';
import {CONFIG, LAYERS, says} from './pulled-store.ts';

/** Every n-th prefix is tried, and the ends of commands; of its states, the extremes and so many at random, every `share`-th. */
const {stride, samples, share} = TORTURE ? {stride: 1, samples: 3, share: 1} : {stride: isShort() ? 193 : 131, samples: 1, share: 3};
/** The same states each time, so that a failure can be repeated. */
const SEED = 20261124;

/** The recorded process's boot. */
const BOOT = 'b'.repeat(32);
const LOCK_TIMEOUT_MS = 5000;

/**
 * In memory a sync costs nothing, and what is on the disk is the model's to say. From a file in tmpfs the kernel mounts no
 * image, from one in ramfs it does; who may not mount one has a directory on the disk.
 */
function directoryFor(t: Scope, snapshotter: string): string {
  const place = join(temporaryDirectory(t), 'place');
  mkdirSync(place);
  const type = snapshotter === 'erofs' ? 'ramfs' : 'tmpfs';
  if (spawnSync('mount', ['-t', type, '-o', 'mode=0700', 'none', place]).status === 0) onEnd(t, () => execFileSync('umount', [place]));
  return place;
}

const CODE = `
const [place, sequence, from, to, registry] = args;
const here = (name) => import(new URL(name, ${JSON.stringify(import.meta.url)}).href);
const [{SEQUENCES}, {mark}, {openClient}, {visible}] = await Promise.all(
  ['./command-sequences.ts', '../../fakes/powerloss.ts', '../../../src/lib/client/index.ts', '../store/change-sequences.ts'].map(here));
const goals = [];
const root = place + '/root';
for (const {name, run} of SEQUENCES[sequence].commands.slice(Number(from), Number(to))) {
  const client = openClient({root, state: place + '-state', lockTimeoutMs: ${LOCK_TIMEOUT_MS}});
  await run({client, registry});
  await client.close();
  mark(name);
  goals.push(visible(root));
}
say(JSON.stringify(goals));`;

/** Records after each change, the empty store first. */
async function historyOf(root: string, generations: number): Promise<readonly RecordSurvey[]> {
  const memory = new MemoryBackend();
  const history = [memory.view(surveyRecords)];
  for (let generation = 1; generation <= generations; generation++) {
    const text = readFileSync(join(root, 'journal', String(generation).padStart(16, '0')), 'utf8');
    const {writes} = JSON.parse(text) as {writes: Readonly<Record<string, unknown>>};
    await memory.update('', (tx) => {
      for (const [path, document] of Object.entries(writes)) tx.put(path, document ?? undefined);
    });
    history.push(memory.view(surveyRecords));
  }
  return history;
}

/** The user's view, as the recorded process reported it. */
const visible = (root: string): unknown => JSON.parse(JSON.stringify(see(root)));

/** A client whose threads outlive it: starting them for each state would take most of the time. */
function clientOn(place: string, workers: WorkerPool): {readonly client: Client; readonly context: Context} {
  const root = join(place, 'root');
  const state = join(place, 'state');
  const own = openClient({root, state, lockTimeoutMs: LOCK_TIMEOUT_MS});
  const store = new Store({root, lockTimeoutMs: LOCK_TIMEOUT_MS});
  const context: Context = {
    store,
    stateDir: state,
    lockTimeoutMs: LOCK_TIMEOUT_MS,
    workers,
    warn: () => {},
    remoteOptions: async () => ({}),
    openRemote: async (options) => openRemote({...options, credentials: undefined}),
    running: async () => ({ids: [], hasBegun: () => false}),
    snapshotterName: (_namespace, asked) => asked ?? 'overlayfs',
    erofsBacking: () => 'files',
  };
  const client: Client = {
    ...own,
    namespace: (name) => ({...own.namespace(name), pull: (ref, options = {}) => pull(context, name, ref, options)}),
    check: (options = {}) => check(context, options),
  };
  return {client, context};
}

/** Objects that may be lost: an image's layer can be rebuilt from its blob. */
const isRecoverable = (problem: string): boolean => {
  const layer = /has layer ([\w-]+), which is missing$/.exec(problem)?.[1];
  return layer !== undefined && !isOwnLayer(layer);
};

/**
 * The same for two stores of which a deep check says the same, where a shallow one finds nothing: it hashes blobs, takes from
 * them and from the records what the layers should be, and compares those by all that is looked at here.
 */
function printDepths(root: string): string {
  const hash = createHash('sha1').update(JSON.stringify(visible(root)));
  const inodes = new Map<bigint, number>();
  const directories: string[] = [];
  const visit = (below: string): void => {
    const path = join(root, below);
    const {mode, uid, gid, size, mtimeNs, ino, nlink} = lstatSync(path, {bigint: true});
    if (!inodes.has(ino)) inodes.set(ino, inodes.size);
    const isInTree = /^layers\/[^/]+\/fs(?:$|\/)/.test(below);
    // The root of a tree has the time of its making.
    const time = isInTree && basename(below) !== 'fs' ? mtimeNs : '';
    hash.update(`${below}\0${mode} ${uid} ${gid} ${size} ${nlink} ${inodes.get(ino)} ${time}\n`);
    switch (mode & 0o170000n) {
      case 0o040000n:
        if (isInTree) directories.push(path);
        for (const name of readdirSync(path).sort()) visit(join(below, name));
        break;
      case 0o120000n:
        hash.update(readlinkSync(path));
        break;
      case 0o100000n: {
        hash.update(readFileSync(path));
        break;
      }
    }
  };
  for (const top of ['content/blobs', 'layers']) if (existsSync(join(root, top))) visit(top);
  for (const xattrs of readXattrs(directories)) hash.update(`${JSON.stringify([...xattrs])}\n`);
  return hash.digest('hex');
}

interface Recorded {
  readonly changes: readonly Change[];
  /** The user's view after each command. */
  readonly goals: readonly unknown[];
}

/** The images that the commands pull. */
async function startRegistry(t: Scope): Promise<FakeRegistry> {
  const registry = await startFakeRegistry(t);
  registry.addImage('app', 'latest', LAYERS, CONFIG);
  const layers = [LAYERS[0]!, tar(file('tool', 'x'.repeat(20_000)))];
  const {architecture, os} = CONFIG;
  registry.addImage('tool', 'latest', layers, {
    architecture,
    os,
    rootfs: {type: 'layers', diff_ids: layers.map((layer) => digestOf(layer))},
  });
  return registry;
}

/** Commands of a sequence, with what they make of the disk. */
class Outage {
  readonly #t: Scope;
  readonly #sequence: string;
  readonly #directory: string;
  readonly #workers = new WorkerPool();
  readonly #registry: FakeRegistry;
  readonly #seen = new Set<string>();
  /** Ends in which a deep check found nothing: most commands end in one of a few. */
  readonly #compared = new Set<string>();
  #places = 0;
  /** Number of inspected states. */
  states = 0;

  constructor(t: Scope, sequence: string, registry: FakeRegistry) {
    this.#t = t;
    this.#sequence = sequence;
    this.#registry = registry;
    this.#directory = directoryFor(t, this.#snapshotter);
    onEnd(t, () => this.#workers.close());
  }

  get #snapshotter(): string {
    return SEQUENCES[this.#sequence]!.snapshotter;
  }

  get #commands(): readonly Command[] {
    return SEQUENCES[this.#sequence]!.commands;
  }

  /** Runs the commands from `from` up to `to` where `disk` left off. */
  async record(disk: Disk, from = 0, to = this.#commands.length): Promise<Recorded & {readonly root: string}> {
    const place = join(this.#directory, `recorded-${++this.#places}`);
    mkdirSync(place);
    materialise(disk.now(), place);
    const log = `${place}-log`;
    const args = [place, this.#sequence, String(from), String(to), this.#registry.host];
    const {stdout} = await runScript(this.#t, CODE, args, recorderOptions({below: place, log, boot: BOOT}));
    return {changes: readLog(log), goals: JSON.parse(stdout) as unknown[], root: join(place, 'root')};
  }

  /** What is on the disk after `changes`. @throws when it is not what lies there: then something was not recorded */
  verify(disk: Disk, root: string): void {
    assert.deepEqual(compareTree(disk.now(), join(root, '..')), [], 'the log has everything');
  }

  /** Looks at what a killed run left, and has it removed. @returns what was said of its own layer */
  async abandon(state: DiskState, way: 'repair' | 'prune'): Promise<readonly string[]> {
    const place = join(this.#directory, 'place');
    rmSync(place, {recursive: true, force: true});
    mkdirSync(place);
    materialise(state.tree, place);
    const {client} = clientOn(place, this.#workers);
    const {findings} = await client.check();
    const own = findings.filter(({object}) => isOwnLayer(object.slice('layer '.length)));
    assert.deepEqual(new Set(own.map(({severity}) => severity)), new Set(own.length === 0 ? [] : ['garbage']), state.name);
    assert.ok(
      findings.some(({severity, object}) => severity === 'garbage' && object === 'container "r"'),
      state.name,
    );
    await (way === 'repair' ? client.check({repair: true}) : client.prune({kinds: ['snapshots']}));
    const left = (await client.check()).findings.filter(({object}) => object.includes('own-') || object.startsWith('container '));
    assert.deepEqual(left.map(says), [], `${state.name}, ${way}`);
    assert.deepEqual(await client.namespace('default').containers.list(), []);
    return own.map(({problem}) => problem.replace(/,.*/, ''));
  }

  /**
   * Looks around in a state, runs a command in it, and whatever heals it.
   *
   * @param generations newest change that must be there, and that can be
   * @param goal what is to be seen after the command
   */
  async judge(state: DiskState, command: Command, {generations: [ended, begun], history, goal, when}: Expected): Promise<void> {
    const print = `${when.command} ${ended} ${fingerprint(state.tree)}`;
    if (this.#seen.has(print)) return;
    this.#seen.add(print);
    this.states++;
    const place = join(this.#directory, 'place');
    rmSync(place, {recursive: true, force: true});
    mkdirSync(place);
    materialise(state.tree, place);
    const root = join(place, 'root');
    const {client, context} = clientOn(place, this.#workers);
    try {
      const {generation, survey} = context.store.view((tx) => ({generation: tx.generation, survey: tx.survey()}));
      assert.ok(generation >= ended && generation <= begun, `generation ${generation}, of ${ended} to ${begun}`);
      assert.deepEqual(survey, history[generation], 'records');
      assert.deepEqual(
        checkStore(root).filter((problem) => !isRecoverable(problem)),
        [],
      );
      const isLayer = (object: string): boolean => object.startsWith('layer ') && !isOwnLayer(object.slice('layer '.length));
      const found = (await client.check()).findings.filter(({severity, object}) => severity === 'damage' && !isLayer(object));
      assert.deepEqual(found.map(says), []);

      await command.run({client, registry: this.#registry.host});
      assert.deepEqual(visible(root), goal, 'after the command');
      this.#registry.clear();
      for (const {name} of await client.namespaces.list())
        for (const image of await client.namespace(name).images.records())
          await ensureUnpacked(context, name, image.name, await planLocally(context, name, image), getSnapshotter(this.#snapshotter));
      assert.equal(this.#registry.requests.length, 0, 'layers are made anew from what is here');
      for (const {kind, layer} of await client.namespace('default').snapshots(this.#snapshotter).list())
        if (kind === 'committed' && isOwnLayer(layer!))
          assert.equal(readFileSync(join(root, 'layers', layer!, 'fs', OWN_FILE), 'utf8'), OWN_BYTES);
      await client.gc();
      const depths = printDepths(root);
      assert.deepEqual((await client.check({deep: !this.#compared.has(depths)})).findings.map(says), []);
      this.#compared.add(depths);
      assert.deepEqual(checkStore(root, {litter: true}), []);
      assert.deepEqual(visible(root), goal, 'in the end');
    } catch (err) {
      throw new Error(`call ${when.call}, ${when.command}, ${state.name}: ${(err as Error).message}`, {cause: err});
    }
  }
}

interface Expected {
  readonly generations: readonly [ended: number, begun: number];
  readonly history: readonly RecordSurvey[];
  readonly goal: unknown;
  readonly when: {readonly call: string; readonly command: string};
}

const isCommit = (change: Change): boolean => change.op === 'link' && /^root\/journal\/\d{16}$/.test(change.path);
const countCommits = (changes: readonly Change[]): number => changes.filter(isCommit).length;

const canRun = (t: Skippable): boolean => requiresRoot(t);

describe('after a power loss', () => {
  for (const [sequence, {commands}] of Object.entries(SEQUENCES).filter(([name]) => name !== KILLED_RUN))
    it(`nothing is broken: ${sequence}`, async (t) => {
      if (!canRun(t)) return;
      const outage = new Outage(t, sequence, await startRegistry(t));
      const {changes, goals, root} = await outage.record(new Disk());
      const history = await historyOf(root, countCommits(changes));
      const disk = new Disk();
      const random = randomNumbers(SEED);
      let done = 0;
      let begun = 0;
      let ended = 0;
      let prefixes = 0;
      for (const [i, change] of changes.entries()) {
        disk.apply(change);
        if (isCommit(change)) begun++;
        if (change.op === 'mark') {
          done++;
          ended = begun;
        }
        if ((i + 1) % stride !== 0 && change.op !== 'mark') continue;
        prefixes++;
        const command = commands[done] ?? commands.at(-1)!;
        const when = {call: `${i + 1} of ${changes.length}`, command: command.name};
        for (const [n, state] of [...disk.states(random, samples)].entries())
          if ((n + prefixes) % share === 0)
            await outage.judge(state, command, {generations: [ended, begun], history, goal: goals[done] ?? goals.at(-1), when});
      }
      outage.verify(disk, root);
      t.diagnostic(`${outage.states} states of ${prefixes} prefixes of ${changes.length} changes`);
    });

  it('leftovers of a killed run --rm are garbage, and a repair or a prune removes them', async (t) => {
    if (!canRun(t)) return;
    const outage = new Outage(t, KILLED_RUN, await startRegistry(t));
    const {changes, root} = await outage.record(new Disk());
    const disk = new Disk();
    for (const change of changes) disk.apply(change);
    outage.verify(disk, root);
    const torn = new Set<string>();
    for (const state of disk.states(randomNumbers(SEED), 8))
      for (const way of ['repair', 'prune'] as const) for (const problem of await outage.abandon(state, way)) torn.add(problem);
    assert.ok(torn.has('is missing'), [...torn].join());
  });

  // The next process sees and uses unsynced changes of a killed process.
  for (const [sequence, first, second] of [
    ['namespaces and content', 0, 0],
    ['images, extracted', 0, 1],
  ] as const)
    it(`nothing is broken: after a kill, ${sequence}`, async (t) => {
      const {commands} = SEQUENCES[sequence]!;
      if (!canRun(t)) return;
      const outage = new Outage(t, sequence, await startRegistry(t));
      const {changes} = await outage.record(new Disk(), first, first + 1);
      // The worst case is a file whose directory is not synced.
      const there = new Set(changes.flatMap((change) => (change.op === 'open' && change.made === undefined ? change.handle : [])));
      const isWorst = (change: Change): boolean => change.op === 'sync' && there.has(change.handle);
      const kills = changes.flatMap((change, i) => (i > 0 && (TORTURE || isWorst(change)) ? i : []));
      const random = randomNumbers(SEED);
      const command = commands[second]!;
      // What changes nothing that is seen leaves the next process where the one before found itself.
      const isSeen = ({op, ...change}: Change): boolean =>
        op === 'open' ? 'made' in change || 'emptied' in change : !['sync', 'syncfs', 'mark'].includes(op);
      const records = new Map<number, Awaited<ReturnType<Outage['record']>>>();
      for (const at of kills) {
        const disk = new Disk();
        for (const change of changes.slice(0, at)) disk.apply(change);
        const seen = changes.slice(0, at).filter(isSeen).length;
        const recorded = records.get(seen) ?? (await outage.record(disk, second, second + 1));
        records.set(seen, recorded);
        const {changes: next, goals, root} = recorded;
        for (const change of next) disk.apply(change);
        outage.verify(disk, root);
        const commits = countCommits([...changes.slice(0, at), ...next]);
        const history = await historyOf(root, commits);
        const when = {call: `killed at ${at} of ${changes.length}`, command: command.name};
        for (const state of TORTURE ? disk.states(random, samples) : [...disk.states(random, 0)].slice(0, 1))
          await outage.judge(state, command, {generations: [commits, commits], history, goal: goals[0], when});
      }
      t.diagnostic(`${outage.states} states of ${kills.length} kills`);
    });
});
