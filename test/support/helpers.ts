/**
 * Helpers of all tests: temporary directories, requirements that skip a test, and a client with its own store.
 *
 * An unmet requirement skips the test with its reason, which the runner counts and prints at the end. Under `CI=true` it fails the test
 * instead. Usage: `if (!requiresRoot(t)) return;`.
 */
import assert from 'node:assert/strict';
import {execFileSync} from 'node:child_process';
import {accessSync, chmodSync, constants, existsSync, mkdtempSync, readFileSync, realpathSync, rmSync, statSync} from 'node:fs';
import {tmpdir} from 'node:os';
import {join} from 'node:path';
import type {TestContext} from 'node:test';
import type {Client, OpenOptions} from '../../src/lib/client/types/index.ts';
import {type Code, codeOf} from '../../src/lib/errdefs.ts';
import {inInitialUserNamespace} from '../../src/lib/user-namespace-identity.ts';

/** A scope with clean-up at its end: a test's `t`, or `{after}` of node:test for a whole file. */
export interface Scope {
  after(fn: () => void | Promise<void>): void;
}

const endings = new WeakMap<Scope, (() => unknown)[]>();

/**
 * Runs `fn` when the scope ends, in reverse order, so that users of a directory end before it is removed. All of them run, also when some
 * throw. Hooks of node:test itself run in the order of their registration, up to the first that throws.
 */
export function onEnd(scope: Scope, fn: () => unknown): void {
  const known = endings.get(scope);
  if (known !== undefined) {
    known.push(fn);
    return;
  }
  const all = [fn];
  endings.set(scope, all);
  scope.after(async () => {
    // A scope may end more than once, as that of beforeEach does.
    endings.delete(scope);
    const errors: unknown[] = [];
    for (let next = all.pop(); next !== undefined; next = all.pop()) {
      try {
        await next();
      } catch (err) {
        errors.push(err);
      }
    }
    if (errors.length > 0) throw errors.length === 1 ? errors[0] : new AggregateError(errors, errors.map(String).join('\n'));
  });
}

/** A test that can be skipped. */
export type Skippable = Pick<TestContext, 'skip'>;

/** Debian's package of each program that `scripts/setup.sh` installs for tests and for torture. */
const INSTALLED = new Map(
  Array.from(
    readFileSync(join(import.meta.dirname, '../../scripts/setup.sh'), 'utf8').matchAll(/^(?:quickstart|test|torture) +(\S+) +(\S+) /gm),
    ([, program, name]) => [program!, name!] as const,
  ),
);

/** Programs that come in the package of another. */
const COMES_WITH: Readonly<Record<string, string>> = {
  'fsck.erofs': 'mkfs.erofs',
  'iptables-save': 'iptables',
  containerd: 'ctr',
  newgidmap: 'newuidmap',
  setfattr: 'getfattr',
};

/** Programs of npm, and of packages that every Debian has. */
const ALWAYS_THERE =
  /^(apt-get|bash|cp|dpkg-deb|flock|groff|losetup|mkfifo|mknod|mount|npm|nsenter|prlimit|script|sh|stty|systemd-analyze|tar|truncate|unshare|update-ca-certificates)$/;

/** True for `npm test -- --short`: no slow tests, no large images. */
export const isShort = (): boolean => process.env.BERTH_TEST_SHORT === '1';

/** True for `npm run torture`: tests try everything instead of samples. */
export const TORTURE = process.env.BERTH_TEST_TORTURE === '1';

/** Seeds generated inputs, and selects the part whose turn it is. `npm test` tries the same whatever the day; torture another part each day. */
export const SAMPLE = TORTURE ? Math.floor(Date.now() / 86_400_000) : 1;

/** The environment in which `npm test -- --clock=…` lets a process see another date; empty without it. */
export const clockEnvironment = (): Record<string, string> =>
  process.env.BERTH_TEST_CLOCK === undefined
    ? {}
    : Object.fromEntries(
        ['BERTH_TEST_CLOCK', 'FAKETIME', 'FAKETIME_DONT_FAKE_MONOTONIC', 'FAKETIME_DISABLE_SHM', 'NO_FAKE_STAT', 'LD_PRELOAD'].map(
          (name) => [name, process.env[name]!],
        ),
      );

const insists = (): boolean => process.env.CI === 'true';

/** Skips with the reason, or under `CI=true` fails with it. Always returns false. */
function unmet(t: Skippable, reason: string): false {
  if (insists()) assert.fail(`${reason}, and CI=true insists on it`);
  t.skip(reason);
  return false;
}

/**
 * True when the test may go on: the processes' clock is the kernel's. Under `npm test -- --clock=…` the two differ by days, since
 * only that of the processes can be moved.
 *
 * @param mixes where the test, or what it tests, compares the two
 */
export function requiresOneClock(t: Skippable, mixes: string): boolean {
  if (process.env.BERTH_TEST_CLOCK === undefined) return true;
  t.skip(`${mixes}, and --clock moves one of them only`);
  return false;
}

