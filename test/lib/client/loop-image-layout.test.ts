import assert from 'node:assert/strict';
import {mkdirSync, readdirSync, readFileSync, writeFileSync} from 'node:fs';
import {join} from 'node:path';
import {describe, it, type TestContext} from 'node:test';
import {indexTar} from '../../../src/lib/client/workers/layer-index.ts';
import {EROFS_IMAGE, EROFS_INDEX, EROFS_TAR, findTar, indexedUsage, isSameIndex} from '../../../src/lib/store/indexed-layer.ts';
import {is, requiresRoot, temporaryDirectory} from '../../support/helpers.ts';
import {dir, file, tar} from '../../support/tartest.ts';

const LAYER = tar(dir('d'), file('d/f', 'x'.repeat(10_000)), file('g', 'y'));

function layer(t: TestContext): string {
  const directory = join(temporaryDirectory(t), 'layer');
  mkdirSync(directory);
  writeFileSync(join(directory, EROFS_TAR), LAYER, {mode: 0o600});
  return directory;
}

describe('an indexed layer', () => {
  it('for a loop device has index and tar in one file, with the address of the tar', async (t) => {
    if (!requiresRoot(t)) return;
    const [two, one] = [layer(t), layer(t)];
    assert.ok(await indexTar(two, 'files'));
    assert.ok(await indexTar(one, 'loop'));
    assert.deepEqual(readdirSync(two).sort(), [EROFS_INDEX, EROFS_TAR]);
    assert.deepEqual(readdirSync(one), [EROFS_IMAGE]);
    assert.deepEqual(findTar(two), {path: join(two, EROFS_TAR), start: 0, backing: 'files'});
    const {path, start} = findTar(one)!;
    assert.deepEqual(readFileSync(path).subarray(start), Buffer.from(LAYER));
    assert.equal(indexedUsage(one)!.inodes, indexedUsage(two)!.inodes);
    const again = layer(t);
    assert.ok(await indexTar(again, 'loop'));
    assert.ok(isSameIndex(path, join(again, EROFS_IMAGE)));
  });

  it('for a loop device is the same on a filesystem that cannot insert space before a tar', async (t) => {
    if (!requiresRoot(t)) return;
    const [one, other] = [layer(t), layer(t)];
    assert.ok(await indexTar(one, 'loop'));
    const {PATH} = process.env;
    const bin = temporaryDirectory(t);
    writeFileSync(join(bin, 'fallocate'), '#!/bin/sh\nexit 1\n', {mode: 0o755});
    process.env.PATH = `${bin}:${PATH}`;
    try {
      assert.ok(await indexTar(other, 'loop'));
    } finally {
      process.env.PATH = PATH;
    }
    assert.ok(isSameIndex(join(one, EROFS_IMAGE), join(other, EROFS_IMAGE)));
    assert.deepEqual(readdirSync(other), [EROFS_IMAGE]);
  });

  it('without the address of its tar is damaged', async (t) => {
    if (!requiresRoot(t)) return;
    const directory = layer(t);
    assert.ok(await indexTar(directory, 'loop'));
    const image = join(directory, EROFS_IMAGE);
    const whole = readFileSync(image);
    for (const torn of [Buffer.alloc(0), Buffer.alloc(whole.length), whole.subarray(0, 1100), whole.subarray(0, 2000)]) {
      writeFileSync(image, torn);
      assert.throws(() => findTar(directory), is('data_loss'), String(torn.length));
    }
  });
});
