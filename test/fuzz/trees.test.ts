/**
 * Unpacks generated layers with each snapshotter of berth, with containerd and with umoci, and compares the trees entry by entry.
 *
 * A failure prints the image. `BERTH_TEST_FUZZ_SEED=<seed> BERTH_TEST_FUZZ_IMAGE=<n> node --test <file>` repeats only that one.
 */
import assert from 'node:assert/strict';
import {describe, it} from 'node:test';
import {codeOf} from '../../src/lib/errdefs.ts';
import type {Backing} from '../../src/lib/store/indexed-layer.ts';
import {APPLY_MODES, buildIndex, readIndexed} from '../lib/archive/apply-modes.ts';
import {requiresProgram, requiresRoot, SAMPLE, type Scope, TORTURE, temporaryDirectory} from '../support/helpers.ts';
import type {TarEntry} from '../support/tartest.ts';
import {type DiffOptions, diffTrees, type TreeEntry} from '../support/tree.ts';
import {type GeneratedImage, generateImage} from './generate-image.ts';
import {containerd, type Outcome, ours, type Unpacker, umoci} from './unpackers.ts';

const {BERTH_TEST_FUZZ_SEED, BERTH_TEST_FUZZ_IMAGE} = process.env;
const SEED = Number(BERTH_TEST_FUZZ_SEED ?? (TORTURE ? SAMPLE : 3));
const FIRST = Number(BERTH_TEST_FUZZ_IMAGE ?? 0);
const COUNT = BERTH_TEST_FUZZ_IMAGE !== undefined ? 1 : TORTURE ? 600 : 24;
const FORMS_COUNT = BERTH_TEST_FUZZ_IMAGE !== undefined ? 1 : TORTURE ? 5000 : 96;
const BACKINGS: readonly Backing[] = ['files', 'loop'];
/** One image in this many is also mounted from loop devices, which is slow. */
const LOOP_EVERY = TORTURE || BERTH_TEST_FUZZ_IMAGE !== undefined ? 1 : 4;
/** Images that share a daemon and a mount namespace. */
const BATCH = 100;

type Peer = 'native' | 'containerd, overlayfs' | 'containerd, native' | 'umoci';

/** An intended difference. `line` matches a line of `differences`. */
interface Meant {
  readonly peers: readonly Peer[];
  readonly image: (image: GeneratedImage) => boolean;
  readonly line: RegExp;
  readonly reason: string;
}

const CONTAINERD: readonly Peer[] = ['containerd, overlayfs', 'containerd, native'];

