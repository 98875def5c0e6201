/**
 * Describes a tree as mtree(5) does, with the keywords that umoci's bundles have.
 *
 * Form after vbatts' go-mtree (Keyword, Walk), which umoci reads it with.
 */
import {lstatSync, readdirSync} from 'node:fs';
import {streamOutput} from '../fs/spawn.ts';
import {createHash} from '../oci/hash.ts';
import {TAR_READ, tarInput} from './kept-xattrs.ts';
import {fsPath} from './overlay-view.ts';
import {createTarReader, type TarHeader} from './tar.ts';

const TYPES = {file: 'file', directory: 'dir', symlink: 'link', char: 'char', block: 'block', fifo: 'fifo'} as const;

/** A binary string without spaces, characters of patterns, and what cannot be printed. */
const escaped = (name: string): string =>
  name.replaceAll(/[^!-~]|[\\#*?[]/gs, (char) => (char === '\\' ? '\\\\' : `\\${char.charCodeAt(0).toString(8).padStart(3, '0')}`));

/** Names below a directory, in each what is no directory first; `undefined` ends a directory. */
function* namesOf(root: string, path: string): Generator<string | undefined> {
  yield path;
  const directories: string[] = [];
  for (const name of readdirSync(fsPath(`${root}/${path}`), {encoding: 'latin1'}).sort()) {
    const below = path === '' ? name : `${path}/${name}`;
    const stat = lstatSync(fsPath(`${root}/${below}`));
    if (stat.isDirectory()) directories.push(below);
    else if (!stat.isSocket()) yield below;
  }
  for (const directory of directories) yield* namesOf(root, directory);
  yield undefined;
}

/** @param root absolute path; nobody may change the tree meanwhile @throws internal tar(1) failed */
export async function* mtreeOf(root: string, signal?: AbortSignal): AsyncGenerator<string> {
  const plan = [...namesOf(root, '')];
  let next = 0;
  let depth = 0;
  let lines: string[] = ['#mtree\n'];
  let current: {readonly header: TarHeader; readonly hash: ReturnType<typeof createHash>} | undefined;
  const closeDirectories = (): void => {
    for (; next < plan.length && plan[next] === undefined; next++) lines.push(`${'    '.repeat(--depth)}..\n`);
  };
  const reader = createTarReader({
    entry: (header) => {
      current = {header, hash: createHash('sha256')};
    },
    data: (chunk) => void current!.hash.update(chunk),
    entryEnd: () => {
      closeDirectories();
      const path = plan[next++]!;
      const {header, hash} = current!;
      const {size, nlink} = lstatSync(fsPath(`${root}/${path}`));
      const type = TYPES[header.type as keyof typeof TYPES];
      const words = [
        path === '' ? '.' : escaped(path.slice(path.lastIndexOf('/') + 1)),
        `type=${type}`,
        `size=${size}`,
        `uid=${header.uid}`,
        `gid=${header.gid}`,
        `mode=${header.mode === 0 ? '' : '0'}${header.mode.toString(8)}`,
        ...(type === 'link' ? [`link=${escaped(header.linkname)}`] : []),
        `nlink=${nlink}`,
        `tar_time=${header.mtimeSec}.000000000`,
        ...(type === 'file' ? [`sha256digest=${hash.digest('hex')}`] : []),
        ...[...header.xattrs].sort().map(([key, value]) => `xattr.${escaped(key)}=${value.toString('base64')}`),
      ];
      lines.push(`${'    '.repeat(depth)}${words.join(' ')}\n`);
      if (type === 'dir') depth++;
    },
  });
  const input = tarInput(plan.filter((path) => path !== undefined));
  for await (const chunk of streamOutput('tar', TAR_READ, {package: 'tar', cwd: root, input, ...(signal === undefined ? {} : {signal})})) {
    reader.write(chunk);
    if (lines.length > 0) yield lines.join('');
    lines = [];
  }
  reader.end();
  closeDirectories();
  yield lines.join('');
}
