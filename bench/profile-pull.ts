/** Where the time of a pull goes: its stages, its threads, the programs that it starts, what it brings to the disk. */
import {spawn} from 'node:child_process';
import {once} from 'node:events';
import {readdirSync, readFileSync} from 'node:fs';
import {basename} from 'node:path';
import {createInterface} from 'node:readline';
import {setTimeout as sleep} from 'node:timers/promises';
import {buildImage, type ImageName} from '../test/support/cached-images.ts';
import {findProgram} from '../test/support/helpers.ts';
import {ENV, median, prepareBy, quartiles} from './measure.ts';
import {ours} from './peers.ts';
import {formatTime, type Grid, merge, type Report} from './report.ts';
import {type Disk, LAUNCHER, type Site} from './workplace.ts';

const ROUNDS = 5;
const SAMPLE_MS = 4;
/** Of /proc/PID/stat's times, in milliseconds. */
const TICK_MS = 10;

interface Thread {
  readonly name: string;
  /** Samples in which it ran or could have run, and in which it waited for the disk. */
  readonly states: {R: number; D: number};
  /** Processor time so far, in milliseconds. */
  cpu: number;
}

interface Profile {
  /** Milliseconds from one stage's end to the next one's, by name, in order. */
  readonly stages: ReadonlyMap<string, number>;
  readonly total: number;
  readonly threads: readonly Thread[];
  readonly samples: number;
}

/** What ends each stage: a line of the progress, the first or the last of its kind. */
const STAGES: readonly (readonly [stage: string, ending: RegExp, which: 'first' | 'last'])[] = [
  ['start of the program', /: resolving$/, 'first'],
  ['resolving', /: resolved$/, 'first'],
  ['manifest, configuration, lease', /^layer-\S+: waiting/, 'first'],
  ['worker threads, first byte', /^layer-\S+: downloading/, 'first'],
  ['all bytes of all layers', /^layer-\S+: extracting/, 'last'],
  ['rest of the last layer', /^layer-\S+: done/, 'last'],
  ['layers that need those below, records', /^elapsed: /, 'first'],
];

async function watch(disk: Disk, site: Site, ref: string): Promise<Profile> {
  const env = ours(site, await disk.fresh());
  const start = performance.now();
  const child = spawn(LAUNCHER, ['pull', '--progress', 'plain', ref], {env: {...ENV, ...env}, stdio: ['ignore', 'ignore', 'pipe']});
  const lines: {readonly at: number; readonly text: string}[] = [];
  createInterface({input: child.stderr}).on('line', (text) => lines.push({at: performance.now() - start, text}));
  let ended: number | undefined;
  const exit = once(child, 'exit').then(() => {
    ended = performance.now() - start;
  });
  const threads = new Map<string, Thread>();
  let samples = 0;
  for (; ended === undefined; samples++) {
    sample(child.pid!, threads);
    await sleep(SAMPLE_MS);
  }
  await exit;
  const stages = new Map<string, number>();
  let before = 0;
  for (const [stage, ending, which] of STAGES) {
    const line = which === 'first' ? lines.find(({text}) => ending.test(text)) : lines.findLast(({text}) => ending.test(text));
    if (line === undefined) throw new Error(`the pull says nothing like ${ending}`);
    stages.set(stage, line.at - before);
    before = line.at;
  }
  stages.set('end of the program', ended - before);
  return {stages, total: ended, threads: [...threads.values()], samples};
}

function sample(pid: number, threads: Map<string, Thread>): void {
  let ids: string[];
  try {
    ids = readdirSync(`/proc/${pid}/task`);
  } catch {
    return; // it has ended
  }
  for (const id of ids) {
    try {
      const stat = readFileSync(`/proc/${pid}/task/${id}/stat`, 'latin1');
      const name = stat.slice(stat.indexOf('(') + 1, stat.lastIndexOf(')'));
      const [state, ...fields] = stat.slice(stat.lastIndexOf(')') + 2).split(' ');
      const key = `${id} ${name}`;
      const thread = threads.get(key) ?? {name, states: {R: 0, D: 0}, cpu: 0};
      threads.set(key, thread);
      if (state === 'R' || state === 'D') thread.states[state]++;
      // See proc_pid_stat(5): fields 14 and 15.
      thread.cpu = TICK_MS * (Number(fields[10]) + Number(fields[11]));
    } catch {
      // it has ended
    }
  }
}

const percent = (part: number, whole: number): string => `${Math.round((100 * part) / whole)} %`;

