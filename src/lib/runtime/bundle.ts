/**
 * The directory of a running container, and who it belongs to.
 *
 *     <state>/bundles/<id>/   owner.<identity>, runtime.<identity>, fstab, l/ and m/ (see mounts.ts), config.json, rootfs/, log.json, init.pid
 *     <state>/runtime/<id>/   the runtime's own
 *
 * The owner is the process that runs the container, `runtime` the program it started for that; identities are those of
 * fs/process.ts. Both are dead and the runtime knows of no running container: then the bundle is stale, nothing is mounted
 * and nothing runs, and the next claim of its ID, or `cleanup`, removes it.
 */
import {existsSync, mkdirSync, readdirSync, readFileSync, renameSync, rmdirSync, statSync, unlinkSync, writeFileSync} from 'node:fs';
import {dirname, join} from 'node:path';
import {setTimeout as delay} from 'node:timers/promises';
import {ErrdefsError, fromErrno} from '../errdefs.ts';
import {formatIdentity, liveness, ownIdentity, type ProcessIdentity, parseIdentity} from '../fs/process.ts';
import {containerState, deleteContainer, type Runtime} from './runc.ts';
import type {Spec} from './spec.ts';

const CGROUPS = '/sys/fs/cgroup';
/** How long what was killed may take to end. */
const KILL_TIMEOUT_MS = 5000;
/** How long what should end by itself may take. */
const GRACE_MS = 1000;
const POLL_MS = 5;

export const bundlePath = (stateDir: string, id: string): string => join(stateDir, 'bundles', id);
export const runtimeRoot = (stateDir: string): string => join(stateDir, 'runtime');

/** Runs a call of node:fs; false when it fails with one of these errnos. */
function unless(codes: readonly string[], call: () => void): boolean {
  try {
    call();
    return true;
  } catch (err) {
    if (codes.includes((err as NodeJS.ErrnoException).code ?? '')) return false;
    throw err;
  }
}

function list(directory: string): readonly string[] {
  let names: readonly string[] = [];
  unless(['ENOENT'], () => {
    names = readdirSync(directory);
  });
  return names;
}

/** The file in a bundle that tells who its owner, or its runtime, is. */
function party(bundle: string, role: 'owner' | 'runtime'): {readonly file: string; readonly identity: ProcessIdentity} | undefined {
  for (const name of list(bundle)) {
    const identity = name.startsWith(`${role}.`) ? parseIdentity(name.slice(role.length + 1)) : undefined;
    if (identity !== undefined) return {file: join(bundle, name), identity};
  }
  return undefined;
}

/** A process of another pid namespace cannot be seen from here; it gets the benefit of the doubt. */
const mayLive = (bundle: string, role: 'owner' | 'runtime'): boolean => {
  const found = party(bundle, role);
  return found !== undefined && liveness(found.identity) !== 'dead';
};

/**
 * Whether a run of this ID has begun and may not have ended. Reads files alone, so that it can be asked under a lock; of a
 * container that outlived both its processes it knows nothing.
 */
export const isClaimed = (stateDir: string, id: string): boolean => {
  const bundle = bundlePath(stateDir, id);
  return mayLive(bundle, 'owner') || mayLive(bundle, 'runtime');
};

/** Notes in a bundle that this child of ours is its runtime. To be done before the child may start anything. */
export function recordRuntime(bundle: string, pid: number): void {
  // proc_pid_stat(5): the start time is field 22; the name in field 2 may hold anything, so count from its last `)`.
  const stat = readFileSync(`/proc/${pid}/stat`, 'latin1');
  const startTime = stat.slice(stat.lastIndexOf(')') + 2).split(' ')[19]!;
  writeFileSync(join(bundle, `runtime.${formatIdentity({...ownIdentity(), pid, startTime})}`), '', {mode: 0o600});
}

/** What the specification in a bundle says, in so far as it was written whole. */
function cgroupOf(bundle: string): string | undefined {
  try {
    const spec = JSON.parse(readFileSync(join(bundle, 'config.json'), 'utf8')) as Partial<Spec>;
    return spec.linux?.cgroupsPath;
  } catch (err) {
    // The tool died before, or while, it wrote it: then the runtime has not been started.
    if (err instanceof SyntaxError || (err as NodeJS.ErrnoException).code === 'ENOENT') return undefined;
    throw err;
  }
}

