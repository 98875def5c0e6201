/**
 * Commands that are stopped, or that fail, at each call that changes something. The next command works at once, `check --deep` finds no
 * damage, no other namespace loses anything, and repeating the command gives its normal result.
 *
 * Most stops happen in this process: all calls from the n-th on fail, and the test then gives the leftovers the identity of a dead
 * process. A sample is really killed. `BERTH_TEST_TORTURE=1` tries every n, with one error for each n, and one in four of the calls that
 * read: four days try all of them.
 */
import assert from 'node:assert/strict';
import {randomBytes} from 'node:crypto';
import {existsSync, mkdirSync, readdirSync, readFileSync, writeFileSync} from 'node:fs';
import {tmpdir} from 'node:os';
import {dirname, join} from 'node:path';
import {after, describe, it, type TestContext} from 'node:test';
import '../fakes/in-thread-workers.ts';
import {probeErofs} from '../../src/lib/client/erofs-probe.ts';
import {type Code, ErrdefsError, exitStatus} from '../../src/lib/errdefs.ts';
import {type Engine, engineEnvironment, root} from '../cli/harness.ts';
import {arm, disarm, killedHere} from '../fakes/failpoints.ts';
import {type ReadFault, type Readings, recordReadings, runWithFault, type Traced} from '../fakes/read-faults-by-strace.ts';
import {type FakeRegistry, startFakeRegistry} from '../fakes/registry.ts';
import {visible} from '../lib/store/change-sequences.ts';
import {
  isShort,
  requiresProgram,
  requiresRoot,
  SAMPLE,
  type Scope,
  type Skippable,
  TORTURE,
  temporaryDirectory,
} from '../support/helpers.ts';
import {checkStore} from '../support/invariants.ts';
import {addImage, setTarget} from '../support/layouts.ts';
import {dir, file, tar} from '../support/tartest.ts';
import {fileScope} from './fixtures.ts';
import {child, command, commandOf, copyPlace, inventory, ok, type Place, publish, rootOf, writeInto} from './interrupt.ts';

/** Tries every n-th call, and at least so many calls of short commands. */
type Stride = readonly [every: number, least: number];

/** Stopped or failed here, killed in a process of its own, and failed there at what it reads. */
const STRIDE: Readonly<Record<'here' | 'child' | 'reads', Stride>> = TORTURE
  ? {here: [1, 1], child: [8, 1], reads: [4, 1]}
  : isShort()
    ? {here: [96, 2], child: [256, 1], reads: [192, 1]}
    : {here: [128, 1], child: [256, 1], reads: [288, 1]};
/** Number of the first tried call of a scenario: the same calls each time, and others of each scenario. */
const firstOf = (scenario: number, step: number): number => (TORTURE ? 1 : 1 + ((5 + 13 * scenario) % step));
/** Whose turn it is of what takes turns. */
const TURN = TORTURE ? SAMPLE % 4 : 0;
/** The few calls that are tried of each command fail with other errors than those of the command before it. */
const ERRORS_EACH = 2;

/** Longest delay of the next command by a stopped one, in milliseconds, on a busy machine. */
const AT_ONCE_MS = 9000;
/** The same for the stopped command itself; who waits for a lock that nobody gives back takes 10 s. */
const AGAIN_MS = 9500;

/** For what the tests below share. */
const scope = fileScope();

const onDisk = tmpdir();
/** In memory, where a sync costs nothing; this test does not depend on what is on the disk. */
const inMemory = ['/dev/shm', onDisk].find((directory) => existsSync(directory))!;
after(() => {
  process.env.TMPDIR = onDisk;
});

const FAULTS: Readonly<Record<string, Code>> = {
  EIO: 'data_loss',
  ENOSPC: 'resource_exhausted',
  EACCES: 'permission_denied',
  EMFILE: 'resource_exhausted',
};

interface Step {
  readonly args: readonly string[];
  readonly input?: string | Buffer;
  /** Status of an undisturbed run; default 0. */
  readonly status?: number;
  /** Allowed statuses of a repeated command that finds everything done. */
  readonly again?: readonly number[];
}

