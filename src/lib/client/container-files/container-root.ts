/**
 * Opens the root of a container's files, of this machine's, for a copy.
 *
 * Of a running container it is what its first process sees, volumes and other mounts included; it is not paused, because every file is
 * opened by descriptors. Of another one its snapshot is mounted privately, and the host paths of its bind mounts stand in for them.
 */

import {openBelow} from '../../archive/live-tree-writer.ts';
import {ErrdefsError, fromErrno, hasCode} from '../../errdefs.ts';
import {mountPoints} from '../../runtime/check-executable.ts';
import {type IdMappings, mappingsOfProcess} from '../../runtime/id-mappings.ts';
import {hintToRun} from '../../runtime/next-command.ts';
import {type MountPoints, type Place, RootReader} from '../../runtime/path-in-root.ts';
import {isBind, type Spec} from '../../runtime/spec.ts';
import {runtimeStatePath} from '../../store/layout.ts';
import type {ContainerRecord} from '../../store/records.ts';
import {SnapshotStore} from '../../store/snapshots.ts';
import type {Context} from '../context.ts';
import {notFoundIn} from '../not-found.ts';
import {startScratchMountHolder} from '../pull/layer-lookup.ts';
import {type FoundTask, findTask} from '../tasks/find-task.ts';

export interface FileRoot {
  /** Ids of its files, where they are others for this process; absent: they are the same. */
  readonly mappings?: IdMappings;
  /** How messages name a path in it. */
  describe(path: string): string;
  /** @param path text @param options.follow whether a link at its end is followed */
  place(path: string, options?: {readonly follow?: boolean}): Place;
  /** Opens a directory by a binary path, following links within the root. @returns an O_PATH descriptor of the caller's */
  directory(path: string): number;
  /** @throws aborted the files were not alone ours: the container was started, or removed, meanwhile */
  assertStill(): Promise<void>;
  close(): Promise<void>;
}

type Use = 'read' | 'write';

const binary = (path: string): string => Buffer.from(path).toString('latin1');

function rootOf(
  root: RootReader,
  mounts: MountPoints,
  describe: (path: string) => string,
  base: string,
  {hint, ...rest}: Pick<FileRoot, 'assertStill' | 'close' | 'mappings'> & {readonly hint?: string},
): FileRoot {
  const explain = (err: unknown, path: string): unknown => {
    if ((err as NodeJS.ErrnoException).code !== 'EXDEV') return fromErrno(err, describe(path));
    return new ErrdefsError(
      'failed_precondition',
      `${describe(path)} is on a mount that only a running container has, or that is read-only`,
      {
        ...(hint === undefined ? {} : {hint}),
        cause: err,
      },
    );
  };
  return {
    ...rest,
    describe,
    place: (path, options) => {
      if (path.includes('\0')) throw new ErrdefsError('invalid_argument', `path ${JSON.stringify(path)}`);
      try {
        return root.place(binary(path.startsWith('/') ? path : `${base}/${path}`), {mounts, ...options});
      } catch (err) {
        throw explain(err, path);
      }
    },
    directory: (path) => {
      const {file, close} = root.place(path, {mounts});
      try {
        if (file === undefined) throw Object.assign(new Error(`ENOENT: ${path}`), {code: 'ENOENT'});
        return openBelow(file, '');
      } finally {
        close();
      }
    },
  };
}

/** The files of this machine. */
export function hostRoot(): FileRoot {
  let base: string;
  try {
    base = process.cwd();
  } catch (err) {
    throw fromErrno(err, 'working directory');
  }
  const root = new RootReader('/');
  return rootOf(root, new Map(), (path) => JSON.stringify(path), base, {assertStill: async () => {}, close: async () => root.close()});
}

/** @throws not_found @throws failed_precondition it does not run, and has no snapshot */
export async function containerRoot(context: Context, namespace: string, id: string, use: Use): Promise<FileRoot> {
  const find = (): ContainerRecord | undefined => context.store.view((tx) => tx.namespace(namespace).containers.find(id));
  const record = find();
  if (record === undefined) throw notFoundIn(context.store, namespace, 'container', id, (ns) => ns.containers.find(id) !== undefined);
  const task = async (): Promise<FoundTask['task'] | undefined> => {
    try {
      const {task} = await findTask(context, namespace, id);
      return task.status === 'stopped' ? undefined : task;
    } catch (err) {
      // Without a runtime nothing runs.
      if (hasCode(err, 'not_found') || hasCode(err, 'unavailable')) return undefined;
      throw err;
    }
  };
  const describe = (path: string): string => JSON.stringify(`${id}:${path}`);
  const changed = (): ErrdefsError =>
    new ErrdefsError('aborted', `container ${JSON.stringify(id)} was started, stopped or removed meanwhile`, {hint: 'run it again'});
  const before = await task();
  if (before !== undefined && before.pid > 0) {
    let root: RootReader | undefined;
    let mappings: IdMappings | undefined;
    try {
      root = new RootReader(`/proc/${before.pid}/root`);
      mappings = mappingsOfProcess(before.pid);
      // The pid was the container's when the root was opened if it is now: the runtime compares start times.
      if ((await task())?.pid !== before.pid) throw changed();
    } catch (err) {
      root?.close();
      throw ['ENOENT', 'ESRCH'].includes((err as NodeJS.ErrnoException).code ?? '')
        ? changed()
        : fromErrno(err, `container ${JSON.stringify(id)}`);
    }
    const opened = root;
    return rootOf(opened, new Map(), describe, '', {
      assertStill: async () => {},
      close: async () => opened.close(),
      ...(mappings === undefined ? {} : {mappings}),
    });
  }
  if (record.snapshotKey === '')
    throw new ErrdefsError(
      'failed_precondition',
      `container ${JSON.stringify(id)} does not run, and has no snapshot: its root is a directory`,
      {hint: hintToRun(namespace, id)},
    );
  const snapshots = new SnapshotStore(context.store, namespace, record.snapshotter);
  const holder = await startScratchMountHolder(runtimeStatePath.views(context.stateDir), context.store.housekeeping);
  let root: RootReader | undefined;
  try {
    const mounts = use === 'write' ? snapshots.mounts(record.snapshotKey) : snapshots.treeMounts(record.snapshotKey);
    root = new RootReader((await holder.mount(mounts)).at(-1)!);
    const opened = root;
    return rootOf(opened, standIns(opened, record.spec as Spec | null, use), describe, '', {
      hint: hintToRun(namespace, id),
      assertStill: async () => {
        if ((await task()) !== undefined || find()?.createdAt !== record.createdAt) throw changed();
      },
      close: async () => {
        opened.close();
        await holder.close();
      },
    });
  } catch (err) {
    root?.close();
    await holder.close();
    throw fromErrno(err, `container ${JSON.stringify(id)}`);
  }
}

/** Host paths of bind mounts; of others, and for writing of read-only ones, none. */
function standIns(root: RootReader, spec: Spec | null, use: Use): MountPoints {
  if (spec === null) return new Map();
  const mounts = spec.mounts.map((mount) =>
    use === 'write' && isBind(mount) && mount.options.some((option) => option === 'ro' || option === 'rro')
      ? {...mount, type: 'none', options: []}
      : mount,
  );
  return mountPoints(root, {...spec, mounts});
}
