/** Compares a layer's extracted tree with its indexed one, unchanged and with differences. */
import assert from 'node:assert/strict';
import {execFileSync, spawnSync} from 'node:child_process';
import {mkdirSync, writeFileSync} from 'node:fs';
import {join} from 'node:path';
import {describe, it} from 'node:test';
import {createErofsIndex} from '../../../src/lib/archive/erofs-index.ts';
import {findDifference} from '../../../src/lib/archive/find-tree-difference.ts';
import {createTarReader} from '../../../src/lib/archive/tar.ts';
import {indexTar} from '../../../src/lib/client/workers/layer-index.ts';
import {ErrdefsError} from '../../../src/lib/errdefs.ts';
import {EROFS_INDEX, EROFS_TAR} from '../../../src/lib/store/indexed-layer.ts';
import {generateImage} from '../../fuzz/generate-image.ts';
import {requiresProgram, requiresRoot, TORTURE, temporaryDirectory} from '../../support/helpers.ts';
import {char, dir, file, link, opaque, symlink, tar, whiteout} from '../../support/tartest.ts';
import {apply} from './apply-modes.ts';

const SEED = 1;
const COUNT = TORTURE ? 2000 : 100;

function isIndexable(layer: Uint8Array): boolean {
  const index = createErofsIndex();
  const reader = createTarReader(index);
  try {
    reader.write(layer);
    reader.end();
  } catch (err) {
    assert.ok(err instanceof ErrdefsError);
    return false;
  }
  return index.reasons.size === 0 && index.encode(layer.length).implicitParents.length === 0;
}

/** Calls `look` with the extracted and the indexed tree of a layer. @returns false if the kernel mounts no index from files */
async function withTwins(work: string, layer: Uint8Array, look: (extracted: string, indexed: string) => Promise<void>): Promise<boolean> {
  const [extracted, indexed] = [join(work, 'extracted'), join(work, 'indexed')];
  for (const directory of [extracted, indexed, join(work, 'index')]) mkdirSync(directory, {mode: 0o755});
  writeFileSync(join(work, 'index', EROFS_TAR), layer);
  assert.ok(await indexTar(join(work, 'index'), 'files'));
  const options = `ro,device=${join(work, 'index', EROFS_TAR)}`;
  if (spawnSync('mount', ['-t', 'erofs', '-o', options, join(work, 'index', EROFS_INDEX), indexed]).status !== 0) return false;
  try {
    apply(extracted, layer, {form: 'overlay'});
    await look(extracted, indexed);
  } finally {
    execFileSync('umount', [indexed]);
  }
  return true;
}

/** Entries of every kind that an index represents. */
const EVERYTHING = tar(
  dir('d', 0o2750, {uid: 5, gid: 6, xattrs: {'user.a': '1'}}),
  file('d/f', 'content', 0o4711),
  link('d/f', 'd/g', {mode: 0o4711}),
  symlink('f', 'd/s'),
  char('d/null', 1, 3),
  dir('o'),
  opaque('o'),
  dir('w'),
  whiteout('w/gone'),
  whiteout('w/too'),
  dir('o/p'),
  whiteout('o/p/void'),
  whiteout('top'),
);

/** Shell scripts that change the extracted tree, and the difference found in the indexed one. */
const CHANGES: Readonly<Record<string, readonly [script: string, says: RegExp]>> = {
  'a mode': ['chmod 2700 d', /^"\/d" has mode 2750, not 2700/],
  'an owner': ['chown -h 7 d/s', /^"\/d\/s" has user 0, not 7/],
  'a group': ['chgrp 7 d/null', /^"\/d\/null" has group 0, not 7/],
  'a time': ['touch -h -d @5 d/s', /^"\/d\/s" has mtime /],
  'the text of a link': [
    'rm d/s; ln -s g d/s; chown -h 0:0 d/s; touch -h -d @1700000000 d/s; touch -d @1700000000 d',
    /^"\/d\/s" points to "f", not "g"/,
  ],
  bytes: ['printf CONTENT >d/f; chmod 4711 d/f; touch -d @1700000000 d/f', /^"\/d\/f" has different content/],
  'a second name': ['cp -p d/f x; rm d/g; mv x d/g; touch -d @1700000000 d', /^"\/d\/f" has 2 names, not 1/],
  'a device': [
    'rm d/null; mknod -m 666 d/null c 1 5; chown 0:0 d/null; touch -d @1700000000 d/null d',
    /^"\/d\/null" is a different device/,
  ],
  'an extended attribute': ['setfattr -x user.a d', /^"\/d" has different extended attributes/],
  'an opaque mark': ['setfattr -x trusted.overlay.opaque o', /^"\/o.* (has different extended attributes|does not belong there)/],
  'a whiteout that is missing': ['rm w/too; touch -d @1700000000 w', /^"\/w\/too" does not belong there/],
  'a whiteout that is a file': ['rm w/too; touch w/too; touch -d @1700000000 w', /^"\/w\/too" has type /],
  'a name that is missing': ['rm d/null; touch -d @1700000000 d', /^"\/d\/null" does not belong there/],
  'a name too many': ['touch o/x; touch -d @1700000000 o', /^"\/o\/x" is missing/],
};

describe('the extracted and the indexed tree of a layer', () => {
  it(`are equal: ${COUNT} generated layers`, {timeout: 1_800_000}, async (t) => {
    if (!requiresRoot(t)) return;
    let compared = 0;
    // Earlier versions kept the mode of a symbolic link.
    const odd = {name: 'mode', tars: [tar(symlink('x', 's', {mode: 0o644}))]};
    for (let n = -1; n < COUNT; n++) {
      const {name, tars} = n < 0 ? odd : generateImage(SEED, n);
      const layer = tars[0]!;
      if (n >= 0 && !isIndexable(layer)) continue;
      compared++;
      const mounts = await withTwins(temporaryDirectory(t), layer, async (extracted, indexed) => {
        assert.equal(await findDifference(extracted, indexed), undefined, name);
        assert.equal(await findDifference(indexed, extracted), undefined, name);
      });
      if (!mounts) return t.skip('needs a kernel that mounts EROFS from files');
    }
    t.diagnostic(`${compared} layers of seed ${SEED} could be indexed`);
    assert.ok(compared > COUNT / 10);
  });

  for (const [what, [script, says]] of Object.entries(CHANGES))
    it(`differ by ${what}`, async (t) => {
      if (!requiresRoot(t) || !requiresProgram(t, 'setfattr')) return;
      const mounts = await withTwins(temporaryDirectory(t), EVERYTHING, async (extracted, indexed) => {
        execFileSync('sh', ['-ec', script], {cwd: extracted});
        assert.match(String(await findDifference(extracted, indexed)), says);
      });
      if (!mounts) t.skip('needs a kernel that mounts EROFS from files');
    });
});
