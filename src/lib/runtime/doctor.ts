/** Checks whether this machine can run containers, by trying. */
import {existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync} from 'node:fs';
import {join} from 'node:path';
import {isErrdefs} from '../errdefs.ts';
import {isOnOverlay} from '../fs/free-space.ts';
import {readMountInfo} from '../fs/mountinfo.ts';
import {findProgram, requireProgram, run} from '../fs/spawn.ts';
import {isRootless} from '../user-namespace-identity.ts';
import {expectedGroup} from './delegated-cgroup.ts';
import {findRuntime, runtimeVersion} from './oci-runtime.ts';

export interface Check {
  readonly name: string;
  readonly status: 'ok' | 'warning' | 'error';
  readonly detail: string;
  /** The remedy. */
  readonly hint?: string;
}

type Version = readonly [number, number, number];

const older = (a: Version, b: Version): boolean => (a[0] !== b[0] ? a[0] < b[0] : a[1] !== b[1] ? a[1] < b[1] : a[2] < b[2]);

/** CVE-2024-21626: older versions leak a descriptor of the host into the container. */
const OLDEST_RUNC: Version = [1, 1, 12];
/** CVE-2025-31133, CVE-2025-52565, CVE-2025-52881: first fixed releases of the two older series; 1.4 began with the fix. */
const FIXED_RUNC: readonly Version[] = [
  [1, 2, 8],
  [1, 3, 3],
];

/** Rates a version of runc. */
export function checkRuncVersion(version: Version): Pick<Check, 'status' | 'hint'> {
  if (older(version, OLDEST_RUNC)) return {status: 'error', hint: 'install runc 1.1.12 or newer: CVE-2024-21626'};
  const fixed = FIXED_RUNC.find(([major, minor]) => major === version[0] && minor >= version[1]);
  if (fixed === undefined || !older(version, fixed)) return {status: 'ok'};
  return {
    status: 'warning',
    hint: 'CVE-2025-31133, -52565 and -52881 are fixed in runc 1.2.8, 1.3.3 and 1.4.0; distributions patch older versions too: see the changelog of the package',
  };
}

async function runtimeCheck(name: string | undefined): Promise<Check> {
  try {
    const runtime = findRuntime(name);
    const version = await runtimeVersion(runtime);
    if (version === undefined)
      return {name: 'runtime', status: 'error', detail: `${runtime.path} does not report its version`, hint: 'install runc'};
    const judged: Pick<Check, 'status' | 'hint'> = runtime.name === 'runc' ? checkRuncVersion(version.numbers) : {status: 'ok'};
    return {name: 'runtime', detail: `${runtime.name} ${version.text} (${runtime.path})`, ...judged};
  } catch (err) {
    if (!isErrdefs(err)) throw err;
    return {name: 'runtime', status: 'error', detail: err.message, ...(err.hint === undefined ? {} : {hint: err.hint})};
  }
}

/** conmon, without which nothing can be left running. */
async function conmonCheck(): Promise<Check> {
  const name = 'conmon';
  const path = findProgram('conmon');
  if (path === undefined)
    return {
      name,
      status: 'warning',
      detail: 'not installed: containers run in the foreground only',
      hint: 'install conmon for run --detach',
    };
  const {stdout} = await run(path, ['--version'], {package: 'conmon'});
  return {name, status: 'ok', detail: `${stdout.toString().split('\n', 1)[0]!.replace(' version', '')} (${path})`};
}

/** criu, by which containers are checkpointed: nothing else needs it. */
async function criuCheck(): Promise<readonly Check[]> {
  const name = 'criu';
  const path = findProgram('criu');
  if (path === undefined) return [{name, status: 'ok', detail: 'not installed: only checkpoints of containers need it'}];
  const {status, stderr} = await run(path, ['check'], {package: 'criu'});
  if (status === 0) return [{name, status: 'ok', detail: path}];
  const said = stderr.trim().split('\n').at(-1) ?? '';
  return [{name, status: 'warning', detail: `${path} does not work: ${said}`, hint: 'containers cannot be checkpointed: see "criu check"'}];
}

export const OVERLAY_HINT = 'use --snapshotter native, or a root on ext4 or xfs';

