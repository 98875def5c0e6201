/**
 * Keeps tokens of registries for other processes of the user: in files of the directory that ends with the boot, until they expire.
 *
 * It never changes a result: what cannot be read is not there, and what cannot be written is not kept.
 */
import {join} from 'node:path';
import {assertPrivate} from '../../fs/assert-private-directory.ts';
import {listIfPresent, makeDirectories, readIfPresent, sweepTemporary, unlinkIfPresent, writeAtomic} from '../../fs/durable.ts';
import type {TokenStore} from '../../remotes/types.ts';
import {runtimeStatePath} from '../../store/layout.ts';

interface StoredToken {
  readonly token: string;
  /** Milliseconds since the epoch. */
  readonly expires: number;
}

/** No token is believed for longer than this, whatever a file or the clock says: milliseconds. */
const LONGEST_LIFE_MS = 24 * 3600_000;

function parse(text: string): StoredToken | undefined {
  const {token, expires} = Object(JSON.parse(text)) as Partial<StoredToken>;
  const isToken = typeof token === 'string' && /^[\x21-\x7e]+$/.test(token);
  return isToken && typeof expires === 'number' ? {token, expires} : undefined;
}

const isLive = (stored: StoredToken | undefined, now: number): stored is StoredToken =>
  stored !== undefined && stored.expires > now && stored.expires - now <= LONGEST_LIFE_MS;

const quietly = <T>(action: () => T): T | undefined => {
  try {
    return action();
  } catch {
    return undefined;
  }
};

/** @param stateDir the runtime state directory; it may throw, and is asked for with the first token */
export function tokenStore(stateDir: () => string): TokenStore {
  let opened: {readonly directory: string | undefined} | undefined;
  let swept = false;
  const directoryOf = (): string => {
    opened ??= {
      directory: quietly(() => {
        const directory = runtimeStatePath.tokens(stateDir());
        assertPrivate(directory);
        return directory;
      }),
    };
    if (opened.directory === undefined) throw new Error('no directory');
    return opened.directory;
  };
  const fileOf = (key: string): string => join(directoryOf(), `${key}.json`);

  /** Removes what has expired, and what a killed process left half-written. Once per process. */
  const sweep = (now: number): void => {
    if (swept) return;
    swept = true;
    sweepTemporary(directoryOf());
    for (const name of listIfPresent(directoryOf()).filter((one) => one.endsWith('.json'))) {
      const path = join(directoryOf(), name);
      if (
        !isLive(
          quietly(() => parse(readIfPresent(path) ?? '')),
          now,
        )
      )
        quietly(() => unlinkIfPresent(path));
    }
  };

  return {
    get: (key) =>
      quietly(() => {
        const text = readIfPresent(fileOf(key));
        const stored = text === undefined ? undefined : parse(text);
        return isLive(stored, Date.now()) ? stored : undefined;
      }),
    set: (key, token, expires) =>
      void quietly(() => {
        const now = Date.now();
        makeDirectories(directoryOf(), {sync: false, mode: 0o700});
        sweep(now);
        const stored: StoredToken = {token, expires: Math.min(expires, now + LONGEST_LIFE_MS)};
        writeAtomic(fileOf(key), JSON.stringify(stored), {sync: false, mode: 0o600});
      }),
    delete: (key) => void quietly(() => unlinkIfPresent(fileOf(key))),
  };
}
