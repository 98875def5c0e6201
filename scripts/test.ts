/**
 * Runs the tests; `scripts/test.sh` sets the machine up and then runs this:
 *
 *     npm test [-- [--short] [--torture] [--clock=±DAYSd] [FILE…] [options of node --test…]]
 *
 * `--torture` has tests try everything instead of samples, and without FILE runs the tests that then try more: see `knowsTorture`.
 * `--clock=+400d` shows the tests, and the programs that they start, a date 400 days ahead: see `clockEnvironment`.
 *
 * Builds the program for the command-level tests, makes the images, and runs the files (default: all). What fails while all run side
 * by side runs a second time, alone. Fails if a test left a process, a mount or a file behind.
 */
import {spawn} from 'node:child_process';
import {once} from 'node:events';
import {
  chmodSync,
  existsSync,
  globSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  readlinkSync,
  realpathSync,
  rmSync,
  statSync,
} from 'node:fs';
import {availableParallelism, constants, tmpdir} from 'node:os';
import {join, relative} from 'node:path';
import {setTimeout} from 'node:timers/promises';
import {unmountBelow} from '../test/support/helpers.ts';
import {runTests} from './run-tests.ts';

/** Factor for all time limits under torture, which takes longer. */
const PATIENCE = 6;

/** Variables of the person who runs the tests that would change what is tested. Proxies stay: images are made with them. */
const PERSONAL = /^(BERTH_(?!TEST_)|CONTAINERD_|XDG_|DOCKER_|COSIGN_|REGISTRY_AUTH_FILE$|NODE_EXTRA_CA_CERTS$|EDITOR$|VISUAL$)/;

/** Time limit for one test. */
const TEST_TIMEOUT_MS = 5 * 60_000;

/** Time without output after which processes that tests started are killed: a test file does not end before they do. */
const SILENCE_MS = 7 * 60_000;

/** Time that processes have to end after the last test. */
const ENDING_MS = 10_000;

/** Time limit for all tests. */
const TIMEOUT_MS = 40 * 60_000;

/** Of all test files, so many run side by side: more than there are processors, because tests wait much of their time, for programs and the disk. */
const SIDE_BY_SIDE = Math.ceil(1.5 * availableParallelism());

/**
 * Files that take longest, in this order, by the times that a whole run prints. They start first: a long file that starts last leaves
 * the other processors without work.
 */
const LONGEST_FIRST: readonly string[] = [
  'test/e2e/interrupted-commands.test.ts',
  'test/lib/client/check.test.ts',
  'test/e2e/unpacked-trees.test.ts',
  'test/e2e/concurrent-commands.test.ts',
  'test/cli/damage-to-every-file.test.ts',
  'test/e2e/kills.test.ts',
  'test/e2e/task-kills.test.ts',
  'test/e2e/as-user.test.ts',
  'test/cli/engines.test.ts',
  'test/e2e/rootless-network.test.ts',
  'test/e2e/rootless.test.ts',
  'test/e2e/killed-starts.test.ts',
  'test/cli/escaped-output.test.ts',
  'test/lib/client/method-arguments.test.ts',
  'test/cli/damaged-store.test.ts',
  'test/cli/errors.test.ts',
  'test/lib/client/host-mounts.test.ts',
  'test/lib/client/mount-scripts.test.ts',
  'test/lib/client/powerloss.test.ts',
  'test/fuzz/trees.test.ts',
  'test/cli/scrub-process-args.test.ts',
  'test/lib/client/fulldisk.test.ts',
  'test/advisories/pull-tar.test.ts',
  'test/advisories/limits.test.ts',
  'test/lib/archive/same-trees-as-umoci-and-containerd.test.ts',
  'test/e2e/skopeo.test.ts',
  'test/lib/store/kill.test.ts',
  'test/cli/certificates.test.ts',
  'test/lib/client/aborted-calls.test.ts',
  'test/e2e/namespace-isolation.test.ts',
  'test/lib/client/many-layers.test.ts',
  'test/lib/client/exec.test.ts',
  'test/lib/client/checkpoints.test.ts',
  'test/lib/client/bundle-faults.test.ts',
];

interface Options {
  readonly short: boolean;
  readonly torture: boolean;
  /** Offset of the clock for libfaketime, such as "+400d"; `undefined` for the machine's own clock. */
  readonly clock: string | undefined;
  readonly files: readonly string[];
  /** Options for `node --test`. */
  readonly node: readonly string[];
}

