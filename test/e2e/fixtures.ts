/**
 * Fixtures of the end-to-end tests: real images in a real registry, a proxy that limits bandwidth, and disk usage as du and find see it.
 */
import assert from 'node:assert/strict';
import {type ChildProcess, execFileSync, spawn} from 'node:child_process';
import {once} from 'node:events';
import {existsSync, readdirSync, readFileSync, statSync} from 'node:fs';
import {type AddressInfo, connect, createServer, type Socket} from 'node:net';
import {constants} from 'node:os';
import {join} from 'node:path';
import {Transform} from 'node:stream';
import {after} from 'node:test';
import {setTimeout as delay} from 'node:timers/promises';
import {type Descriptor, digestParts} from '../../src/lib/oci/descriptor.ts';
import {type CommandLine, environment, type Result, root} from '../cli/harness.ts';
import {type Image, type ImageName, requiresImage} from '../support/cached-images.ts';
import {onEnd, type Scope, type Skippable} from '../support/helpers.ts';
import {pushImage, type Registry, sharedRegistry} from '../support/registry.ts';

/** A scope that ends with the file, for objects that its tests share. Create it at the top of the file. */
export function fileScope(): Scope {
  const hooks: (() => void | Promise<void>)[] = [];
  after(async () => {
    for (const hook of hooks) await hook();
  });
  return {after: (hook) => void hooks.push(hook)};
}

export interface Published {
  readonly registry: Registry;
  readonly image: Image;
  /** Such as `library/redis:latest`. */
  readonly name: string;
  /** With the registry's host. */
  readonly ref: string;
}

/**
 * A registry for a test file, in which images appear as they are asked for: `const published = publishedImages();` at the
 * top, `const redis = await published(t, 'redis'); if (redis === undefined) return;` in tests.
 */
export function publishedImages(): (t: Skippable, name: ImageName) => Promise<Published | undefined> {
  const registry = sharedRegistry();
  const pushed = new Map<ImageName, Promise<unknown>>();
  return async (t, imageName) => {
    const image = requiresImage(t, imageName);
    const running = image === undefined ? undefined : await registry(t);
    if (image === undefined || running === undefined) return undefined;
    const name = `library/${imageName}:latest`;
    if (!pushed.has(imageName)) pushed.set(imageName, pushImage(running, name, image.layout));
    await pushed.get(imageName);
    return {registry: running, image, name, ref: `${running.host}/${name}`};
  };
}

/** A document of an image, read from its layout. */
export const document = <T>({layout}: Image, {digest}: Pick<Descriptor, 'digest'>): T =>
  JSON.parse(readFileSync(join(layout, 'blobs', ...digestParts(digest)), 'utf8')) as T;

export interface Manifest {
  readonly config: Descriptor;
  readonly layers: readonly Descriptor[];
}

/** Manifest, config and layers of an image that is no index. */
export function blobsOf(image: Image): readonly Descriptor[] {
  const {config, layers} = document<Manifest>(image, image.target);
  return [image.target, config, ...layers];
}

export const sum = (descs: readonly Pick<Descriptor, 'size'>[]): number => descs.reduce((total, {size}) => total + size, 0);

export interface SlowWire {
  /** Such as `127.0.0.1:41817`, in front of the registry. */
  readonly host: string;
  /** Bytes sent to clients. */
  bytes(): number;
  /** Sets the bandwidth of each connection, in bytes per second. */
  rate: number;
}

/** A proxy of the registry that limits the bandwidth of each connection; it ends with the scope. */
export async function slowWire(scope: Scope, registry: Registry, bytesPerSecond: number): Promise<SlowWire> {
  const [host = '', port = ''] = registry.host.split(':');
  const sockets = new Set<Socket>();
  let passed = 0;
  const wire = {host: '', bytes: () => passed, rate: bytesPerSecond};
  const server = createServer((client) => {
    const upstream = connect(Number(port), host);
    const brake = new Transform({
      highWaterMark: 16 << 10,
      transform: (chunk: Buffer, _encoding, done) => {
        passed += chunk.length;
        setTimeout(() => done(null, chunk), (chunk.length * 1000) / wire.rate);
      },
    });
    for (const socket of [client, upstream]) {
      sockets.add(socket);
      socket.on('error', () => client.destroy());
      socket.on('close', () => sockets.delete(socket));
    }
    client.on('close', () => upstream.destroy());
    client.pipe(upstream);
    upstream.pipe(brake).pipe(client);
  });
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  onEnd(scope, async () => {
    const closed = once(server, 'close');
    server.close();
    for (const socket of sockets) socket.destroy();
    await closed;
  });
  const {address, port: own} = server.address() as AddressInfo;
  wire.host = `${address}:${own}`;
  return wire;
}

