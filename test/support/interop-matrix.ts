/**
 * The matrix of tools, formats and directions: what berth exports, copies or pushes is read by others, and theirs by berth, with equal
 * digests. A cell is a check that throws; `npm run interop` prints all of them, and test/e2e/interop.test.ts runs those whose tools the
 * tests install.
 */
import assert from 'node:assert/strict';
import {execFileSync} from 'node:child_process';
import {createHash} from 'node:crypto';
import {mkdirSync, mkdtempSync, readdirSync, readFileSync} from 'node:fs';
import {join} from 'node:path';
import type {Client} from '../../src/lib/client/types/index.ts';
import type {Descriptor} from '../../src/lib/oci/descriptor.ts';
import {type Containerd, startContainerd} from '../e2e/containerd.ts';
import {type Image, requiresImage} from './cached-images.ts';
import {missingForGoRegistry, startGoRegistry} from './go-registry.ts';
import {findProgram, newClient, type Scope, temporaryDirectory} from './helpers.ts';
import {type Registry, startRegistry} from './registry.ts';

/** `referrers`: artifacts by the referrers API. */
export type Format = 'oci' | 'oci-archive' | 'docker-archive' | 'registry' | 'referrers';

export const FORMATS: readonly Format[] = ['oci', 'oci-archive', 'docker-archive', 'registry', 'referrers'];

/** From the tool's point of view: it reads what berth wrote, or writes what berth reads. */
export type Direction = 'reads' | 'writes';

export interface Cell {
  readonly tool: string;
  readonly format: Format;
  readonly direction: Direction;
  run(world: World): Promise<void>;
}

/** What cells share: an image in a store of berth, its archives, and places of the tools. Ends with the scope. */
export class World {
  readonly scope: Scope;
  readonly image: Image;
  readonly dir: string;
  readonly client: Client;
  /** Where berth has exported the image. */
  readonly ours: Readonly<Record<'oci' | 'oci-archive' | 'docker-archive', string>>;
  #containerd: Promise<Containerd> | undefined;
  #registry: Promise<Registry> | undefined;

  private constructor(scope: Scope, image: Image, dir: string, client: Client) {
    this.scope = scope;
    this.image = image;
    this.dir = dir;
    this.client = client;
    const tar = join(dir, 'ours.tar');
    this.ours = {oci: join(dir, 'ours'), 'oci-archive': tar, 'docker-archive': tar};
  }

  static async open(scope: Scope, image: Image): Promise<World> {
    const world = new World(scope, image, temporaryDirectory(scope, 'berth-interop-'), await newClient(scope));
    const {images} = world.client.namespace('ours');
    await images.import(image.layout, {baseName: 'registry.example/ours', unpack: false});
    await images.export(`${world.ours.oci}/`, [OURS]);
    await images.export(world.ours['oci-archive'], [OURS]);
    return world;
  }

  /** Runs a tool with directories of its own. @returns what it printed */
  run(program: string, ...args: readonly string[]): Buffer {
    const home = join(this.dir, 'home');
    mkdirSync(join(home, 'tmp'), {recursive: true});
    const env = {PATH: process.env.PATH ?? '/usr/bin:/bin', HOME: home, TMPDIR: join(home, 'tmp'), XDG_RUNTIME_DIR: home};
    return execFileSync(program, args, {env, cwd: this.dir, maxBuffer: 64 << 20, stdio: ['ignore', 'pipe', 'pipe']});
  }

  /** A name in the world's directory that nothing has. */
  fresh(prefix: string): string {
    return join(mkdtempSync(join(this.dir, `${prefix}-`)), 'x');
  }

  containerd(): Promise<Containerd> {
    this.#containerd ??= startContainerd(this.scope);
    return this.#containerd;
  }

  registry(): Promise<Registry> {
    this.#registry ??= startRegistry(this.scope);
    return this.#registry;
  }

  /** Host of a registry with the referrers API. */
  goRegistry(): Promise<string> {
    this.#goRegistry ??= startGoRegistry(this.scope);
    return this.#goRegistry;
  }
  #goRegistry: Promise<string> | undefined;