function parse(args: readonly string[]): Options {
  const isFlag = (arg: string): boolean => arg.startsWith('-');
  return {
    short: args.includes('--short'),
    torture: args.includes('--torture') || process.env.BERTH_TEST_TORTURE === '1',
    clock: args.find((arg) => arg.startsWith('--clock='))?.slice('--clock='.length),
    files: args.filter((arg) => !isFlag(arg)),
    node: args.filter((arg) => isFlag(arg) && !['--short', '--torture'].includes(arg) && !arg.startsWith('--clock=')),
  };
}

/**
 * The environment in which a process sees another date. File times and monotonic clocks are not changed. Programs in Go see
 * today's date, because they read the clock without libc. Programs with jemalloc, such as Debian's redis-cli, never begin: start them
 * without `LD_PRELOAD`.
 *
 * @param offset "+400d", or `undefined` for today
 */
function clockEnvironment(offset: string | undefined): NodeJS.ProcessEnv {
  if (offset === undefined) return {};
  const [library] = globSync('/usr/lib/*/faketime/libfaketime.so.1');
  if (!/^[+-]\d+d$/.test(offset) || library === undefined) throw new Error(`--clock=${offset}: give it as +400d, and install libfaketime`);
  return {
    BERTH_TEST_CLOCK: offset,
    FAKETIME: offset,
    FAKETIME_DONT_FAKE_MONOTONIC: '1',
    // Its shared memory belongs to one user, and programs of other users wait for it in vain.
    FAKETIME_DISABLE_SHM: '1',
    NO_FAKE_STAT: '1',
    LD_PRELOAD: library,
  };
}

/** Runs a command on this process's streams. @returns its exit status, or 128+n if signal n ended it */
async function run(command: string, args: readonly string[], env: NodeJS.ProcessEnv): Promise<number> {
  const child = spawn(command, args, {env, stdio: ['ignore', 'inherit', 'inherit'], timeout: TIMEOUT_MS});
  const [code, signal] = (await once(child, 'close')) as [number | null, NodeJS.Signals | null];
  return code ?? 128 + constants.signals[signal!];
}

/** The files that patterns match, by path from the root of the project. A pattern that matches nothing is an error. */
function find(patterns: readonly string[]): string[] {
  return patterns.flatMap((pattern) => {
    const found = globSync(pattern).map((file) => relative('.', file));
    if (found.length === 0) throw new Error(`no file is ${pattern}`);
    return found.sort();
  });
}

