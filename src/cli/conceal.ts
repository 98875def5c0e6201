/** What is secret on the command line is not left there, where every user of the machine can read it. */
import {closeSync, openSync, readFileSync, readSync, writeSync} from 'node:fs';

/** After NULs: of `--user` and `-u`, which may share its word with flags that have no value, what follows the colon; of `--refresh` all. */
const SECRET = /\0(?:(?:--?user[=\0]|-[kqh]*u[=\0]?)[^:\0]*:|--?refresh[=\0])([^\0]+)/dg;

/**
 * Overwrites what is secret in the process's own arguments with stars. `process.argv` keeps it. Between the start of the
 * process and this, anybody can read it.
 *
 * Where the kernel does not allow it nothing happens: what cannot be hidden is no reason to fail.
 *
 * After curl, src/tool_paramhlp.c (cleanarg).
 */
export function concealSecrets(): void {
  let memory: number | undefined;
  try {
    const stat = readFileSync('/proc/self/stat', 'latin1');
    // Field 2, the program's name, may hold blanks and parentheses; 48 and 49 say where the arguments begin and end.
    const fields = stat.slice(stat.lastIndexOf(')') + 2).split(' ');
    const [start, end] = [Number(fields[48 - 3]), Number(fields[49 - 3])] as [number, number];
    memory = openSync('/proc/self/mem', 'r+');
    const area = Buffer.alloc(end - start);
    readSync(memory, area, 0, area.length, start);
    const [words] = area.toString('latin1').split('\0--\0') as [string];
    for (const {indices} of words.matchAll(SECRET)) {
      const [from, to] = indices![1]!;
      writeSync(memory, Buffer.alloc(to - from, '*'), 0, to - from, start + from);
    }
  } catch {
    // See above.
  } finally {
    if (memory !== undefined) closeSync(memory);
  }
}