/** Removes a cgroup and those below it, once what is in it has ended. */
async function removeCgroup(directory: string): Promise<void> {
  for (const entry of list(directory))
    if (statSync(join(directory, entry), {throwIfNoEntry: false})?.isDirectory() === true) await removeCgroup(join(directory, entry));
  for (let waited = 0; !unless(['EBUSY'], () => unless(['ENOENT'], () => rmdirSync(directory))); waited += POLL_MS) {
    if (waited >= KILL_TIMEOUT_MS) throw new ErrdefsError('unavailable', `cgroup ${directory} is still in use`);
    for (const pid of readFileSync(join(directory, 'cgroup.procs'), 'latin1').split('\n'))
      if (pid !== '') unless(['ESRCH'], () => process.kill(Number(pid), 'SIGKILL'));
    await delay(POLL_MS);
  }
}

/**
 * Ends and removes what a runtime that was killed while it made the container left in its cgroups: of that it keeps no
 * record. See cgroups(7); version 1 has one tree for each controller.
 */
export async function removeStaleCgroup(bundle: string): Promise<void> {
  const path = cgroupOf(bundle);
  if (path === undefined) return;
  for (const tree of ['', ...list(CGROUPS)]) {
    const directory = join(CGROUPS, tree, path);
    if (existsSync(directory)) await removeCgroup(directory);
  }
}

/**
 * Removes a bundle: its files and links, and those one directory below. Never what `rootfs` holds: were something still
 * mounted there, this would fail, not delete it.
 */
export function removeBundle(bundle: string): void {
  for (const entry of readdirSync(bundle, {withFileTypes: true})) {
    const path = join(bundle, entry.name);
    if (!entry.isDirectory()) unlinkSync(path);
    else {
      for (const name of entry.name === 'l' || entry.name === 'm' ? readdirSync(path) : [])
        if (entry.name === 'l') unlinkSync(join(path, name));
        else rmdirSync(join(path, name));
      rmdirSync(path);
    }
  }
  rmdirSync(bundle);
}

let counter = 0;

/** A name among bundles that no ID has and no other call uses, and that tells whose it is. */
const temporaryIn = (bundles: string): string => join(bundles, `.${formatIdentity(ownIdentity())}.${++counter}`);

/** Gives the ID of a bundle back and removes what was in it. At once: who wants that ID next must not meet half of it. */
export function releaseBundle(bundle: string): void {
  const old = temporaryIn(dirname(bundle));
  renameSync(bundle, old);
  removeBundle(old);
}

export interface Run {
  readonly id: string;
  /**
   * `running`: the process that runs it lives. `orphaned`: that process is dead, the container runs on. `stale`: only
   * files are left.
   */
  readonly state: 'running' | 'orphaned' | 'stale';
}

async function inspect(stateDir: string, id: string, runtime: Runtime): Promise<Run> {
  const bundle = bundlePath(stateDir, id);
  if (mayLive(bundle, 'owner')) return {id, state: 'running'};
  if (mayLive(bundle, 'runtime')) return {id, state: 'orphaned'};
  const status = (await containerState(runtime, runtimeRoot(stateDir), id))?.status;
  // One that was only created waits for a runtime that is gone.
  return {id, state: status === 'running' || status === 'paused' ? 'orphaned' : 'stale'};
}

/** What runs, or was left behind, below a state directory, sorted by ID. */
export async function listRuns(stateDir: string, runtime: Runtime): Promise<readonly Run[]> {
  // Half-made and half-removed bundles begin with a dot, which no ID does.
  const ids = [...list(join(stateDir, 'bundles')), ...list(runtimeRoot(stateDir))].filter((name) => !name.startsWith('.'));
  return Promise.all([...new Set(ids)].sort().map((id) => inspect(stateDir, id, runtime)));
}

const OWNER = (): string => `owner.${formatIdentity(ownIdentity())}`;