/** Whether a test file tries more under torture: it, or a module below test/ that it imports, asks. helpers.ts is where they ask. */
function knowsTorture(file: string, seen = new Set<string>()): boolean {
  if (seen.has(file) || file === 'test/support/helpers.ts' || !existsSync(file)) return false;
  seen.add(file);
  const text = readFileSync(file, 'utf8');
  if (/\bTORTURE\b/.test(text)) return true;
  const imports = [...text.matchAll(/(?:from|import\() ?'(\.[^']*)'/g)].map(([, path]) => join(file, '..', path!));
  return imports.some((path) => path.startsWith('test/') && knowsTorture(path, seen));
}

/** Those of `LONGEST_FIRST`, then the others. */
function inOrder(files: readonly string[]): string[] {
  return [...LONGEST_FIRST.filter((file) => files.includes(file)), ...files.filter((file) => !LONGEST_FIRST.includes(file))];
}

/** Processes that this run of the tests started, with their command lines. */
function processesOf(runId: string): Map<number, string> {
  const found = new Map<number, string>();
  for (const pid of readdirSync('/proc').map(Number)) {
    try {
      if (!Number.isInteger(pid) || !readFileSync(`/proc/${pid}/environ`, 'latin1').split('\0').includes(`BERTH_TEST_RUN=${runId}`))
        continue;
      found.set(pid, readFileSync(`/proc/${pid}/cmdline`, 'utf8').replaceAll('\0', ' ').trim() || readlinkSync(`/proc/${pid}/exe`));
    } catch {
      // The process has ended, or belongs to another user.
    }
  }
  return found;
}

/** The first names below a directory, which show which test made it. */
const contents = (path: string): string => (statSync(path).isDirectory() ? readdirSync(path, {recursive: true}).slice(0, 5).join(' ') : '');

/** Kills the processes of this run that are there. @returns a line for each */
function killProcesses(runId: string): string[] {
  return [...processesOf(runId)].map(([pid, command]) => {
    try {
      process.kill(pid, 'SIGKILL');
    } catch {
      // It has ended.
    }
    return `process ${pid}: ${command.slice(0, 200)}`;
  });
}

/** Removes what the tests left behind. @returns a line for each thing */
async function sweep(runId: string, dir: string): Promise<string[]> {
  // Who was killed, also by the end of a parent, needs a moment for it.
  for (let tries = 0; tries < ENDING_MS / 50 && processesOf(runId).size > 0; tries++) await setTimeout(50);
  const left = killProcesses(runId);
  for (const point of unmountBelow(dir)) left.push(`mount ${point}`);
  // Other names are caches of Node and Bun.
  for (const name of readdirSync(dir)) if (name.startsWith('berth-')) left.push(`file ${join(dir, name)}: ${contents(join(dir, name))}`);
  rmSync(dir, {recursive: true, force: true});
  return left;
}

/** An empty directory for temporary files of the tests. Mode of /tmp: some tests run as another user. */
function makeOpenDirectory(path: string): string {
  mkdirSync(path, {recursive: true});
  chmodSync(path, 0o1777);
  return path;
}

/** Runs the files in this process's environment. @returns exit status */
async function runFiles(files: readonly string[], options: Options, runId: string, dir: string): Promise<number> {
  const patience = options.torture ? PATIENCE : 1;
  const silence = setInterval(() => {
    const killed = killProcesses(runId).map((line) => `no output for ${(SILENCE_MS * patience) / 60_000} minutes: killed ${line}\n`);
    process.stderr.write(killed.join(''));
  }, SILENCE_MS * patience);
  const again = async (): Promise<void> => {
    // A test that failed may not have come to its end, so this does not count.
    print('files with failures, and those beside them, left behind', await sweep(runId, dir));
    makeOpenDirectory(dir);
  };
  const atOnce = options.node.find((flag) => flag.startsWith('--test-concurrency='));
  try {
    return await runTests(inOrder(files), {
      concurrency: atOnce !== undefined ? Number(atOnce.split('=')[1]) : options.files.length === 0 ? SIDE_BY_SIDE : 2,
      timeoutMs: TEST_TIMEOUT_MS * patience,
      execArgv: options.node.filter((flag) => flag !== atOnce),
      again: options.files.length === 0 ? again : undefined,
      signal: AbortSignal.any([interrupt.signal, AbortSignal.timeout(TIMEOUT_MS * patience)]),
      write: (text) => {
        silence.refresh();
        process.stdout.write(text);
      },
    });
  } finally {
    clearInterval(silence);
  }
}

const print = (title: string, lines: readonly string[]): void => {
  if (lines.length > 0) process.stderr.write(`${title}:\n${lines.map((line) => `  ${line}\n`).join('')}`);
};

async function main(): Promise<number> {
  const options = parse(process.argv.slice(2));
  const dir = makeOpenDirectory(realpathSync(mkdtempSync(join(tmpdir(), 'berth-'))));
  const runId = `${process.pid}.${Date.now()}`;
  for (const name of Object.keys(process.env)) if (PERSONAL.test(name)) delete process.env[name];
  process.env.TMPDIR = dir;
  if (options.short) process.env.BERTH_TEST_SHORT = '1';
  if (options.torture) process.env.BERTH_TEST_TORTURE = '1';

  try {
    const all = find(options.files.length > 0 ? options.files : ['test/**/*.test.ts']);
    const files = options.torture && options.files.length === 0 ? all.filter((file) => knowsTorture(file)) : all;
    // Library tests run from source.
    if (!files.every((file) => /^test\/(lib\/|[^/]*$)/.test(file))) {
      const built = await run('npm', ['run', 'build'], process.env);
      if (built !== 0) return built;
    }
    if (options.files.length === 0) {
      const made = await run(process.execPath, ['scripts/make-test-images.ts'], process.env);
      if (made !== 0) return made;
    }
    if (interrupt.signal.aborted) return 1;
    // For the processes of the tests: this one keeps the environment that it was started with.
    Object.assign(process.env, clockEnvironment(options.clock), {
      BERTH_CONFIG: '/dev/null',
      BERTH_TEST_RUN: runId,
      NODE_COMPILE_CACHE: join(dir, 'node-compile-cache'),
    });
    return await runFiles(files, options, runId, dir);
  } finally {
    const left = await sweep(runId, dir);
    print('the tests left behind', left);
    if (left.length > 0) process.exitCode = 1;
  }
}

process.chdir(join(import.meta.dirname, '..'));
// This process cleans up before it ends.
const interrupt = new AbortController();
for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const) process.on(signal, () => interrupt.abort(new Error(signal)));
const status = await main();
process.exitCode ||= status;
