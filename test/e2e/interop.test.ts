/**
 * Archives, layouts and registries between berth and other tools: the part of `npm run interop` whose tools the tests install. Besides, trees
 * and digests after an import are those of containerd.
 */
import assert from 'node:assert/strict';
import {readFileSync, writeFileSync} from 'node:fs';
import {describe, it} from 'node:test';
import type {ImportOptions} from '../../src/lib/client/types/index.ts';
import {digestOf} from '../../src/lib/oci/hash.ts';
import {requiresProgram, requiresRoot} from '../support/helpers.ts';
import {CELLS, interopImage, TOOLS, World} from '../support/interop-matrix.ts';
import {ARCHITECTURE} from '../support/layouts.ts';
import {file, tar} from '../support/tartest.ts';
import {diffTrees, readTree} from '../support/tree.ts';
import {fileScope} from './fixtures.ts';

const scope = fileScope();
let opening: Promise<World> | undefined;

const INSTALLED = ['skopeo', 'ctr', 'umoci'];

/** Flags of both commands, and the options of ours. */
const NAMINGS: readonly (readonly [flags: readonly string[], options: ImportOptions])[] = [
  [[], {}],
  [['--base-name', 'registry.example/app'], {baseName: 'registry.example/app'}],
  [['--base-name', 'registry.example/app', '--digests'], {baseName: 'registry.example/app', digests: true}],
  [
    ['--base-name', 'registry.example/app', '--digests', '--skip-digest-for-named'],
    {baseName: 'registry.example/app', digests: true, skipDigestForNamed: true},
  ],
  [['--index-name', 'registry.example/index:1'], {indexName: 'registry.example/index:1'}],
];

describe('an archive', () => {
  for (const kind of ['docker', 'oci'] as const)
    it(`of ${kind} gives the names and digests that containerd gives it, with each flag`, async (t) => {
      if (!requiresRoot(t) || !requiresProgram(t, ...TOOLS.ctr!.programs)) return;
      const image = interopImage(t);
      if (image === undefined) return;
      opening ??= World.open(scope, image);
      const world = await opening;
      const {ctr} = await world.containerd();
      const archive = world.fresh('names');
      writeFileSync(archive, kind === 'docker' ? dockerArchive() : readFileSync(world.ours['oci-archive']));
      for (const [i, [flags, options]] of NAMINGS.entries()) {
        const namespace = `${kind}-${i}`;
        ctr('-n', namespace, 'images', 'import', '--no-unpack', ...flags, archive);
        const theirs = ctr('-n', namespace, 'images', 'ls').trim().split('\n').slice(1);
        const {images} = world.client.namespace(namespace);
        await images.import(archive, {...options, unpack: false});
        assert.deepEqual(
          (await images.records()).map(({name, target}) => `${name} ${target.mediaType} ${target.digest}`).sort(),
          theirs.map((line) => line.split(/\s+/).slice(0, 3).join(' ')).sort(),
          flags.join(' '),
        );
      }
    });
});

/** Two images that share a layer, one of them with two tags, as `docker save` writes them. */
function dockerArchive(): Buffer {
  const layers = ['lower', 'upper & <more>'].map((text) => tar(file(text, text)));
  const configs = [layers, layers.slice(0, 1)].map((below) =>
    Buffer.from(
      JSON.stringify({architecture: ARCHITECTURE, os: 'linux', rootfs: {type: 'layers', diff_ids: below.map((layer) => digestOf(layer))}}),
    ),
  );
  const list = [
    {Config: 'one.json', RepoTags: ['app:1', 'registry.example/app:2'], Layers: ['a/layer.tar', 'b/layer.tar']},
    {Config: 'two.json', RepoTags: ['registry.example/app/below:latest'], Layers: ['a/layer.tar']},
  ];
  return tar(
    ...layers.map((layer, i) => file(`${'ab'[i]}/layer.tar`, layer)),
    ...configs.map((config, i) => file(`${['one', 'two'][i]}.json`, config)),
    file('manifest.json', JSON.stringify(list)),
  );
}

describe('an image', () => {
  for (const {tool, format, direction, run} of CELLS.filter((cell) => INSTALLED.includes(cell.tool)))
    it(`that ${direction === 'reads' ? `berth wrote is read by ${tool}` : `${tool} wrote is read by berth`}: ${format}`, async (t) => {
      if (!requiresRoot(t) || !requiresProgram(t, ...TOOLS[tool]!.programs, 'ctr', 'docker-registry')) return;
      const image = interopImage(t);
      if (image === undefined) return;
      opening ??= World.open(scope, image);
      await run(await opening);
    });

  it('has the tree that containerd makes of the same archive', async (t) => {
    if (!requiresRoot(t) || !requiresProgram(t, 'ctr', 'containerd', 'getfattr')) return;
    const image = interopImage(t);
    if (image === undefined) return;
    opening ??= World.open(scope, image);
    const world = await opening;
    const containerd = await world.containerd();
    const archive = world.ours['oci-archive'];
    containerd.ctr('images', 'import', '--snapshotter', 'overlayfs', archive);
    const ns = world.client.namespace('trees');
    const {images, unpacked} = await ns.images.import(archive, {snapshotter: 'overlayfs'});
    const [mount] = await ns.snapshots('overlayfs').view('look', unpacked[0]!.chainID);
    const theirs = await containerd.withImage(images[0]!.name, (root) => readTree(root));
    // The layer does not have the root directory itself.
    const ignore = (path: string, field: string): boolean => path === '.' && field === 'mtime';
    assert.deepEqual(diffTrees(readTree(mount!.source), theirs, {ignore}), []);
  });
});
