/** Those that we are compared with, each on state of its own, with the settings that it comes with. */
import {execFileSync, spawn} from 'node:child_process';
import {once} from 'node:events';
import {mkdirSync, readFileSync, writeFileSync} from 'node:fs';
import {cpus, totalmem} from 'node:os';
import {join} from 'node:path';
import {setTimeout as sleep} from 'node:timers/promises';
import {type Descriptor, type Digest, digestParts} from '../src/lib/oci/descriptor.ts';
import {findProgram} from '../test/support/helpers.ts';
import {getTarget} from '../test/support/layouts.ts';
import {type Contender, prepareBy} from './measure.ts';
import {type Disk, EXECUTABLE, LAUNCHER, type Site} from './workplace.ts';

const READY_TIMEOUT_MS = 10_000;

export interface Containerd {
  /** ctr and the flags that reach it. */
  readonly ctr: readonly string[];
  readonly pid: number;
  stop(): Promise<void>;
}

/** containerd without its part for Kubernetes, which plain `ctr` does not use. */
export async function startContainerd(dir: string): Promise<Containerd> {
  mkdirSync(dir, {recursive: true});
  const [config, socket] = [join(dir, 'config.toml'), join(dir, 'sock')];
  writeFileSync(
    config,
    [
      'version = 2',
      `root = "${dir}/root"`,
      `state = "${dir}/state"`,
      'disabled_plugins = ["io.containerd.grpc.v1.cri"]',
      `[grpc]\n  address = "${socket}"`,
      `[ttrpc]\n  address = "${socket}.ttrpc"\n`,
    ].join('\n'),
  );
  const daemon = spawn('setpriv', ['--pdeathsig', 'TERM', 'containerd', '--config', config, '--log-level', 'error'], {
    stdio: 'ignore',
    env: {...process.env, TMPDIR: dir},
  });
  const exit = once(daemon, 'exit');
  const stop = async (): Promise<void> => {
    daemon.kill('SIGTERM');
    await exit;
  };
  const ctr = ['/usr/bin/ctr', '--address', socket];
  for (const deadline = Date.now() + READY_TIMEOUT_MS; ; await sleep(20)) {
    try {
      execFileSync(ctr[0]!, [...ctr.slice(1), 'version'], {stdio: 'ignore'});
      return {ctr, pid: daemon.pid!, stop};
    } catch (err) {
      if (Date.now() < deadline) continue;
      await stop();
      throw new Error('containerd did not become ready', {cause: err});
    }
  }
}

export const podman = (dir: string): string[] => [
  'podman',
  '--root',
  join(dir, 'root'),
  '--runroot',
  join(dir, 'run'),
  '--storage-driver',
  'overlay',
];

// ---- pull to ready, from an empty store ------------------------------------------------------------------------------

/** What berth reads of its environment. The state that ends with the boot is kept between runs, as on a machine that is up. */
export const ours = (site: Site, dir: string): Record<string, string> => ({
  BERTH_ROOT: join(dir, 'root'),
  BERTH_STATE: join(site.dir, 'state'),
});

export const berthPull = (site: Site, disk: Disk, ref: string, snapshotter?: string): Contender => ({
  name: snapshotter === undefined ? 'berth: ctr pull' : `berth: ctr pull, ${snapshotter}`,
  prepare: async () => ({
    command: [LAUNCHER, 'pull', ...(snapshotter === undefined ? [] : ['--snapshotter', snapshotter]), ref],
    env: ours(site, await disk.fresh()),
  }),
});

export const containerdPull = (containerd: readonly string[], ref: string, ...flags: readonly string[]): string[] => [
  ...containerd,
  ...flags,
  'images',
  'pull',
  '--plain-http',
  '--snapshotter',
  'overlayfs',
  ref,
];

