/** `cp`: copies files into containers, out of them, and between them. */
import {fstatSync, statSync} from 'node:fs';
import {setImmediate} from 'node:timers/promises';
import {ARCHIVE_END, encodeHeader, type LayerEntry, paddingFor} from '../../archive/layer-tar-headers.ts';
import {type Owner, openBelow, TreeWriter} from '../../archive/live-tree-writer.ts';
import {fsPath} from '../../archive/overlay-view.ts';
import {createTarReader} from '../../archive/tar.ts';
import {readEntries, type TreeEntry} from '../../archive/tree-entries.ts';
import {ErrdefsError, wrap} from '../../errdefs.ts';
import {inContainer, onHost} from '../../runtime/id-mappings.ts';
import type {Place} from '../../runtime/path-in-root.ts';
import {treeUsage} from '../../store/disk-usage.ts';
import {Quota} from '../../store/quota.ts';
import type {Context} from '../context.ts';
import type {CopiedFiles, CopyFilesOptions, CopyPlace, ReadFilesOptions} from '../types/index.ts';
import {containerRoot, type FileRoot, hostRoot} from './container-root.ts';
import {type CopyPlan, planCopy, saysDirectory} from './copy-rules.ts';

/** Entries after which other work gets its turn. */
const TURN = 100;

const isPlace = (source: CopyPlace | AsyncIterable<Uint8Array>): source is CopyPlace => !(Symbol.asyncIterator in source);

const openRoot = (context: Context, namespace: string, {container}: CopyPlace, use: 'read' | 'write'): Promise<FileRoot> =>
  container === undefined ? Promise.resolve(hostRoot()) : containerRoot(context, namespace, container, use);

export async function copyFiles(
  context: Context,
  namespace: string,
  source: CopyPlace | AsyncIterable<Uint8Array>,
  target: CopyPlace,
  options: CopyFilesOptions,
): Promise<CopiedFiles> {
  if (target.container === undefined && (!isPlace(source) || source.container === undefined))
    throw new ErrdefsError('invalid_argument', 'neither source nor target is in a container', {hint: 'write CONTAINER:PATH'});
  const to = await openRoot(context, namespace, target, 'write');
  try {
    const room = target.container === undefined ? undefined : roomIn(context, namespace, to);
    if (!isPlace(source)) return await extract(source, to, target, options, room);
    // One mount of a container that is both.
    if (source.container === target.container) return await copy(to, source, to, target, options, room);
    const from = await openRoot(context, namespace, source, 'read');
    try {
      return await copy(from, source, to, target, options, room);
    } finally {
      await from.close();
    }
  } finally {
    await to.close();
  }
}

/** What may still be written to a directory of a container's; `undefined`: as much as there is. */
type RoomIn = (directory: number) => Quota | undefined;

/** What is mounted from elsewhere into a container is nothing that its namespace holds. */
function roomIn({store}: Context, namespace: string, to: FileRoot): RoomIn | undefined {
  const quota = Quota.of(store, namespace);
  if (quota === undefined) return undefined;
  const root = to.place('/');
  try {
    const devices = new Set([fstatSync(root.file!).dev, statSync(store.layout.root).dev]);
    return (directory) => (devices.has(fstatSync(directory).dev) ? quota : undefined);
  } finally {
    root.close();
  }
}

/** Copies of the directories on the way, which an overlay makes. */
const WAY_BYTES = 4096;

function admitInto(room: RoomIn | undefined, {path, directory, file, stats}: Place): Quota | undefined {
  const quota = room?.(stats?.isDirectory() === true ? file! : directory);
  quota?.takeBytes(WAY_BYTES * path.split('/').length);
  return quota;
}

/** The source's place; with a slash at its end a link is followed, as `ls -d` does. */
const placeOf = (root: FileRoot, {path}: CopyPlace, followLink: boolean): Place =>
  root.place(path, {follow: followLink || saysDirectory(path)});

const kindOf = ({stats}: Place): 'directory' | 'other' | undefined =>
  stats === undefined ? undefined : stats.isDirectory() ? 'directory' : 'other';

