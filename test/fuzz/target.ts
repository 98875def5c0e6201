/** What a fuzzed reader is. */
import {readdirSync, readFileSync} from 'node:fs';
import {join} from 'node:path';
import type {Code} from '../../src/lib/errdefs.ts';
import type {Random} from './seeded-random.ts';

export interface Target {
  readonly name: string;
  /** Inputs to begin with. */
  readonly seeds: readonly Uint8Array[];
  /** Words of the format. */
  readonly tokens: readonly string[];
  /** Parts of the paths of the sources whose coverage leads. */
  readonly sources: readonly string[];
  /** Classes of errors with which an input may be refused. Everything else that is thrown is a failure. */
  readonly refuses: readonly Code[];
  /** Repairs what would be refused at once, such as a checksum. */
  readonly repair?: (bytes: Buffer, random: Random) => Buffer;
  /** Reads one input, and asserts what has to hold of what it reads. */
  run(bytes: Buffer): void | Promise<void>;
  /** Called once, after the last input. */
  close?(): void;
}

export const CORPUS = join(import.meta.dirname, 'corpus');

/** Inputs of the corpus that are kept for a target. */
export function corpusOf(name: string): Buffer[] {
  const files = readdirSync(CORPUS)
    .filter((file) => file.startsWith(`${name}-`))
    .sort();
  return files.map((file) => readFileSync(join(CORPUS, file)));
}