/** Namespaces of one containerd share its content, so nothing less than a new one starts with nothing. */
export function containerdPullAfresh(disk: Disk, ref: string): Contender {
  let running: Containerd | undefined;
  return {
    name: 'containerd: ctr images pull',
    prepare: async () => {
      running = await startContainerd(await disk.fresh());
      return {command: containerdPull(running.ctr, ref)};
    },
    cleanUp: () => running?.stop(),
    daemon: () => running?.pid,
  };
}

export const podmanPull = (disk: Disk, ref: string): Contender => ({
  name: 'podman pull',
  prepare: async () => {
    const dir = await disk.fresh();
    return {command: [...podman(dir), 'pull', '--tls-verify=false', ref], env: temporary(dir)};
  },
});

/** Where programs put files that they do not keep: not on a disk that is slower for what was deleted on it. */
function temporary(dir: string): Record<string, string> {
  const tmp = join(dir, 'tmp');
  mkdirSync(tmp);
  return {TMPDIR: tmp};
}

const COPY_AND_UNPACK = `
"$@" "oci:layout:latest"
umoci unpack --image layout:latest bundle`;

export const skopeoAndUmoci = (disk: Disk, ref: string): Contender => ({
  name: 'skopeo copy, umoci unpack',
  prepare: async () => {
    const dir = await disk.fresh();
    const copy = ['skopeo', 'copy', '--insecure-policy', '--src-tls-verify=false', `docker://${ref}`];
    return {command: ['sh', '-ec', COPY_AND_UNPACK, 'sh', ...copy], cwd: dir, env: temporary(dir)};
  },
});

interface Layer {
  readonly mediaType: string;
  readonly blob: Digest;
  readonly diffID: Digest;
}

/** The layers of a layout's image, the base first. */
function layersOf(layout: string): {readonly config: Digest; readonly layers: readonly Layer[]} {
  const read = (digest: Digest): string => readFileSync(join(layout, 'blobs', ...digestParts(digest)), 'utf8');
  const manifest = JSON.parse(read(getTarget(layout).digest)) as {config: Descriptor; layers: Descriptor[]};
  const {rootfs} = JSON.parse(read(manifest.config.digest)) as {rootfs: {diff_ids: Digest[]}};
  return {
    config: manifest.config.digest,
    layers: manifest.layers.map(({mediaType, digest}, i) => ({mediaType, blob: digest, diffID: rootfs.diff_ids[i]!})),
  };
}

/** Manifest and configuration, then what follows for each layer: its blob in $0, its diff ID in $1. */
const fetchBy = (parallel: number, script: string): string => `
set -euo pipefail
base=$1 config=$2; shift 2
accept='Accept: application/vnd.oci.image.manifest.v1+json, application/vnd.docker.distribution.manifest.v2+json'
curl -fsS -H "$accept" -o manifest.json "$base/manifests/latest"
curl -fsS -o config.json "$base/blobs/$config"
export base
printf '%s %s\\n' "$@" | xargs -P ${parallel} -L 1 bash -euo pipefail -c '${script}'`;

/** What the same work takes with one program for each step, pipes between them, and nothing else: no checks, records or syncs. */
const INDEX = fetchBy(
  3,
  `
curl -fsS "$base/blobs/$0" | tee "$0" | igzip -dc | tee "$0.tar" | sha256sum >"$0.sum"
read -r sum _ <"$0.sum"
test "sha256:$sum" = "$1"
mkfs.erofs --quiet --tar=i --aufs "$0.erofs" "$0.tar"`,
);

const EXTRACT = fetchBy(1, 'curl -fsS "$base/blobs/$0" | tar -xzpf - -C rootfs');

function byScript(name: string, script: string, disk: Disk, ref: string, layout: string): Contender {
  const [host, ...path] = ref.split('/');
  const base = `http://${host}/v2/${path.join('/').replace(/:latest$/, '')}`;
  const {config, layers} = layersOf(layout);
  const argv = ['bash', '-c', script, 'bash', base, config, ...layers.flatMap(({blob, diffID}) => [blob, diffID])];
  return {
    name,
    prepare: async () => {
      const dir = await disk.fresh();
      mkdirSync(join(dir, 'rootfs'));
      return {command: argv, cwd: dir};
    },
  };
}

