/** Indexes a layer of many small files; prints the peak of memory in bytes, as JSON: `measure-index-memory.ts FILES PER-DIRECTORY`. */
import {createErofsIndex} from '../../../src/lib/archive/erofs-index.ts';
import {createTarReader} from '../../../src/lib/archive/tar.ts';
import {dir, encode, file, sign} from '../../support/tartest.ts';

const [files, perDirectory] = process.argv.slice(2).map(Number) as [number, number];
const [directory, entry] = [dir('d'), file('f', '')].map((one) => Buffer.from(encode(one))) as [Buffer, Buffer];

/** Sets the name in a header. */
function named(header: Buffer, name: string): Buffer {
  header.fill(0, 0, 100);
  header.write(name, 0, 'latin1');
  sign(header);
  return header;
}

const index = createErofsIndex();
const reader = createTarReader(index);
const peak = (): number => 1024 * process.resourceUsage().maxRSS;
const before = peak();
let at = 0;
for (let i = 0; i < files; i++) {
  const path = `directory${Math.floor(i / perDirectory)}`;
  if (i % perDirectory === 0) reader.write(named(directory, path));
  reader.write(named(entry, `${path}/file${i}`));
  at += entry.length;
}
reader.write(Buffer.alloc(1024));
reader.end();
let bytes = 0;
for (const piece of index.encode(at + 1024).bytes) bytes += piece.length;
process.stdout.write(JSON.stringify({bytes, entries: index.entries, reasons: [...index.reasons], peak: peak() - before}));