interface Scenario {
  /** Whether the machine has what it takes, besides root's right to say whose files are. */
  readonly requires?: (t: Skippable) => boolean;
  /** Prepares the store, besides the uninvolved namespace. */
  readonly origin?: (place: Place, registry: FakeRegistry) => Promise<void>;
  /** Commands run concurrently. */
  readonly steps: (registry: FakeRegistry) => readonly Step[];
  /** Its calls that read are tried as well; it is one step. */
  readonly reads?: 'only' | 'too';
  /** Made in several changes, so that there is more than a before and an after. */
  readonly inSteps?: boolean;
  /** Asserts what must hold besides of whatever a stop left. */
  readonly alsoHolds?: (place: Place, when: string) => void;
  /** Needs a filesystem from which the kernel mounts EROFS images: not one in memory. */
  readonly onDisk?: boolean;
}

const pull = (ref: string, ...more: readonly string[]): readonly string[] => ['pull', '--snapshotter', 'overlayfs', ...more, ref];
const runs = (t: Skippable): boolean => requiresProgram(t, 'runc', 'unshare', 'mount');
const run = (registry: FakeRegistry): Step => ({
  args: ['run', '--rm', '--snapshotter', 'overlayfs', publish(registry, 'runnable'), 'r'],
  status: 7,
});

/** An OCI layout as a tar: a layer large enough to be stored while it streams by, and one that needs the layer below. */
const ARCHIVE = (() => {
  const layout = temporaryDirectory(scope);
  const layers = [tar(dir('etc', 0o750), file('etc/a', randomBytes(40_000))), tar(file('etc/b', 'on top of another'))];
  setTarget(layout, addImage(layout, {layers, compression: 'none'}));
  const files = readdirSync(layout, {recursive: true, withFileTypes: true}).filter((entry) => entry.isFile());
  const names = files.map((entry) => join(entry.parentPath, entry.name).slice(layout.length + 1)).sort();
  return tar(...names.map((name) => file(name, readFileSync(join(layout, name)))));
})();
const importing = (source: string): readonly string[] => [
  ...['images', 'import', '--snapshotter', 'overlayfs', '--base-name', 'registry.example/app'],
  source,
];
/** What an undisturbed export wrote. */
let exported: Buffer | undefined;