/** A pipe of the fastest programs. */
export const shellTools = (disk: Disk, ref: string, layout: string): Contender =>
  byScript('curl | igzip | sha256sum, mkfs.erofs', INDEX, disk, ref, layout);

/** Extraction without any of the checks, and without whiteouts: for layers that only add. */
export const curlAndTar = (disk: Disk, ref: string, layout: string): Contender => byScript('curl | tar -xz', EXTRACT, disk, ref, layout);

// ---- the machine's own floor -------------------------------------------------------------------------------------------

/**
 * What every pull has to compute, one step each, by the fastest program that there is for it: each layer inflated, the blob and
 * what it inflates to hashed, both written. Single programs over files in the page cache: no network, no pipes, no records.
 */
export function floorOfPull(site: Site, disk: Disk, layout: string): Contender[] {
  const {layers} = layersOf(layout);
  const inflater = layers.some(({mediaType}) => mediaType.endsWith('zstd')) ? 'zstd' : 'igzip';
  const dir = site.directory('floor');
  const blobs = layers.map(({blob}) => join(layout, 'blobs', ...digestParts(blob)));
  const tars = layers.map((_, i) => join(dir, `${i}.tar`));
  const sh = (script: string, ...args: readonly string[]): string[] => ['sh', '-ec', script, 'sh', ...args];
  blobs.forEach((blob, i) => {
    prepareBy({command: sh(`${inflater} -dc <"$1" >"$2"`, blob, tars[i]!)});
  });
  return [
    {name: `inflate: ${inflater}`, prepare: () => ({command: sh(`for blob; do ${inflater} -dc <"$blob" >/dev/null; done`, ...blobs)})},
    {name: 'two hashes: sha256sum', prepare: () => ({command: ['sha256sum', ...blobs, ...tars]})},
    {
      name: 'write: cat',
      prepare: async () => ({command: sh('to=$1; shift; cat "$@" >"$to"', join(await disk.fresh(), 'out'), ...blobs, ...tars)}),
    },
  ];
}

// ---- versions --------------------------------------------------------------------------------------------------------

const PROGRAMS = [
  'containerd',
  'runc',
  'podman',
  'skopeo',
  'umoci',
  'curl',
  'tar',
  'igzip',
  'zstd',
  'sha256sum',
  'unpigz',
  'mkfs.erofs',
] as const;

const outputOf = (program: string, ...args: string[]): string =>
  execFileSync(program, args, {encoding: 'utf8', stdio: ['ignore', 'pipe', 'pipe']});

/** What it says of itself, up to the number. */
function versionOf(program: string): string {
  if (findProgram(program) === undefined) return `${program}: not installed`;
  const said = outputOf(program, '--version').split('\n')[0]!.replace(/^\*+ /, '');
  const version = /^.*?\d+(\.\d+)+[^\s,]*/.exec(said)?.[0] ?? said;
  return version.startsWith(program) ? version : `${program}: ${version}`;
}

/** What is measured, on what; one line each. */
export function environment(): string[] {
  const berth = JSON.parse(outputOf(EXECUTABLE, 'version', '--json')) as {
    version: string;
    revision?: string;
    engine: {name: string; version: string};
  };
  const models = [...new Set(cpus().map(({model}) => model.trim()))].join(', ');
  return [
    `berth ${berth.version}${berth.revision === undefined ? '' : `, revision ${berth.revision.slice(0, 12)}`}, ${berth.engine.name} ${berth.engine.version}`,
    `Node ${process.version}`,
    ...PROGRAMS.map(versionOf),
    `Linux ${outputOf('uname', '-r').trim()}, ${cpus().length} × ${models}, ${Math.round(totalmem() / 2 ** 30)} GiB`,
  ];
}
