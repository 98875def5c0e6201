/**
 * Digests of bytes, and random names. On Bun with Bun's own hash: there node:crypto takes 2 ms and more to load, for what is
 * mostly a few hundred bytes.
 */
import {createHash as createNodeHash, randomBytes} from 'node:crypto';
import {ErrdefsError} from '../errdefs.ts';
import {type Descriptor, type Digest, digestParts} from './descriptor.ts';

/** An incremental hash. */
export interface Hash {
  update(data: Uint8Array | string): Hash;
  /** An independent copy of the current state. */
  copy(): Hash;
  digest(encoding: 'hex'): string;
}

declare const Bun: {readonly CryptoHasher: new (algorithm: string) => Hash} | undefined;

/** @param algorithm `sha256`, `sha384` or `sha512` */
export const createHash = (algorithm: string): Hash =>
  typeof Bun === 'undefined' ? createNodeHash(algorithm) : new Bun.CryptoHasher(algorithm);

/** The digest of bytes, or of text in UTF-8. @param algorithm `sha256`, `sha384` or `sha512` */
export const digestOf = (data: Uint8Array | string, algorithm = 'sha256'): Digest =>
  `${algorithm}:${createHash(algorithm).update(data).digest('hex')}` as Digest;

/**
 * Compares bytes with a descriptor.
 *
 * @param what the object, such as `manifest sha256:…`
 * @throws failed_precondition another size or digest
 */
export function verifyBytes(what: string, bytes: Uint8Array, expected: Pick<Descriptor, 'digest' | 'size'>): void {
  const actual = digestOf(bytes, digestParts(expected.digest)[0]);
  if (actual !== expected.digest || bytes.length !== expected.size)
    throw new ErrdefsError(
      'failed_precondition',
      `${what}: ${expected.digest} (${expected.size} B) arrived as ${actual} (${bytes.length} B)`,
    );
}

/** Content that a descriptor embeds; `undefined` without any, and where its size or digest is another one. */
export function embeddedData({data, size, digest}: Descriptor): Buffer | undefined {
  if (data === undefined) return undefined;
  const bytes = Buffer.from(data, 'base64');
  return bytes.length === size && digestOf(bytes, digestParts(digest)[0]) === digest ? bytes : undefined;
}

/** Cryptographically random bytes in hexadecimal. */
export const randomHex = (bytes: number): string =>
  (typeof Bun === 'undefined' ? randomBytes(bytes) : Buffer.from(crypto.getRandomValues(new Uint8Array(bytes)))).toString('hex');
