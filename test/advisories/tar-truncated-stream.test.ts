/** CVE-2021-20291 (containers/storage): a stream is truncated or endless. Nothing may hang or stay open. */
import assert from 'node:assert/strict';
import {readdirSync} from 'node:fs';
import {it} from 'node:test';
import {gzipSync, zstdCompressSync} from 'node:zlib';
import {createApplier} from '../../src/lib/archive/apply.ts';
import {createSyncInflater} from '../../src/lib/archive/inflate.ts';
import {is, temporaryDirectory} from '../support/helpers.ts';
import {dir, file, tar} from '../support/tartest.ts';

const ARCHIVE = tar(dir('d'), file('d/f', Buffer.from(Array.from({length: 20_000}, (_, i) => i & 0xff))), file('g', 'x'));
const openFiles = (): number => readdirSync('/proc/self/fd').length;

for (const [kind, bytes] of Object.entries({gzip: gzipSync(ARCHIVE), zstd: zstdCompressSync(ARCHIVE), plain: ARCHIVE}))
  it(`a stream truncated anywhere is data_loss: ${kind}`, (t) => {
    const before = openFiles();
    // A tar may end after any file, so those offsets are valid.
    const lengths = [1, 2, 3, 10, 100, 0.3, 0.5, 0.8]
      .map((n) => (n < 1 ? Math.floor(bytes.length * n) : n))
      .filter((n) => n < bytes.length - 2000);
    for (const length of lengths) {
      const applier = createApplier({root: temporaryDirectory(t), form: 'plain'});
      const inflater = createSyncInflater((chunk) => applier.write(chunk));
      assert.throws(
        () => {
          inflater.write(bytes.subarray(0, length));
          inflater.end();
          applier.end();
        },
        is('data_loss'),
        `${length} B`,
      );
      inflater.close();
      applier.abort();
    }
    assert.equal(openFiles(), before);
  });

it('damage within a file leaves nothing open', (t) => {
  const before = openFiles();
  const applier = createApplier({root: temporaryDirectory(t), form: 'plain'});
  applier.write(ARCHIVE.subarray(0, 2000));
  assert.equal(openFiles(), before + 1);
  applier.abort();
  applier.abort();
  assert.equal(openFiles(), before);
});
