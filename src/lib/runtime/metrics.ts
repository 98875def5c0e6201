/** Reads what a container has used from the files of its cgroup, of version 1 or 2. Names are those of ctr. */
import {readFileSync} from 'node:fs';
import {join} from 'node:path';

export type CgroupVersion = 1 | 2;

/** Value of each metric; a list has one for each processor. */
export type Metrics = Readonly<Record<string, number | readonly number[]>>;

const ROOT = '/sys/fs/cgroup';
/** The kernel's word for no limit. */
const UNLIMITED = Number(2n ** 64n - 1n);

const read = (file: string): string | undefined => {
  try {
    return readFileSync(file, 'latin1').trim();
  } catch {
    return undefined; // the controller is not there, or the container has ended
  }
};

const numberOf = (text: string): number => (text === 'max' ? UNLIMITED : Number(text));

/** `NAME VALUE` lines. */
const pairs = (text: string): ReadonlyMap<string, number> =>
  new Map(
    text
      .split('\n')
      .map((line) => line.split(' '))
      .filter((words) => words.length === 2)
      .map(([name, value]) => [name!, Number(value)]),
  );

interface Source {
  /** Directory below the root, for version 1. */
  readonly controller: string;
  readonly file: string;
  /** Metric of the file's number; or of the lines whose names are given here. */
  readonly metric: string | Readonly<Record<string, string>>;
  readonly list?: true;
}

const VERSION_1: readonly Source[] = [
  {controller: 'memory', file: 'memory.usage_in_bytes', metric: 'memory.usage_in_bytes'},
  {controller: 'memory', file: 'memory.limit_in_bytes', metric: 'memory.limit_in_bytes'},
  {controller: 'memory', file: 'memory.stat', metric: {cache: 'memory.stat.cache', total_inactive_file: 'memory.stat.total_inactive_file'}},
  {controller: 'cpuacct', file: 'cpuacct.usage', metric: 'cpuacct.usage'},
  {controller: 'cpuacct', file: 'cpuacct.usage_percpu', metric: 'cpuacct.usage_percpu', list: true},
  {controller: 'pids', file: 'pids.current', metric: 'pids.current'},
  {controller: 'pids', file: 'pids.max', metric: 'pids.limit'},
];

const VERSION_2: readonly Source[] = [
  {controller: '', file: 'pids.current', metric: 'pids.current'},
  {controller: '', file: 'pids.max', metric: 'pids.limit'},
  {
    controller: '',
    file: 'cpu.stat',
    metric: Object.fromEntries(
      ['usage_usec', 'user_usec', 'system_usec', 'nr_periods', 'nr_throttled', 'throttled_usec'].map((name) => [name, `cpu.${name}`]),
    ),
  },
  {controller: '', file: 'memory.current', metric: 'memory.usage'},
  {controller: '', file: 'memory.max', metric: 'memory.usage_limit'},
  {controller: '', file: 'memory.swap.current', metric: 'memory.swap_usage'},
  {controller: '', file: 'memory.swap.max', metric: 'memory.swap_limit'},
  {
    controller: '',
    file: 'memory.stat',
    metric: Object.fromEntries(['anon', 'file', 'kernel_stack', 'inactive_file', 'pgfault'].map((name) => [name, `memory.${name}`])),
  },
];

/**
 * The cgroup of a process in the tree of a controller of version 1, else in that of version 2. See cgroups(7).
 *
 * @returns `undefined` when the process has ended
 */
export function cgroupOfProcess(pid: number, controller: string): string | undefined {
  const trees = (read(`/proc/${pid}/cgroup`) ?? '').split('\n').flatMap((line) => {
    const [, controllers, path] = /^\d+:([^:]*):(.*)$/.exec(line) ?? [];
    return controllers === undefined ? [] : [{controllers: controllers.split(','), path: path!}];
  });
  const found = [controller, ''].map((name) => trees.find(({controllers}) => controllers.includes(name)));
  return (found[0] ?? found[1])?.path;
}

/**
 * @param cgroupOf the container's cgroup in the tree of a controller, '' for version 2
 * @param root where cgroups are mounted
 * @returns only what the machine's controllers count
 */
export function readMetrics(
  cgroupOf: (controller: string) => string,
  root = ROOT,
): {readonly version: CgroupVersion; readonly metrics: Metrics} {
  const version = read(join(root, 'cgroup.controllers')) === undefined ? 1 : 2;
  const metrics: Record<string, number | readonly number[]> = {};
  for (const {controller, file, metric, list} of version === 1 ? VERSION_1 : VERSION_2) {
    const text = read(join(root, controller, cgroupOf(controller), file));
    if (text === undefined) continue;
    if (typeof metric === 'string') metrics[metric] = list === true ? text.split(/\s+/).map(Number) : numberOf(text);
    else {
      const found = pairs(text);
      for (const [name, key] of Object.entries(metric)) if (found.has(name)) metrics[key] = found.get(name)!;
    }
  }
  return {version, metrics};
}

export interface Usage {
  /** Nanoseconds of processor time since the start. */
  readonly cpuNs: number;
  /** Bytes, without the inactive part of the page cache, as docker and podman count. */
  readonly memory: number;
  /** Bytes: the container's limit, or the machine's memory if that is less. */
  readonly memoryLimit: number;
  readonly pids: number;
}

const single = (metrics: Metrics, name: string): number => {
  const value = metrics[name];
  return typeof value === 'number' ? value : 0;
};

/** @param machineMemory bytes */
export function usageOf({version, metrics}: ReturnType<typeof readMetrics>, machineMemory: number): Usage {
  const [usage, limit, inactive] =
    version === 1
      ? ['memory.usage_in_bytes', 'memory.limit_in_bytes', 'memory.stat.total_inactive_file']
      : ['memory.usage', 'memory.usage_limit', 'memory.inactive_file'];
  return {
    cpuNs: version === 1 ? single(metrics, 'cpuacct.usage') : single(metrics, 'cpu.usage_usec') * 1000,
    memory: Math.max(0, single(metrics, usage) - single(metrics, inactive)),
    memoryLimit: Math.min(single(metrics, limit) || machineMemory, machineMemory),
    pids: single(metrics, 'pids.current'),
  };
}