  /** Descriptor of the image that berth makes of an archive. */
  async imported(path: string): Promise<Descriptor> {
    const namespace = this.client.namespace(`n${++this.#imports}`);
    const {images} = await namespace.images.import(path, {unpack: false});
    assert.equal(images.length, 1, 'one image');
    assert.deepEqual(
      (await namespace.images.check()).map(({status}) => status),
      ['complete'],
    );
    return images[0]!.target;
  }
  #imports = 0;

  /** Asserts that an archive holds the image with its own digest. */
  async assertSame(path: string): Promise<void> {
    assert.equal((await this.imported(path)).digest, this.image.target.digest);
  }

  /** Asserts that an archive holds an image with the same layers, however compressed. */
  async assertSameLayers(path: string): Promise<void> {
    const {digest} = await this.imported(path);
    const {images} = this.client.namespace(`n${this.#imports}`);
    const [record] = await images.records();
    assert.equal(record!.target.digest, digest);
    const {children} = await images.inspect(record!.name, {content: true});
    const config = children.find(({content}) => content !== undefined)!.content as {rootfs: {diff_ids: string[]}};
    assert.deepEqual(config.rootfs.diff_ids, this.diffIDs);
  }

  /** Asserts that an archive of docker's holds an image that containerd makes of it as well, and that has our config. */
  async assertSameAsContainerd(path: string): Promise<void> {
    const {digest} = await this.imported(path);
    const {ctr} = await this.containerd();
    const namespace = `n${this.#imports}`;
    ctr('-n', namespace, 'images', 'import', '--no-unpack', '--digests', '--base-name', 'registry.example/theirs', path);
    const names = ctr('-n', namespace, 'images', 'ls', '-q').trim().split('\n');
    assert.ok(names.includes(`registry.example/theirs@${digest}`), `${digest} among ${names}`);
  }

  /** The diff IDs of the image, bottom first. */
  get diffIDs(): readonly string[] {
    const read = (digest: string): Record<string, unknown> =>
      JSON.parse(readFileSync(join(this.image.layout, 'blobs', ...digest.split(':')), 'utf8')) as Record<string, unknown>;
    const manifest = read(this.image.target.digest) as {config: {digest: string}};
    return (read(manifest.config.digest) as {rootfs: {diff_ids: string[]}}).rootfs.diff_ids;
  }
}

/** Name of the image in berth's store. */
const OURS = 'registry.example/ours:latest';

const sha256 = (bytes: Buffer): string => `sha256:${createHash('sha256').update(bytes).digest('hex')}`;

type Check = (world: World) => Promise<void>;

/** A tool's programs, and the formats that it reads and writes. */
interface Tool {
  readonly programs: readonly string[];
  /** Debian's package. */
  readonly package: string;
  /** Works for root only, or without a store of the machine's. */
  readonly reads: Partial<Record<Format, Check>>;
  readonly writes: Partial<Record<Format, Check>>;
}

/** With containers/image: what a transport names has the image's digest; docker's archive its layers. */
const readWith =
  (transport: (world: World) => string): Check =>
  async (world) => {
    assert.equal(sha256(world.run('skopeo', 'inspect', '--raw', '--tls-verify=false', transport(world))), world.image.target.digest);
  };

const copyWith =
  (transport: (path: string) => string, check: (world: World, path: string) => Promise<void>): Check =>
  async (world) => {
    const path = world.fresh('skopeo');
    world.run('skopeo', 'copy', '--insecure-policy', '--quiet', '--all', `oci:${world.image.layout}:latest`, transport(path));
    await check(world, path);
  };

/** Storage of podman and buildah that belongs to the world and mounts nothing. */
const storage = (world: World): readonly string[] => [
  '--root',
  join(world.dir, 'containers'),
  '--runroot',
  join(world.dir, 'containers-run'),
  '--storage-driver',
  'vfs',
];

const podman = (world: World, ...args: readonly string[]): string =>
  world.run('podman', ...storage(world), '--cgroup-manager', 'cgroupfs', ...args).toString();

/** Layers of an image as podman shows it. */
const podmanHas = (world: World, name: string): void =>
  assert.deepEqual(JSON.parse(podman(world, 'image', 'inspect', '--format', '{{json .RootFS.Layers}}', name)), world.diffIDs);

const podmanLoads: Check = async (world) => {
  const loaded = podman(world, 'load', '--quiet', '--input', world.ours['oci-archive']);
  podmanHas(world, loaded.trim().replace(/^Loaded image: /, ''));
};

