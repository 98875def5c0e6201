/**
 * Whole lives of containers, generated: commands in any order, of which every other one has a process killed with SIGKILL at a random
 * instant – the command itself, conmon, the runtime, the container, what conmon calls. A model (lifecycle-model.ts) says what may come of it.
 * Afterwards every container can be removed, and nothing of it is left on the machine or in the store.
 */
import assert from 'node:assert/strict';
import type {ChildProcess} from 'node:child_process';
import {closeSync, existsSync, mkdirSync, openSync, readdirSync, readFileSync, writeFileSync} from 'node:fs';
import {join} from 'node:path';
import {describe, it} from 'node:test';
import {setTimeout as delay} from 'node:timers/promises';
import {CODES, type Code} from '../../src/lib/errdefs.ts';
import {engineEnvironment, environment, root as repository} from '../cli/harness.ts';
import {type Random, randomOf} from '../fuzz/seeded-random.ts';
import {SAMPLE, TORTURE, temporaryDirectory} from '../support/helpers.ts';
import {checkStore} from '../support/invariants.ts';
import {COMMANDS, type Command, type Kind, outcome, type State, statesAfter, VICTIMS, type Victim} from '../support/lifecycle-model.ts';
import {CNI_PLUGINS, newTestNetwork, requiresCni, type TestNetwork} from '../support/network-namespace.ts';
import {requiresTasks, type TaskRig, taskRig, until} from '../support/tasks.ts';
import {names} from './fixtures.ts';

const SEED = Number(process.env.BERTH_TEST_SEED ?? SAMPLE);
/** Lives, and commands in each. */
const [LIVES, STEPS] = TORTURE ? [200, 20] : [1, 10];

/** Of a command, on a busy machine. */
const LIMIT_MS = 60_000;

const IDS = ['a', 'b'] as const;
/** Ends by itself when it is asked, as its image wants it. It may be asked before it has set its trap. */
const SLEEP = ['sh', '-c', 'echo >>/tmp/runs; trap "exit 0" USR1; while :; do sleep 0.1; done'] as const;

const WORDS: Readonly<Record<Exclude<Command, 'its own end'>, (ref: string, id: string, network: readonly string[]) => readonly string[]>> =
  {
    create: (ref, id, network) => ['containers', 'create', ...network, ref, id, ...SLEEP],
    run: (ref, id, network) => ['run', '-d', ...network, ref, id, ...SLEEP],
    'run --rm': (ref, id, network) => ['run', '-d', '--rm', ...network, ref, id, ...SLEEP],
    'run in the foreground': (ref, id, network) => ['run', ...network, ref, id, ...SLEEP],
    start: (_, id) => ['tasks', 'start', '-d', id],
    stop: (_, id) => ['tasks', 'stop', '-t', '5s', id],
    kill: (_, id) => ['tasks', 'kill', '-s', 'KILL', id],
    'tasks rm': (_, id) => ['tasks', 'rm', id],
    'tasks rm --force': (_, id) => ['tasks', 'rm', '--force', id],
    'containers rm': (_, id) => ['containers', 'rm', id],
    exec: (_, id) => ['tasks', 'exec', id, 'sh', '-c', ':'],
    pause: (_, id) => ['tasks', 'pause', id],
    resume: (_, id) => ['tasks', 'resume', id],
    commit: (_, id) => ['commit', '--progress', 'none', id, `localhost/made:${id}`],
  };

interface Ended {
  /** Of the error; `killed` for a command that was killed. */
  readonly code: Code | 'killed' | undefined;
  readonly text: string;
}

interface Process {
  readonly pid: number;
  readonly parent: number;
  readonly words: readonly string[];
}

function processes(): readonly Process[] {
  return readdirSync('/proc')
    .filter((name) => /^\d+$/.test(name))
    .flatMap((name) => {
      try {
        const words = readFileSync(`/proc/${name}/cmdline`, 'utf8').split('\0').slice(0, -1);
        const [, parent] = /\) \w (\d+) /.exec(readFileSync(`/proc/${name}/stat`, 'latin1'))!;
        return words.length === 0 ? [] : [{pid: Number(name), parent: Number(parent), words}];
      } catch {
        return []; // it has ended
      }
    });
}

const program = ({words}: Pick<Process, 'words'>): string => words[0]!.slice(words[0]!.lastIndexOf('/') + 1);

