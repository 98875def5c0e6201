/**
 * Runs the tests; `scripts/test.sh` sets the machine up and then runs this:
 *
 *     npm test [-- [--short] [--clock=±DAYSd] [FILE…] [options of node --test…]]
 *
 * `--clock=+400d` shows the tests, and the programs that they start, a date 400 days ahead: see `clockEnvironment`.
 *
 * Builds the program for the command-level tests, makes the images, and runs the files (default: all) with `node --test`.
 * Counts the skipped tests by reason, and fails if a test left a process, a mount or a file behind.
 */
import {spawn} from 'node:child_process';
import {once} from 'node:events';
import {chmodSync, globSync, mkdtempSync, readdirSync, readFileSync, readlinkSync, realpathSync, rmSync, statSync} from 'node:fs';
import {availableParallelism, constants, tmpdir} from 'node:os';
import {join} from 'node:path';
import {TORTURE, unmountBelow} from '../test/support/helpers.ts';

/** Factor for all time limits: torture takes longer. */
const PATIENCE = TORTURE ? 6 : 1;

/** Time limit for one test. */
const TEST_TIMEOUT_MS = 5 * 60_000 * PATIENCE;

/** Time without output after which processes that tests started are killed: a test file does not end before they do. */
const SILENCE_MS = 7 * 60_000 * PATIENCE;

/** Time limit for all tests. */
const TIMEOUT_MS = 40 * 60_000 * PATIENCE;

const root = join(import.meta.dirname, '..');

interface Options {
  readonly short: boolean;
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
    clock: args.find((arg) => arg.startsWith('--clock='))?.slice('--clock='.length),
    files: args.filter((arg) => !isFlag(arg)),
    node: args.filter((arg) => isFlag(arg) && arg !== '--short' && !arg.startsWith('--clock=')),
  };
}

/**
 * The environment in which a process sees another date. File times and monotonic clocks are not changed. Programs in Go see
 * today's date, because they read the clock without libc.
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

/**
 * Runs a command on this process's streams, for a limited time.
 *
 * @param onSilence is called with its pid after a long time without output
 * @returns its exit status, or 128+n if signal n ended it
 */
async function run(command: string, args: readonly string[], env: NodeJS.ProcessEnv, onSilence?: (pid: number) => void): Promise<number> {
  const child = spawn(command, args, {cwd: root, env, stdio: ['ignore', 'pipe', 'inherit'], timeout: TIMEOUT_MS});
  const silence = setInterval(() => onSilence?.(child.pid!), SILENCE_MS);
  child.stdout.on('data', (chunk: Buffer) => {
    silence.refresh();
    process.stdout.write(chunk);
  });
  const [code, signal] = (await once(child, 'close')) as [number | null, NodeJS.Signals | null];
  clearInterval(silence);
  if (child.killed) process.stderr.write(`${[command, ...args].join(' ')} was ended after ${TIMEOUT_MS / 60_000} minutes\n`);
  return code ?? 128 + constants.signals[signal!];
}

/** Processes that have `marker` in their environment, with their command lines. */
function processesWith(marker: string): Map<number, string> {
  const found = new Map<number, string>();
  for (const pid of readdirSync('/proc').map(Number)) {
    try {
      if (!Number.isInteger(pid) || !readFileSync(`/proc/${pid}/environ`, 'latin1').split('\0').includes(marker)) continue;
      found.set(pid, readFileSync(`/proc/${pid}/cmdline`, 'utf8').replaceAll('\0', ' ').trim() || readlinkSync(`/proc/${pid}/exe`));
    } catch {
      // The process has ended, or belongs to another user.
    }
  }
  return found;
}

/** The first names below a directory, which show which test made it. */
const contents = (path: string): string => (statSync(path).isDirectory() ? readdirSync(path, {recursive: true}).slice(0, 5).join(' ') : '');

/** Removes what the tests left behind. @returns a line for each thing */
function sweep(marker: string, dir: string): string[] {
  const left: string[] = [];
  for (const [pid, command] of processesWith(marker)) {
    left.push(`process ${pid}: ${command.slice(0, 200)}`);
    process.kill(pid, 'SIGKILL');
  }
  for (const point of unmountBelow(dir)) left.push(`mount ${point}`);
  // Other names are caches of Node and Bun.
  for (const name of readdirSync(dir)) if (name.startsWith('berth-')) left.push(`file ${join(dir, name)}: ${contents(join(dir, name))}`);
  rmSync(dir, {recursive: true, force: true});
  return left;
}

async function main(): Promise<number> {
  const {short, clock, files, node} = parse(process.argv.slice(2));
  const dir = realpathSync(mkdtempSync(join(tmpdir(), 'berth-')));
  // Mode of /tmp: some tests run as another user.
  chmodSync(dir, 0o1777);
  const marker = `BERTH_TEST_RUN=${process.pid}.${Date.now()}`;
  const env: NodeJS.ProcessEnv = {...process.env, TMPDIR: dir, ...(short ? {BERTH_TEST_SHORT: '1'} : {})};
  // The environment of the person who runs the tests must not change them.
  for (const name of Object.keys(env)) if (/^(BERTH_(?!TEST_)|CONTAINERD_)/.test(name)) delete env[name];

  // Library tests run from source.
  const runsSource = files.length > 0 && files.every((file) => /^(\.\/)?test\/(lib\/|[^/]*$)/.test(file));
  try {
    if (!runsSource) {
      const built = await run('npm', ['run', 'build'], env);
      if (built !== 0) return built;
    }
    if (files.length === 0) {
      const made = await run(process.execPath, ['scripts/make-test-images.ts'], env);
      if (made !== 0) return made;
    }
    const flags = [
      '--test',
      `--test-concurrency=${Math.max(2, availableParallelism())}`,
      `--test-timeout=${TEST_TIMEOUT_MS}`,
      '--test-reporter=./scripts/test-reporter.ts',
      ...node,
    ];
    const patterns = files.length > 0 ? files : ['test/**/*.test.ts'];
    const [name, value] = marker.split('=') as [string, string];
    const endOthers = (runner: number): void => {
      for (const [pid, command] of processesWith(marker)) {
        if (pid === runner) continue;
        process.stderr.write(`no output for ${SILENCE_MS / 60_000} minutes: killing process ${pid}: ${command.slice(0, 200)}\n`);
        process.kill(pid, 'SIGKILL');
      }
    };
    return await run(process.execPath, [...flags, ...patterns], {...env, ...clockEnvironment(clock), [name]: value}, endOthers);
  } finally {
    const left = sweep(marker, dir);
    if (left.length > 0) {
      process.stderr.write(`the tests left behind:\n${left.map((line) => `  ${line}\n`).join('')}`);
      process.exitCode = 1;
    }
  }
}

// An interrupt goes to the runner too; this process then still cleans up.
for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const) process.on(signal, () => undefined);
const status = await main();
process.exitCode ||= status;
