/**
 * Hashes of digests, and random names. Where the engine is Bun, its own: node:crypto takes 2 ms and more to load there, which
 * most commands would spend on a few hundred bytes.
 */
import {createHash as createNodeHash, randomBytes} from 'node:crypto';

/** Takes bytes one after the other; the digest can be had once. */
export interface Hash {
  update(data: Uint8Array | string): Hash;
  /** The same as far as it has come; each goes on by itself. */
  copy(): Hash;
  digest(encoding: 'hex'): string;
}

declare const Bun: {readonly CryptoHasher: new (algorithm: string) => Hash} | undefined;

/** @param algorithm one that digests have: `sha256`, `sha384`, `sha512` */
export const createHash = (algorithm: string): Hash =>
  typeof Bun === 'undefined' ? createNodeHash(algorithm) : new Bun.CryptoHasher(algorithm);

/** Two hexadecimal digits for each of `bytes`, such as nobody can guess. */
export const randomHex = (bytes: number): string =>
  (typeof Bun === 'undefined' ? randomBytes(bytes) : Buffer.from(crypto.getRandomValues(new Uint8Array(bytes)))).toString('hex');