/**
 * Takes an ID for a run, with a bundle that holds an empty `rootfs`; clears away what a dead run of that ID left.
 *
 * @returns the bundle's path
 * @throws already_exists a container of that ID runs
 */
export async function claimBundle(stateDir: string, id: string, runtime: Runtime): Promise<string> {
  const what = `container ${JSON.stringify(id)}`;
  const bundles = join(stateDir, 'bundles');
  const bundle = bundlePath(stateDir, id);
  const claim = async (): Promise<void> => {
    const mine = temporaryIn(bundles);
    mkdirSync(mine, {mode: 0o700});
    try {
      mkdirSync(join(mine, 'rootfs'));
      writeFileSync(join(mine, OWNER()), '', {mode: 0o600});
      // A bundle is never empty, so renaming onto one fails.
      while (!unless(['ENOTEMPTY', 'EEXIST'], () => renameSync(mine, bundle))) {
        const owner = party(bundle, 'owner');
        const {state} = await inspect(stateDir, id, runtime);
        if (state !== 'stale') throw new ErrdefsError('already_exists', `${what} is ${state}`);
        // Of several that find it stale, the one that puts its name in place of the dead owner's has it.
        if (owner !== undefined && !unless(['ENOENT'], () => renameSync(owner.file, join(bundle, OWNER())))) continue;
        await removeStaleCgroup(bundle);
        const old = temporaryIn(bundles);
        if (unless(['ENOENT'], () => renameSync(bundle, old))) removeBundle(old);
      }
    } catch (err) {
      removeBundle(mine);
      throw err;
    }
  };
  try {
    mkdirSync(bundles, {recursive: true, mode: 0o700});
    mkdirSync(runtimeRoot(stateDir), {recursive: true, mode: 0o700});
    for (const name of list(bundles)) {
      const maker = name.startsWith('.') ? parseIdentity(name.slice(1)) : undefined;
      if (maker !== undefined && liveness(maker) === 'dead') unless(['ENOENT'], () => removeBundle(join(bundles, name)));
    }
    await claim();
  } catch (err) {
    throw fromErrno(err, what);
  }
  // The ID is ours now, and with it what the runtime still has of it.
  try {
    if (existsSync(join(runtimeRoot(stateDir), id))) {
      const status = (await containerState(runtime, runtimeRoot(stateDir), id))?.status;
      if (status === 'running' || status === 'paused') throw new ErrdefsError('already_exists', `${what} is ${status}`);
      await deleteContainer(runtime, runtimeRoot(stateDir), id);
    }
  } catch (err) {
    releaseBundle(bundle);
    throw err;
  }
  return bundle;
}

/** Waits for a runtime whose container is gone: it ends by itself and then lets go of the mounts. One that does not is killed. */
async function endRuntime(bundle: string): Promise<void> {
  const runtime = party(bundle, 'runtime');
  if (runtime === undefined) return;
  for (let waited = 0; liveness(runtime.identity) !== 'dead' && waited < KILL_TIMEOUT_MS; waited += POLL_MS) {
    // It leads a process group of its own.
    if (waited >= GRACE_MS) unless(['ESRCH'], () => process.kill(-runtime.identity.pid, 'SIGKILL'));
    await delay(POLL_MS);
  }
}

/**
 * Removes what a dead run left. That there is nothing is success.
 *
 * @param options.kill ends an orphaned container first, with SIGKILL
 * @throws failed_precondition it still runs
 */
export async function cleanup(
  stateDir: string,
  id: string,
  runtime: Runtime,
  {kill = false}: {readonly kill?: boolean} = {},
): Promise<void> {
  if (!existsSync(bundlePath(stateDir, id)) && !existsSync(join(runtimeRoot(stateDir), id))) return;
  const {state} = await inspect(stateDir, id, runtime);
  if (state === 'running' || (state === 'orphaned' && !kill))
    throw new ErrdefsError('failed_precondition', `container ${JSON.stringify(id)} is ${state}`);
  if (state === 'orphaned') {
    await deleteContainer(runtime, runtimeRoot(stateDir), id);
    await endRuntime(bundlePath(stateDir, id));
  }
  releaseBundle(await claimBundle(stateDir, id, runtime));
}
