/** Runs whole commands, in the test's process or in a child, and stops them or makes them fail at a chosen call. */
import assert from 'node:assert/strict';
import {type ChildProcess, execFileSync, spawn} from 'node:child_process';
import {once} from 'node:events';
import {existsSync, readdirSync, readFileSync, rmSync, writeFileSync} from 'node:fs';
import {join, relative} from 'node:path';
import {Readable} from 'node:stream';
import {gzipSync} from 'node:zlib';
import {runCommandLine} from '../../src/cli/run-command-line.ts';
import {COMMANDS} from '../../src/commands/index.ts';
import {openClient} from '../../src/lib/client/index.ts';
import {OCI_CONFIG, OCI_LAYER, OCI_MANIFEST} from '../../src/lib/oci/mediatypes.ts';
import {environment, type Result, root} from '../cli/harness.ts';
import {type Failpoint, failpointOptions} from '../fakes/failpoints.ts';
import {digestOf, type FakeRegistry} from '../fakes/registry.ts';
import {onEnd, type Scope} from '../support/helpers.ts';
import {ARCHITECTURE} from '../support/layouts.ts';
import {BASE_LAYER, dir, file, tar, whiteout} from '../support/tartest.ts';
import {names} from './fixtures.ts';

// Settings of the user do not apply to tests.
for (const name of ['BERTH_ROOT', 'BERTH_STATE', 'CONTAINERD_NAMESPACE', 'CONTAINERD_SNAPSHOTTER']) delete process.env[name];

/** A directory with root and state directory: everything that a command changes lies below it. */
export type Place = string;

export const rootOf = (place: Place): string => join(place, 'root');
export const stateOf = (place: Place): string => join(place, 'state');

/** A copy of that directory. */
export function copyPlace(from: Place, to: Place): Place {
  rmSync(to, {recursive: true, force: true});
  execFileSync('cp', ['-a', from, to]);
  return to;
}

/** Its words, at a place; `{place}` in a word stands for it. */
export const commandOf = (place: Place, args: readonly string[]): readonly string[] => [
  '--root',
  rootOf(place),
  '--state',
  stateOf(place),
  '--progress',
  'none',
  ...args.map((word) => word.replace('{place}', place)),
];

/** Runs a command in this process. With in-thread-workers.ts all of it happens in this thread. */
export async function command(place: Place, args: readonly string[], input?: string | Buffer): Promise<Result> {
  const output = {stdout: '', stderr: ''};
  const standard = Object.getOwnPropertyDescriptor(process, 'stdin')!;
  if (input !== undefined) Object.defineProperty(process, 'stdin', {value: Readable.from([Buffer.from(input)]), configurable: true});
  try {
    const {status} = await runCommandLine(commandOf(place, args), COMMANDS, {
      program: 'ctr',
      stdout: (data) => {
        output.stdout += Buffer.from(data as string).toString();
      },
      stderr: (text) => {
        output.stderr += text;
      },
      open: async (options) => openClient(options),
    });
    return {status, ...output};
  } finally {
    Object.defineProperty(process, 'stdin', standard);
  }
}

/** The same, which must succeed. @returns what it printed on standard output */
export async function ok(place: Place, args: readonly string[], input?: string): Promise<string> {
  const {status, stdout, stderr} = await command(place, args, input);
  assert.equal(status, 0, `${args.join(' ')}: ${stderr}`);
  return stdout;
}

export interface Child {
  readonly process: ChildProcess;
  readonly ended: Promise<Result & {readonly signal: NodeJS.Signals | null}>;
}

/** Time limit of a child, in milliseconds. */
const CHILD_MS = 120_000;

/** Runs a command in a process of its own, on Node, in which all threads count calls. */
export function child(scope: Scope, place: Place, args: readonly string[], failpoint: Failpoint, input: string | Buffer = ''): Child {
  const {execArgv, env} = failpointOptions(failpoint);
  const argv = [...execArgv, join(root, 'src/main.ts'), ...commandOf(place, args)];
  const running = spawn(process.execPath, argv, {env: {...environment(), ...env}, timeout: CHILD_MS, killSignal: 'SIGABRT'});
  const output = {stdout: '', stderr: ''};
  for (const name of ['stdout', 'stderr'] as const)
    running[name].setEncoding('utf8').on('data', (text: string) => {
      output[name] += text;
    });
  running.stdin.on('error', () => {}); // it ended without reading it
  running.stdin.end(input);
  const ended = once(running, 'close').then(([status, signal]) => ({
    status: (status as number | null) ?? -1,
    signal: signal as NodeJS.Signals | null,
    ...output,
  }));
  onEnd(scope, async () => {
    running.kill('SIGKILL');
    await ended;
  });
  return {process: running, ended};
}

