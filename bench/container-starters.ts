/** Those that start containers, each on state of its own: berth, its peers, and the fewest steps that start one at all. */
import {mkdirSync, readdirSync, readFileSync, rmSync, writeFileSync} from 'node:fs';
import {basename, join} from 'node:path';
import {type Command, prepareBy} from './measure.ts';
import {containerdPull, ours, podman, startContainerd} from './peers.ts';
import {LAUNCHER, type Site} from './workplace.ts';

/** Starts containers of busybox without a network. Names are those of the containers. */
export interface Starter {
  readonly name: string;
  /** Untimed, before `runToEnd` or `runDetached`; what is left to prepare of a container. */
  prepare?(name: string): void;
  /** Runs `true`, and removes what can be removed. */
  runToEnd(name: string): Command;
  /** Starts `sleep` and leaves it running. */
  runDetached(name: string): Command;
  /** Runs `true` in a running container. */
  exec(name: string): Command;
  /** Ends and removes a container that was left running. */
  remove(name: string): void;
  /** Processes that keep containers running; the containers' own descend from them. */
  keepers(): readonly number[];
  /** A process that is there whether or not containers run. */
  readonly daemon?: number;
}

interface Mount {
  readonly type: string;
  readonly source: string;
  readonly options: readonly string[];
}

/** Commands that mount what a snapshot is made of below `dir`, and itself at `target`. */
function mountScript(mounts: readonly Mount[], dir: string, target: string): string {
  const lines = mounts.map(({type, source, options}, i) => {
    const at = i === mounts.length - 1 ? target : join(dir, String(i));
    if (at !== target) mkdirSync(at, {recursive: true});
    const words = options.join(',').replaceAll(/\{\{ mount (\d+) \}\}/g, (_, n: string) => join(dir, n));
    return `mount -t ${type} ${source} ${at} -o ${words}`;
  });
  return lines.join('\n');
}

/** Processes of a program one of whose arguments contains a word. */
function processesWith(program: string, word: string): readonly number[] {
  const pids = readdirSync('/proc').filter((name) => /^\d+$/.test(name));
  return pids.map(Number).filter((pid) => {
    try {
      const [first = '', ...args] = readFileSync(`/proc/${pid}/cmdline`, 'latin1').split('\0');
      return basename(first).startsWith(program) && args.some((arg) => arg.includes(word));
    } catch {
      return false; // it has ended
    }
  });
}

/** Nothing stops it but SIGKILL: it is the first process of its container. */
const IDLE = ['sleep', '1000000'];

/** The same root as ours, mounted in a namespace of its own, and runc in it. */
function plainRunc(dir: string, env: Readonly<Record<string, string>>, chainID: string): Starter {
  mkdirSync(dir, {recursive: true});
  prepareBy({command: ['runc', 'spec', '--bundle', dir]});
  const spec = JSON.parse(readFileSync(join(dir, 'config.json'), 'utf8'));
  const root = ['runc', '--root', join(dir, 'runc')];
  const scripts = new Map<string, string>();
  let count = 0;
  const start = (name: string, args: readonly string[], flags: readonly string[]): Command => {
    const bundle = join(dir, name);
    const config = {...spec, process: {...spec.process, terminal: false, args}, root: {...spec.root, readonly: false}};
    writeFileSync(join(bundle, 'config.json'), JSON.stringify(config));
    const command = [...root, 'run', ...flags, '--bundle', bundle, name];
    return {command: ['unshare', '--mount', '--propagation', 'private', 'sh', '-ec', scripts.get(name)!, 'sh', ...command]};
  };
  return {
    name: 'unshare, mount, runc run',
    prepare: (name) => {
      const mounts = prepareBy({command: [LAUNCHER, 'snapshots', 'prepare', '--json', `floor${count++}`, chainID], env});
      mkdirSync(join(dir, name, 'rootfs'), {recursive: true});
      const script = mountScript(JSON.parse(mounts) as Mount[], join(dir, name, 'lower'), join(dir, name, 'rootfs'));
      scripts.set(name, `${script}\nexec "$@" </dev/null >/dev/null 2>&1`);
    },
    runToEnd: (name) => start(name, ['true'], []),
    runDetached: (name) => start(name, IDLE, ['--detach', '--pid-file', join(dir, `${name}.pid`)]),
    exec: (name) => ({command: [...root, 'exec', name, 'true']}),
    remove: (name) => {
      prepareBy({command: [...root, 'delete', '--force', name]});
      rmSync(join(dir, `${name}.pid`));
    },
    // Nothing is left but the containers.
    keepers: () => readdirSync(dir).flatMap((file) => (file.endsWith('.pid') ? Number(readFileSync(join(dir, file), 'latin1')) : [])),
  };
}

/** @returns berth, containerd's ctr, podman and plain runc, in this order, with busybox pulled, and its reference */
export async function startStarters(site: Site, dir: string, ref: string): Promise<readonly [Starter, Starter, Starter, Starter]> {
  const containerd = await startContainerd(join(dir, 'containerd'));
  site.after(containerd.stop);
  const pod = podman(join(dir, 'podman'));
  const env = ours(site, join(dir, 'berth'));
  prepareBy({command: containerdPull(containerd.ctr, ref)});
  prepareBy({command: [...pod, 'pull', '--quiet', '--tls-verify=false', ref]});
  const chainID = prepareBy({command: [LAUNCHER, 'pull', '--quiet', '--print-chainid', ref], env})
    .trim()
    .split('\n')
    .at(-1)!;
  const [ctr, none] = [containerd.ctr, ['--network', 'none']];
  let execs = 0;
  return [
    {
      name: 'berth: ctr',
      runToEnd: (name) => ({command: [LAUNCHER, 'run', '--rm', ref, name, 'true'], env}),
      runDetached: (name) => ({command: [LAUNCHER, 'run', '--detach', ref, name, ...IDLE], env}),
      exec: (name) => ({command: [LAUNCHER, 'tasks', 'exec', name, 'true'], env}),
      remove: (name) => {
        prepareBy({command: [LAUNCHER, 'tasks', 'rm', '--force', name], env});
        prepareBy({command: [LAUNCHER, 'containers', 'rm', name], env});
      },
      keepers: () => processesWith('conmon', env.BERTH_STATE!),
    },
    {
      name: 'containerd: ctr',
      runToEnd: (name) => ({command: [...ctr, 'run', '--rm', ref, name, 'true']}),
      runDetached: (name) => ({command: [...ctr, 'run', '--detach', ref, name, ...IDLE]}),
      exec: (name) => ({command: [...ctr, 'tasks', 'exec', '--exec-id', `exec${execs++}`, name, 'true']}),
      remove: (name) => {
        prepareBy({command: [...ctr, 'tasks', 'delete', '--force', name]});
        prepareBy({command: [...ctr, 'containers', 'delete', name]});
      },
      keepers: () => processesWith('containerd-shim', ctr.at(-1)!),
      daemon: containerd.pid,
    },
    {
      name: 'podman',
      runToEnd: () => ({command: [...pod, 'run', '--rm', ...none, ref, 'true']}),
      runDetached: (name) => ({command: [...pod, 'run', '--detach', '--name', name, ...none, ref, ...IDLE]}),
      exec: (name) => ({command: [...pod, 'exec', name, 'true']}),
      remove: (name) => void prepareBy({command: [...pod, 'rm', '--force', '--time', '0', name]}),
      keepers: () => processesWith('conmon', join(dir, 'podman')),
    },
    plainRunc(join(dir, 'floor'), env, chainID),
  ];
}