/** True when the test may go on: it runs as root. */
export const requiresRoot = (t: Skippable): boolean => process.getuid?.() === 0 || unmet(t, 'needs root');

/**
 * True when the test may go on: it runs as root of the machine, not as a user's root in a user namespace, as the files of
 * test/e2e/as-user.test.ts do there.
 *
 * @param needs what only that one has
 */
export function requiresRootOfMachine(t: Skippable, needs: string): boolean {
  if (!requiresRoot(t)) return false;
  if (inInitialUserNamespace()) return true;
  t.skip(`${needs}: root of the machine alone has that`);
  return false;
}

/** Absolute path of a program on PATH or in the system's sbin directories, which PATH of a non-login shell may lack. */
export function findProgram(name: string): string | undefined {
  for (const dir of [...(process.env.PATH ?? '').split(':'), '/usr/local/sbin', '/usr/sbin', '/sbin']) {
    const file = join(dir, name);
    try {
      accessSync(file, constants.X_OK);
      if (dir !== '' && statSync(file).isFile()) return file;
    } catch {
      // not in this one
    }
  }
  return undefined;
}

/**
 * True when the test may go on: every one of these programs is installed.
 *
 * @throws Error for a program that `scripts/setup.sh` would not install on a new machine, whether or not it is on this one
 */
export function requiresProgram(t: Skippable, ...names: string[]): boolean {
  const packageOf = (name: string): string | undefined => INSTALLED.get(COMES_WITH[name] ?? name);
  for (const name of names)
    if (packageOf(name) === undefined && !ALWAYS_THERE.test(name))
      throw new Error(`${name}: scripts/setup.sh does not install it for tests`);
  const missing = names.filter((name) => findProgram(name) === undefined);
  if (missing.length === 0) return true;
  const packages = [...new Set(missing.map((name) => packageOf(name) ?? name))].join(' ');
  return unmet(t, `needs ${missing.join(', ')} (apt-get install ${packages})`);
}

/** True when the test may go on: slow tests are wanted, that is, not under `--short`. */
export function slow(t: Skippable): boolean {
  if (!isShort()) return true;
  t.skip('slow, left out by --short');
  return false;
}

/** Undoes every mount at or below a directory. @returns the mount points, the deepest first */
export function unmountBelow(dir: string): string[] {
  const points = readFileSync('/proc/self/mountinfo', 'utf8')
    .split('\n')
    .map((line) =>
      (line.split(' ')[4] ?? '').replaceAll(/\\([0-7]{3})/g, (_, octal: string) => String.fromCharCode(Number.parseInt(octal, 8))),
    )
    .filter((point) => point === dir || point.startsWith(`${dir}/`))
    .sort((a, b) => b.length - a.length);
  for (const point of points) execFileSync('umount', ['-l', point]);
  return points;
}

/**
 * An empty directory, mode 0700, its path without symbolic links, removed when the scope ends.
 *
 * A mount that is still there then is undone and fails the test: nothing that runs here may leave one, and removing
 * through it would delete what is behind it. What a test itself mounts, it unmounts before it ends, not in a hook.
 */
export function temporaryDirectory(scope: Scope, prefix = 'berth-test-'): string {
  const dir = realpathSync(mkdtempSync(join(tmpdir(), prefix)));
  chmodSync(dir, 0o700);
  onEnd(scope, () => {
    const left = unmountBelow(dir);
    rmSync(dir, {recursive: true, force: true});
    assert.deepEqual(left, [], 'mounts left behind');
  });
  return dir;
}

/**
 * Has temporary directories in memory until the scope ends, where syncs cost nothing: for tests that neither mount what they make nor
 * depend on what is on the disk.
 */
export function temporaryInMemory(scope: Scope): void {
  const {TMPDIR} = process.env;
  if (existsSync('/dev/shm')) process.env.TMPDIR = '/dev/shm';
  onEnd(scope, () => {
    if (TMPDIR === undefined) delete process.env.TMPDIR;
    else process.env.TMPDIR = TMPDIR;
  });
}

/** For `assert.rejects` and `assert.throws`: the error is of this class. */
export function is(code: Code): (err: unknown) => true {
  return (err) => {
    const actual = codeOf(err);
    if (actual !== code) {
      assert.fail(`expected an error of class ${code}, got ${actual}: ${err instanceof Error ? (err.stack ?? err.message) : String(err)}`);
    }
    return true;
  };
}

/** A client on a store of its own, with `root` and `state` as temporary directories unless they are given; closed when the scope ends. */
export async function newClient(scope: Scope, options: OpenOptions = {}): Promise<Client> {
  const {openClient} = await import('../../src/lib/client/index.ts');
  const root = options.root ?? temporaryDirectory(scope, 'berth-root-');
  const state = options.state ?? temporaryDirectory(scope, 'berth-state-');
  const client = openClient({...options, root, state});
  onEnd(scope, () => client.close());
  return client;
}
