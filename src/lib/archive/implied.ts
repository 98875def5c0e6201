/** Entries for the directories that a layer lies in and does not carry, so that an index can be made of it. */
import {inheritedGroup, withoutTrusted} from './layertree.ts';
import {type Below, LowerView} from './lowers.ts';
import type {ImpliedParent} from './scan.ts';
import {encode, type SpecialEntry} from './special.ts';

/**
 * What has to follow a layer's own entries: its implied parents with the attributes that they have below, where nothing
 * is below with mode 0755, owner 0:0; then the end of the archive.
 *
 * @param lowers trees below, nearest first
 * @returns `undefined` where one of them is no directory below: then the layer has to be applied
 */
export function encodeImpliedParents(parents: readonly ImpliedParent[], lowers: readonly string[]): Buffer | undefined {
  const view = new LowerView(lowers);
  view.prepare(parents.map(({path}) => path));
  const found: {readonly parent: ImpliedParent; readonly below: Below | undefined}[] = [];
  for (const parent of parents) {
    const below = view.find(parent.path);
    if (below === undefined ? parent.whiteoutsOnly : below.kind !== 'directory') return undefined;
    found.push({parent, below});
  }
  const byPath = new Map(found.map(({parent, below}) => [parent.path, below]));
  const directories = found.flatMap(({below}) => (below?.kind === 'directory' ? below : []));
  const all = view.xattrs(directories.map(({stack}) => stack[0]!));
  const xattrs = new Map(directories.map((below, i) => [below as Below, withoutTrusted(all[i]!)]));
  return encode(
    found.map(({parent: {path, mtimeSec, mtimeNs}, below}): SpecialEntry => {
      const above = byPath.get(path.slice(0, Math.max(path.lastIndexOf('/'), 0)));
      const gid = (above?.kind === 'directory' ? inheritedGroup(above.attributes) : undefined) ?? 0;
      const own = {path: `${path}/`, type: 'directory', mode: 0o755, uid: 0, gid, mtimeSec, mtimeNs} as const;
      return below?.kind === 'directory' ? {...own, ...below.attributes, xattrs: xattrs.get(below)} : own;
    }),
  );
}
