/** The tar reader, whole and in pieces, with the scan that decides about indexing. */
import assert from 'node:assert/strict';
import {createLayerScan} from '../../../src/lib/archive/scan.ts';
import {createTarReader, type TarHandler} from '../../../src/lib/archive/tar.ts';
import {isErrdefs} from '../../../src/lib/errdefs.ts';
import type {Target} from '../target.ts';
import {resign, SEEDS, TOKENS} from '../tars.ts';

/** What is told of an archive, and how it ended. */
function events(bytes: Buffer, chunk: number): {readonly told: readonly string[]; readonly end: string; readonly err?: unknown} {
  const told: string[] = [];
  let content = 0;
  const scan = createLayerScan();
  const handler: TarHandler = {
    entry(header) {
      const {name, linkname, type, mode, uid, gid, size, mtimeSec, mtimeNs, devmajor, devminor, xattrs, sparse} = header;
      assert.ok(size >= 0 && uid >= 0 && gid >= 0 && mtimeNs >= 0 && mtimeNs < 1e9 && mode <= 0o7777);
      assert.ok([size, uid, gid, mtimeSec].every(Number.isSafeInteger));
      assert.ok(!name.includes('\0') && !linkname.includes('\0'));
      told.push([type, name, linkname, mode, uid, gid, size, mtimeSec, mtimeNs, devmajor, devminor, xattrs.size, sparse?.length].join(' '));
      content = sparse === undefined ? (type === 'file' ? size : 0) : sparse.reduce((sum, region) => sum + region.size, 0);
      scan.entry(header);
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
    return {told, end: `${[...scan.reasons].sort()} ${scan.impliedParents().map(({path}) => path)} ${reader.entriesEnd}`};
  } catch (err) {
    if (!isErrdefs(err)) throw err;
    return {told, end: err.code, err};
  }
}

export const target: Target = {
  name: 'tar',
  seeds: SEEDS,
  tokens: TOKENS,
  sources: ['/archive/tar.ts', '/archive/scan.ts'],
  refuses: ['data_loss', 'invalid_argument', 'resource_exhausted'],
  mend: resign,
  run(bytes) {
    const whole = events(bytes, bytes.length + 1);
    const {err: _, ...pieces} = events(bytes, 1 + (bytes.length % 700));
    const {err, ...rest} = whole;
    assert.deepEqual(pieces, rest, 'it makes no difference how an archive is cut up');
    if (err !== undefined) throw err;
  },
};
