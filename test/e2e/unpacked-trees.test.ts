/**
 * Unpacked trees equal those of umoci and containerd, in every entry and attribute, for every snapshotter on both engines. The test reads
 * them through the mounts that a container gets.
 */
import assert from 'node:assert/strict';
import {execFileSync} from 'node:child_process';
import {statSync, writeFileSync} from 'node:fs';
import {tmpdir} from 'node:os';
import {join} from 'node:path';
import {describe, it} from 'node:test';
import {probeErofs} from '../../src/lib/client/erofs-probe.ts';
import type {Mount} from '../../src/lib/runtime/mount-plan.ts';
import {commandLine, type Engine, forEachEngine} from '../cli/harness.ts';
import type {ImageName} from '../support/cached-images.ts';
import {requiresProgram, requiresRoot, type Scope, type Skippable, slow, TORTURE, temporaryDirectory} from '../support/helpers.ts';
import {requiresLoopDevices, stateOnLoops} from '../support/loop-devices.ts';
import {withMounted} from '../support/mounted-snapshot.ts';
import {diffTrees, readTree, type TreeEntry} from '../support/tree.ts';
import {type Containerd, startContainerd} from './containerd.ts';
import {fileScope, type Published, publishedImages} from './fixtures.ts';

const published = publishedImages();
const file = fileScope();

/** Images with all kinds of layers, and the same small layer with every compression. */
const TREES: readonly ImageName[] = ['redis', 'awkward', 'awkward-through'];
const PACKINGS: readonly ImageName[] = [
  'busybox',
  'busybox-docker',
  'busybox-zstd',
  'busybox-plain',
  'busybox-multi',
  'busybox-multi-docker',
];
/** What tells nothing new; torture looks: Node, in other ways, at the thousands of files of redis, and a second engine at a packing. */
const isRepetition = (engine: Engine, way: Way, name: ImageName): boolean =>
  !TORTURE &&
  (name === 'redis'
    ? engine === 'node' && way !== 'overlayfs'
    : PACKINGS.includes(name) && engine === (PACKINGS.indexOf(name) % 2 === 0 ? 'node' : 'executable'));
/** Images for --short. */
const SHORT: readonly ImageName[] = ['awkward', 'busybox'];
/** `loop`: snapshotter `erofs` as on a machine whose kernel mounts its images from loop devices only. */
const WAYS = ['overlayfs', 'native', 'erofs', 'loop'] as const;
type Way = (typeof WAYS)[number];

/** umoci 0.4 does not support zstd; it gets the same tar with another compression. */
const STAND_INS: Partial<Record<ImageName, ImageName>> = {'busybox-zstd': 'busybox'};

interface Unpacked {
  readonly tree: readonly TreeEntry[];
  /** When unpacking began, in nanoseconds of the kernel's clock. */
  readonly since: bigint;
}

async function unpacked(make: () => TreeEntry[] | Promise<TreeEntry[]>): Promise<Unpacked> {
  const since = fileTime();
  return {since, tree: await make()};
}

/** Trees of umoci, each unpacked once. skopeo converts the images, because umoci reads neither docker's types nor an index. */
const umociTrees = new Map<string, Promise<Unpacked>>();

function umociTree({ref}: Published): Promise<Unpacked> {
  const known = umociTrees.get(ref) ?? unpacked(() => unpackByUmoci(ref));
  umociTrees.set(ref, known);
  return known;
}

function unpackByUmoci(ref: string): TreeEntry[] {
  const dir = temporaryDirectory(file, 'berth-umoci-');
  execFileSync('skopeo', ['copy', '--quiet', '--insecure-policy', '--src-tls-verify=false', `docker://${ref}`, `oci:${dir}/layout:latest`]);
  execFileSync('umoci', ['unpack', '--image', `${dir}/layout:latest`, join(dir, 'bundle')], {stdio: ['ignore', 'ignore', 'inherit']});
  return readTree(join(dir, 'bundle/rootfs'));
}

/** An image's tree as berth's containers see it. */
async function ourTree(t: Scope, engine: Engine, ref: string, way: Way): Promise<TreeEntry[]> {
  const ctr = commandLine(t, engine);
  if (way === 'loop') stateOnLoops(t, ctr.env.BERTH_STATE);
  const snapshotter = way === 'loop' ? 'erofs' : way;
  const {unpacked} = JSON.parse(await ctr.ok(['pull', '--json', '--snapshotter', snapshotter, ref])) as {unpacked: {chainID: string}[]};
  const view = ['snapshots', '--snapshotter', snapshotter, 'view', '--json', 'look', unpacked[0]!.chainID];
  const mounts = JSON.parse(await ctr.ok(view)) as readonly Mount[];
  const indexed = mounts.filter(({type}) => type === 'erofs');
  const onLoops = indexed.filter(({options}) => options.includes('loop'));
  assert.equal(indexed.length > 0, snapshotter === 'erofs', JSON.stringify(mounts));
  assert.equal(onLoops.length, way === 'loop' ? indexed.length : 0);
  return withMounted(mounts, readTree);
}

