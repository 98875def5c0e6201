/** Starts of containers, in the foreground and detached, one and many, and processes in them; against peers and against the fewest steps. */
import {chmodSync, readFileSync, rmSync, writeFileSync} from 'node:fs';
import {join} from 'node:path';
import {buildImage} from '../test/support/cached-images.ts';
import {findProgram} from '../test/support/helpers.ts';
import {type Starter, startStarters} from './container-starters.ts';
import {type Command, type Contender, compare, differences, prepareBy, proportionalMemory, type Result, ratios} from './measure.ts';
import {atMost, faster, type Grid, type Report} from './report.ts';
import type {Site} from './workplace.ts';

const ROUNDS = 31;
/** Containers that are started at once, and how often. */
const CROWD = 50;
const CROWD_ROUNDS = 5;
/** Detached containers whose memory is measured. */
const IDLERS = 10;

const OVER_CONTAINERD = 2.2;
const OVER_PODMAN = 2.6;
const ABOVE_FLOOR = 1.4;
const TO_RUNC_MS = 12;
const IDLE_MB = 4;

const NAME = 'bench';

/** Stands in runc's place and notes when it was started. */
function stamper(dir: string): {readonly path: string; elapsed(start: number): number} {
  const [path, file] = [join(dir, 'runc'), join(dir, 'stamps')];
  writeFileSync(path, `#!/bin/bash\necho "$EPOCHREALTIME" >>${file}\nexec ${findProgram('runc')} "$@"\n`);
  chmodSync(path, 0o755);
  return {
    path,
    elapsed: (start) => {
      const [first] = readFileSync(file, 'utf8').split('\n');
      rmSync(file);
      return Number(first) * 1000 - start;
    },
  };
}

const toEnd = (starter: Starter): Contender => ({
  name: starter.name,
  prepare: () => {
    starter.prepare?.(NAME);
    return starter.runToEnd(NAME);
  },
  ...daemonOf(starter),
});

const detached = (starter: Starter): Contender => ({
  name: starter.name,
  prepare: () => {
    starter.prepare?.(NAME);
    return starter.runDetached(NAME);
  },
  cleanUp: () => starter.remove(NAME),
  ...daemonOf(starter),
});

const daemonOf = ({daemon}: Starter): Pick<Contender, 'daemon'> => (daemon === undefined ? {} : {daemon: () => daemon});

