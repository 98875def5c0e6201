/** Trees deeper than the longest path, which a process can make by changing directory. */
import {linkSync, mkdirSync, writeFileSync} from 'node:fs';

/**
 * Makes a chain of directories below `root`, and at its end a file `file` with a second name `hard`.
 *
 * @param length of each name, in bytes
 */
export function makeDeep(root: string, depth: number, length: number): void {
  inDeepest(
    root,
    Array.from({length: depth}, () => 'd'.repeat(length)),
    () => {
      writeFileSync('file', 'x');
      linkSync('file', 'hard');
    },
    (name) => mkdirSync(name),
  );
}

/** Does something in a directory however deep; the paths that it uses are relative to it. */
export function inDeepest(root: string, names: readonly string[], action: () => void, before: (name: string) => void = () => {}): void {
  const cwd = process.cwd();
  process.chdir(root);
  try {
    for (const name of names) {
      before(name);
      process.chdir(name);
    }
    action();
  } finally {
    process.chdir(cwd);
  }
}
