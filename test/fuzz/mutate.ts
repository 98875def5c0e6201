/** Mutates inputs. */
import type {Random} from './seeded-random.ts';

/** Longest input in bytes. */
const MAX_INPUT_BYTES = 32 << 10;
const BLOCK = 512;

const BYTES = [0, 1, 0x20, 0x2f, 0x2e, 0x30, 0x39, 0x7f, 0x80, 0xff] as const;
const NUMBERS = [
  '0',
  '-1',
  '1',
  '7',
  '8',
  '255',
  '256',
  '4096',
  '65536',
  '2147483648',
  '4294967295',
  '9007199254740993',
  '1e309',
  '0x10',
] as const;

const spliced = (bytes: Buffer, from: number, to: number, middle: Uint8Array): Buffer =>
  Buffer.concat([bytes.subarray(0, from), middle, bytes.subarray(to)]);

/** Makes one change. @param others inputs to take pieces from @param tokens words of the format */
function change(bytes: Buffer, random: Random, others: readonly Uint8Array[], tokens: readonly string[]): Buffer {
  const at = random.below(bytes.length + 1);
  const length = random.chance(0.5) ? random.below(8) : random.below(bytes.length + 1);
  const end = Math.min(at + length, bytes.length);
  switch (random.below(12)) {
    case 0: {
      const copy = Buffer.from(bytes);
      if (at < copy.length) copy[at]! ^= 1 << random.below(8);
      return copy;
    }
    case 1: {
      const copy = Buffer.from(bytes);
      if (at < copy.length) copy[at] = random.pick(BYTES);
      return copy;
    }
    case 2:
      return spliced(bytes, at, end, Buffer.alloc(0));
    case 3:
      return spliced(bytes, at, at, bytes.subarray(at, end));
    case 4:
      return spliced(bytes, at, at, Buffer.from(Array.from({length: 1 + random.below(8)}, () => random.below(256))));
    case 5:
    case 6:
      return tokens.length === 0 ? bytes : spliced(bytes, at, random.chance(0.5) ? at : end, Buffer.from(random.pick(tokens), 'latin1'));
    case 7: {
      const other = random.pick(others);
      const from = random.below(other.length + 1);
      return spliced(bytes, at, end, other.subarray(from, from + random.below(other.length - from + 1)));
    }
    case 8: {
      // Replaces a number.
      const text = bytes.toString('latin1');
      const numbers = [...text.matchAll(/\d+/g)];
      if (numbers.length === 0) return bytes;
      const found = random.pick(numbers);
      return spliced(bytes, found.index, found.index + found[0].length, Buffer.from(random.pick(NUMBERS)));
    }
    case 9: {
      // Moves, repeats or removes a tar block.
      const blocks = Array.from({length: Math.ceil(bytes.length / BLOCK)}, (_, i) => bytes.subarray(i * BLOCK, (i + 1) * BLOCK));
      if (blocks.length < 2) return bytes;
      blocks.splice(random.below(blocks.length), random.below(2), random.pick(blocks));
      return Buffer.concat(blocks);
    }
    case 10: {
      const piece = tokens.length > 0 && random.chance(0.5) ? Buffer.from(random.pick(tokens), 'latin1') : bytes.subarray(at, end);
      const times = 1 << random.below(12);
      return spliced(
        bytes,
        at,
        at,
        Buffer.concat(Array.from({length: Math.min(times, Math.ceil(MAX_INPUT_BYTES / (piece.length + 1)))}, () => piece)),
      );
    }
    default:
      return Buffer.from(bytes.subarray(0, at));
  }
}

export function mutate(bytes: Uint8Array, random: Random, others: readonly Uint8Array[], tokens: readonly string[]): Buffer {
  let changed = Buffer.from(bytes);
  const changes = 1 + random.below(random.chance(0.8) ? 4 : 16);
  for (let i = 0; i < changes; i++) changed = Buffer.from(change(changed, random, others, tokens));
  return changed.subarray(0, MAX_INPUT_BYTES);
}