/** Tries a mount namespace, and in it an overlay with its upperdir in `directory`. */
export async function checkMounts(directory: string): Promise<Check> {
  const name = 'mounts';
  const missing = ['unshare', 'mount'].filter((program) => findProgram(program) === undefined);
  if (missing.length > 0)
    return {name, status: 'error', detail: `${missing.join(' and ')} not installed`, hint: 'install util-linux and mount'};
  let scratch: string;
  try {
    scratch = mkdtempSync(join(directory, '.doctor-'));
  } catch (err) {
    return {
      name,
      status: 'error',
      detail: `${directory}: ${(err as NodeJS.ErrnoException).code}`,
      hint: 'run it as root, or name another --root',
    };
  }
  try {
    for (const part of ['lower', 'upper', 'work', 'merged']) mkdirSync(join(scratch, part));
    const isolate = ['--mount', '--propagation', 'slave', '/bin/sh', '-c'];
    const unshared = await run('unshare', [...isolate, ':'], {package: 'util-linux'});
    if (unshared.status !== 0)
      return {
        name,
        status: 'error',
        detail: `no mount namespace: ${unshared.stderr.trim()}`,
        // The kernel changes the propagation of mount points only.
        hint: readMountInfo('self').some(({target}) => target === '/')
          ? 'root, or the capability SYS_ADMIN in a container, is needed; pull, push, copy, unpack and repack need no mount'
          : 'in a chroot, its directory has to be a mount point: outside, mount --bind DIR DIR, then chroot DIR',
      };
    const options = `lowerdir=lower,upperdir=upper,workdir=work${isRootless() ? ',userxattr' : ''}`;
    const script = 'cd "$1" && mount -t overlay overlay -o "$2" merged && : > merged/file';
    const mounted = await run('unshare', [...isolate, script, 'sh', scratch, options], {package: 'util-linux'});
    if (mounted.status === 0) return {name, status: 'ok', detail: `mount namespaces and overlayfs work in ${directory}`};
    return {
      name,
      status: 'warning',
      detail: `overlayfs does not work in ${directory}${isOnOverlay(directory) ? ', which lies on overlayfs itself' : ''}`,
      hint: OVERLAY_HINT,
    };
  } finally {
    rmSync(scratch, {recursive: true, force: true});
  }
}

/** See cgroups(7). */
function cgroupCheck(): Check {
  const name = 'cgroups';
  const unified = existsSync('/sys/fs/cgroup/cgroup.controllers');
  const controllers = unified
    ? readFileSync('/sys/fs/cgroup/cgroup.controllers', 'latin1').trim().split(' ')
    : ['cpu', 'memory', 'pids', 'devices'].filter((controller) => existsSync(join('/sys/fs/cgroup', controller)));
  const version = unified ? 'v2' : existsSync('/sys/fs/cgroup/unified') ? 'v1 (hybrid)' : 'v1';
  if (!unified && controllers.length === 0)
    return {name, status: 'error', detail: 'none mounted on /sys/fs/cgroup', hint: 'mount cgroup2 on /sys/fs/cgroup'};
  const absent = ['cpu', 'memory', 'pids'].filter((controller) => !controllers.includes(controller));
  const detail = `${version}: ${controllers.join(' ')}`;
  if (isRootless()) {
    const own = [...(expectedGroup()?.controllers ?? [])].filter((controller) => controllers.includes(controller)).sort();
    if (own.length === 0) return {name, status: 'ok', detail: `${detail}; none for containers without root, so these have no limits`};
    return {name, status: 'ok', detail: `${detail}; for containers without root: ${own.join(' ')}`};
  }
  if (absent.length === 0) return {name, status: 'ok', detail};
  return {name, status: 'warning', detail, hint: `limits need the controllers ${absent.join(', ')}`};
}

/** Without pasta a user without root has no networks. */
async function pastaCheck(): Promise<Check> {
  const name = 'networks';
  try {
    const {findPasta} = await import('./network/pasta.ts');
    return {name, status: 'ok', detail: `pasta (${findPasta()})`};
  } catch (err) {
    if (!isErrdefs(err)) throw err;
    return {name, status: 'warning', detail: `none but the machine's: ${err.message}`, ...(err.hint === undefined ? {} : {hint: err.hint})};
  }
}

/** Programs without which some commands fail; those that are there are not listed. */
function missingPrograms(): readonly Check[] {
  return Object.entries({cp: 'coreutils', tar: 'tar'}).flatMap(([program, name]) => {
    try {
      requireProgram(program, name);
      return [];
    } catch (err) {
      if (!isErrdefs(err)) throw err;
      return {name: program, status: 'warning' as const, detail: err.message, ...(err.hint === undefined ? {} : {hint: err.hint})};
    }
  });
}

/**
 * @param directory the existing directory of snapshots
 * @param runtime as for `findRuntime`
 */
export async function checkRuntime(directory: string, runtime?: string): Promise<readonly Check[]> {
  return [
    await runtimeCheck(runtime),
    await conmonCheck(),
    await checkMounts(directory),
    cgroupCheck(),
    ...(isRootless() ? [await pastaCheck()] : await criuCheck()),
    ...missingPrograms(),
  ];
}