const podmanSaves =
  (format: string, check: (world: World, path: string) => Promise<void>): Check =>
  async (world) => {
    await podmanLoads(world);
    const path = world.fresh('podman');
    podman(world, 'save', '--quiet', '--format', format, '--output', path, OURS);
    await check(world, path);
  };

/** For tools that compress layers anew: the layers of the archive are the image's. */
const sameLayers = (world: World, path: string): Promise<void> => world.assertSameLayers(path);

/** An image pushed by berth, at a registry. */
async function pushed(world: World): Promise<string> {
  const registry = await world.registry();
  const ref = `${registry.host}/ours:latest`;
  await world.client.namespace('ours').push(ref, {from: OURS, plainHTTP: true});
  return ref;
}

/** Pulls from the world's registry, and compares. */
async function assertPulled(world: World, repository: string): Promise<void> {
  const {host} = await world.registry();
  const {image} = await world.client
    .namespace('pulled')
    .pull(`${host}/${repository}:latest`, {plainHTTP: true, unpack: false, allPlatforms: true});
  assert.equal(image.target.digest, world.image.target.digest);
}

/** An image pushed by berth, at the registry with the referrers API. @returns the reference */
async function pushedToGo(world: World, repository: string): Promise<string> {
  const ref = `${await world.goRegistry()}/${repository}:latest`;
  await world.client.namespace('ours').push(ref, {from: OURS, plainHTTP: true});
  return ref;
}

const ARTIFACT = 'application/vnd.example.note';

/** Digests of the artifacts that a registry lists for the image of the matrix. */
async function listedReferrers(world: World, ref: string): Promise<readonly string[]> {
  const [host, path] = [ref.slice(0, ref.indexOf('/')), ref.slice(ref.indexOf('/') + 1, ref.lastIndexOf(':'))];
  const response = await fetch(`http://${host}/v2/${path}/referrers/${world.image.target.digest}`);
  assert.equal(response.status, 200, 'it has the referrers API');
  const {manifests} = (await response.json()) as {manifests: Descriptor[]};
  return manifests.map(({digest}) => digest).sort();
}

