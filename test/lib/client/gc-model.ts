/**
 * A model of containerd's collector for one namespace, over plain records: scanRoots and references of core/metadata/gc.go. It shares no
 * code with src/lib/store/gc.ts.
 *
 * One difference is intended: labels of a lease protect objects, too, unless the lease is flat, because no command of ctr adds resources
 * to a lease.
 */
import type {ContainerRecord, ContentRecord, ImageRecord, Labels, LeaseRecord, SnapshotRecord} from '../../../src/lib/store/records.ts';

/** Records of a namespace, each under its key; a snapshot's is `<snapshotter>/<key>`. */
export interface World {
  readonly images: Map<string, ImageRecord>;
  readonly containers: Map<string, ContainerRecord>;
  readonly content: Map<string, ContentRecord>;
  readonly snapshots: Map<string, SnapshotRecord>;
  readonly leases: Map<string, LeaseRecord>;
}

/** `containerd.io/gc.ref.<this>` or `gc.bref.<this>`, bare or with a suffix after `.` or `/`. */
const NAMED = /^(content|image|container)(?:[./].*)?$/s;

/** Objects that labels name, as `<type> <key>`. */
export function named(labels: Labels, direction: 'ref' | 'bref'): string[] {
  const prefix = `containerd.io/gc.${direction}.`;
  const found: string[] = [];
  for (const [label, value] of Object.entries(labels)) {
    if (!label.startsWith(prefix)) continue;
    const rest = label.slice(prefix.length);
    const type = NAMED.exec(rest)?.[1];
    if (type !== undefined && (type !== 'container' || direction === 'bref')) found.push(`${type} ${value}`);
    if (rest.startsWith('snapshot.')) found.push(`snapshot ${rest.slice('snapshot.'.length).split('/')[0]}/${value}`);
  }
  return found;
}

export const isRooted = (labels: Labels): boolean => Object.keys(labels).some((label) => label.startsWith('containerd.io/gc.root'));

/** Time of expiry; `undefined` for none, and for a time that Go cannot parse. */
export function expiry(text: string | undefined): number | undefined {
  const isTime = /^\d{4}-\d{2}-\d{2}T\d{2}:\d{2}:\d{2}(\.\d+)?(Z|[+-]\d{2}:\d{2})$/.test(text ?? '');
  return isTime ? Date.parse(text!) : undefined;
}

const isPast = (time: number | undefined, now: number): boolean => time !== undefined && time <= now;

/** Removes from a world what a collection would remove. */
export function collectWorld(world: World, now: number): void {
  const {images, containers, content, snapshots, leases} = world;
  const grey: string[] = [];
  const backRefs = new Map<string, string[]>();
  const backRef = (labels: Labels, from: string): void => {
    for (const keeper of named(labels, 'bref')) backRefs.set(keeper, [...(backRefs.get(keeper) ?? []), from]);
  };
  for (const [id, lease] of leases) {
    if (isPast(expiry(lease.expiresAt ?? lease.labels['containerd.io/gc.expire']), now)) {
      leases.delete(id);
      continue;
    }
    const flat = 'containerd.io/gc.flat' in lease.labels ? 'flat-' : '';
    grey.push(...lease.content.map((digest) => `${flat}content ${digest}`), ...lease.snapshots.map((key) => `${flat}snapshot ${key}`));
    if (flat === '') grey.push(...named(lease.labels, 'ref'));
  }
  for (const [name, {labels}] of images) {
    if (isPast(expiry(labels['containerd.io/gc.expire']), now)) backRef(labels, `image ${name}`);
    else grey.push(`image ${name}`);
  }
  for (const id of containers.keys()) grey.push(`container ${id}`);
  for (const [digest, {labels}] of content) {
    backRef(labels, `content ${digest}`);
    if (isRooted(labels)) grey.push(`content ${digest}`);
  }
  for (const [key, {labels}] of snapshots) {
    backRef(labels, `snapshot ${key}`);
    if (isRooted(labels)) grey.push(`snapshot ${key}`);
  }
  const black = new Set<string>();
  for (let node = grey.pop(); node !== undefined; node = grey.pop()) {
    if (black.has(node)) continue;
    black.add(node);
    grey.push(...(backRefs.get(node) ?? []));
    const [type, key] = [node.slice(0, node.indexOf(' ')), node.slice(node.indexOf(' ') + 1)];
    const follow = (labels: Labels | undefined): void => void grey.push(...named(labels ?? {}, 'ref'));
    if (type === 'content') follow(content.get(key)?.labels);
    if (type === 'snapshot' || type === 'flat-snapshot') {
      const snapshot = snapshots.get(key);
      if (snapshot?.parent !== undefined) grey.push(`${type} ${snapshot.snapshotter}/${snapshot.parent}`);
      if (type === 'snapshot') follow(snapshot?.labels);
    }
    if (type === 'image') {
      const image = images.get(key);
      if (image !== undefined) grey.push(`content ${image.target.digest}`);
      follow(image?.labels);
    }
    if (type === 'container') {
      const container = containers.get(key);
      if (container !== undefined && container.snapshotKey !== '') grey.push(`snapshot ${container.snapshotter}/${container.snapshotKey}`);
      follow(container?.labels);
    }
  }
  const keep = (type: string, records: Map<string, unknown>): void => {
    for (const key of records.keys()) if (!black.has(`${type} ${key}`) && !black.has(`flat-${type} ${key}`)) records.delete(key);
  };
  keep('image', images);
  keep('content', content);
  keep('snapshot', snapshots);
}