const SCENARIOS: Readonly<Record<string, Scenario>> = {
  'images import': {
    ...(TORTURE ? {reads: 'too'} : {}),
    origin: async (place) => writeFileSync(join(place, 'images.tar'), ARCHIVE),
    steps: () => [{args: importing('{place}/images.tar')}],
  },
  'images import from standard input': {
    steps: () => [{args: importing('-'), input: ARCHIVE}],
  },
  'images export': {
    ...(TORTURE ? {reads: 'too'} : {}),
    origin: async (place, registry) => void (await ok(place, pull(publish(registry, 'app'), '--no-unpack'))),
    steps: (registry) => [{args: ['images', 'export', '{place}/out.tar', publish(registry, 'app')]}],
    alsoHolds: (place, when) => {
      const path = join(place, 'out.tar');
      if (!existsSync(path)) return;
      const bytes = readFileSync(path);
      exported ??= bytes;
      assert.ok(bytes.equals(exported), `${when}: a half file under the final name`);
    },
  },
  pull: {
    reads: 'too',
    steps: (registry) => [{args: pull(publish(registry, 'app'))}],
  },
  'pull, indexed': {
    requires: (t) => {
      const {backing} = probeErofs(temporaryDirectory(scope), tmpdir());
      if (backing === undefined) t.skip('this kernel has no EROFS');
      return backing !== undefined;
    },
    onDisk: true,
    steps: (registry) => [{args: ['pull', '--snapshotter', 'erofs', publish(registry, 'app')]}],
  },
  'pull of a tag that has moved': {
    origin: async (place, registry) => {
      await ok(place, pull(publish(registry, 'old', 'moving')));
      publish(registry, 'new', 'moving');
    },
    steps: (registry) => [{args: pull(`${registry.host}/moving:latest`)}],
  },
  'pull into a second namespace': {
    reads: 'too',
    origin: async (place, registry) => void (await ok(place, pull(publish(registry, 'app')))),
    steps: (registry) => [{args: ['-n', 'second', ...pull(publish(registry, 'app'))]}],
  },
  'images rm': {
    reads: 'too',
    origin: async (place, registry) => {
      for (const name of ['app', 'old'] as const) await ok(place, pull(publish(registry, name)));
    },
    steps: (registry) => [{args: ['images', 'rm', publish(registry, 'app')], again: [5]}],
  },
  'images flatten': {
    origin: async (place, registry) => void (await ok(place, ['pull', '--no-unpack', publish(registry, 'app')])),
    steps: (registry) => [{args: ['images', 'flatten', publish(registry, 'app'), 'flat:1']}],
  },
  'namespaces rm --recursive': {
    origin: async (place, registry) => {
      await ok(place, ['-n', 'full', ...pull(publish(registry, 'app'))]);
      await ok(place, ['-n', 'full', 'content', 'ingest', 'own'], 'of its own');
      await ok(place, ['-n', 'full', 'snapshots', 'prepare', '--snapshotter', 'overlayfs', 'active']);
      await ok(place, ['-n', 'full', 'leases', 'create', 'l']);
    },
    steps: () => [{args: ['namespaces', 'rm', '--recursive', 'full'], again: [5]}],
  },
  'run --rm': {
    requires: runs,
    reads: 'too',
    origin: async (place, registry) => void (await ok(place, pull(publish(registry, 'runnable')))),
    steps: (registry) => [run(registry)],
    inSteps: true,
  },
  'run --rm of an image that is not unpacked': {
    requires: runs,
    origin: async (place, registry) => void (await ok(place, ['pull', '--no-unpack', publish(registry, 'runnable')])),
    steps: (registry) => [run(registry)],
    inSteps: true,
  },
  'snapshots commit': {
    origin: async (place) => {
      await ok(place, ['snapshots', 'prepare', '--snapshotter', 'overlayfs', 'work']);
      writeInto(place, 'default', 'overlayfs', 'work', 'what a user made');
    },
    steps: () => [{args: ['snapshots', 'commit', '--snapshotter', 'overlayfs', 'made', 'work'], again: [5, 6]}],
  },
  push: {
    reads: 'too',
    origin: async (place, registry) => void (await ok(place, pull(publish(registry, 'app')))),
    steps: (registry) => [{args: ['push', `${registry.host}/elsewhere:latest`, publish(registry, 'app')]}],
  },
  'pull of several references': {
    steps: (registry) => [{args: pull(publish(registry, 'app'), publish(registry, 'old'))}],
    inSteps: true,
  },
  'content ingest': {
    steps: () => [{args: ['content', 'ingest', 'key', '--label', 'a=b'], input: 'some bytes', again: [6]}],
  },
  prune: {
    reads: 'too',
    origin: async (place, registry) => {
      await ok(place, pull(publish(registry, 'app')));
      await ok(place, ['content', 'ingest', 'kept', '--label', 'containerd.io/gc.root=x'], 'kept');
      // Killed on its way: a lease, what is downloaded, and what is half unpacked.
      arm({below: place, action: 'EFROZEN', at: 60, lasting: true});
      assert.notEqual((await command(place, pull(publish(registry, 'old')))).status, 0);
      disarm();
      killedHere(place);
    },
    steps: () => [{args: ['prune']}],
  },
  'images ls': {
    reads: 'only',
    origin: async (place, registry) => void (await ok(place, pull(publish(registry, 'app')))),
    steps: () => [{args: ['images', 'ls']}],
  },
  check: {
    reads: 'only',
    origin: async (place, registry) => void (await ok(place, pull(publish(registry, 'app')))),
    steps: () => [{args: ['check', '--deep']}],
  },
  'pull and images rm at once': {
    // Of the same repository: content says from which ones it came, and that depends on who is first.
    origin: async (place, registry) => void (await ok(place, pull(publish(registry, 'old', 'app', 'old')))),
    steps: (registry) => [
      {args: pull(publish(registry, 'app'))},
      {args: ['images', 'rm', publish(registry, 'old', 'app', 'old')], again: [5]},
    ],
    inSteps: true,
  },
  'pull and prune at once': {
    origin: async (place, registry) => {
      for (const name of ['app', 'old'] as const) await ok(place, ['-n', 'second', ...pull(publish(registry, name))]);
    },
    steps: (registry) => [{args: pull(publish(registry, 'app'))}, {args: ['-n', 'second', 'prune']}],
    inSteps: true,
  },
  'two pulls at once': {
    steps: (registry) => [{args: pull(publish(registry, 'app'))}, {args: ['-n', 'second', ...pull(publish(registry, 'app'))]}],
    inSteps: true,
  },
};

