/** Digests, platforms and descriptors of the OCI image specification. Values are checked once, when they are parsed. */
import {ErrdefsError} from '../errdefs.ts';

declare const digestBrand: unique symbol;
/** `<algorithm>:<lower-case hex>`, of a supported algorithm and its exact length. A safe path component on both sides of the colon. */
export type Digest = string & {readonly [digestBrand]: true};

/** Hex digits of each supported algorithm's digest. */
export const DIGEST_HEX_LENGTH: Readonly<Record<string, number>> = {sha256: 64, sha384: 96, sha512: 128};

/** Whether this is a digest of an algorithm that is known here, with as many hexadecimal digits as that has. */
export function isDigest(text: unknown): text is Digest {
  if (typeof text !== 'string') return false;
  const match = /^([a-z0-9]+):([0-9a-f]+)$/.exec(text);
  return match !== null && Object.hasOwn(DIGEST_HEX_LENGTH, match[1]!) && match[2]!.length === DIGEST_HEX_LENGTH[match[1]!];
}

/** @throws invalid_argument not a digest of a supported algorithm */
export function parseDigest(text: string): Digest {
  if (!isDigest(text)) throw new ErrdefsError('invalid_argument', `digest ${JSON.stringify(text)}`);
  return text;
}

/** @returns the digest's two halves, such as `['sha256', 'e3b0…']` */
export function digestParts(digest: Digest): readonly [algorithm: string, hex: string] {
  const colon = digest.indexOf(':');
  return [digest.slice(0, colon), digest.slice(colon + 1)];
}

/** What an image runs on, as an index and a config have it. */
export interface Platform {
  readonly os: string;
  readonly architecture: string;
  readonly variant?: string;
  readonly 'os.version'?: string;
  readonly 'os.features'?: readonly string[];
}

/** A reference to content by media type, digest and size. */
export interface Descriptor {
  readonly mediaType: string;
  readonly digest: Digest;
  /** Bytes. */
  readonly size: number;
  readonly platform?: Platform;
  readonly annotations?: Readonly<Record<string, string>>;
  readonly urls?: readonly string[];
  readonly artifactType?: string;
  /** The content itself, in base64. Not to be trusted: see `embeddedData` (hash.ts). */
  readonly data?: string;
}
