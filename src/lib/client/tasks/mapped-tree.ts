/** What containers need whose users are not the host's. */
import {chmodSync, mkdirSync, statSync} from 'node:fs';
import {ErrdefsError, fromErrno, hasCode} from '../../errdefs.ts';
import type {IdMappedRun} from '../../runtime/foreground-run.ts';
import {hostId, type IdMappings} from '../../runtime/id-mappings.ts';
import {assertPassable, idmapOption} from '../../runtime/idmapped-mounts.ts';
import {runtimeStatePath} from '../../store/layout.ts';
import {isRootless} from '../../user-namespace-identity.ts';
import type {Context} from '../context.ts';
import {startScratchMountHolder} from '../pull/layer-lookup.ts';

/** For a run; see `assertMappable`. */
export const mappedTree = ({stateDir, store}: Context, mappings: IdMappings): IdMappedRun => ({
  mappings,
  target: runtimeStatePath.rootfs(stateDir),
  directories: [store.layout.layers],
});

/**
 * Checks that a container of these mappings can run, before anything of it is made.
 *
 * @param isDirectory its root is a directory of the host, which is not idmapped
 * @throws failed_precondition without root; or the state directory cannot be reached; or nothing can be idmapped: by the kernel, mount(8) or the
 * file system
 */
export async function assertMappable(context: Context, mappings: IdMappings, isDirectory: boolean): Promise<void> {
  const {stateDir, store} = context;
  if (isRootless())
    throw new ErrdefsError('failed_precondition', 'without root a container has the users of its own user namespace, and no others', {
      hint: 'leave out --uidmap and --gidmap, or run the command as root',
    });
  const target = runtimeStatePath.rootfs(stateDir);
  try {
    if (mkdirSync(target, {recursive: true}) !== undefined) chmodSync(target, 0o755);
    // Everything else in it is this user's alone.
    const {mode} = statSync(stateDir);
    if ((mode & 0o011) !== 0o011) chmodSync(stateDir, (mode | 0o011) & 0o7777);
  } catch (err) {
    throw fromErrno(err, `directory ${target}`);
  }
  assertPassable(target, mappings);
  if (isDirectory) return;
  const {layers} = store.layout;
  const unable = (cause?: unknown): ErrdefsError =>
    new ErrdefsError('failed_precondition', `the owners of files in ${layers} cannot be mapped`, {
      cause,
      hint: 'idmapped mounts need Linux 5.19, mount(8) of util-linux 2.39, and for the root directory a file system such as ext4, xfs or btrfs',
    });
  const holder = await startScratchMountHolder(runtimeStatePath.views(stateDir), store.housekeeping);
  try {
    const options = ['bind', 'ro', idmapOption(mappings)];
    const [path] = await holder.mount([{type: 'bind', source: layers, options}]).catch((err: unknown) => {
      throw hasCode(err, 'failed_precondition') ? unable(err) : err;
    });
    // An older mount(8) does not know the option, and says nothing.
    const owner = (file: string): number => statSync(file).uid;
    if (owner(path!) !== hostId(mappings.users, owner(layers))) throw unable();
  } finally {
    await holder.close();
  }
}