/** Bytes that a directory takes of the disk, as du counts: by blocks, each inode once. */
export const diskUsage = (dir: string): number => Number(execFileSync('du', ['-s', '-B1', dir], {encoding: 'utf8'}).split('\t')[0]);

/** Bytes of a file; 0 when there is none. */
export const sizeOf = (path: string): number => statSync(path, {throwIfNoEntry: false})?.size ?? 0;

/** Every name in a directory with what a write would change: inode, size, times of content and of inode. */
export const fingerprint = (dir: string): string =>
  existsSync(dir) ? execFileSync('find', [dir, '-printf', '%P %i %s %T@ %C@\\n'], {encoding: 'latin1', maxBuffer: 1 << 28}) : '';

/** Names in a directory; none when there is no such directory. */
export const names = (dir: string): readonly string[] => (existsSync(dir) ? readdirSync(dir).sort() : []);

/** Waits until `probe` returns a value. */
export async function eventually<T>(
  what: string,
  probe: () => T | undefined | false | Promise<T | undefined | false>,
  timeoutMs = 20_000,
): Promise<T> {
  for (let waited = 0; ; waited += 5) {
    const value = await probe();
    if (value !== undefined && value !== false) return value;
    if (waited >= timeoutMs) assert.fail(`${what} did not come about in ${timeoutMs} ms`);
    await delay(5);
  }
}

/** Words of the rows of a table, the header first; columns are two or more spaces, or one, apart and hold no spaces but in sizes. */
export const tableRows = (text: string): string[][] =>
  text
    .trimEnd()
    .split('\n')
    .map((line) => line.replace(/(\d) ([KMGT]?i?B)\b/g, '$1_$2').split(/ +/))
    .map((words) => words.map((word) => word.replace('_', ' ')));

/** Asserts that the state directory has no leftovers of ended containers. */
export function assertNoRuns(stateDir: string): void {
  const runs = join(stateDir, 'runs');
  for (const namespace of names(runs))
    for (const kind of ['bundles', 'runtime']) assert.deepEqual(names(join(runs, namespace, kind)), [], `${kind} of ${namespace}`);
}

export interface Started {
  readonly child: ChildProcess;
  readonly ended: Promise<Result>;
}

/** Starts a command that a test means to interrupt; the process is the command itself. Of several names it is `ctr`, unless `ctr` says another. */
export function start(
  ctr: Pick<CommandLine, 'env'> & Partial<CommandLine>,
  args: readonly string[],
  env: Readonly<Record<string, string>> = {},
): Started {
  const child = spawn(join(root, 'bin', ctr.program ?? 'ctr'), args, {
    cwd: root,
    env: {...environment(), ...ctr.env, ...env},
    stdio: ['ignore', 'pipe', 'pipe'],
  });
  const output = {stdout: '', stderr: ''};
  for (const name of ['stdout', 'stderr'] as const)
    child[name].setEncoding('utf8').on('data', (text: string) => {
      output[name] += text;
    });
  const ended = new Promise<Result>((resolve, reject) => {
    child.on('error', reject);
    child.on('close', (code, signal) => resolve({status: code ?? 128 + constants.signals[signal!], ...output}));
  });
  return {child, ended};
}

/** Every image of a namespace is complete and unpacked, and there is one. */
export async function assertWhole(ctr: CommandLine, namespace = 'default', snapshotter?: string): Promise<void> {
  const flags = snapshotter === undefined ? [] : ['--snapshotter', snapshotter];
  const checks = JSON.parse(await ctr.ok(['-n', namespace, 'images', 'check', '--json', ...flags])) as {
    status: string;
    unpacked: boolean;
  }[];
  assert.ok(checks.length > 0, `no image in ${namespace}`);
  for (const check of checks) assert.deepEqual([check.status, check.unpacked], ['complete', true], JSON.stringify(check));
}
