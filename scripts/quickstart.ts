/**
 * Shows the main job in a minute: an image is pulled, kept, run, and seen from two namespaces. Each command is printed before it
 * runs. `npm run quickstart [-- REF [options of pull…]]`; without a reference, from a registry on loopback that this starts.
 *
 * Works on a store of its own in a temporary directory. Leaves nothing behind, nothing running.
 */
import {spawn} from 'node:child_process';
import {once} from 'node:events';
import {mkdtempSync, rmSync} from 'node:fs';
import {constants, tmpdir} from 'node:os';
import {join} from 'node:path';
import {buildImage, cachedImage} from '../test/support/images.ts';
import {pushImage, type Registry, startRegistry} from '../test/support/registry.ts';

interface Step {
  /** Printed above the command. */
  readonly say?: string;
  readonly command: readonly string[];
  /** Expected exit status; default 0. */
  readonly status?: number;
}

function steps(ref: string, pullOptions: readonly string[], redis: string | undefined): Step[] {
  const greet = 'echo "hello from process $$ on $(uname -s)"';
  return [
    {say: 'Namespaces keep the users of one machine apart.', command: ['ctr', 'namespaces', 'create', 'demo', 'mylabel=bar']},
    {command: ['ctr', 'namespaces', 'ls']},
    {say: 'Pull, list and run an image; without -n that is in the namespace "default".', command: ['dist', 'pull', ...pullOptions, ref]},
    {command: ['dist', 'images', 'ls']},
    {command: ['ctr', 'run', '--rm', ref, 'hello', 'sh', '-c', greet]},
    {say: 'The exit status is the container’s own.', command: ['ctr', 'run', '--rm', ref, 'seven', 'sh', '-c', 'exit 7'], status: 7},
    {say: 'In the other namespace it is not there …', command: ['dist', '-n', 'demo', 'images', 'ls']},
    {
      say: '… until it is pulled; but all its bytes are on this machine already.',
      command: ['dist', '-n', 'demo', 'pull', ...pullOptions, ref],
    },
    {say: 'Removed in one, it stays in the other.', command: ['dist', '-n', 'demo', 'images', 'rm', ref]},
    {command: ['dist', 'images', 'ls', '-q']},
    {say: 'An empty namespace can go; one in use cannot, and the status says why.', command: ['ctr', 'namespaces', 'rm', 'demo']},
    {command: ['ctr', 'namespaces', 'rm', 'default'], status: 9},
    ...(redis === undefined
      ? []
      : [
          {say: 'A larger image: redis on Debian.', command: ['dist', 'pull', redis]},
          {command: ['ctr', 'run', '--rm', redis, 'r1', 'redis-server', '--version']},
        ]),
  ];
}

const quote = (word: string): string => (/^[\w@%+=:,./-]+$/.test(word) ? word : `'${word.replaceAll("'", `'\\''`)}'`);

/** Runs a command with our terminal. @returns its exit status, 128+n when signal n ended it */
async function run([program, ...args]: readonly string[], env: NodeJS.ProcessEnv): Promise<number> {
  const child = spawn(join(import.meta.dirname, '../bin', program!), args, {env, stdio: 'inherit'});
  const [code, signal] = (await once(child, 'exit')) as [number | null, NodeJS.Signals | null];
  return code ?? 128 + constants.signals[signal!];
}

/** Puts what is small, and what is there anyway, into a registry. @returns references to both */
async function fill(registry: Registry): Promise<{busybox: string; redis: string | undefined}> {
  await pushImage(registry, 'library/busybox:latest', buildImage('busybox').layout);
  const redis = cachedImage('redis');
  if (redis !== undefined) await pushImage(registry, 'library/redis:latest', redis.layout);
  const at = (name: string): string => `${registry.host}/library/${name}:latest`;
  return {busybox: at('busybox'), redis: redis === undefined ? undefined : at('redis')};
}

async function main([given, ...pullOptions]: readonly string[]): Promise<number> {
  if (process.getuid?.() !== 0) {
    process.stderr.write('quickstart: runs containers, for which it must be root\n');
    return 7;
  }
  const dir = mkdtempSync(join(tmpdir(), 'berth-quickstart-'));
  let registry: Registry | undefined;
  try {
    let [ref, redis] = [given, undefined as string | undefined];
    if (ref === undefined) {
      registry = await startRegistry({after: () => undefined});
      ({busybox: ref, redis} = await fill(registry));
      process.stdout.write(`A registry with a small image listens on ${registry.host}.\n`);
    }
    const env: NodeJS.ProcessEnv = {...process.env, BERTH_ROOT: join(dir, 'root'), BERTH_STATE: join(dir, 'state')};
    delete env.CONTAINERD_NAMESPACE;
    for (const {say, command, status = 0} of steps(ref, pullOptions, redis)) {
      process.stdout.write(`${say === undefined ? '' : `\n# ${say}\n`}$ ${command.map(quote).join(' ')}\n`);
      const actual = await run(command, env);
      if (actual !== 0) process.stdout.write(`(exit status ${actual})\n`);
      if (actual !== status) return actual === 0 ? 1 : actual;
    }
    process.stdout.write(
      `\nThat was all on a store in ${dir}, which is removed now. The real one is /var/lib/berth; try: bin/ctr --help\n`,
    );
    return 0;
  } finally {
    await registry?.stop();
    rmSync(dir, {recursive: true, force: true});
  }
}

// An interrupt ends the command that runs, and then us, in order.
for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const) process.on(signal, () => undefined);
process.exitCode = await main(process.argv.slice(2));
