/**
 * A file that the disk, or the system, does not give back: each open of it for reading, in this thread, fails, until something else
 * has its name. A real disk fails at the read; for who reads whole files there is no difference.
 */
import fs from 'node:fs';
import {syncBuiltinESMExports} from 'node:module';

export type Errno = 'EIO' | 'EACCES';

/** Path → inode of the file that cannot be read, and why. */
const spoilt = new Map<string, {readonly inode: number; readonly code: Errno}>();

type Any = (...args: unknown[]) => unknown;

function refuse(name: string, path: unknown): void {
  const file = Buffer.isBuffer(path) ? path.toString() : path;
  const found = typeof file === 'string' ? spoilt.get(file) : undefined;
  if (found === undefined || fs.lstatSync(file as string, {throwIfNoEntry: false})?.ino !== found.inode) return;
  const {code} = found;
  throw Object.assign(new Error(`${code}: injected, ${name} '${file as string}'`), {code, syscall: name, path: file});
}

function patch(name: 'openSync' | 'readFileSync' | 'createReadStream'): void {
  const functions = fs as unknown as Record<string, Any>;
  const call = functions[name]!;
  functions[name] = function (this: unknown, ...args: unknown[]) {
    if (spoilt.size > 0) refuse(name, args[0]);
    return call.apply(this, args);
  };
}

let installed = false;

/** From now on the file cannot be read. @returns makes it readable again */
export function makeUnreadable(path: string, code: Errno): () => void {
  if (!installed) {
    for (const name of ['openSync', 'readFileSync', 'createReadStream'] as const) patch(name);
    syncBuiltinESMExports();
    installed = true;
  }
  spoilt.set(path, {inode: fs.lstatSync(path).ino, code});
  return () => void spoilt.delete(path);
}
