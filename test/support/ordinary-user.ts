/** A user of this machine without root, with a range of subordinate ids: in a mount namespace of the test's own, where the accounts' files are others. */
import assert from 'node:assert/strict';
import {execFileSync} from 'node:child_process';
import {chmodSync, chownSync, mkdirSync, readFileSync, writeFileSync} from 'node:fs';
import {join} from 'node:path';
import {type Engine, engineEnvironment, type Result, root, run, type SpawnOptions} from '../cli/harness.ts';
import {onEnd, requiresProgram, requiresRoot, type Scope, type Skippable, temporaryDirectory} from './helpers.ts';

const UID = 61_234;
const NAME = 'berth-test-user';

export const requiresOrdinaryUser = (t: Skippable): boolean =>
  requiresRoot(t) && requiresProgram(t, 'unshare', 'nsenter', 'mount', 'setpriv', 'newuidmap', 'newgidmap', 'pgrep');

/** What is other than on a machine where everything is as it should be. */
export interface UserOptions {
  /** Lines for /etc/subuid and /etc/subgid have this count of ids; 0: there is no line. Default 65,536. */
  readonly subordinateIds?: number;
  /** Files by path that have other content; `/dev/null` as content hides a program. */
  readonly files?: Readonly<Record<string, string>>;
  /** The user may open /dev/net/tun, which everybody may on most machines. */
  readonly tun?: boolean;
  /** Names in /proc/sys/kernel that this machine's kernel does not have. */
  readonly kernelSettings?: Readonly<Record<string, string>>;
}

export interface OrdinaryUser {
  readonly uid: number;
  /** First of the subordinate ids. */
  readonly firstSubordinate: number;
  readonly home: string;
  /** argv that runs a program as this user. */
  argv(...command: readonly string[]): [string, ...string[]];
  readonly env: Readonly<Record<string, string>>;
  run(command: readonly string[], options?: SpawnOptions): Promise<Result>;
  /** Runs berth. */
  berth(args: readonly string[], options?: SpawnOptions): Promise<Result>;
  /** The same, but it must succeed. @returns its standard output */
  ok(args: readonly string[], options?: SpawnOptions): Promise<string>;
}

const FIRST = 1_000_000_000;
const KERNEL_SETTINGS = '/proc/sys/kernel';

// The package may lie where only root may go; here it has another place. What is mounted ends with the namespace.
const SCRIPT = `
package=$1 here=$2; shift 2
mount --bind "$package" "$here/package"
while [ "$1" != -- ]; do mount --bind "$1" "$2"; shift 2; done
shift
cd /
exec setpriv --reuid=${UID} --regid=${UID} --clear-groups -- "$@"`;

/** The user; what it left running at the end of the scope fails that, and is ended. */
export function ordinaryUser(
  scope: Scope,
  engine: Engine = 'executable',
  {subordinateIds = 65_536, files = {}, tun = false, kernelSettings = {}}: UserOptions = {},
): OrdinaryUser {
  const directory = temporaryDirectory(scope, 'berth-user-');
  chmodSync(directory, 0o711);
  const own = (name: string): string => {
    const path = join(directory, name);
    mkdirSync(path, {mode: 0o700});
    chownSync(path, UID, UID);
    return path;
  };
  const [home, runtime, tmp] = [own('home'), own('run'), own('tmp')];
  mkdirSync(join(directory, 'package'));
  const range = subordinateIds === 0 ? '' : `${NAME}:${FIRST}:${subordinateIds}\n`;
  const changed: Record<string, string> = {
    '/etc/passwd': `${readFileSync('/etc/passwd', 'utf8').trimEnd()}\n${NAME}:x:${UID}:${UID}::${home}:/bin/sh\n`,
    '/etc/group': `${readFileSync('/etc/group', 'utf8').trimEnd()}\n${NAME}:x:${UID}:\n`,
    '/etc/subuid': range,
    '/etc/subgid': range,
    ...files,
  };
  const binds = Object.entries(changed).flatMap(([target, text], i) => {
    if (text === '/dev/null') return [text, target];
    const file = join(directory, `file-${i}`);
    writeFileSync(file, text, {mode: 0o755});
    return [file, target];
  });
  if (tun) {
    // A node of its own: others use that of the machine meanwhile.
    const node = join(directory, 'tun');
    execFileSync('mknod', ['-m', '666', node, 'c', '10', '200']);
    binds.push(node, '/dev/net/tun');
  }
  if (Object.keys(kernelSettings).length > 0) {
    const settings = join(directory, 'kernel');
    mkdirSync(join(settings, 'random'), {recursive: true});
    for (const name of ['cap_last_cap', 'overflowuid', 'overflowgid', 'ngroups_max', 'random/boot_id'])
      writeFileSync(join(settings, name), readFileSync(join(KERNEL_SETTINGS, name)));
    for (const [name, value] of Object.entries(kernelSettings)) writeFileSync(join(settings, name), `${value}\n`);
    binds.push(settings, KERNEL_SETTINGS);
  }
  const argv = (...command: readonly string[]): [string, ...string[]] => [
    'unshare',
    ...['--mount', '--propagation', 'private', 'sh', '-ec', SCRIPT, 'sh', root, directory, ...binds, '--', ...command],
  ];
  const env = {
    ...engineEnvironment(engine),
    HOME: home,
    USER: NAME,
    XDG_RUNTIME_DIR: runtime,
    TMPDIR: tmp,
    NODE_COMPILE_CACHE: join(home, '.node'),
  };
  const call = async (command: readonly string[], options: SpawnOptions = {}): Promise<Result> => {
    const [program, ...args] = argv(...command);
    return run(program, args, {...options, env: {...env, ...options.env}});
  };
  const berth = (args: readonly string[], options?: SpawnOptions): Promise<Result> =>
    call([join(directory, 'package/bin/berth'), ...args], options);
  onEnd(scope, async () => {
    // Of this user, or of its subordinate ids, and of this test: its directory is in the arguments of what stays.
    const remaining = async (): Promise<readonly string[]> => {
      const {stdout} = await run('pgrep', ['-f', directory]);
      return stdout.split('\n').filter((pid) => pid !== '');
    };
    // What cleans up after a task ends by itself.
    const deadline = Date.now() + 20_000;
    let left = await remaining();
    while (left.length > 0 && Date.now() < deadline) left = await remaining();
    for (const pid of left) process.kill(Number(pid), 'SIGKILL');
    assert.deepEqual(left, [], 'processes left behind');
  });
  return {
    uid: UID,
    firstSubordinate: FIRST,
    home,
    argv,
    env,
    run: call,
    berth,
    ok: async (args, options) => {
      const {status, stdout, stderr} = await berth(args, options);
      assert.equal(status, 0, `berth ${args.join(' ')} ended with ${status}: ${stderr}`);
      return stdout;
    },
  };
}
