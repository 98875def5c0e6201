/**
 * Prints the digest of each generated layer's index, or its reasons or error, as JSON: `print-index-digests.ts SEED COUNT BYTES-A-WRITE`.
 */
import {createHash} from 'node:crypto';
import {createErofsIndex} from '../../../src/lib/archive/erofs-index.ts';
import {createTarReader} from '../../../src/lib/archive/tar.ts';
import {codeOf} from '../../../src/lib/errdefs.ts';
import {generateImage} from '../../fuzz/generate-image.ts';

function digest(layer: Uint8Array, chunk: number): string {
  const index = createErofsIndex();
  const reader = createTarReader(index);
  try {
    for (let at = 0; at < layer.length; at += chunk) reader.write(layer.subarray(at, at + chunk));
    reader.end();
  } catch (err) {
    return codeOf(err);
  }
  const hash = createHash('sha256');
  const {bytes, implicitParents} = index.encode(layer.length);
  for (const piece of bytes) hash.update(piece);
  return [hash.digest('hex'), ...index.reasons, ...implicitParents.map(({path, inode}) => `${path}@${inode}`)].join(' ');
}

const [seed, count, chunk] = process.argv.slice(2).map(Number) as [number, number, number];
const layers = Array.from({length: count}, (_, n) => generateImage(seed, n).tars).flat();
process.stdout.write(JSON.stringify(layers.map((layer) => digest(layer, chunk))));
