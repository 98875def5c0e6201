/** A network namespace of a test's own: what it adds there, interfaces, addresses and rules of iptables, ends with it. */
import {type ChildProcess, execFileSync, type SpawnOptions, spawn} from 'node:child_process';
import {once} from 'node:events';
import {existsSync} from 'node:fs';
import {findProgram, onEnd, requiresProgram, requiresRoot, type Scope, type Skippable} from './helpers.ts';

/** Where the distribution has the plugins of CNI. */
export const CNI_PLUGINS = ['/usr/lib/cni', '/opt/cni/bin'].find((directory) => existsSync(`${directory}/bridge`)) ?? '/usr/lib/cni';

export function requiresCni(t: Skippable): boolean {
  if (!requiresRoot(t) || !requiresProgram(t, 'unshare', 'nsenter', 'ip', 'iptables-save', 'flock')) return false;
  if (existsSync(`${CNI_PLUGINS}/bridge`)) return true;
  return requiresProgram(t, 'cni-plugins');
}

export interface TestNetwork {
  /** argv that runs a program in the namespace. */
  argv(...command: readonly string[]): [string, ...string[]];
  /** Runs a program. @returns its standard output */
  run(...command: readonly string[]): string;
  start(command: readonly string[], options?: SpawnOptions): ChildProcess;
  /** Names of the interfaces besides the loopback. */
  interfaces(): readonly string[];
  /** Rules of iptables that belong to containers, and chains made for one. */
  containerRules(): readonly string[];
}

export async function newTestNetwork(scope: Scope): Promise<TestNetwork> {
  const script = 'ip link set lo up; echo ready; exec cat';
  const holder = spawn('unshare', ['-n', 'sh', '-c', script], {stdio: ['pipe', 'pipe', 'inherit']});
  const ended = once(holder, 'exit');
  onEnd(scope, async () => {
    holder.stdin.end();
    await ended;
  });
  await once(holder.stdout, 'data');
  const argv = (...command: readonly string[]): [string, ...string[]] => [
    findProgram('nsenter')!,
    `--net=/proc/${holder.pid}/ns/net`,
    ...command,
  ];
  const run = (...command: readonly string[]): string => {
    const [program, ...args] = argv(...command);
    return execFileSync(program, args, {encoding: 'utf8', stdio: ['ignore', 'pipe', 'pipe']});
  };
  return {
    argv,
    run,
    start: (command, options = {}) => {
      const [program, ...args] = argv(...command);
      return spawn(program, args, options);
    },
    interfaces: () =>
      run('ip', '-o', 'link')
        .split('\n')
        .flatMap((line) => /^\d+: ([^:@]+)/.exec(line)?.[1] ?? [])
        .filter((name) => name !== 'lo'),
    containerRules: () =>
      ['iptables-save', 'ip6tables-save']
        .flatMap((program) => run(program).split('\n'))
        // Chains of a container are named by a hash; the others stay, as the bridge does.
        .filter((line) => /^:CNI-(?:DN-|SN-)?[0-9a-f]{8,}/.test(line) || / -[sd] [\da-f]+[.:]|--dport/.test(line)),
  };
}
