/** Reads archives at once and in chunks, and builds their indexes. */
import assert from 'node:assert/strict';
import {createHash} from 'node:crypto';
import {createErofsIndex} from '../../../src/lib/archive/erofs-index.ts';
import {createTarReader, type TarHandler} from '../../../src/lib/archive/tar.ts';
import {isErrdefs} from '../../../src/lib/errdefs.ts';
import {resign, SEEDS, TOKENS} from '../tar-seeds.ts';
import type {Target} from '../target.ts';

/** Events of the reader, and the final result. */
function events(bytes: Buffer, chunk: number): {readonly told: readonly string[]; readonly end: string; readonly err?: unknown} {
  const told: string[] = [];
  let content = 0;
  const index = createErofsIndex();
  const hash = createHash('sha256');
  const handler: TarHandler = {
    entry(header, contentStart) {
      const {name, linkname, type, mode, uid, gid, size, mtimeSec, mtimeNs, devmajor, devminor, xattrs, sparse} = header;
      assert.ok(size >= 0 && uid >= 0 && gid >= 0 && mtimeNs >= 0 && mtimeNs < 1e9 && mode <= 0o7777);
      assert.ok([size, uid, gid, mtimeSec].every(Number.isSafeInteger));
      assert.ok(!name.includes('\0') && !linkname.includes('\0'));
      told.push([type, name, linkname, mode, uid, gid, size, mtimeSec, mtimeNs, devmajor, devminor, xattrs.size, sparse?.length].join(' '));
      content = sparse === undefined ? (type === 'file' ? size : 0) : sparse.reduce((sum, region) => sum + region.size, 0);
      if (type !== 'global') assert.equal(contentStart % 512, 0);
      index.entry(header, contentStart);
    },
    data(piece) {
      content -= piece.length;
    },
    entryEnd() {
      assert.equal(content, 0, 'an entry has the content that its header says');
      told.push('end');
    },
  };
  const reader = createTarReader(handler);
  try {
    for (let at = 0; at < bytes.length; at += chunk) reader.write(bytes.subarray(at, at + chunk));
    reader.end();
    assert.ok(reader.entriesEnd <= bytes.length + 511);
    const {bytes: pieces, implicitParents} = index.encode(bytes.length);
    for (const piece of pieces) hash.update(piece);
    const parents = implicitParents.map(({path}) => path);
    return {told, end: `${[...index.reasons].sort()} ${parents} ${reader.entriesEnd} ${hash.digest('hex')}`};
  } catch (err) {
    if (!isErrdefs(err)) throw err;
    return {told, end: err.code, err};
  }
}

export const target: Target = {
  name: 'tar',
  seeds: SEEDS,
  tokens: TOKENS,
  sources: ['/archive/tar.ts', '/archive/erofs-index.ts'],
  refuses: ['data_loss', 'invalid_argument', 'resource_exhausted'],
  repair: resign,
  run(bytes) {
    const whole = events(bytes, bytes.length + 1);
    const {err: _, ...pieces} = events(bytes, 1 + (bytes.length % 700));
    const {err, ...rest} = whole;
    assert.deepEqual(pieces, rest, 'it makes no difference how an archive is cut up');
    if (err !== undefined) throw err;
  },
};