/** The machine under test: a store whose commands run in a network of the test's own. */
class Machine {
  readonly #rig: TaskRig;
  readonly #net: TestNetwork;
  readonly #work: string;
  readonly #env: Readonly<Record<string, string>>;
  readonly #addresses: string;
  /** How long a command of a kind takes, in milliseconds: that of the last which nobody disturbed. */
  readonly #durations = new Map<Command, number>();

  constructor(rig: TaskRig, net: TestNetwork, work: string) {
    this.#rig = rig;
    this.#net = net;
    this.#work = work;
    const config = join(work, 'net.d');
    this.#addresses = join(work, 'addresses');
    mkdirSync(config);
    const ipam = {type: 'host-local', dataDir: this.#addresses, ranges: [[{subnet: '10.79.0.0/24'}]]};
    const plugins = [
      {type: 'bridge', bridge: 'b0', isGateway: true, ipMasq: true, ipam},
      {type: 'portmap', capabilities: {portMappings: true}},
    ];
    writeFileSync(join(config, '10-t.conflist'), JSON.stringify({name: 'tests', cniVersion: '1.0.0', plugins}));
    this.#env = {
      ...environment(),
      ...engineEnvironment('executable'),
      BERTH_ROOT: rig.root,
      BERTH_STATE: rig.state,
      NETCONFPATH: config,
      CNI_PATH: CNI_PLUGINS,
    };
  }

