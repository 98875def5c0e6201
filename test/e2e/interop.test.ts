/**
 * Archives, layouts and registries between berth and other tools: the part of `npm run interop` whose tools the tests install. Besides, trees
 * and digests after an import are those of containerd.
 */
import assert from 'node:assert/strict';
import {describe, it} from 'node:test';
import {requiresProgram, requiresRoot} from '../support/helpers.ts';
import {CELLS, interopImage, TOOLS, World} from '../support/interop.ts';
import {diffTrees, readTree} from '../support/tree.ts';
import {fileScope} from './fixtures.ts';

const scope = fileScope();
let opening: Promise<World> | undefined;

const INSTALLED = ['skopeo', 'ctr', 'umoci'];

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
