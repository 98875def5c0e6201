/**
 * A demonstration of a minute: pulls an image, runs it, and shows it in two namespaces. Prints each command before it runs.
 * `npm run quickstart [-- REF [options of pull…]]`; without REF it starts a registry on loopback and pulls from that.
 *
 * Uses a store in a temporary directory. Leaves no file and no process behind.
 */
import {spawn} from 'node:child_process';
import {once} from 'node:events';
import {mkdtempSync, rmSync} from 'node:fs';
import {constants, tmpdir} from 'node:os';
import {join} from 'node:path';
import {buildImage, cachedImage} from '../test/support/cached-images.ts';
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
    {say: 'Namespaces separate the users of a machine.', command: ['ctr', 'namespaces', 'create', 'demo', 'mylabel=bar']},
    {command: ['ctr', 'namespaces', 'ls']},
    {say: 'Pull, list and run an image; without -n in the namespace "default".', command: ['dist', 'pull', ...pullOptions, ref]},
    {command: ['dist', 'images', 'ls']},
    {command: ['ctr', 'run', '--rm', ref, 'hello', 'sh', '-c', greet]},
    {say: 'The exit status is the container’s own.', command: ['ctr', 'run', '--rm', ref, 'seven', 'sh', '-c', 'exit 7'], status: 7},
    {say: 'The other namespace does not have it …', command: ['dist', '-n', 'demo', 'images', 'ls']},
    {
      say: '… until it is pulled there; all its bytes are already on this machine.',
      command: ['dist', '-n', 'demo', 'pull', ...pullOptions, ref],
    },
    {say: 'Removing it from one namespace leaves the other alone.', command: ['dist', '-n', 'demo', 'images', 'rm', ref]},
    {command: ['dist', 'images', 'ls', '-q']},
    {
      say: 'An empty namespace can be removed; one in use cannot, and the exit status says why.',
      command: ['ctr', 'namespaces', 'rm', 'demo'],
    },
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

/** Runs a command on this terminal. @returns its exit status, or 128+n if signal n ended it */
async function run([program, ...args]: readonly string[], env: NodeJS.ProcessEnv): Promise<number> {
  const child = spawn(join(import.meta.dirname, '../bin', program!), args, {env, stdio: 'inherit'});
  const [code, signal] = (await once(child, 'exit')) as [number | null, NodeJS.Signals | null];
  return code ?? 128 + constants.signals[signal!];
}

/** Pushes busybox, and redis if it is in the cache, to a registry. @returns their references */
async function fill(registry: Registry): Promise<{busybox: string; redis: string | undefined}> {
  await pushImage(registry, 'library/busybox:latest', buildImage('busybox').layout);
  const redis = cachedImage('redis');
  if (redis !== undefined) await pushImage(registry, 'library/redis:latest', redis.layout);
  const at = (name: string): string => `${registry.host}/library/${name}:latest`;
  return {busybox: at('busybox'), redis: redis === undefined ? undefined : at('redis')};
}

async function main([given, ...pullOptions]: readonly string[]): Promise<number> {
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
      `\nAll this used a store in ${dir}, which is removed now. The default store is ${process.getuid?.() === 0 ? '/var/lib/berth' : '~/.local/share/berth'}; try: bin/ctr --help\n`,
    );
    return 0;
  } finally {
    await registry?.stop();
    // Without root, layers belong to the ids of /etc/subuid.
    if (process.getuid?.() !== 0) await run(['berth', 'unshare', 'rm', '-rf', join(dir, 'root')], process.env);
    rmSync(dir, {recursive: true, force: true});
  }
}

// An interrupt ends the running command; this process then ends normally.
for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const) process.on(signal, () => undefined);
process.exitCode = await main(process.argv.slice(2));
