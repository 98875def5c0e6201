/**
 * A little of the disk that is kept for when all else of it is taken: to remove something is to take a lock and to write a
 * record of the journal first, which are new files. It lies in the cache, because it, too, may be deleted at any time.
 */
import {randomBytes} from 'node:crypto';
import {existsSync, rmSync, writeFileSync} from 'node:fs';
import {join} from 'node:path';
import {makeDirectories} from '../fs/durable.ts';
import {isAllButFull} from '../fs/space.ts';
import type {Layout} from './layout.ts';
import type {Store} from './store.ts';

const FILES = 8;
const FILE_BYTES = 32 << 10;

const directory = ({cache}: Layout): string => join(cache, 'reserve');

/** Makes the reserve where it is missing, there is a store, and the disk has room for it. Never fails. */
export function keepReserve(store: Store): void {
  try {
    const {layout} = store;
    const files = Array.from({length: FILES}, (_, i) => join(directory(layout), String(i)));
    if (existsSync(files.at(-1)!) || !store.exists() || isAllButFull(layout.root)) return;
    makeDirectories(directory(layout), {sync: false});
    // Not zeros: some filesystems would keep none of them.
    for (const file of files) writeFileSync(file, randomBytes(FILE_BYTES), {mode: 0o600});
  } catch {
    // A disk that is full or not to be written, or a store that is not for us: then there is none.
  }
}

/**
 * Runs what removes something. When the disk is all but full, the whole cache is given up for it before, with the reserve; that
 * is made anew when there is room again.
 */
export async function withReserve<T>(store: Store, action: () => Promise<T>): Promise<T> {
  try {
    if (store.exists() && isAllButFull(store.layout.root)) rmSync(store.layout.cache, {recursive: true, force: true});
  } catch {
    // It is not there, or not ours: the action says what is wrong.
  }
  try {
    return await action();
  } finally {
    keepReserve(store);
  }
}