function threadGrid(title: string, {threads, samples}: Profile): Grid {
  const rows = threads
    .filter(({cpu, states}) => cpu >= 2 * TICK_MS || states.D > 0)
    .sort((a, b) => b.cpu - a.cpu)
    .map(({name, states, cpu}) => [
      name,
      String(cpu),
      percent(states.R, samples),
      percent(states.D, samples),
      percent(samples - states.R - states.D, samples),
    ]);
  return {
    title: `${title}, by thread`,
    head: ['', 'processor time, ms', 'running or ready', 'waiting for the disk', 'waiting for others or not there'],
    rows,
  };
}

function stageGrid(title: string, profiles: readonly Profile[]): Grid {
  const names = [...profiles[0]!.stages.keys()];
  const totals = profiles.map((profile) => profile.total);
  const figures = (samples: readonly number[], share: string): string[] => [
    formatTime(median(samples)),
    quartiles(samples).map(formatTime).join(' – '),
    share,
  ];
  const rows = names.map((name) => {
    const samples = profiles.map(({stages}) => stages.get(name)!);
    return [name, ...figures(samples, percent(median(samples), median(totals)))];
  });
  const head = ['', 'median, ms', 'quartiles, ms', 'share'];
  return {title: `${title}, by stage`, head, rows: [...rows, ['all of it', ...figures(totals, '')]]};
}

/** How often, and how long in all, by what. */
class Tally {
  readonly #entries = new Map<string, {count: number; ms: number}>();

  add(what: string, ms: number): void {
    const entry = this.#entries.get(what) ?? {count: 0, ms: 0};
    this.#entries.set(what, {count: entry.count + 1, ms: entry.ms + ms});
  }

  rows(): string[][] {
    return [...this.#entries].sort(([, a], [, b]) => b.ms - a.ms).map(([what, {count, ms}]) => [what, String(count), formatTime(ms)]);
  }
}

/** System calls that bring something to the disk, and programs from their start to their end, as strace(1) sees them. */
async function trace(disk: Disk, site: Site, ref: string): Promise<readonly (readonly string[])[]> {
  const output = site.path('trace');
  const watched = ['fsync', 'fdatasync', 'execve'];
  const strace = ['strace', '--follow-forks', '--seccomp-bpf', '-ttt', '-T', `--trace=${watched.join()}`, '--output', output];
  const env = ours(site, await disk.fresh());
  prepareBy({command: [...strace, LAUNCHER, 'pull', '--quiet', ref], env});
  const tally = new Tally();
  const programs = new Map<string, {readonly name: string; readonly at: number}>();
  let first: string | undefined;
  for (const line of readFileSync(output, 'latin1').split('\n')) {
    const [, pid, at, what] = /^(\d+) +([\d.]+) (.*)$/.exec(line) ?? [];
    if (pid === undefined) continue;
    first ??= pid;
    const sync = /^(?:<\.\.\. )?(fsync|fdatasync)\b.* = 0 <([\d.]+)>$/.exec(what!);
    if (sync !== null) tally.add(sync[1]!, 1000 * Number(sync[2]));
    const exec = /^execve\("([^"]+)".* = 0/.exec(what!) ?? /^execve\("([^"]+)".* <unfinished/.exec(what!);
    // A program that becomes another one is counted with it, from its own start.
    if (exec !== null && pid !== first) programs.set(pid, {name: basename(exec[1]!), at: programs.get(pid)?.at ?? Number(at)});
    const program = what!.startsWith('+++ exited') ? programs.get(pid) : undefined;
    if (program !== undefined) tally.add(program.name, 1000 * (Number(at) - program.at));
  }
  return tally.rows();
}

async function profileOf(site: Site, name: ImageName): Promise<Report> {
  const ref = await site.push(name, buildImage(name).layout);
  const disk = site.disk();
  const profiles: Profile[] = [];
  for (let round = 0; round <= site.rounds(ROUNDS); round++) {
    const profile = await watch(disk, site, ref);
    if (round > 0) profiles.push(profile);
  }
  const typical = [...profiles].sort((a, b) => a.total - b.total)[Math.floor(profiles.length / 2)]!;
  const title = `Pull of ${name}`;
  const traced: Grid[] =
    findProgram('strace') === undefined
      ? []
      : [{title: `${title}, under strace`, head: ['', 'times', 'ms in all'], rows: await trace(disk, site, ref)}];
  return {grids: [stageGrid(title, profiles), threadGrid(title, typical), ...traced]};
}

export async function profile(site: Site): Promise<Report> {
  const names: readonly ImageName[] = site.tiny ? ['busybox'] : ['redis', 'toolchain'];
  const reports: Report[] = [];
  for (const name of names) reports.push(await profileOf(site, name));
  return merge(...reports);
}
