/** Tasks for tests: a store with a small image, and what is left of its containers. */
import assert from 'node:assert/strict';
import {spawnSync} from 'node:child_process';
import {existsSync, readdirSync, readFileSync, rmdirSync} from 'node:fs';
import {join} from 'node:path';
import {setTimeout as delay} from 'node:timers/promises';
import {type Client, type NamespaceClient, openClient} from '../../src/lib/client/index.ts';
import {type Code, hasCode, isErrdefs} from '../../src/lib/errdefs.ts';
import {digestOf, startFakeRegistry} from '../fakes/registry.ts';
import {findProgram, onEnd, requiresProgram, requiresRoot, type Scope, temporaryDirectory} from './helpers.ts';
import {dir, file, symlink, tar} from './tartest.ts';

export interface TaskRig {
  /** Of this rig alone, as its cgroups are named by it. */
  readonly namespace: string;
  readonly client: Client;
  readonly ns: NamespaceClient;
  readonly ref: string;
  readonly root: string;
  readonly state: string;
  /** What conmon calls. */
  readonly program: readonly string[];
  /** Every file, cgroup, mount and process that tasks of the rig have left. */
  left(): readonly string[];
}

/** A store with a small image to run. @param options directories instead of temporary ones; who gives them removes them */
export async function taskRig(t: Scope, options: {readonly state?: string; readonly root?: string} = {}): Promise<TaskRig> {
  const namespace = `tasks-${process.pid}-${++rigs}`;
  const registry = await startFakeRegistry(t);
  const layer = tar(
    dir('bin/'),
    file('bin/busybox', readFileSync(findProgram('busybox')!), 0o755),
    symlink('busybox', 'bin/sh'),
    dir('tmp/'),
  );
  const config = {
    architecture: {x64: 'amd64', arm64: 'arm64'}[process.arch as string]!,
    os: 'linux',
    config: {Cmd: ['sh', '-c', 'exit 5'], Env: ['PATH=/bin'], StopSignal: 'SIGUSR1'},
    rootfs: {type: 'layers', diff_ids: [digestOf(layer)]},
  };
  registry.addImage('app', 'v1', [layer], config);
  const ref = `${registry.host}/app:v1`;
  const root = options.root ?? temporaryDirectory(t);
  const state = options.state ?? temporaryDirectory(t);
  // conmon calls the source, not what was built of it.
  const program = [process.execPath, join(import.meta.dirname, '../../src/main.ts')];
  const client = openClient({root, state, program});
  const ns = client.namespace(namespace);
  onEnd(t, async () => {
    for (const {id} of await ns.tasks.list()) await ns.tasks.delete(id, {force: true});
    await client.namespaces.delete(namespace, {recursive: true}).catch(() => undefined);
    await client.close();
    const cgroups = cgroupsOf(namespace);
    for (const path of cgroups) rmdirSync(path);
    assert.deepEqual(cgroups, [], 'cgroups are left');
  });
  await ns.pull(ref);
  const list = (path: string): readonly string[] => (existsSync(path) ? readdirSync(path) : []);
  const left = (): readonly string[] => [
    ...['bundles', 'runtime'].flatMap((kind) => list(join(state, 'runs', namespace, kind)).map((name) => `${kind}/${name}`)),
    ...list('/sys/fs/cgroup').flatMap((tree) => list(join('/sys/fs/cgroup', tree, namespace)).filter((name) => name.includes('~'))),
    ...readFileSync('/proc/mounts', 'utf8')
      .split('\n')
      .filter((line) => line.includes(root) || line.includes(state)),
    ...processes(state),
  ];
  return {namespace, client, ns, ref, root, state, program, left};
}

let rigs = 0;

/** The cgroups of a namespace, in which those of its containers are. */
export const cgroupsOf = (namespace: string): readonly string[] =>
  readdirSync('/sys/fs/cgroup')
    .map((tree) => join('/sys/fs/cgroup', tree, namespace))
    .filter((path) => existsSync(path));

/** Living processes that have the state directory in their words: launchers, conmons, runtimes and exit commands. */
const processes = (state: string): readonly string[] =>
  readdirSync('/proc')
    .filter((pid) => /^\d+$/.test(pid))
    .flatMap((pid) => {
      try {
        const words = readFileSync(`/proc/${pid}/cmdline`, 'utf8').replaceAll('\0', ' ');
        return words.includes(state) ? [`${pid}: ${words}`] : [];
      } catch {
        return []; // it has ended
      }
    });

/** Pids of the conmons of a state directory. */
export const conmonsOf = (state: string): readonly number[] =>
  processes(state).flatMap((line) => (/^\d+: (?:\S*\/)?conmon /.test(line) ? [Number.parseInt(line, 10)] : []));

export const requiresTasks = (t: Parameters<typeof requiresRoot>[0]): boolean =>
  requiresRoot(t) && ['busybox', 'runc', 'conmon'].every((program) => requiresProgram(t, program));

/** Why criu does not work on this machine; `undefined` if it does. */
export function criuFault(): string | undefined {
  const criu = findProgram('criu');
  if (criu === undefined) return 'it is not installed';
  const {status, stderr} = spawnSync(criu, ['check'], {encoding: 'utf8'});
  return status === 0 ? undefined : stderr.trim().split('\n').at(-1);
}

/** True when the test may go on: criu is installed, and the kernel has what it needs. */
export function requiresCriu(t: Parameters<typeof requiresRoot>[0]): boolean {
  if (!requiresTasks(t) || !requiresProgram(t, 'criu')) return false;
  const fault = criuFault();
  if (fault !== undefined) t.skip(`criu does not work on this machine: ${fault}`);
  return fault === undefined;
}

/** For `assert.rejects`. @param runExit exit status that a command ends with for this error */
export const failsAs =
  (code: Code, runExit?: number) =>
  (err: unknown): true => {
    assert.ok(hasCode(err, code), String(err));
    if (runExit !== undefined) assert.equal(isErrdefs(err) && err.details?.runExit, runExit, String(err));
    return true;
  };

/** Waits for what another process does. */
export async function until(what: string | (() => string), holds: () => boolean | Promise<boolean>): Promise<void> {
  for (let waited = 0; waited < 30_000; waited += 20) {
    if (await holds()) return;
    await delay(20);
  }
  assert.fail(`not within 30 s: ${typeof what === 'string' ? what : what()}`);
}