/** Starts all of them at once; fails if one of them does. */
function atOnce(commands: readonly Command[]): Command {
  const quote = (word: string): string => `'${word.replaceAll("'", `'\\''`)}'`;
  const lines = commands.map(({command}) => `${command.map(quote).join(' ')} & pids+=($!)`);
  const {env} = commands[0]!;
  const script = `${lines.join('\n')}\nfor pid in "\${pids[@]}"; do wait "$pid" || exit; done`;
  return {command: ['bash', '-c', script], ...(env === undefined ? {} : {env})};
}

const crowd = (starter: Starter, size: number): Contender => ({
  name: starter.name,
  prepare: () => {
    const names = Array.from({length: size}, (_, i) => `${NAME}${i}`);
    for (const name of names) starter.prepare?.(name);
    return atOnce(names.map((name) => starter.runToEnd(name)));
  },
  ...daemonOf(starter),
});

/** Runs with a container of each starter, which is ended afterwards. */
async function within(starters: readonly Starter[], use: () => Promise<Result[]>): Promise<Result[]> {
  const started: Starter[] = [];
  try {
    for (const starter of starters) {
      starter.prepare?.(NAME);
      const {command, env} = starter.runDetached(NAME);
      prepareBy({command, ...(env === undefined ? {} : {env})});
      started.push(starter);
    }
    return await use();
  } finally {
    for (const starter of started) starter.remove(NAME);
  }
}

/** Bytes for each of several idle containers, and of the daemon. */
function idleMemory(starter: Starter, count: number): {readonly each: number; readonly daemon: number | undefined} {
  const names = Array.from({length: count}, (_, i) => `idle${i}`);
  try {
    for (const name of names) {
      starter.prepare?.(name);
      prepareBy(starter.runDetached(name));
    }
    const {daemon} = starter;
    return {each: proportionalMemory(starter.keepers()) / count, daemon: daemon === undefined ? undefined : proportionalMemory([daemon])};
  } finally {
    for (const name of names) starter.remove(name);
  }
}

export async function run(site: Site): Promise<Report> {
  const rounds = site.rounds(ROUNDS);
  const ref = await site.push('busybox', buildImage('busybox').layout);
  const dir = site.directory('run');
  const starters = await startStarters(site, dir, ref);
  type Four = readonly [Result, Result, Result, Result];
  const all = async (contender: (starter: Starter) => Contender, count = rounds): Promise<Four> =>
    (await compare(starters.map(contender), {rounds: count})) as unknown as Four;

  const ended = await all(toEnd);
  const {path, elapsed} = stamper(dir);
  const reached = await compare(
    [
      {
        name: 'berth: ctr run --rm, until runc starts',
        prepare: () => {
          const {command, env} = starters[0].runToEnd(NAME);
          return {command, env: {...env, RUNC: path}};
        },
        elapsed,
      },
      {name: 'what stands in runc’s place, by itself', prepare: () => ({command: [path, '--version']}), elapsed},
    ],
    {rounds},
  );
  const left = await all(detached);
  const execs = (await within(starters, () =>
    compare(
      starters.map((starter) => ({name: starter.name, prepare: () => starter.exec(NAME), ...daemonOf(starter)})),
      {rounds},
    ),
  )) as unknown as Four;
  const size = site.tiny ? 3 : CROWD;
  const crowded = await all((starter) => crowd(starter, size), Math.min(rounds, CROWD_ROUNDS));
  const idlers = site.tiny ? 2 : IDLERS;
  const memory = starters.map((starter) => ({name: starter.name, ...idleMemory(starter, idlers)}));

  const megabytes = (bytes: number): string => (bytes / 1e6).toFixed(1);
  const idle: Grid = {
    title: `Memory of ${idlers} idle containers`,
    head: ['MB, pages that processes share counted once', 'for each container', 'of a daemon besides'],
    rows: memory.map(({name, each, daemon}) => [name, megabytes(each), daemon === undefined ? '–' : megabytes(daemon)]),
  };
  const [mine, ctr, podman, plain] = ended;
  return {
    tables: [
      {title: 'Running `true` in busybox: run --rm', results: ended},
      {title: 'From the command to runc', results: reached},
      {title: 'Starting a container and leaving it: run -d', results: left},
      {title: 'Running `true` in a container that runs: exec', results: execs},
      {title: `${size} containers at once: run --rm`, results: crowded},
    ],
    grids: [idle],
    goals: [
      faster('run --rm, faster than ctr run --rm', OVER_CONTAINERD, mine, ctr),
      faster('run --rm, faster than podman run --rm', OVER_PODMAN, mine, podman),
      atMost('run --rm, over unshare, mount and runc run', ABOVE_FLOOR, '×', ratios(mine, plain)),
      atMost('run --rm, until runc starts', TO_RUNC_MS, 'ms', differences(reached[0]!, reached[1]!)),
      faster('run -d, no slower than ctr run -d', 1, left[0], left[1]),
      faster('run -d, no slower than podman run -d', 1, left[0], left[2]),
      faster('exec, no slower than ctr tasks exec', 1, execs[0], execs[1]),
      faster('exec, no slower than podman exec', 1, execs[0], execs[2]),
      faster(`${size} × run --rm at once, no slower than ctr`, 1, crowded[0], crowded[1]),
      faster(`${size} × run --rm at once, no slower than podman`, 1, crowded[0], crowded[2]),
      atMost('memory of an idle detached container', IDLE_MB, 'MB', [memory[0]!.each / 1e6]),
    ],
  };
}