const requiresTrees = (t: Skippable): boolean => requiresRoot(t) && requiresProgram(t, 'umoci', 'skopeo', 'getfattr');

async function requiresWay(t: Skippable, way: Way): Promise<boolean> {
  if (way === 'loop') return requiresLoopDevices(t);
  if (way !== 'erofs') return true;
  const {backing, reason} = probeErofs(temporaryDirectory(file), tmpdir());
  if (backing === undefined) t.skip(`no EROFS here: ${reason}`);
  return backing !== undefined;
}

/** An allowed difference, and its reason. `line` is one of `diffTrees`, with berth's tree first. */
interface Exemption {
  readonly image: ImageName;
  readonly line: RegExp;
  readonly reason: string;
}

const UMOCI: readonly Exemption[] = [
  {
    image: 'awkward',
    line: /^"xattrs\/file": xattrs .*"user\.empty":"0x".* ≠ (?!.*user\.empty)/,
    reason: 'umoci drops attributes without a value',
  },
  {
    image: 'awkward-through',
    line: /^"(etc\/(to-lower|zz-linked)|usr\/(lib\/lower|share\/linked))": mtime \d+ ≠ \d+$/,
    reason: "a hard link's own header speaks for the inode, as in containerd; umoci leaves the inode as it was",
  },
];

const CONTAINERD: readonly Exemption[] = [
  {
    image: 'awkward',
    line: /^"xattrs\/capable-too": xattrs \{"security\.capability":"\w+"\} ≠ \{\}$/,
    reason: 'containerd gives the inode of a hard link its owner once more, at which the kernel drops file capabilities',
  },
];

/**
 * Compares ours with theirs. Where no layer says when a directory was changed, they leave the time at which they unpacked
 * it, and so do all of us for the root; elsewhere ours must be a time that some layer knows.
 */
function compare(ours: Unpacked, theirs: Unpacked, exemptions: readonly Exemption[]): void {
  const now = fileTime();
  const unpackedThen = ({tree, since}: Unpacked): readonly TreeEntry[] =>
    tree.filter(({path, mtime}) => path === '.' || (mtime >= since && mtime <= now));
  const unsaid = new Set(unpackedThen(theirs).flatMap(({type, path}) => (type === 'directory' ? [path] : [])));
  const lines = diffTrees(ours.tree, theirs.tree, {ignore: (path, field) => field === 'mtime' && unsaid.has(path)});
  assert.deepEqual(
    lines.filter((line) => !exemptions.some((exemption) => exemption.line.test(line))),
    [],
  );
  const idle = exemptions.filter((exemption) => !lines.some((line) => exemption.line.test(line)));
  assert.deepEqual(idle, [], 'what does not differ is not exempted');
  assert.deepEqual(
    unpackedThen(ours).filter(({path}) => path !== '.'),
    [],
    'every time is one that a layer gave',
  );
}

/** The kernel's time, in nanoseconds: that of files, which may be behind by a tick, whatever clock `--clock` shows to processes. */
function fileTime(): bigint {
  const path = join(temporaryDirectory(file), 'now');
  writeFileSync(path, '');
  return statSync(path, {bigint: true}).mtimeNs;
}

const exemptionsFor = (all: readonly Exemption[], image: ImageName): readonly Exemption[] =>
  all.filter((exemption) => exemption.image === image);

forEachEngine('unpacked trees', (engine) => {
  for (const way of WAYS)
    for (const name of [...TREES, ...(way === 'overlayfs' ? PACKINGS : (['busybox'] as const))]) {
      if (isRepetition(engine, way, name)) continue;
      it(`${way}: ${name} equals the tree of umoci`, async (t) => {
        if (!SHORT.includes(name) && !slow(t)) return;
        if (!requiresTrees(t) || !(await requiresWay(t, way))) return;
        const image = await published(t, name);
        const theirs = await published(t, STAND_INS[name] ?? name);
        if (image === undefined || theirs === undefined) return;
        compare(await unpacked(() => ourTree(t, engine, image.ref, way)), await umociTree(theirs), exemptionsFor(UMOCI, name));
      });
    }
});

describe('unpacked trees, containerd', () => {
  let running: Promise<Containerd> | undefined;
  // containerd cannot unpack a hard link to a file of a lower layer, as in awkward-through.
  for (const name of ['redis', 'awkward', 'busybox'] as const)
    it(`overlayfs: ${name} equals the tree of containerd`, async (t) => {
      if (!SHORT.includes(name) && !slow(t)) return;
      if (!requiresRoot(t) || !requiresProgram(t, 'containerd', 'ctr', 'getfattr')) return;
      const image = await published(t, name);
      if (image === undefined) return;
      running ??= startContainerd(file);
      const containerd = await running;
      const theirs = await unpacked(() => {
        containerd.pull(image.ref);
        return containerd.withImage(image.ref, readTree);
      });
      const ours = await unpacked(() => ourTree(t, 'executable', image.ref, 'overlayfs'));
      compare(ours, theirs, exemptionsFor(CONTAINERD, name));
    });
});