/** What is seen in each namespace; one that is there and empty came with a lease that is gone. */
const seen = (place: Place): ReadonlyMap<string, unknown> =>
  new Map(
    (visible(rootOf(place)) as {name: string}[])
      .filter(({name, ...kinds}) => Object.values(kinds as Record<string, object>).some((kind) => Object.keys(kind).length > 0))
      .map((namespace) => [namespace.name, namespace]),
  );

/** Removes abandoned objects only. */
async function giveUp(place: Place): Promise<void> {
  await ok(place, ['prune', '--all-namespaces', 'snapshots', 'content', 'ingests', 'leases']);
  await ok(place, ['gc']);
}

/** Of one command's error, as `--json` prints it, its class; of a container's own status none. */
function classOf(stderr: string): Code | undefined {
  const line = stderr.split('\n').find((text) => text.startsWith('{"error"'));
  return line === undefined ? undefined : (JSON.parse(line) as {error: {kind: Code}}).error.kind;
}

/** Clean-up that failed, after all that was asked for was done, is told of and changes no status. */
const isWarned = ({stderr}: {readonly stderr: string}): boolean => /^(ctr: warning: |\{"warning":)/m.test(stderr);

class Trial {
  readonly registry: FakeRegistry;
  readonly scenario: Scenario;
  readonly steps: readonly Step[];
  readonly #origin: Place;
  readonly #place: Place;
  calls = 0;
  /** State after the undisturbed commands. */
  #goal: {readonly seen: unknown; readonly there: readonly string[]} | undefined;
  #before: {readonly seen: ReadonlyMap<string, unknown>; readonly there: readonly string[]} | undefined;

  private constructor(registry: FakeRegistry, scenario: Scenario) {
    process.env.TMPDIR = scenario.onDisk === true ? onDisk : inMemory;
    const directory = temporaryDirectory(scope);
    this.#origin = join(directory, 'origin');
    this.#place = join(directory, 'place');
    mkdirSync(this.#origin);
    this.registry = registry;
    this.scenario = scenario;
    this.steps = scenario.steps(registry);
  }

  static async begin(scenario: Scenario): Promise<Trial> {
    const registry = await startFakeRegistry(scope);
    const trial = new Trial(registry, scenario);
    const origin = trial.#origin;
    await ok(origin, ['-n', 'other', ...pull(publish(registry, 'bystander'))]);
    await ok(origin, ['-n', 'other', 'snapshots', 'prepare', '--snapshotter', 'overlayfs', 'own']);
    writeInto(origin, 'other', 'overlayfs', 'own', 'not to be lost');
    await scenario.origin?.(origin, registry);
    scenario.steps(registry);

    const given = trial.fresh();
    await giveUp(given);
    trial.#before = {seen: seen(given), there: inventory(given)};
    const place = trial.fresh();
    arm({below: place, action: 'EIO', at: 0});
    const results = await trial.perform(place);
    trial.calls = disarm().calls;
    for (const [i, {status, stderr}] of results.entries()) assert.equal(status, trial.steps[i]!.status ?? 0, stderr);
    scenario.alsoHolds?.(place, 'undisturbed');
    await giveUp(place);
    assert.deepEqual(checkStore(rootOf(place), {litter: true}), []);
    trial.#goal = {seen: seen(place), there: inventory(place)};
    return trial;
  }

  fresh(): Place {
    this.registry.clear();
    return copyPlace(this.#origin, this.#place);
  }

  /** Numbers of the calls that are tried. @param least so many at least @param scenario its number */
  points(stride: number, least: number, scenario: number): readonly number[] {
    const step = TORTURE ? stride : Math.min(stride * this.steps.length, Math.floor(this.calls / least));
    // One process of several makes its share of the calls.
    const first = firstOf(scenario, Math.ceil(step / (2 * this.steps.length)));
    return Array.from({length: Math.ceil((this.calls - first + 1) / step)}, (_, i) => first + i * step);
  }

  perform(place: Place): Promise<readonly Awaited<ReturnType<typeof command>>[]> {
    return Promise.all(this.steps.map(({args, input}) => command(place, ['--json', ...args], input)));
  }

  isDone(place: Place): boolean {
    try {
      assert.deepEqual(seen(place), this.#goal!.seen);
      return true;
    } catch {
      return false;
    }
  }

  /** @returns whether that call came */
  async stop(at: number, n: number): Promise<number> {
    const place = this.fresh();
    arm({below: place, action: 'EFROZEN', at, lasting: true, torn: n % 2 === 1});
    await this.perform(place);
    if (disarm().failures === 0) return 0;
    await this.judge(place, `stopped at call ${at} of ${this.calls}`, n % 3 === 0);
    return 1;
  }

  /** One of the commands is killed, each in a process of its own. @returns whether that call came */
  async kill(scope: Scope, at: number, n: number): Promise<number> {
    const place = this.fresh();
    const victim = n % this.steps.length;
    const ended = await Promise.all(
      this.steps.map(
        ({args, input}, i) => child(scope, place, args, {below: place, action: 'kill', at: i === victim ? at : 0, torn: true}, input).ended,
      ),
    );
    const unlike = ended.filter(({status}, i) => status !== (this.steps[i]!.status ?? 0));
    if (unlike.length === 0) return 0;
    assert.deepEqual(
      unlike.map((one) => [ended.indexOf(one), one.signal]),
      [[victim, 'SIGKILL']],
      unlike.map(({stderr}) => stderr).join(),
    );
    await this.judge(place, `killed at call ${at} of ${this.calls}`, n % 3 === 0);
    return 1;
  }

  /** @returns whether that call came */
  async fail(at: number, errno: string, expected: Code): Promise<number> {
    const place = this.fresh();
    arm({below: place, action: errno, at, torn: at % 2 === 0});
    const results = await this.perform(place);
    if (disarm().failures === 0) return 0;
    const when = `${errno} at call ${at} of ${this.calls}`;
    const failed = results.filter(({status}, i) => status !== (this.steps[i]!.status ?? 0));
    for (const result of failed) {
      const isRun = this.steps[results.indexOf(result)]!.args[0] === 'run';
      assert.equal(classOf(result.stderr), expected, `${when}: ${result.stderr}`);
      assert.equal(result.status, isRun ? 125 : exitStatus(new ErrdefsError(expected, when)), `${when}: ${result.stderr}`);
    }
    if (failed.length === 0) assert.ok(results.some(isWarned) || this.isDone(place), `${when}, which nobody needed to hear of`);
    await this.judge(place, when, at % 3 === 0);
    return 1;
  }

  #traced(place: Place, engine: Engine): Traced {
    const [{args, input = ''}] = this.steps as readonly [Step];
    return {
      program: join(root, 'bin/ctr'),
      args: commandOf(place, ['--json', ...args]),
      options: {env: engineEnvironment(engine), input},
      below: rootOf(place),
      // A read error in the runtime has no class here.
      isWithChildren: args[0] !== 'run',
    };
  }

  /** Where the command can fail to read. */
  async reads(engine: Engine): Promise<Readings> {
    const place = this.fresh();
    return recordReadings(this.#traced(place, engine), dirname(place));
  }

  /** @returns whether that call came */
  async misread(engine: Engine, readings: Readings, fault: ReadFault): Promise<number> {
    const place = this.fresh();
    const [{args, status = 0}] = this.steps as readonly [Step];
    const result = await runWithFault(this.#traced(place, engine), dirname(place), readings, fault);
    if (result.injected.length === 0) return 0;
    const when = `${fault.errno} at ${fault.call} ${fault.at} on ${engine}: ${result.injected.join('; ')}`;
    assert.doesNotMatch(result.stderr, /^ +at /m, when);
    if (result.status !== status) {
      // Bun reports every failure of socket(2) as a refused connection.
      const expected = fault.call === 'socket' && engine === 'executable' ? 'unavailable' : FAULTS[fault.errno]!;
      assert.equal(classOf(result.stderr) ?? 'data_loss', expected, `${when}: ${result.stdout}${result.stderr}`);
      assert.equal(result.status, args[0] === 'run' ? 125 : exitStatus(new ErrdefsError(expected, when)), `${when}: ${result.stderr}`);
    } else {
      assert.ok(isWarned(result) || this.isDone(place), `${when}, which nobody needed to hear of`);
      if (args[1] === 'ls') assert.equal(result.stdout, (await command(place, ['--json', ...args])).stdout, when);
    }
    await this.judge(place, when, fault.at % 3 === 0);
    return 1;
  }

  /** What must hold of whatever a stop or a fault left. @param isReleased whether what was left is given up before it is done again */
  async judge(place: Place, when: string, isReleased: boolean): Promise<void> {
    killedHere(place);
    this.scenario.alsoHolds?.(place, when);
    assert.deepEqual(checkStore(rootOf(place)), [], when);
    const started = performance.now();
    await ok(place, ['namespaces', 'create', 'probe']);
    const ms = performance.now() - started;
    assert.ok(ms < AT_ONCE_MS, `${when}: the next command took ${ms} ms`);
    await ok(place, ['namespaces', 'rm', 'probe']);
    const {findings} = JSON.parse(await ok(place, ['check', '--deep', '--json'])) as {findings: {severity: string}[]};
    assert.deepEqual(
      findings.filter(({severity}) => severity !== 'garbage'),
      [],
      when,
    );
    assert.deepEqual(seen(place).get('other'), this.#before!.seen.get('other'), `${when}: the bystander`);
    if (isReleased) {
      await giveUp(place);
      if (this.scenario.inSteps !== true) {
        const isAfter = this.isDone(place);
        if (!isAfter) assert.deepEqual(seen(place), this.#before!.seen, `${when}: neither before nor after`);
        assert.deepEqual(inventory(place), (isAfter ? this.#goal! : this.#before!).there, `${when}: what was given up`);
      }
    }
    const done = this.isDone(place);
    const begun = performance.now();
    for (const {args, input, status = 0, again = []} of this.steps) {
      const result = await command(place, args, input);
      // One of two commands may have completed.
      if (again.includes(result.status) && (done || this.steps.length > 1)) continue;
      assert.equal(result.status, status, `${when}, and again: ${result.stderr}`);
    }
    const took = performance.now() - begun;
    assert.ok(took < AGAIN_MS, `${when}, and again: it took ${took} ms`);
    assert.deepEqual(seen(place), this.#goal!.seen, `${when}, and again`);
    await giveUp(place);
    assert.deepEqual(checkStore(rootOf(place), {litter: true}), [], `${when}, and collected`);
    assert.deepEqual(inventory(place), this.#goal!.there, `${when}, and collected`);
    assert.deepEqual(seen(place), this.#goal!.seen, `${when}, and collected`);
  }
}

describe('a command', () => {
  for (const [number, [name, scenario]] of Object.entries(SCENARIOS).entries()) {
    describe(`in the middle of: ${name}`, () => {
      let beginning: Promise<Trial> | undefined;
      const begin = async (t: Skippable): Promise<Trial | undefined> => {
        if (!requiresRoot(t) || scenario.requires?.(t) === false) return undefined;
        beginning ??= Trial.begin(scenario);
        return beginning;
      };

      /** Tries some calls, or all. @param attempt answers whether anything came of it; two at once do not take the same turns each time */
      const forEachCall = async (
        t: TestContext,
        [stride, least]: Stride,
        attempt: (trial: Trial, at: number, n: number) => Promise<number>,
      ) => {
        const trial = await begin(t);
        if (trial === undefined) return;
        let tried = 0;
        for (const [n, at] of trial.points(stride, least, number).entries()) tried += await attempt(trial, at, n);
        t.diagnostic(`${tried}, at ${trial.calls} calls`);
        assert.ok(tried > 0);
      };

      if (scenario.reads !== undefined)
        it('reports the error and loses nothing when a call that reads fails', async (t) => {
          if (!requiresProgram(t, 'strace')) return;
          const trial = await begin(t);
          if (trial === undefined) return;
          const [every, least] = STRIDE.reads;
          let tried = 0;
          let calls = 0;
          for (const engine of ['executable', 'node'] as const) {
            const readings = await trial.reads(engine);
            const step = Math.min(every, Math.floor(readings.faults.length / least));
            for (let i = firstOf(number, step) + TURN; i < readings.faults.length; i += step)
              tried += await trial.misread(engine, readings, readings.faults[i]!);
            calls += readings.faults.length;
          }
          t.diagnostic(`${tried}, at ${calls} calls`);
          assert.ok(tried > 0);
        });
      if (scenario.reads === 'only') return;

      it('leaves no damage and no obstacle when it is stopped', (t) => forEachCall(t, STRIDE.here, (trial, at, n) => trial.stop(at, n)));

      it('leaves the same when it is killed, and concurrent commands continue', (t) =>
        forEachCall(t, STRIDE.child, (trial, at, n) => trial.kill(t, at, n)));

      it('reports the error and loses nothing when a call fails', (t) =>
        forEachCall(t, STRIDE.here, (trial, at, n) => {
          const faults = Object.entries(FAULTS);
          return trial.fail(at, ...faults[(n + TURN + ERRORS_EACH * number) % faults.length]!);
        }));
    });
  }
});
