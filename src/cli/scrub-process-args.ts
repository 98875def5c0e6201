/** Removes secrets from the process's arguments, which every user of the machine can read in /proc. */
import {closeSync, openSync, readFileSync, readSync, writeSync} from 'node:fs';

/** The password in `--creds`, `--src-creds`, `--dest-creds`, `--user`, `--username` or `-u`, which may share its word with boolean flags, and the values of `--refresh` and `--password`. Words begin after a NUL. */
const SECRET = /\0(?:(?:--?(?:user(?:name)?|(?:src-|dest-)?creds)[=\0]|-[kqh]*u[=\0]?)[^:\0]*:|--?(?:refresh|password)[=\0])([^\0]+)/dg;

/** The password of `login -p`; other commands may have another `-p`. */
const SHORT_SECRET = /\0-[kh]*p[=\0]?([^\0]+)/dg;

/**
 * Overwrites secrets in the process's arguments with asterisks; `process.argv` keeps them. Until then every user can read
 * them. Does nothing if the kernel does not permit it.
 *
 * After curl, src/tool_paramhlp.c (cleanarg).
 */
export function scrubProcessArgs(): void {
  let memory: number | undefined;
  try {
    const stat = readFileSync('/proc/self/stat', 'latin1');
    // Fields 48 and 49 are the start and end of the arguments. Field 2, the program's name, may contain blanks and parentheses.
    const fields = stat.slice(stat.lastIndexOf(')') + 2).split(' ');
    const [start, end] = [Number(fields[48 - 3]), Number(fields[49 - 3])] as [number, number];
    memory = openSync('/proc/self/mem', 'r+');
    const area = Buffer.alloc(end - start);
    readSync(memory, area, 0, area.length, start);
    const [words] = area.toString('latin1').split('\0--\0') as [string];
    const found = [...words.matchAll(SECRET), ...(/\0login(?:\0|$)/.test(words) ? words.matchAll(SHORT_SECRET) : [])];
    for (const {indices} of found) {
      const [from, to] = indices![1]!;
      writeSync(memory, Buffer.alloc(to - from, '*'), 0, to - from, start + from);
    }
  } catch {
    // Not permitted.
  } finally {
    if (memory !== undefined) closeSync(memory);
  }
}
