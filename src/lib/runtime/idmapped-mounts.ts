/**
 * Mounts of a container whose users are mapped. What berth stores belongs to the ids that the image and the container's own users have.
 * Idmapped mounts show it as belonging to the host's ids: nothing is copied or chowned, containers with other mappings share the layers, and
 * whoever reads the store finds the container's ids.
 */
import {lstatSync} from 'node:fs';
import {dirname} from 'node:path';
import {quoteWord} from '../berth-command.ts';
import {ErrdefsError, fromErrno} from '../errdefs.ts';
import {hostId, type IdMappings, withHostRoot} from './id-mappings.ts';
import type {MountPlan, PlannedMount} from './mount-plan.ts';
import {isBind, type Spec} from './spec.ts';
import type {IdMapping} from './spec-option-types.ts';

/** The option of mount(8). */
export function idmapOption({users, groups}: IdMappings): string {
  const words = (letter: 'u' | 'g', list: readonly IdMapping[]): readonly string[] =>
    withHostRoot(list).map(({containerID, hostID, size}) => `${letter}:${containerID}:${hostID}:${size}`);
  return `X-mount.idmap=${[...words('u', users), ...words('g', groups)].join(' ')}`;
}

/**
 * A second plan for the tree of a plan that is mounted already, with its layers and its upper directory idmapped. The mount of the first plan
 * must be gone: overlayfs does not share an upper directory.
 *
 * Mount points are `i/<n>`, beside those of the first plan.
 */
function idmappedPlan({links, mounts}: MountPlan, mappings: IdMappings): MountPlan {
  const last = mounts.at(-1)!;
  if (last.type !== 'overlay') {
    const options = last.options.filter((option) => option !== 'rbind' && option !== 'rw');
    return {links: [], mounts: [{...last, options: ['bind', ...options, idmapOption(mappings)]}]};
  }
  const binds: PlannedMount[] = [];
  const bind = (source: string, access: 'ro' | 'rw'): string => {
    const mountPoint = `i/${binds.length}`;
    binds.push({type: 'bind', source, options: ['bind', access, idmapOption(mappings)], mountPoint});
    return mountPoint;
  };
  /** Where a link of the first plan leads. */
  const target = (path: string): string => (path.startsWith('l/') ? links[Number(path.slice(2))]! : path);
  // Upper and work directory must be on one mount.
  const own = new Map<string, string>();
  const below = (path: string): string => {
    const directory = dirname(target(path));
    const mounted = own.get(directory) ?? bind(directory, 'rw');
    own.set(directory, mounted);
    return `${mounted}/${target(path).slice(directory.length + 1)}`;
  };
  const options = last.options.map((option) => {
    const [, key = '', value = ''] = /^([^=]*)=(.*)$/s.exec(option) ?? [];
    if (key === 'lowerdir')
      return `lowerdir=${value
        .split(':')
        .map((path) => bind(target(path), 'ro'))
        .join(':')}`;
    return key === 'upperdir' || key === 'workdir' ? `${key}=${below(value)}` : option;
  });
  return {links: [], mounts: [...binds, {...last, options}]};
}

/**
 * The mounts that a container with mappings runs in: its tree, on a target of the caller's choice, and what it has of berth's otherwise. Such
 * a volume is covered by its own idmapped mount, so that the specification and every runtime find it by its path.
 *
 * @param plan of the tree, as it is mounted now
 * @param directories what lies in them belongs to the container's ids; everything else is the host's, and stays as it is
 */
export function idmappedMounts(
  plan: MountPlan,
  spec: Spec,
  {mappings, directories}: {readonly mappings: IdMappings; readonly directories: readonly string[]},
): MountPlan {
  const isOwn = (path: string): boolean => directories.some((directory) => path.startsWith(`${directory}/`));
  const last = plan.mounts.at(-1)!;
  const volumes = new Set(spec.mounts.filter((mount) => isBind(mount) && isOwn(mount.source)).map(({source}) => source));
  const binds = [...volumes].map(
    (source): PlannedMount => ({type: 'bind', source, options: ['bind', idmapOption(mappings)], mountPoint: source}),
  );
  const tree: MountPlan = last.type === 'overlay' || isOwn(last.source) ? idmappedPlan(plan, mappings) : {links: [], mounts: [last]};
  return {links: [], mounts: [...binds, ...tree.mounts]};
}

/**
 * Checks that the container's root can reach a directory: the runtime enters it with no more rights than that user has.
 *
 * @throws failed_precondition naming the directory that does not let it pass
 */
export function assertPassable(directory: string, {users, groups}: IdMappings): void {
  const uid = hostId(users, 0);
  const gid = hostId(groups, 0);
  for (let path = directory; ; path = dirname(path)) {
    let stats: ReturnType<typeof lstatSync>;
    try {
      stats = lstatSync(path);
    } catch (err) {
      throw fromErrno(err, path);
    }
    const bit = stats.uid === uid ? 0o100 : stats.gid === gid ? 0o010 : 0o001;
    if ((stats.mode & bit) === 0)
      throw new ErrdefsError('failed_precondition', `the container's root, which is user ${uid} of the host, cannot pass through ${path}`, {
        hint: `chmod o+x ${quoteWord(path)}; or put the state directory elsewhere: --state DIRECTORY`,
      });
    if (path === '/') return;
  }
}