const MEANT: readonly Meant[] = [
  {
    peers: ['native', ...CONTAINERD, 'umoci'],
    image: hasDeviceZero,
    line: /./,
    reason: 'overlayfs hides a name with a device 0/0: there a layer cannot have one, and extracting it warns',
  },
  {
    peers: CONTAINERD,
    image: hidesItsOwn,
    line: /./,
    reason: 'in containerd a whiteout removes what its own layer has; the image specification has it apply to lower layers only',
  },
  {
    peers: ['containerd, overlayfs'],
    image: (image) => baseNames(image).some((base) => base.startsWith('.wh.')),
    line: /^refused: .*ENOENT.* lstat /,
    reason: 'containerd leaves whiteouts visible in a directory that has nothing below: names are listed that are not there',
  },
  {
    peers: CONTAINERD,
    image: replacesDirectory,
    line: /: mtime |^refused: .*(no such file or directory|not a directory|file exists)/s,
    reason: 'containerd sets the times of directories at the end, by name, also where the layer has replaced one meanwhile',
  },
  {
    peers: ['containerd, overlayfs'],
    image: replacesDirectory,
    line: /: only in the second/,
    reason: 'containerd forgets with overlayfs that a layer has replaced a directory below, when it makes a directory there again',
  },
  {
    peers: ['containerd, overlayfs'],
    image: ({layers}) => layers.slice(1).some((entries) => entries.some(({name}) => cleaned(name).join('/') === '.wh..wh..opq')),
    line: /: only in the second/,
    reason: 'overlayfs has no mark that hides everything below the root; containerd sets one that does nothing',
  },
  {
    peers: ['containerd, overlayfs'],
    image: ({layers}) => layers.length > 1,
    line: /^refused: .*not a directory/s,
    reason: 'containerd fails with overlayfs where a layer puts a directory, and in it one that it does not carry, over a file below',
  },
  {
    peers: [...CONTAINERD, 'umoci'],
    image: hasWhiteoutWithoutParent,
    line: /: only in the second/,
    reason: 'containerd and umoci make a directory for a whiteout to lie in; where there is none, nothing has to be hidden',
  },
  {
    peers: CONTAINERD,
    image: ({layers}) => layers.flat().some(({typeflag, linkname}) => typeflag === '2' && /[^./]\/\.\./.test(linkname!)),
    line: /./,
    reason: "containerd cleans a link's text by its look, a/../b to b; the kernel, and we, go to a first",
  },
  {
    peers: ['containerd, native'],
    image: ({features, layers}) => features.has('xattrs') && layers.length > 1,
    line: /: xattrs /,
    reason:
      "containerd's native snapshotter keeps a directory's extended attributes that a later layer does not name; with overlayfs they are gone",
  },
  {
    peers: ['containerd, overlayfs'],
    image: ({layers}) => layers.slice(1).some((entries) => entries.some(({typeflag}) => typeflag === '1')),
    line: /^refused: .*link/,
    reason: 'containerd does not find the target of a hard link in a lower layer',
  },
  {
    peers: ['umoci'],
    image: (image) => baseNames(image).some((base) => /^\.wh\.|^$/.test(base)) || hidesItsOwn(image),
    line: /./,
    reason: 'umoci knows no opaque mark or whiteout of an odd name, and has whiteouts hide in its own order',
  },
  {
    peers: ['umoci'],
    image: () => true,
    line: /^refused: .*refusing to change type of root directory|^"\.": |^taken/,
    reason: 'umoci gives the root the attributes that a layer names and refuses another type for it; it takes names below a file',
  },
  {
    peers: ['umoci'],
    image: ({features}) => features.has('xattrs'),
    line: /: xattrs /,
    reason: 'umoci drops attributes without a value',
  },
  {
    peers: ['umoci'],
    image: ({features}) => features.has('times'),
    line: /: mtime /,
    reason: 'umoci keeps times before 1970 and after 2262',
  },
  {
    peers: ['umoci'],
    image: ({features}) => features.has('setgid'),
    line: /: (mode|gid) /,
    reason: 'umoci has directories inherit setgid that no layer carries; containerd has them inherit the group alone',
  },
  {
    peers: ['umoci'],
    image: ({features}) => features.has('link') || features.has('link-attributes'),
    line: /./,
    reason: "a hard link's own header speaks for the inode, as in containerd; umoci leaves the inode as it was",
  },
  {
    peers: ['umoci'],
    image: ({features}) => features.has('v7') || features.has('dotdot'),
    line: /./,
    reason: 'umoci looks at the type of names with .. and of old tar in another order',
  },
];

/** Cleans a name lexically, as containerd does. */
const cleaned = (name: string): readonly string[] => {
  const parts: string[] = [];
  for (const part of name.split('/'))
    if (part === '..') parts.pop();
    else if (part !== '' && part !== '.') parts.push(part);
  return parts;
};

function hasDeviceZero({layers}: GeneratedImage): boolean {
  return layers.flat().some(({typeflag, devmajor, devminor}) => typeflag === '3' && devmajor === 0 && devminor === 0);
}

const baseNames = ({layers}: GeneratedImage): string[] => layers.flat().map(({name}) => cleaned(name).at(-1) ?? '');

const isWithin = (path: readonly string[], above: readonly string[]): boolean => above.every((part, i) => path[i] === part);