export const TOOLS: Readonly<Record<string, Tool>> = {
  skopeo: {
    programs: ['skopeo'],
    package: 'skopeo',
    reads: {
      oci: readWith(({ours}) => `oci:${ours.oci}:latest`),
      'oci-archive': readWith(({ours}) => `oci-archive:${ours['oci-archive']}:latest`),
      'docker-archive': async (world) => {
        const {Layers} = JSON.parse(world.run('skopeo', 'inspect', `docker-archive:${world.ours['docker-archive']}`).toString()) as {
          Layers: string[];
        };
        assert.deepEqual(Layers, world.diffIDs);
      },
      registry: async (world) => {
        const ref = await pushed(world);
        await readWith(() => `docker://${ref}`)(world);
      },
    },
    writes: {
      oci: copyWith(
        (path) => `oci:${path}:latest`,
        (world, path) => world.assertSame(path),
      ),
      'oci-archive': copyWith(
        (path) => `oci-archive:${path}:latest`,
        (world, path) => world.assertSame(path),
      ),
      'docker-archive': copyWith(
        (path) => `docker-archive:${path}:registry.example/theirs:latest`,
        (world, path) => world.assertSameAsContainerd(path),
      ),
      registry: async (world) => {
        const {host} = await world.registry();
        const copy = ['copy', '--insecure-policy', '--quiet', '--all', '--dest-tls-verify=false'];
        world.run('skopeo', ...copy, `oci:${world.image.layout}:latest`, `docker://${host}/skopeo:latest`);
        await assertPulled(world, 'skopeo');
      },
    },
  },
  ctr: {
    programs: ['ctr', 'containerd'],
    package: 'containerd',
    reads: {
      'oci-archive': async (world) => {
        const {ctr} = await world.containerd();
        ctr('-n', 'reads', 'images', 'import', '--no-unpack', world.ours['oci-archive']);
        const line = ctr('-n', 'reads', 'images', 'ls', `name==${OURS}`);
        assert.ok(line.includes(world.image.target.digest), line);
      },
      registry: async (world) => {
        const ref = await pushed(world);
        const {ctr} = await world.containerd();
        ctr('-n', 'pulls', 'content', 'fetch', '--plain-http', ref);
        assert.ok(ctr('-n', 'pulls', 'images', 'ls', `name==${ref}`).includes(world.image.target.digest));
      },
    },
    writes: {
      'oci-archive': async (world) => {
        const {ctr} = await world.containerd();
        ctr('-n', 'writes', 'images', 'import', '--no-unpack', world.ours['oci-archive']);
        const path = world.fresh('ctr');
        ctr('-n', 'writes', 'images', 'export', path, OURS);
        await world.assertSame(path);
      },
      registry: async (world) => {
        const {host} = await world.registry();
        const {ctr} = await world.containerd();
        ctr('-n', 'pushes', 'images', 'import', '--no-unpack', world.ours['oci-archive']);
        ctr('-n', 'pushes', 'images', 'push', '--plain-http', `${host}/ctr:latest`, OURS);
        await assertPulled(world, 'ctr');
      },
    },
  },
  umoci: {
    programs: ['umoci'],
    package: 'umoci',
    reads: {
      oci: async (world) => {
        const {history} = JSON.parse(world.run('umoci', 'stat', '--image', `${world.ours.oci}:latest`, '--json').toString()) as {
          history: {diff_id?: string}[];
        };
        assert.deepEqual(
          history.flatMap(({diff_id: diffID}) => diffID ?? []),
          world.diffIDs,
        );
      },
    },
    writes: {
      oci: async (world) => {
        const path = world.fresh('umoci');
        world.run('cp', '-r', world.ours.oci, path);
        world.run('umoci', 'tag', '--image', `${path}:latest`, 'again');
        world.run('umoci', 'rm', '--image', `${path}:latest`);
        world.run('umoci', 'gc', '--layout', path);
        await world.assertSame(path);
      },
    },
  },
  podman: {
    programs: ['podman'],
    package: 'podman',
    reads: {'oci-archive': podmanLoads, 'docker-archive': podmanLoads},
    writes: {
      oci: podmanSaves('oci-dir', sameLayers),
      'oci-archive': podmanSaves('oci-archive', sameLayers),
      'docker-archive': podmanSaves('docker-archive', (world, path) => world.assertSameAsContainerd(path)),
    },
  },
  buildah: {
    programs: ['buildah'],
    package: 'buildah',
    reads: {
      'oci-archive': async (world) => {
        const id = world
          .run('buildah', ...storage(world), 'pull', '--quiet', `oci-archive:${world.ours['oci-archive']}`)
          .toString()
          .trim();
        const inspected = world.run('buildah', ...storage(world), 'inspect', '--type', 'image', id).toString();
        const {OCIv1: config} = JSON.parse(inspected) as {OCIv1: {rootfs: {diff_ids: string[]}}};
        assert.deepEqual(config.rootfs.diff_ids, world.diffIDs);
      },
    },
    writes: {
      'oci-archive': async (world) => {
        const id = world
          .run('buildah', ...storage(world), 'pull', '--quiet', `oci-archive:${world.ours['oci-archive']}`)
          .toString()
          .trim();
        const path = world.fresh('buildah');
        world.run('buildah', ...storage(world), 'push', '--quiet', id, `oci-archive:${path}:latest`);
        await sameLayers(world, path);
      },
    },
  },
  oras: {
    programs: ['oras'],
    package: 'oras',
    reads: {
      oci: async (world) => {
        const raw = world.run('oras', 'manifest', 'fetch', '--oci-layout', `${world.ours.oci}:latest`);
        assert.equal(sha256(raw), world.image.target.digest);
      },
      'oci-archive': async (world) => {
        const raw = world.run('oras', 'manifest', 'fetch', '--oci-layout', `${world.ours['oci-archive']}:latest`);
        assert.equal(sha256(raw), world.image.target.digest);
      },
      registry: async (world) => {
        const raw = world.run('oras', 'manifest', 'fetch', '--plain-http', await pushed(world));
        assert.equal(sha256(raw), world.image.target.digest);
      },
      referrers: async (world) => {
        const ref = await pushedToGo(world, 'oras-reads');
        const artifact = await world.client.registry.attach(ref, ARTIFACT, [], {plainHTTP: true});
        const found = world.run('oras', 'discover', '--plain-http', '--format', 'json', ref).toString();
        assert.ok(found.includes(artifact.digest), found);
      },
    },
    writes: {
      oci: async (world) => {
        const path = world.fresh('oras');
        world.run('oras', 'copy', '--from-oci-layout', `${world.ours.oci}:latest`, '--to-oci-layout', `${path}:latest`);
        assert.ok(readdirSync(path).includes('oci-layout'));
        await world.assertSame(path);
      },
      registry: async (world) => {
        const {host} = await world.registry();
        world.run('oras', 'copy', '--from-oci-layout', `${world.ours.oci}:latest`, '--to-plain-http', `${host}/oras:latest`);
        await assertPulled(world, 'oras');
      },
      referrers: async (world) => {
        const ref = await pushedToGo(world, 'oras-writes');
        world.run('oras', 'attach', '--plain-http', '--artifact-type', ARTIFACT, ref, '--annotation', 'a=1');
        const found = await world.client.registry.referrers(ref, {plainHTTP: true});
        assert.equal(found.length, 1);
        assert.deepEqual(
          found.map(({digest}) => digest),
          await listedReferrers(world, ref),
        );
      },
    },
  },
  'go-containerregistry': {
    programs: [],
    package: 'golang-github-google-go-containerregistry-dev',
    reads: {
      registry: async (world) => {
        const ref = await pushedToGo(world, 'pushed');
        const {image} = await world.client.namespace('go').pull(ref, {plainHTTP: true, unpack: false, allPlatforms: true});
        assert.equal(image.target.digest, world.image.target.digest);
        // Once more, and to another repository: it mounts nothing.
        await pushedToGo(world, 'pushed');
        await pushedToGo(world, 'again');
        const copied = await world.client.registry.copy(ref, `${await world.goRegistry()}/copied:latest`, {all: true});
        assert.equal(copied.target.digest, world.image.target.digest);
      },
      referrers: async (world) => {
        const ref = await pushedToGo(world, 'attached');
        const registry = world.client.registry;
        const plain = {plainHTTP: true};
        assert.deepEqual(await registry.referrers(ref, plain), []);
        const one = await registry.attach(ref, ARTIFACT, [], plain);
        const two = await registry.attach(ref, 'application/vnd.example.other', [], plain);
        assert.deepEqual(await listedReferrers(world, ref), [one.digest, two.digest].sort());
        const tags: string[] = [];
        for await (const tag of await registry.tags(ref, plain)) tags.push(tag);
        assert.deepEqual(tags, ['latest'], 'no tag in place of the API');
        // It tells the media type of the config as the artifact's, so that nothing is asked by type.
        assert.equal((await registry.referrers(ref, plain)).length, 2);
        // From the tags of a registry without the API to one that has it, and back.
        const old = `${(await world.registry()).host}/referrers:latest`;
        await registry.copy(ref, old, {all: true, referrers: true});
        const back = `${await world.goRegistry()}/back:latest`;
        await registry.copy(old, back, {all: true, referrers: true});
        assert.deepEqual(await listedReferrers(world, back), [one.digest, two.digest].sort());
      },
    },
    writes: {},
  },
};

/** All cells. */
export const CELLS: readonly Cell[] = Object.entries(TOOLS).flatMap(([tool, {reads, writes}]) =>
  Object.entries({reads, writes}).flatMap(([direction, checks]) =>
    Object.entries(checks).map(([format, run]): Cell => ({tool, format: format as Format, direction: direction as Direction, run})),
  ),
);

/** Programs that a cell needs and that are missing. */
export const missingPrograms = ({tool, format}: Pick<Cell, 'tool' | 'format'>): readonly string[] => [
  ...(format === 'referrers' || tool === 'go-containerregistry' ? missingForGoRegistry() : []),
  ...[
    ...TOOLS[tool]!.programs,
    ...(format === 'registry' || format === 'referrers' ? ['docker-registry'] : []),
    ...(format === 'docker-archive' ? ['ctr', 'containerd'] : []),
  ].filter((name) => findProgram(name) === undefined),
];

/** The image of the matrix; `undefined` when the machine cannot make it. */
export const interopImage = (t: Parameters<typeof requiresImage>[0]): Image | undefined => requiresImage(t, 'busybox');