  #start(words: readonly string[]): {readonly child: ChildProcess; ended(): Promise<Ended>; hasEnded(): boolean} {
    // Files: a container in the foreground keeps them when its command is gone.
    const [out, err] = ['out', 'err'].map((name) => join(this.#work, name)) as [string, string];
    const stdio = [out, err].map((file) => openSync(file, 'w'));
    const child = this.#net.start([join(repository, 'bin/ctr'), '-n', this.#rig.namespace, '--json', ...words], {
      env: this.#env,
      stdio: ['ignore', ...stdio],
    });
    for (const fd of stdio) closeSync(fd);
    let over = false;
    const exit = new Promise<{code: number | null; signal: string | null}>((resolve) =>
      child.once('exit', (code, signal) => {
        over = true;
        resolve({code, signal});
      }),
    );
    return {
      child,
      hasEnded: () => over,
      ended: async () => {
        const late = delay(LIMIT_MS, undefined, {ref: false}).then(() => assert.fail(`${words.join(' ')} has not ended in ${LIMIT_MS} ms`));
        const {code, signal} = await Promise.race([exit, late]);
        const text = readFileSync(err, 'utf8') || readFileSync(out, 'utf8');
        if (signal !== null) return {code: 'killed', text};
        // Of a container that was run to its end the status is that of the command.
        if (code === 0 || text.startsWith('{"result"')) return {code: undefined, text};
        const kind = /"kind":\s*"(\w+)"/.exec(text)?.[1] as Code | undefined;
        assert.ok(kind !== undefined && CODES.includes(kind), `${words.join(' ')} ended with ${code}: ${text}`);
        return {code: kind, text};
      },
    };
  }

  async ok(...words: readonly string[]): Promise<unknown> {
    const {code, text} = await this.#start(words).ended();
    assert.equal(code, undefined, `${words.join(' ')}: ${text}`);
    const out = readFileSync(join(this.#work, 'out'), 'utf8');
    return out === '' ? undefined : JSON.parse(out);
  }

  async observe(): Promise<ReadonlyMap<string, State>> {
    const tasks = (await this.ok('tasks', 'ls')) as readonly {id: string; status: string}[];
    const containers = (await this.ok('containers', 'ls')) as readonly {id: string; labels: Record<string, string>; spec: unknown}[];
    return new Map(
      IDS.map((id) => {
        const task = tasks.find((one) => one.id === id)?.status;
        const container = containers.find((one) => one.id === id);
        if (task !== undefined) return [id, task === 'created' ? 'waiting' : (task as State)];
        if (container === undefined) return [id, 'absent'];
        if (container.labels['berth/rm'] !== undefined) return [id, 'abandoned'];
        return [id, container.spec === null ? 'unfinished' : 'made'];
      }),
    );
  }

  #ownProcesses(all = processes()): readonly Process[] {
    return all.filter(({words}) => words.some((word) => word.includes(this.#rig.state)));
  }

  /** Waits until nobody is on the way: what a killed command has begun may go on for a moment. */
  async #untilQuiet(): Promise<void> {
    const said = (): string => `the machine is quiet: ${JSON.stringify(this.#ownProcesses())}`;
    await until(said, () => {
      // Of one look: what conmon calls between two would be taken for its container.
      const all = processes();
      const own = this.#ownProcesses(all);
      const others = all.filter((one) => !own.includes(one));
      return own.every((one) => {
        // Both stay as long as their container, whose first process is `runc init` until it is started.
        const [main] = others.filter(({parent}) => parent === one.pid);
        if (program(one) === 'conmon') return main !== undefined;
        return program(one) === 'runc' && one.words.includes('run') && main !== undefined && program(main) !== 'runc';
      });
    });
  }

  #pidsOf(victim: Victim, id: string, command: ChildProcess | undefined): readonly number[] {
    const own = this.#ownProcesses();
    const named = (name: string): readonly number[] =>
      own.filter((one) => program(one) === name && one.words.includes(id)).map(({pid}) => pid);
    switch (victim) {
      case 'command':
        return command?.pid === undefined ? [] : [command.pid];
      case 'conmon':
        return named('conmon');
      case 'runtime':
        return named('runc');
      case 'settle':
        return own.filter(({words}) => words.includes('__settle') && words.includes(id) && !words.includes('--cid')).map(({pid}) => pid);
      case 'container': {
        const file = join(this.#rig.state, 'runs', this.#rig.namespace, 'bundles', id, 'init.pid');
        const pid = existsSync(file) ? Number(readFileSync(file, 'latin1')) : 0;
        return pid > 0 && existsSync(`/proc/${pid}`) ? [pid] : [];
      }
    }
  }

  /** Kills a victim, if it is there before the command is over. @returns whether it was */
  async #fire(victim: Victim, id: string, command: ChildProcess | undefined, isOver: () => boolean): Promise<boolean> {
    const begun = performance.now();
    for (;;) {
      const over = isOver();
      const pids = this.#pidsOf(victim, id, command);
      for (const pid of pids)
        try {
          process.kill(pid, 'SIGKILL');
        } catch {
          // It has ended.
        }
      if (pids.length > 0 || over) return pids.length > 0;
      assert.ok(performance.now() - begun < LIMIT_MS, `no ${victim} of ${id} in ${LIMIT_MS} ms`);
      await new Promise(setImmediate);
    }
  }

  /** Lets a command run, and the victim die once a share of the command's usual time is over. */
  async #perform(
    command: Command,
    id: string,
    before: State,
    network: readonly string[],
    victim: Victim | undefined,
    share: number,
  ): Promise<{readonly ended: Ended; readonly killed: ReadonlySet<Victim>}> {
    const killed = new Set<Victim>();
    const begun = performance.now();
    if (command === 'its own end') {
      // One that is frozen does not end before it is thawed.
      if (before === 'running' && (await this.#fire('container', id, undefined, () => true))) {
        const isGone = (): boolean => this.#ownProcesses().every(({words}) => !words.includes(id));
        if (victim !== undefined && victim !== 'command' && (await this.#fire(victim, id, undefined, isGone))) killed.add(victim);
      }
      return {ended: {code: undefined, text: ''}, killed};
    }
    const {child, ended, hasEnded} = this.#start(WORDS[command](this.#rig.ref, id, network));
    // One in the foreground is over when its command is killed, and has neither conmon nor what that calls.
    const isForeground = command === 'run in the foreground';
    const first: readonly Victim[] = victim === undefined || (isForeground && ['conmon', 'settle'].includes(victim)) ? [] : [victim];
    const victims = isForeground ? new Set<Victim>([...first, 'command']) : new Set(first);
    if (victims.size > 0) {
      const instant = share * (this.#durations.get(command) ?? 100);
      while (!hasEnded() && performance.now() - begun < instant) await delay(1);
      for (const one of victims) if (await this.#fire(one, id, hasEnded() ? undefined : child, hasEnded)) killed.add(one);
    }
    const result = await ended();
    if (killed.size === 0 && result.code === undefined) this.#durations.set(command, performance.now() - begun);
    return {ended: result, killed};
  }

  async live(random: Random, log: string[]): Promise<void> {
    const kinds = new Map<string, Kind>(IDS.map((id) => [id, 'plain']));
    const orphaned = new Set<string>();
    let states = await this.observe();
    for (let step = 0; step < STEPS; step++) {
      const id = random.pick(IDS);
      const before = states.get(id)!;
      // Mostly one that does something here.
      const fitting = COMMANDS.filter((one) => outcome(one, before, 'plain').code === undefined);
      const command = random.pick(random.chance(0.8) ? fitting : COMMANDS);
      const network = random.chance(0.3) ? ['--cni', ...(random.chance(0.5) ? ['-p', `${7000 + IDS.indexOf(id)}:80`] : [])] : [];
      const victim = random.chance(0.6) ? random.pick(VICTIMS) : undefined;
      const share = random.below(110) / 100;
      if (before === 'absent' || before === 'abandoned')
        kinds.set(id, command === 'run --rm' ? 'rm' : command === 'run in the foreground' ? 'foreground' : 'plain');
      else if (command === 'start' && before === 'made') kinds.set(id, 'plain');
      const kind = kinds.get(id)!;
      if (before === 'absent' || before === 'made' || before === 'abandoned') orphaned.delete(id);

      log.push(`${command} ${[id, ...network].join(' ')} from ${before}; ${victim ?? 'nobody'} is to die at ${share}`);
      const main = this.#pidsOf('container', id, undefined);
      const {ended, killed} = await this.#perform(command, id, before, network, victim, share);
      // It is told to end, and takes its time for that; what is frozen does not end before it is thawed.
      const isToldToEnd = killed.has('container') || (outcome(command, before, kind).state !== before && ended.code === undefined);
      if (before === 'running' && command !== 'pause' && isToldToEnd)
        await until(`the end of ${id}`, () => processes().every(({pid}) => !main.includes(pid)));
      await this.#untilQuiet();
      states = await this.observe();
      const fire = killed.size === 0 ? '' : `, ${[...killed].join(' and ')} killed at ${share}`;
      const line = `${command} ${[id, ...network].join(' ')} (${kind})${fire}: ${before} → ${states.get(id)}${ended.code === undefined ? '' : `, ${ended.code}`}`;
      log[log.length - 1] = line;
      if (killed.size === 0) assert.equal(ended.code, outcome(command, before, kind).code, `${line}: ${ended.text}`);
      if (killed.has('conmon') || killed.has('settle')) orphaned.add(id);
      const possible = statesAfter(command, before, kind, killed, ended.code, orphaned.has(id));
      assert.ok(possible.has(states.get(id)!), `${line}; it may be ${[...possible].join(', ')}: ${ended.text}`);
      // A failure says why: it has a class, or is in the words of the runtime.
      assert.ok(ended.code !== 'internal', `${line}: ${ended.text}`);
      assert.doesNotMatch(ended.text, /: ?(?:: unknown)?"[,}]/, line);
    }
  }

  /** Removes everything, however it is, and asserts that the machine is as before. */
  async bury(): Promise<void> {
    for (const [id, state] of await this.observe()) {
      if (state === 'waiting' || state === 'running' || state === 'paused' || state === 'stopped')
        await this.ok('tasks', 'rm', '--force', id);
      if ((await this.observe()).get(id) !== 'absent') await this.ok('containers', 'rm', id);
    }
    for (const id of IDS) await this.ok('images', 'rm', '--if-exists', `localhost/made:${id}`).catch(() => undefined);
    await this.ok('gc');
    await until(
      () => `nothing is left: ${this.left().join(', ')}`,
      () => this.left().length === 0,
    );
    const {damage, findings} = (await this.ok('check', '--progress', 'none')) as {damage: number; findings: readonly unknown[]};
    assert.deepEqual({damage, findings}, {damage: 0, findings: []});
    assert.deepEqual(checkStore(this.#rig.root, {litter: true}), []);
  }

  left(): readonly string[] {
    const addresses = names(join(this.#addresses, 'tests')).filter((name) => /^[\d.]+$/.test(name));
    const interfaces = this.#net.interfaces().filter((name) => name !== 'b0');
    return [...this.#rig.left(), ...this.#net.containerRules(), ...addresses, ...interfaces];
  }
}

describe('containers whose processes are killed at any instant of any command', () => {
  it('are in a state that can come of it, can be removed, and leave nothing', {timeout: 3_600_000}, async (t) => {
    if (!TORTURE) return t.skip('its model does not know every outcome of a kill yet');
    if (!requiresTasks(t) || !requiresCni(t)) return;
    const machine = new Machine(await taskRig(t), await newTestNetwork(t), temporaryDirectory(t));
    for (let life = 0; life < LIVES; life++) {
      const log: string[] = [];
      try {
        await machine.live(randomOf(SEED, life), log);
        log.push('burial');
        await machine.bury();
      } catch (err) {
        t.diagnostic(`seed ${SEED}, life ${life}:\n${log.join('\n')}`);
        throw err;
      }
    }
  });
});