/** A layer has a whiteout for its own entry, under any spelling of the name. */
function hidesItsOwn({layers, features}: GeneratedImage): boolean {
  return layers.some((entries) =>
    entries.some(({name}) => {
      const path = cleaned(name);
      const base = path.at(-1) ?? '';
      if (!base.startsWith('.wh.')) return false;
      const hidden = base === '.wh..wh..opq' ? path.slice(0, -1) : [...path.slice(0, -1), base.slice('.wh.'.length)];
      return features.has('symlink') || entries.some((other) => other.name !== name && isWithin(cleaned(other.name), hidden));
    }),
  );
}

/** A layer has a whiteout without its directory. */
function hasWhiteoutWithoutParent({layers}: GeneratedImage): boolean {
  return layers.some((entries) => {
    const carried = new Set(entries.map(({name}) => cleaned(name).join('/')));
    return [...carried].some((name) => /(^|\/)\.wh\.[^/]*$/.test(name) && !carried.has(name.slice(0, Math.max(name.lastIndexOf('/'), 0))));
  });
}

/** In a layer, one name is first a directory and then another type, or the reverse. */
function replacesDirectory({layers, features}: GeneratedImage): boolean {
  return layers.some((entries) => {
    const all = entries.map(({name, typeflag}) => ({path: cleaned(name), typeflag}));
    return (
      all.some(
        ({path, typeflag}) =>
          typeflag !== '5' &&
          all.some((other) => isWithin(other.path, path) && (other.path.length > path.length || other.typeflag === '5')),
      ) ||
      (features.has('symlink') && features.has('dotdot'))
    );
  });
}

/** Lines that describe how a peer's outcome differs from ours. */
function differences(mine: Outcome, theirs: Outcome, isPeer: boolean): string[] {
  if ('error' in mine) {
    if (!('error' in theirs)) return [`taken, and ours was refused: ${mine.error}`];
    // Layers are unpacked in parallel, so the first error is random.
    return [];
  }
  if ('error' in theirs) return [`refused: ${theirs.error}`];
  // In containerd and umoci a directory that the layer does not carry has the mtime of its last change.
  const directories = new Set(theirs.tree.filter(({type}) => type === 'directory').map(({path}) => path));
  const ignore: DiffOptions['ignore'] = (path, field) => field === 'mtime' && (path === '.' || (isPeer && directories.has(path)));
  return diffTrees(mine.tree, theirs.tree, {ignore});
}

/** Describes an image for a failure message. */
const shown = ({name, features, layers}: GeneratedImage): string =>
  [`image ${name}: ${[...features].join(', ')}`, ...layers.map((entries, i) => `  layer ${i}: ${entries.map(showEntry).join('  ')}`)].join(
    '\n',
  );

function showEntry({name, typeflag, linkname, mode = 0, ...more}: TarEntry): string {
  const {content: _content, ...rest} = more;
  const short = (text: string): string => (text.length > 60 ? `${text.slice(0, 20)}…(${text.length})` : text);
  const link = linkname === undefined ? '' : ` -> ${short(linkname)}`;
  return `${typeflag} ${short(name)}${link} ${mode.toString(8)} ${JSON.stringify(rest)}`;
}

const batches = Array.from({length: Math.ceil(COUNT / BATCH)}, (_, i) => FIRST + i * BATCH);
const imagesOf = (first: number): readonly GeneratedImage[] =>
  Array.from({length: Math.min(BATCH, FIRST + COUNT - first)}, (_, i) => generateImage(SEED, first + i));

const PEERS: Readonly<Record<Peer | 'erofs', Unpacker>> = {
  erofs: ours('erofs'),
  native: ours('native'),
  'containerd, overlayfs': containerd('overlayfs'),
  'containerd, native': containerd('native'),
  umoci,
};

/** Runs an apply mode as an unpacker. */
const outcomeOf = (run: () => readonly TreeEntry[]): Outcome => {
  try {
    return {tree: run()};
  } catch (err) {
    return {error: String(err), code: codeOf(err)};
  }
};

/** An invalid layer counts as not indexable. */
function isIndexable(layer: Uint8Array): boolean {
  try {
    return buildIndex(layer).index.reasons.size === 0;
  } catch {
    return false;
  }
}

