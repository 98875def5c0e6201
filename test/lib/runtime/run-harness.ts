/** Real containers for tests: a busybox tree in a temporary directory, and ways to run in it. */
import assert from 'node:assert/strict';
import {type ChildProcess, type StdioOptions, spawn} from 'node:child_process';
import {
  closeSync,
  copyFileSync,
  existsSync,
  mkdirSync,
  openSync,
  readdirSync,
  readFileSync,
  readlinkSync,
  rmdirSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import {join} from 'node:path';
import type {TestContext} from 'node:test';
import {setTimeout as delay} from 'node:timers/promises';
import {fileURLToPath} from 'node:url';
import type {ExecConfig} from '../../../src/lib/oci/manifest.ts';
import {type ContainerExit, type ForegroundRun, runForeground} from '../../../src/lib/runtime/foreground-run.ts';
import type {Mount} from '../../../src/lib/runtime/mount-plan.ts';
import {resolveSpec, type SpecRequest} from '../../../src/lib/runtime/resolve-spec.ts';
import {findProgram, onEnd, requiresProgram, requiresRoot, temporaryDirectory} from '../../support/helpers.ts';
import {findBun} from '../archive/run-in-bun.ts';
import type {DriverRequest} from './driver.ts';

const APPLETS = 'sh cat echo env false grep head id kill ls mkdir mount pwd readlink sleep stat stty test touch trap true tty wc'.split(
  ' ',
);

/** The programs that any real run needs. */
export const requiresRuntime = (t: TestContext): boolean => requiresRoot(t) && requiresProgram(t, 'runc', 'busybox', 'unshare', 'mount');

export interface RunHarness {
  readonly dir: string;
  readonly stateDir: string;
  /** The lowest layer, to be changed by the test before it runs something. */
  readonly lower: string;
  /** Where the container's writes land. */
  readonly upper: string;
  readonly mounts: readonly Mount[];
  readonly cgroup: string;
  /** Options of a script that begins by waiting until `open` is called. */
  waiting(script?: string): SpecRequest['options'];
  open(): void;
  request(id: string, options: SpecRequest['options'], image?: ExecConfig): SpecRequest;
  /** Runs in this process, standard input from `input`; answers with all that was written. */
  run(
    options: SpecRequest['options'],
    more?: Partial<ForegroundRun> & {readonly input?: string; readonly image?: ExecConfig},
  ): Promise<Output>;
  /** Starts the driver as a process of its own. */
  drive(engine: Engine, options: SpecRequest['options'], more?: Partial<DriverRequest>, stdio?: StdioOptions): Driven;
  /** argv of the driver. */
  argv(engine: Engine, options: SpecRequest['options'], more?: Partial<DriverRequest>): readonly [string, ...string[]];
  /** Nothing is mounted, runs, or lies in the state directory. Waits a moment for what is about to end. */
  assertNothingLeft(): Promise<void>;
}

export interface Output extends ContainerExit {
  readonly stdout: string;
  readonly stderr: string;
}

export interface Driven {
  readonly child: ChildProcess;
  readonly ended: Promise<{readonly status: number | null; readonly signal: string | null}>;
  /** What came on standard output and error so far. */
  output(): string;
  /** Waits until the output has a match. */
  expect(pattern: RegExp): Promise<RegExpExecArray>;
}

export interface Engine {
  readonly name: string;
  readonly argv: readonly [string, ...string[]];
}

const bun = findBun();
export const NODE: Engine = {name: 'Node', argv: [process.execPath]};
/** Both engines that the command runs on. */
export const ENGINES: readonly Engine[] = [NODE, ...(bun === undefined ? [] : [{name: 'Bun', argv: [bun]} as const])];

/** Waits until `probe` answers with something. */
export async function eventually<T>(what: string | (() => string), probe: () => T | undefined | false, timeoutMs = 20_000): Promise<T> {
  for (let waited = 0; ; waited += 10) {
    const value = probe();
    if (value !== undefined && value !== false) return value;
    if (waited >= timeoutMs) assert.fail(`${typeof what === 'string' ? what : what()} did not come about in ${timeoutMs} ms`);
    await delay(10);
  }
}

/** The machine's pid of the first process of container `c`, once there is one. */
export const initPid = (harness: RunHarness): Promise<number> =>
  eventually('start', () => {
    const file = join(harness.stateDir, 'bundles/c/init.pid');
    return existsSync(file) && Number(readFileSync(file, 'utf8'));
  });

/** Processes whose working directory or command line lies in `dir`, by their pids. */
export function processesIn(dir: string): readonly string[] {
  return readdirSync('/proc')
    .filter((name) => /^\d+$/.test(name) && Number(name) !== process.pid)
    .filter((pid) => {
      try {
        return readlinkSync(`/proc/${pid}/cwd`).startsWith(dir) || readFileSync(`/proc/${pid}/cmdline`, 'utf8').includes(dir);
      } catch {
        return false; // it is gone
      }
    });
}

/** How the name of a cgroup ends that is berth's own: others are left alone. */
export const OWN = '~1.1.1';

function cgroups(path: string): readonly string[] {
  return ['', ...readdirSync('/sys/fs/cgroup')].map((name) => join('/sys/fs/cgroup', name, path)).filter((dir) => existsSync(dir));
}

export function newHarness(t: TestContext): RunHarness {
  const dir = temporaryDirectory(t);
  const [lower, upper, work, gate, stateDir] = ['lower', 'upper', 'work', 'gate', 'state'].map((name) => join(dir, name)) as [
    string,
    string,
    string,
    string,
    string,
  ];
  for (const path of ['bin', 'dev', 'etc', 'proc', 'run', 'sys', 'tmp']) mkdirSync(join(lower, path), {recursive: true});
  for (const path of [upper, work, gate, stateDir]) mkdirSync(path);
  copyFileSync(findProgram('busybox')!, join(lower, 'bin/busybox'));
  for (const applet of APPLETS) symlinkSync('busybox', join(lower, 'bin', applet));
  writeFileSync(join(lower, 'etc/passwd'), 'root:x:0:0:root:/root:/bin/sh\nguest:x:405:100:guest:/:/bin/sh\n');
  writeFileSync(join(lower, 'etc/group'), 'root:x:0:root\nwheel:x:10:root,guest\nguest:x:100:\n');
  const cgroup = `/${dir.split('/').at(-1)}`;
  onEnd(t, async () => {
    // Only after a test that failed.
    for (const pid of processesIn(dir)) process.kill(Number(pid), 'SIGKILL');
    await eventually('the end of all processes', () => processesIn(dir).length === 0);
    for (const path of cgroups(cgroup)) rmdirSync(path);
  });
  const mounts: readonly Mount[] = [
    {type: 'overlay', source: 'overlay', options: [`workdir=${work}`, `upperdir=${upper}`, `lowerdir=${lower}`]},
  ];
  const request: RunHarness['request'] = (id, options, image = {Env: ['PATH=/bin']}) => ({
    cgroupsPath: `${cgroup}/${id}${OWN}`,
    image,
    options,
  });
  const argv: RunHarness['argv'] = (engine, options, {id = 'c', ...more} = {}) => [
    ...engine.argv,
    fileURLToPath(new URL('driver.ts', import.meta.url)),
    JSON.stringify({id, stateDir, mounts, ...request(id, options), ...more} satisfies DriverRequest),
  ];

  return {
    dir,
    stateDir,
    lower,
    upper,
    mounts,
    cgroup,
    request,
    argv,
    waiting: (script = ':') => ({
      args: ['sh', '-c', `while ! test -e /gate/open; do sleep 0.05; done; ${script}`],
      mounts: [{type: 'bind', source: gate, destination: '/gate', options: []}],
    }),
    open: () => writeFileSync(join(gate, 'open'), ''),
    run: async (options, {input = '', image, id = 'c', ...more} = {}) => {
      const files = ['in', 'out', 'err'].map((name) => join(dir, `${id}.${name}`));
      writeFileSync(files[0]!, input);
      const stdio = [openSync(files[0]!, 'r'), openSync(files[1]!, 'w'), openSync(files[2]!, 'w')] as const;
      try {
        const makeSpec = await resolveSpec(request(id, options, image));
        const ending = await runForeground({id, stateDir, mounts, stdio, makeSpec, ...more});
        return {...ending, stdout: readFileSync(files[1]!, 'utf8'), stderr: readFileSync(files[2]!, 'utf8')};
      } finally {
        for (const fd of stdio) closeSync(fd);
      }
    },
    drive: (engine, options, more, stdio = ['ignore', 'pipe', 'pipe']) => {
      const [program, ...args] = argv(engine, options, more);
      const child = spawn(program, args, {stdio});
      return watch(child);
    },
    assertNothingLeft: async () => {
      await eventually('the end of all processes', () => processesIn(dir).length === 0);
      const left = ['bundles', 'runtime'].flatMap((name) => (existsSync(join(stateDir, name)) ? readdirSync(join(stateDir, name)) : []));
      assert.deepEqual(left, [], 'files left in the state directory');
      assert.ok(!readFileSync('/proc/self/mountinfo', 'utf8').includes(dir), 'mounts left');
      assert.deepEqual(
        cgroups(cgroup).flatMap((path) => readdirSync(path, {withFileTypes: true}).filter((entry) => entry.isDirectory())),
        [],
        'cgroups left',
      );
    },
  };
}

/** A started process, its output collected. */
export function watch(child: ChildProcess): Driven {
  let output = '';
  for (const stream of [child.stdout, child.stderr]) {
    stream?.setEncoding('utf8');
    stream?.on('data', (chunk: string) => {
      output += chunk;
    });
  }
  const ended = new Promise<{status: number | null; signal: string | null}>((done) => {
    child.once('close', (status, signal) => done({status, signal}));
  });
  return {
    child,
    ended,
    output: () => output,
    expect: (pattern) =>
      eventually(
        () =>
          `output ${pattern} of process ${child.pid} (${child.exitCode ?? child.signalCode ?? 'running'}), so far ${JSON.stringify(output)}`,
        () => pattern.exec(output) ?? undefined,
      ),
  };
}
