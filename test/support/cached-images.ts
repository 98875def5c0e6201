/**
 * Real images for tests, each an OCI layout in a cache directory (`.cache/images`, or `BERTH_TEST_CACHE`). The first test that needs one
 * builds it; `scripts/make-test-images.ts` builds them ahead of the tests.
 *
 * `pushImage` of `./registry.ts` pushes a layout to a registry. umoci and skopeo read those with OCI types as `oci:<layout>:latest`, and
 * those with docker's types from a registry.
 */
import {execFileSync} from 'node:child_process';
import {
  chmodSync,
  existsSync,
  linkSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  statSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import {join} from 'node:path';
import type {Descriptor, Platform} from '../../src/lib/oci/descriptor.ts';
import {DOCKER_MANIFEST, OCI_CONFIG, OCI_MANIFEST} from '../../src/lib/oci/mediatypes.ts';
import {Workshop} from './debian-images.ts';
import {awkwardLayers, throughLayers} from './gnu-tar-layers.ts';
import {findProgram, isShort, requiresProgram, requiresRoot, type Skippable} from './helpers.ts';
import {ARCHITECTURE, addBlob, addImage, addIndex, addJSON, getTarget, type ImageSource, setTarget} from './layouts.ts';

/** How an image is made. */
interface Recipe {
  /** Raised with each change of the recipe: images of another version are not used. */
  readonly version: number;
  readonly programs: readonly string[];
  /** Made by programs that need root. */
  readonly root?: boolean;
  /** Takes a minute and a mirror, and is left out by `--short`. */
  readonly heavy?: boolean;
  /** Only built when it is asked for by name. */
  readonly onDemand?: boolean;
  /** Fills the layout; `work` is an empty scratch directory. */
  build(layout: string, work: string): void;
}

export interface Image {
  readonly name: ImageName;
  readonly layout: string;
  /** Manifest or index: what a registry resolves its tag to. */
  readonly target: Descriptor;
}

// ---- busybox ---------------------------------------------------------------------------------------------------------

const BUSYBOX_CONFIG = {Env: ['PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin'], Cmd: ['sh'], WorkingDir: '/'};

const BUSYBOX_FILES: Readonly<Record<string, string>> = {
  'etc/passwd': 'root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/home:/bin/false\n',
  'etc/group': 'root:x:0:\nnobody:x:65534:\n',
};

/** One layer: busybox, its applets as hard links, the few files that a shell looks for. The same bytes for the same busybox. */
function busyboxLayer(work: string): Buffer {
  const busybox = findProgram('busybox')!;
  const stage = join(work, 'busybox');
  for (const [dir, mode] of Object.entries({'': 0o755, bin: 0o755, etc: 0o755, root: 0o700, tmp: 0o1777, home: 0o755, usr: 0o755})) {
    mkdirSync(join(stage, dir));
    chmodSync(join(stage, dir), mode);
  }
  const file = join(stage, 'bin/busybox');
  writeFileSync(file, readFileSync(busybox));
  chmodSync(file, 0o755);
  const applets = execFileSync(busybox, ['--list'], {encoding: 'utf8'}).trim().split('\n');
  for (const applet of applets) if (applet !== 'busybox') linkSync(file, join(stage, 'bin', applet));
  symlinkSync('../bin', join(stage, 'usr/bin'));
  for (const [name, text] of Object.entries(BUSYBOX_FILES)) writeFileSync(join(stage, name), text, {mode: 0o644});
  const flags = ['--format=gnu', '--sort=name', '--mtime=2024-01-01 00:00:00Z', '--owner=0', '--group=0', '--numeric-owner'];
  const tar = execFileSync('tar', [...flags, '-C', stage, '-cf', '-', ...readdirSync(stage)], {maxBuffer: 64 << 20});
  rmSync(stage, {recursive: true});
  return tar;
}

const busyboxImage = (options: Pick<ImageSource, 'compression' | 'docker'>): Recipe => ({
  version: 1,
  programs: ['busybox', 'tar'],
  build: (layout, work) => {
    setTarget(layout, addImage(layout, {...options, layers: [busyboxLayer(work)], config: BUSYBOX_CONFIG}));
  },
});

/** What BuildKit puts beside an image in its index. */
function addAttestation(layout: string, image: Descriptor): Descriptor {
  const platform = {os: 'unknown', architecture: 'unknown'};
  const statement = addBlob(layout, 'application/vnd.in-toto+json', Buffer.from('{"_type":"https://in-toto.io/Statement/v0.1"}'));
  const config = addJSON(layout, OCI_CONFIG, {...platform, config: {}, rootfs: {type: 'layers', diff_ids: [statement.digest]}});
  const manifest = addJSON(layout, OCI_MANIFEST, {schemaVersion: 2, mediaType: OCI_MANIFEST, config, layers: [statement]});
  const annotations = {'vnd.docker.reference.type': 'attestation-manifest', 'vnd.docker.reference.digest': image.digest};
  return {...manifest, platform, annotations};
}

const PLATFORMS: readonly Platform[] = [
  {os: 'linux', architecture: 'amd64'},
  {os: 'linux', architecture: 'arm64', variant: 'v8'},
];

/** linux/amd64 and linux/arm64, both with this machine's busybox but with labels that differ; OCI's with attestations. */
const busyboxIndex = ({docker}: {readonly docker: boolean}): Recipe => ({
  version: 1,
  programs: ['busybox', 'tar'],
  build: (layout, work) => {
    const layers = [busyboxLayer(work)];
    const images = PLATFORMS.map((platform) =>
      addImage(layout, {docker, platform, layers, config: {...BUSYBOX_CONFIG, Labels: {architecture: platform.architecture}}}),
    );
    const attestations = docker ? [] : images.map((image) => addAttestation(layout, image));
    setTarget(layout, addIndex(layout, [...images, ...attestations], {docker}));
  },
});

// ---- Debian ----------------------------------------------------------------------------------------------------------

/** A layout of umoci's becomes an image of docker's schema 2: as `docker push` would have left it. */
function convertToDocker(shop: Workshop, layout: string, work: string): void {
  const dir = join(work, 'docker');
  shop.run('skopeo', 'copy', '--insecure-policy', '--quiet', '--format', 'v2s2', `oci:${shop.layout}:latest`, `dir:${dir}`);
  mkdirSync(join(layout, 'blobs/sha256'), {recursive: true});
  for (const hex of readdirSync(dir)) if (/^[0-9a-f]{64}$/.test(hex)) renameSync(join(dir, hex), join(layout, 'blobs/sha256', hex));
  setTarget(layout, addBlob(layout, DOCKER_MANIFEST, readFileSync(join(dir, 'manifest.json'))));
}

/** Gives /data to redis and steps down from root, unless told to run something else. */
const REDIS_ENTRYPOINT = `#!/bin/sh
set -e
case "$1" in -* | *.conf) set -- redis-server "$@" ;; esac
if [ "$1" = redis-server ] && [ "$(id -u)" = 0 ]; then
  chown -R redis:redis .
  exec setpriv --reuid redis --regid redis --clear-groups "$0" "$@"
fi
exec "$@"
`;

/**
 * Debian's redis as the official image lays it out. Base, user, packages; a layer that deletes, one with an empty directory, one
 * that hides what was in its directory, and one of a single file whose parent directories only lower layers have.
 */
const redis: Recipe = {
  version: 1,
  programs: ['debootstrap', 'apt-get', 'umoci', 'skopeo', 'unshare'],
  root: true,
  heavy: true,
  build: (layout, work) => {
    const shop = new Workshop(work);
    shop.debootstrap();
    shop.commit('debootstrap');
    shop.sh('groupadd -r -g 999 redis; useradd -r -g redis -u 999 -d /data redis');
    shop.commit('groupadd, useradd');
    shop.install('redis-server');
    shop.commit('apt-get install redis-server');
    shop.sh('rm -r /etc/init.d/redis-server /etc/logrotate.d/redis-server /usr/share/bash-completion; rm /etc/passwd- /etc/group-');
    shop.commit('rm');
    shop.sh('mkdir /data; chown redis:redis /data; chmod 750 /data');
    shop.commit('mkdir /data');

    const stage = join(work, 'stage');
    mkdirSync(join(stage, 'etc/redis'), {recursive: true});
    writeFileSync(join(stage, 'etc/redis/.wh..wh..opq'), '');
    writeFileSync(join(stage, 'etc/redis/redis.conf'), 'bind 127.0.0.1\nprotected-mode yes\ndir /data\n', {mode: 0o644});
    shop.add('COPY redis.conf', stage, 'etc', 'etc/redis', 'etc/redis/.wh..wh..opq', 'etc/redis/redis.conf');
    mkdirSync(join(stage, 'usr/local/bin'), {recursive: true});
    writeFileSync(join(stage, 'usr/local/bin/docker-entrypoint.sh'), REDIS_ENTRYPOINT, {mode: 0o755});
    shop.add('COPY docker-entrypoint.sh', stage, 'usr/local/bin/docker-entrypoint.sh');

    shop.configure('config.entrypoint=docker-entrypoint.sh', 'config.cmd=redis-server', 'config.workingdir=/data', 'config.volume=/data');
    shop.configure('config.exposedports=6379/tcp', 'config.env=PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin');
    convertToDocker(shop, layout, work);
  },
};

/** A compiler image of five layers and tens of thousands of files, for benchmarks. */
const toolchain: Recipe = {
  version: 1,
  programs: redis.programs,
  root: true,
  heavy: true,
  onDemand: true,
  build: (layout, work) => {
    const shop = new Workshop(work);
    shop.debootstrap();
    shop.commit('debootstrap');
    for (const packages of [
      ['ca-certificates', 'curl', 'git', 'perl'],
      ['build-essential', 'cmake', 'pkg-config'],
      ['python3-dev', 'python3-pip', 'python3-venv'],
      ['golang-go'],
    ]) {
      shop.install(...packages);
      shop.commit(`apt-get install ${packages.join(' ')}`);
    }
    shop.configure('config.cmd=bash', 'config.env=PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin');
    convertToDocker(shop, layout, work);
  },
};

/** Layers as others seldom make them, by GNU tar; uncompressed sizes and names in `./gnu-tar-layers.ts`. */
const awkwardImage = (layers: (work: string) => Buffer[]): Recipe => ({
  version: 3,
  programs: ['tar', 'setfattr', 'setcap'],
  root: true,
  build: (layout, work) => {
    setTarget(layout, addImage(layout, {layers: layers(work), config: {Cmd: ['sh']}}));
  },
});

// ---- all of them, and the cache --------------------------------------------------------------------------------------

const RECIPES = {
  busybox: busyboxImage({}),
  'busybox-docker': busyboxImage({docker: true}),
  'busybox-zstd': busyboxImage({compression: 'zstd'}),
  'busybox-plain': busyboxImage({compression: 'none'}),
  'busybox-multi': busyboxIndex({docker: false}),
  'busybox-multi-docker': busyboxIndex({docker: true}),
  awkward: awkwardImage(awkwardLayers),
  'awkward-through': awkwardImage(throughLayers),
  redis,
  toolchain,
} as const satisfies Record<string, Recipe>;

export type ImageName = keyof typeof RECIPES;

export const IMAGE_NAMES = Object.keys(RECIPES) as readonly ImageName[];

/** What the tests need and may build here: nothing large under `--short`, nothing that needs root without it. */
export const imagesForTests = (): readonly ImageName[] =>
  IMAGE_NAMES.filter((name) => {
    const {onDemand = false, heavy = false, root = false}: Recipe = RECIPES[name];
    return !onDemand && !(heavy && isShort()) && !(root && process.getuid?.() !== 0);
  });

const cacheDirectory = (): string => process.env.BERTH_TEST_CACHE ?? join(import.meta.dirname, '../..', '.cache', 'images');

const layoutOf = (name: ImageName): string => join(cacheDirectory(), `${name}-${RECIPES[name].version}-${ARCHITECTURE}`);

/** Age at which the directory of a build counts as left by a killed process. */
const ABANDONED_MS = 3_600_000;

/** The image if it is in the cache. */
export function cachedImage(name: ImageName): Image | undefined {
  const layout = layoutOf(name);
  return existsSync(layout) ? {name, layout, target: getTarget(layout)} : undefined;
}

/**
 * Builds an image unless the cache has it. Concurrent builds of the same image do not disturb each other: one result stays.
 *
 * @throws Error a program failed; the message has the end of its output
 */
export function buildImage(name: ImageName): Image {
  const cached = cachedImage(name);
  if (cached !== undefined) return cached;
  const cache = cacheDirectory();
  mkdirSync(cache, {recursive: true});
  for (const entry of readdirSync(cache)) {
    const dir = join(cache, entry);
    if (entry.startsWith('building-') && Date.now() - statSync(dir).mtimeMs > ABANDONED_MS) rmSync(dir, {recursive: true, force: true});
  }
  const building = mkdtempSync(join(cache, 'building-'));
  try {
    const [layout, work] = [join(building, 'layout'), join(building, 'work')];
    mkdirSync(layout);
    mkdirSync(work);
    RECIPES[name].build(layout, work);
    if (!existsSync(layoutOf(name))) renameSync(layout, layoutOf(name));
  } finally {
    rmSync(building, {recursive: true, force: true});
  }
  return cachedImage(name)!;
}

/** The image, built if need be; `undefined` when the test has been skipped for want of it: `if (image === undefined) return;`. */
export function requiresImage(t: Skippable, name: ImageName): Image | undefined {
  const cached = cachedImage(name);
  if (cached !== undefined) return cached;
  const recipe: Recipe = RECIPES[name];
  if (recipe.heavy === true && isShort()) {
    t.skip(`needs the image ${name}, which --short does not build`);
    return undefined;
  }
  if (recipe.root === true && !requiresRoot(t)) return undefined;
  return requiresProgram(t, ...recipe.programs) ? buildImage(name) : undefined;
}