/** Lines for everything below a place except records: blobs, layers, user data, and leftovers. */
export function inventory(place: Place): readonly string[] {
  const found = ['content/blobs/sha256', 'content/ingest', 'layers', 'work', 'trash'].flatMap((directory) =>
    names(join(rootOf(place), directory)).map((name) => `${directory}/${name}`),
  );
  for (const layer of names(join(rootOf(place), 'layers'))) {
    const tree = join(rootOf(place), 'layers', layer, 'fs');
    if (!/-own-/.test(layer) || !existsSync(tree)) continue;
    for (const entry of readdirSync(tree, {recursive: true, withFileTypes: true}))
      if (entry.isFile()) found.push(`${layer}: ${entry.name}: ${readFileSync(join(entry.parentPath, entry.name), 'utf8')}`);
  }
  if (!existsSync(stateOf(place))) return found;
  for (const entry of readdirSync(stateOf(place), {recursive: true, withFileTypes: true})) {
    const isOne = entry.isDirectory() && /\/(?:bundles|runtime|views)$/.test(entry.parentPath);
    if (isOne || (!entry.isDirectory() && !['erofs.json', 'cgroup'].includes(entry.name)))
      found.push(relative(place, join(entry.parentPath, entry.name)));
  }
  return found;
}

/** Writes a file into an active snapshot, as a user who has mounted it. */
export function writeInto(place: Place, namespace: string, snapshotter: string, key: string, text: string): void {
  const record = join(rootOf(place), 'namespaces', namespace, 'snapshots', snapshotter, `${key}.json`);
  const {layer} = JSON.parse(readFileSync(record, 'utf8')) as {layer: string};
  writeFileSync(join(rootOf(place), 'layers', layer, 'fs', 'mine'), text);
}

// ---- images ----------------------------------------------------------------------------------------------------------

/** A layer with an implicit parent, so it waits for the layer below. */
const MIDDLE = tar(file('etc/c', 'on top of another'));
const top = (text: string): Buffer => tar(dir('etc', 0o750), whiteout('etc/a'), file('top', text));

export type ImageName = 'app' | 'old' | 'new' | 'bystander' | 'runnable';

/** Machine code that ends with status 7, for `execve` of each architecture. */
const CODE: Readonly<Record<string, {readonly machine: number; readonly code: string}>> = {
  // mov edi, 7; mov eax, 60; syscall
  x64: {machine: 62, code: 'bf07000000b83c0000000f05'},
  // mov x0, #7; mov x8, #93; svc #0
  arm64: {machine: 183, code: 'e00080d2a80b80d2010000d4'},
};

/** The smallest program there is: one ELF header, one segment, see elf(5). It needs no file besides. */
function program(): Buffer {
  const {machine, code} = CODE[process.arch]!;
  const text = Buffer.from(code, 'hex');
  const [base, headers] = [0x400000n, 120];
  const b = Buffer.alloc(headers + text.length);
  b.write('7f454c46020101', 0, 'hex');
  b.writeUInt16LE(2, 16); // ET_EXEC
  b.writeUInt16LE(machine, 18);
  b.writeUInt32LE(1, 20);
  b.writeBigUInt64LE(base + BigInt(headers), 24); // entry
  b.writeBigUInt64LE(64n, 32); // program headers
  b.writeUInt16LE(64, 52);
  b.writeUInt16LE(56, 54);
  b.writeUInt16LE(1, 56);
  b.writeUInt32LE(1, 64); // PT_LOAD
  b.writeUInt32LE(5, 68); // to be read and executed
  b.writeBigUInt64LE(base, 80);
  b.writeBigUInt64LE(base, 88);
  b.writeBigUInt64LE(BigInt(b.length), 96);
  b.writeBigUInt64LE(BigInt(b.length), 104);
  b.writeBigUInt64LE(0x1000n, 112);
  text.copy(b, headers);
  return b;
}

const IMAGES: Readonly<Record<ImageName, () => readonly Buffer[]>> = {
  app: () => [BASE_LAYER, MIDDLE, top('of app')],
  old: () => [BASE_LAYER, top('of old')],
  new: () => [BASE_LAYER, top('of new')],
  bystander: () => [BASE_LAYER, tar(file('bystander', 'stands by'))],
  runnable: () => [tar(dir('bin'), file('bin/seven', program(), 0o755), dir('proc'), dir('dev'), dir('sys')), tar(file('runs', 'here'))],
};

/** Puts an image into a registry. The base of each is compressed, the rest not. @returns its reference */
export function publish(registry: FakeRegistry, name: ImageName, repository: string = name, tag = 'latest'): string {
  const layers = IMAGES[name]();
  const config = {
    architecture: ARCHITECTURE,
    os: 'linux',
    config: {Cmd: ['/bin/seven']},
    rootfs: {type: 'layers', diff_ids: layers.map((layer) => digestOf(layer))},
  };
  const document = {
    schemaVersion: 2,
    mediaType: OCI_MANIFEST,
    config: registry.addBlob(Buffer.from(JSON.stringify(config)), OCI_CONFIG),
    layers: layers.map((layer, i) =>
      i === 0 ? registry.addBlob(gzipSync(layer), `${OCI_LAYER}+gzip`) : registry.addBlob(layer, OCI_LAYER),
    ),
  };
  registry.addManifest(repository, document, OCI_MANIFEST, tag);
  return `${registry.host}/${repository}:${tag}`;
}
