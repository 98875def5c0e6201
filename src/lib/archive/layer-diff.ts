/**
 * Writes what changed in a tree as the tar of a layer. The same trees give the same bytes.
 *
 * tar(1) reads the tree in one pass – it knows extended attributes, for which Node has no call –, and its entries are written anew: names
 * in our order, whole seconds, no times but mtime, no names of users.
 *
 * Rules after containerd, pkg/archive (ChangeWriter): directories above a change are written before it, once; a removed name is an empty
 * file `.wh.NAME`, for a whole directory one; of a file with several names the first is the file, and the others are links to it; sockets
 * are left out.
 */
import type {BigIntStats} from 'node:fs';
import {ErrdefsError} from '../errdefs.ts';
import {streamOutput} from '../fs/spawn.ts';
import {WHITEOUT_PREFIX} from './apply.ts';
import {inodeOf, type TreeChange} from './find-tree-changes.ts';
import {keptXattrs, TAR_READ, tarInput} from './kept-xattrs.ts';
import {ARCHIVE_END, encodeHeader, type LayerEntry, paddingFor} from './layer-tar-headers.ts';
import {attributesOf} from './overlay-view.ts';
import {createTarReader, displayName} from './tar.ts';

export interface LayerDiffOptions {
  /** Latest mtime, in seconds since 1970: later ones become this. */
  readonly latest?: number | undefined;
  readonly signal?: AbortSignal | undefined;
}

type Step =
  /** Read by tar(1). */
  | {readonly kind: 'read'; readonly path: string}
  | {readonly kind: 'link'; readonly path: string; readonly target: string; readonly stat: BigIntStats}
  | {readonly kind: 'whiteout'; readonly path: string};

function* steps(changes: readonly TreeChange[]): Generator<Step> {
  const written = new Set<string>();
  /** Names of files with several, in order. */
  const groups = new Map<string, TreeChange[]>();
  for (const change of changes)
    if (change.stat !== undefined && !change.stat.isDirectory() && change.stat.nlink > 1n) {
      const id = inodeOf(change.stat);
      const group = groups.get(id);
      if (group === undefined) groups.set(id, [change]);
      else group.push(change);
    }
  function* parentsOf(path: string): Generator<Step> {
    for (let slash = path.indexOf('/'); slash >= 0; slash = path.indexOf('/', slash + 1)) {
      const parent = path.slice(0, slash);
      if (!written.has(parent)) yield {kind: 'read', path: parent};
      written.add(parent);
    }
  }
  const firsts = new Map<string, string>();
  for (const {kind, path, stat} of changes) {
    if (kind === 'unmodified' || written.has(path) || stat?.isSocket() === true) continue;
    if (stat !== undefined) assertNoWhiteout(path);
    yield* parentsOf(path);
    written.add(path);
    if (stat === undefined) {
      const slash = path.lastIndexOf('/') + 1;
      yield {kind: 'whiteout', path: `${path.slice(0, slash)}${WHITEOUT_PREFIX}${path.slice(slash)}`};
      continue;
    }
    const id = inodeOf(stat);
    const first = firsts.get(id);
    if (first !== undefined) {
      yield {kind: 'link', path, target: first, stat};
      continue;
    }
    yield {kind: 'read', path};
    const group = stat.isDirectory() ? undefined : groups.get(id);
    if (group === undefined) continue;
    firsts.set(id, path);
    // Names that did not change have to become names of the new file.
    for (const other of group) {
      if (other.kind !== 'unmodified') continue;
      yield* parentsOf(other.path);
      written.add(other.path);
      yield {kind: 'link', path: other.path, target: path, stat: other.stat!};
    }
  }
}

function assertNoWhiteout(path: string): void {
  if (!path.slice(path.lastIndexOf('/') + 1).startsWith(WHITEOUT_PREFIX)) return;
  throw new ErrdefsError('failed_precondition', `a layer cannot have ${displayName(`/${path}`)}: the name would delete another file`, {
    hint: 'remove or rename it',
  });
}

/**
 * @param root the changed tree; nobody may change it meanwhile
 * @throws failed_precondition a file has the name of a whiteout, which a layer cannot carry
 * @throws internal tar(1) failed
 */
export async function* writeLayerDiff(
  root: string,
  changes: readonly TreeChange[],
  {latest = Number.POSITIVE_INFINITY, signal}: LayerDiffOptions = {},
): AsyncGenerator<Buffer> {
  const plan = [...steps(changes)];
  const toRead = plan.flatMap((step) => (step.kind === 'read' ? step.path : []));
  let out: Buffer[] = [];
  let next = 0;
  const clamp = (sec: number): number => Math.min(sec, latest);
  /** Writes the steps that come before the next one that is read. */
  const flush = (): void => {
    for (let step = plan[next]; step !== undefined && step.kind !== 'read'; step = plan[++next]) out.push(synthetic(step, clamp));
  };
  let size = -1;
  const reader = createTarReader({
    entry: (header) => {
      const name = header.name.replace(/^\.\//, '').replace(/\/+$/, '');
      flush();
      if (plan[next++]?.path !== name) throw new ErrdefsError('internal', `tar read ${displayName(name)} out of turn`);
      const xattrs = keptXattrs(header.xattrs);
      const {quirks: _, sparse: __, ...rest} = header;
      const isFile = header.type === 'file';
      const entry = {...rest, name, xattrs, mtimeSec: clamp(header.mtimeSec), mtimeNs: 0, size: isFile ? header.size : 0} as LayerEntry;
      out.push(encodeHeader(entry));
      size = isFile ? header.size : -1;
    },
    data: (chunk) => {
      if (size >= 0) out.push(Buffer.from(chunk));
    },
    entryEnd: () => {
      if (size > 0) out.push(paddingFor(size));
      size = -1;
    },
  });
  if (toRead.length > 0) {
    const options = {package: 'tar', cwd: root, input: tarInput(toRead), ...(signal === undefined ? {} : {signal})};
    for await (const chunk of streamOutput('tar', TAR_READ, options)) {
      reader.write(chunk);
      yield* out;
      out = [];
    }
    reader.end();
  }
  flush();
  yield* out;
  yield ARCHIVE_END;
}

function synthetic(step: Exclude<Step, {kind: 'read'}>, clamp: (sec: number) => number): Buffer {
  const common = {name: step.path, size: 0, mtimeNs: 0, devmajor: 0, devminor: 0, xattrs: new Map<string, Buffer>()};
  if (step.kind === 'whiteout') return encodeHeader({...common, type: 'file', linkname: '', mode: 0, uid: 0, gid: 0, mtimeSec: 0});
  const {mode, uid, gid, mtimeSec} = attributesOf(step.stat);
  return encodeHeader({
    ...common,
    type: 'link',
    linkname: step.target,
    mode,
    uid,
    gid,
    mtimeSec: clamp(mtimeSec),
  });
}