async function copy(
  from: FileRoot,
  source: CopyPlace,
  to: FileRoot,
  target: CopyPlace,
  {archive = false, followLink = false, signal}: CopyFilesOptions,
  room: RoomIn | undefined,
): Promise<CopiedFiles> {
  const start = placeOf(from, source, followLink);
  try {
    const end = to.place(target.path);
    try {
      let plan: CopyPlan;
      try {
        plan = planCopy({path: source.path, kind: kindOf(start)}, {path: target.path, kind: kindOf(end)});
      } catch (err) {
        throw wrap(`unable to copy ${from.describe(source.path)} to ${to.describe(target.path)}`, err);
      }
      if (from === to && `${end.path}/`.startsWith(`${start.path.replace(/\/$/, '')}/`))
        throw new ErrdefsError('failed_precondition', `${from.describe(source.path)} would be copied into itself`);
      if (end.isHidden === true)
        throw new ErrdefsError('failed_precondition', `${to.describe(target.path)} is a mount point, which nothing can replace`);
      const base = plan.how === 'into' ? end.file! : end.directory;
      const name = plan.how === 'into' ? (plan.name === undefined ? '' : Buffer.from(plan.name).toString('latin1')) : end.name;
      const quota = admitInto(room, end);
      quota?.assertRoomFor(treeUsage(fsPath(`/proc/self/fd/${start.directory}/${start.name}`)).size);
      const writer = writerInto((path) => openBelow(base, path), to, target, archive, quota);
      return await write(writer, to, async () => {
        for await (const {header, content} of entriesOf(from, start, name, signal)) {
          writer.entry(header);
          for (const chunk of content) {
            signal?.throwIfAborted();
            writer.data(chunk);
            quota?.wrote(chunk.length);
          }
          writer.entryEnd();
        }
        await from.assertStill();
      });
    } finally {
      end.close();
    }
  } finally {
    start.close();
  }
}

/** @param name of the first entry; empty: what is in the directory, without it */
async function* entriesOf({mappings}: FileRoot, start: Place, name: string, signal: AbortSignal | undefined): AsyncGenerator<TreeEntry> {
  let count = 0;
  for (const entry of readEntries(start.file!, `/proc/self/fd/${start.directory}/${start.name}`, name)) {
    if (++count % TURN === 0) await setImmediate();
    signal?.throwIfAborted();
    yield mappings === undefined ? entry : {...entry, header: {...entry.header, ...inContainer(mappings, entry.header)}};
  }
}

const writerInto = (
  open: (path: string) => number,
  {mappings}: FileRoot,
  {container}: CopyPlace,
  archive: boolean,
  quota: Quota | undefined,
): TreeWriter =>
  new TreeWriter({
    open,
    ...(quota === undefined ? {} : {admit: (bytes: number) => quota.takeBytes(bytes)}),
    ...(mappings === undefined ? {} : {mapOwner: (owner: Owner) => onHost(mappings, owner)}),
    ...(archive ? {} : {owner: container === undefined ? {uid: process.geteuid!(), gid: process.getegid!()} : {uid: 0, gid: 0}}),
  });

async function write(writer: TreeWriter, to: FileRoot, work: () => Promise<void>): Promise<CopiedFiles> {
  try {
    await work();
    writer.finish();
  } finally {
    writer.close();
  }
  await to.assertStill();
  return {...writer.written};
}

/** Extracts a tar into a directory. Links on the way are followed within the container's root, so `bin/sh` finds `/usr/bin`. */
async function extract(
  source: AsyncIterable<Uint8Array>,
  to: FileRoot,
  target: CopyPlace,
  {archive = false, signal}: CopyFilesOptions,
  room: RoomIn | undefined,
): Promise<CopiedFiles> {
  const end = to.place(target.path);
  try {
    if (kindOf(end) === undefined) throw new ErrdefsError('not_found', to.describe(target.path));
    if (kindOf(end) === 'other')
      throw new ErrdefsError('failed_precondition', `${to.describe(target.path)} is not a directory, which an archive needs`);
    const quota = admitInto(room, end);
    const writer = writerInto((path) => to.directory(`${end.path}/${path}`), to, target, archive, quota);
    return await write(writer, to, async () => {
      const reader = createTarReader(writer);
      for await (const chunk of source) {
        signal?.throwIfAborted();
        reader.write(chunk);
        quota?.wrote(chunk.length);
      }
      reader.end();
    });
  } finally {
    end.close();
  }
}

/** A file or directory as a tar, whose first entry has its name; `.` where the path ends with it. */
export async function* readFiles(
  context: Context,
  namespace: string,
  source: CopyPlace & {readonly container: string},
  {followLink = false, signal}: ReadFilesOptions,
): AsyncGenerator<Uint8Array> {
  const from = await openRoot(context, namespace, source, 'read');
  try {
    const start = placeOf(from, source, followLink);
    try {
      let plan: CopyPlan;
      try {
        plan = planCopy({path: source.path, kind: kindOf(start)}, {path: '.', kind: 'directory'});
      } catch (err) {
        throw wrap(`unable to read ${from.describe(source.path)}`, err);
      }
      const name = Buffer.from(plan.name ?? '.').toString('latin1');
      for await (const {header, content} of entriesOf(from, start, name, signal)) {
        yield encodeHeader(header as LayerEntry);
        for (const chunk of content) yield Buffer.from(chunk);
        if (header.type === 'file') yield paddingFor(header.size);
      }
      await from.assertStill();
      yield ARCHIVE_END;
    } finally {
      start.close();
    }
  } finally {
    await from.close();
  }
}
