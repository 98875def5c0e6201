/** The extended attributes that a layer tells of, and where two trees differ in them. tar(1) reads them, for which Node has no call. */
import {streamOutput} from '../fs/spawn.ts';
import {createTarReader} from './tar.ts';

/** Reads names from standard input, of which none is left out and none told as a link to another one. */
export const TAR_READ: readonly string[] = [
  '-c',
  '--format=pax',
  '--no-recursion',
  '--xattrs',
  '--xattrs-include=*',
  '--hard-dereference',
  '--null',
  '-T',
  '-',
  '-f',
  '-',
];

/** The others are this machine's, as overlayfs' marks are. */
const KEPT = /^(?:user\.|security\.capability$)/;

export const keptXattrs = (xattrs: ReadonlyMap<string, Buffer>): ReadonlyMap<string, Buffer> =>
  new Map([...xattrs].filter(([key]) => KEPT.test(key)));

/** Input for tar(1). @param paths binary strings, relative to the tree's root */
export const tarInput = (paths: readonly string[]): Buffer => Buffer.from(paths.map((path) => `./${path}\0`).join(''), 'latin1');

/** Texts that are equal for equal attributes, one for each path, in order. */
async function* readKept(root: string, paths: readonly string[], signal: AbortSignal | undefined): AsyncGenerator<string> {
  let found: string[] = [];
  const reader = createTarReader({
    entry: ({xattrs}) => found.push(JSON.stringify([...keptXattrs(xattrs)].map(([key, value]) => [key, value.toString('hex')]).sort())),
    data: () => {},
    entryEnd: () => {},
  });
  const options = {package: 'tar', cwd: root, input: tarInput(paths), ...(signal === undefined ? {} : {signal})};
  for await (const chunk of streamOutput('tar', TAR_READ, options)) {
    reader.write(chunk);
    yield* found;
    found = [];
  }
  reader.end();
  yield* found;
}

/**
 * Finds the names whose attributes differ. Reads all of both trees, because tar(1) does.
 *
 * @param paths of regular files and directories that both trees have; binary strings
 * @returns their indexes
 * @throws internal tar(1) failed
 */
export async function differingXattrs(
  trees: readonly [string, string],
  paths: readonly string[],
  signal: AbortSignal | undefined,
): Promise<readonly number[]> {
  if (paths.length === 0) return [];
  const [a, b] = trees.map((root) => readKept(root, paths, signal)) as [AsyncGenerator<string>, AsyncGenerator<string>];
  const differing: number[] = [];
  try {
    for (let i = 0; ; i++) {
      const [one, other] = await Promise.all([a.next(), b.next()]);
      if (one.done === true && other.done === true) return differing;
      if (one.value !== other.value) differing.push(i);
    }
  } finally {
    await Promise.all([a.return(undefined), b.return(undefined)]);
  }
}
