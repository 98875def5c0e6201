/**
 * Runs the tests, after `scripts/test.sh` has set the machine up:
 *
 *     npm test [-- [--short] [--clock=±DAYSd] [FILE…] [options of node --test…]]
 *
 * `--clock=+400d` has the tests, and the programs that they start, see a date 400 days ahead (libfaketime): see `clockEnvironment`.
 *
 * Builds what the command-level tests run, makes the images, then has `node --test` run the files (default: all). Ends with a
 * count of what was skipped and why, and fails if a test left a process, a mount or a file behind.
 */
import {spawn} from 'node:child_process';
import {once} from 'node:events';
import {chmodSync, globSync, mkdtempSync, readdirSync, readFileSync, readlinkSync, realpathSync, rmSync, statSync} from 'node:fs';
import {availableParallelism, constants, tmpdir} from 'node:os';
import {join} from 'node:path';
import {TORTURE, unmountBelow} from '../test/support/helpers.ts';

/** What tries every call takes longer. */
const PATIENCE = TORTURE ? 6 : 1;

/** One test may take as long … */
const TEST_TIMEOUT_MS = 5 * 60_000 * PATIENCE;

/** … when nothing was said for so long, something hangs that is no test: a file goes on while something that it started does … */
const SILENCE_MS = 7 * 60_000 * PATIENCE;

/** … and all tests. */
const TIMEOUT_MS = 40 * 60_000 * PATIENCE;

const root = join(import.meta.dirname, '..');

interface Options {
  readonly short: boolean;
  /** Days that the clock is ahead, as libfaketime reads them: "+400d"; `undefined` for the machine's own clock. */
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
 * The environment in which a process sees another date. File times stay the kernel's, because Node and Bun ask for them without
 * libc, and so do the clocks that only count seconds. Programs in Go read the clock without libc as well and see today.
 *
 * @param offset "+400d", or `undefined` for today
 */
function clockEnvironment(offset: string | undefined): NodeJS.ProcessEnv {
  if (offset === undefined) return {};
  const [library] = globSync('/usr/lib/*/faketime/libfaketime.so.1');
  if (!/^[+-]\d+d$/.test(offset) || library === undefined) throw new Error(`--clock=${offset}: give it as +400d, and install libfaketime`);
  return {BERTH_TEST_CLOCK: offset, FAKETIME: offset, FAKETIME_DONT_FAKE_MONOTONIC: '1', NO_FAKE_STAT: '1', LD_PRELOAD: library};
}

/**
 * Runs a command with our streams, for a limited time.
 *
 * @param onSilence ends what hangs below the process that it is given
 * @returns its exit status, 128+n when signal n ended it
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
      // gone in the meantime, or another user's
    }
  }
  return found;
}

/** The first names below a directory, to tell whose it was. */
const contents = (path: string): string => (statSync(path).isDirectory() ? readdirSync(path, {recursive: true}).slice(0, 5).join(' ') : '');

/** Undoes what the tests left behind and says what it was. */
function sweep(marker: string, dir: string): string[] {
  const left: string[] = [];
  for (const [pid, command] of processesWith(marker)) {
    left.push(`process ${pid}: ${command.slice(0, 200)}`);
    process.kill(pid, 'SIGKILL');
  }
  for (const point of unmountBelow(dir)) left.push(`mount ${point}`);
  // Node and Bun keep caches of their own in there.
  for (const name of readdirSync(dir)) if (name.startsWith('berth-')) left.push(`file ${join(dir, name)}: ${contents(join(dir, name))}`);
  rmSync(dir, {recursive: true, force: true});
  return left;
}

async function main(): Promise<number> {
  const {short, clock, files, node} = parse(process.argv.slice(2));
  const dir = realpathSync(mkdtempSync(join(tmpdir(), 'berth-')));
  // As /tmp: some tests go on as another user.
  chmodSync(dir, 0o1777);
  const marker = `BERTH_TEST_RUN=${process.pid}.${Date.now()}`;
  const env: NodeJS.ProcessEnv = {...process.env, TMPDIR: dir, ...(short ? {BERTH_TEST_SHORT: '1'} : {})};
  // What the user has set for the command is not for the tests.
  for (const name of Object.keys(env)) if (/^(BERTH_(?!TEST_)|CONTAINERD_)/.test(name)) delete env[name];

  // Library tests run from source.
  const runsSource = files.length > 0 && files.every((file) => /^(\.\/)?test\/(lib\/|[^/]*$)/.test(file));
  try {
    if (!runsSource) {
      const built = await run('npm', ['run', 'build'], env);
      if (built !== 0) return built;
    }
    if (files.length === 0) {
      const made = await run(process.execPath, ['scripts/make-images.ts'], env);
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
        process.stderr.write(`nothing was said for ${SILENCE_MS / 60_000} minutes: process ${pid} is ended: ${command.slice(0, 200)}\n`);
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

// An interrupt goes to the runner too; what it leaves is still swept.
for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const) process.on(signal, () => undefined);
const status = await main();
process.exitCode ||= status;
