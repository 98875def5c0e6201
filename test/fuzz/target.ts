/** The interface of a fuzz target. */
import {readdirSync, readFileSync} from 'node:fs';
import {join} from 'node:path';
import type {Code} from '../../src/lib/errdefs.ts';
import type {Random} from './seeded-random.ts';

export interface Target {
  readonly name: string;
  /** First inputs. */
  readonly seeds: readonly Uint8Array[];
  /** Words of the format. */
  readonly tokens: readonly string[];
  /** Substrings of the paths of sources whose coverage guides the fuzzer. */
  readonly sources: readonly string[];
  /** Error classes for rejected inputs. Any other error is a failure. */
  readonly refuses: readonly Code[];
  /** Repairs mutated bytes that the target would reject at once, such as a checksum. */
  readonly repair?: (bytes: Buffer, random: Random) => Buffer;
  /** Reads one input, and asserts properties of the result. */
  run(bytes: Buffer): void | Promise<void>;
  /** Called once, after the last input. */
  close?(): void;
}

export const CORPUS = join(import.meta.dirname, 'corpus');

/** Inputs in the corpus for a target. */
export function corpusOf(name: string): Buffer[] {
  const files = readdirSync(CORPUS)
    .filter((file) => file.startsWith(`${name}-`))
    .sort();
  return files.map((file) => readFileSync(join(CORPUS, file)));
}