/** Outcome of layers that are all indexed; `undefined` if one has to be extracted. */
function outcomeOfIndexes(t: Scope, tars: readonly Uint8Array[], backing: Backing): Outcome | undefined {
  try {
    const tree = readIndexed(temporaryDirectory(t), tars, backing);
    return tree === undefined || tree === 'extracted' ? undefined : {tree};
  } catch (err) {
    return {error: String(err)};
  }
}

describe('generated layers become the same tree', () => {
  it(`in each apply mode: images ${SEED}/${FIRST} to ${SEED}/${FIRST + FORMS_COUNT - 1}`, {timeout: 1_800_000}, async (t) => {
    if (!requiresRoot(t) || !requiresProgram(t, 'getfattr', 'mkfs.erofs', 'fsck.erofs')) return;
    const failures: string[] = [];
    let indexes = 0;
    for (let n = FIRST; n < FIRST + FORMS_COUNT; n++) {
      const image = generateImage(SEED, n);
      // overlayfs itself decides whether such a node is a whiteout or a device.
      if (hasDeviceZero(image)) continue;
      const [first, ...others] = APPLY_MODES.map((mode) => outcomeOf(() => mode.run(temporaryDirectory(t), image.tars)));
      const lines = others.flatMap((other, i) =>
        differences(first!, other, false).map((line) => `    ${APPLY_MODES[i + 1]!.name}: ${line}`),
      );
      const isWhole = image.tars.every(isIndexable);
      // An indexable layer above an extracted one is mounted alone.
      const stacks = isWhole ? [image.tars] : image.tars.filter(isIndexable).map((layer) => [layer]);
      const backings = BACKINGS.slice(0, n % LOOP_EVERY === 0 ? 2 : 1);
      for (const stack of stacks)
        for (const backing of backings) {
          const index = outcomeOfIndexes(t, stack, backing);
          if (index === undefined) continue;
          const wrong = isWhole ? differences(first!, index, false) : 'error' in index ? [`refused: ${index.error}`] : [];
          lines.push(...wrong.map((line) => `    indexed, ${backing}: ${line}`));
          indexes++;
        }
      if (lines.length > 0) failures.push([shown(image), ...lines].join('\n'));
    }
    t.diagnostic(`${indexes} times layers were indexed and mounted`);
    assert.equal(failures.length, 0, failures.join('\n\n'));
  });

  for (const first of batches)
    it(`images ${SEED}/${first} to ${SEED}/${Math.min(first + BATCH, FIRST + COUNT) - 1}`, {timeout: 1_800_000}, async (t) => {
      if (!requiresRoot(t) || !requiresProgram(t, 'containerd', 'ctr', 'getfattr', ...(TORTURE ? ['umoci'] : []))) return;
      const images = imagesOf(first);
      const tars = images.map((image) => image.tars);
      const mine = await ours('overlayfs')(t, tars);
      const failures: string[] = [];
      for (const [name, unpack] of Object.entries(PEERS)) {
        if (name === 'umoci' && !TORTURE) continue;
        const theirs = await unpack(t, tars);
        for (const [i, image] of images.entries()) {
          const rows = MEANT.filter(({peers, image: isMeant}) => peers.includes(name as Peer) && isMeant(image));
          const lines = differences(mine[i]!, theirs[i]!, !['erofs', 'native'].includes(name));
          const unmeant = lines.filter((line) => !rows.some((row) => row.line.test(line)));
          if (unmeant.length > 0) failures.push(`${shown(image)}\n${unmeant.map((line) => `    ${name}: ${line}`).join('\n')}`);
        }
      }
      const trees = mine.flatMap((outcome) => ('tree' in outcome ? [outcome.tree as readonly TreeEntry[]] : []));
      t.diagnostic(`${trees.length} of ${images.length} images have a tree, of ${trees.flat().length} entries`);
      assert.equal(failures.length, 0, failures.join('\n\n'));
    });
});
