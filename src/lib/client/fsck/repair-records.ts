/** Repairs missing and unreadable records: restores them from the journal, or moves them away and leases what they may have referenced. */
import {berth} from '../../berth-command.ts';
import {randomHex} from '../../oci/hash.ts';
import {isLeaseExpired, mark} from '../../store/gc.ts';
import {isOwnLayer} from '../../store/layer-store.ts';
import {recordFile, recordPath} from '../../store/layout.ts';
import {quarantine} from '../../store/quarantine.ts';
import {contentNode, snapshotNode} from '../../store/refcounts.ts';
import type {StoreTransaction} from '../../store/transaction-types.ts';
import type {Context} from '../context.ts';
import {type FindingOf, findingsOf, type Inspection, type StoreFinding} from './inspect-store.ts';

/** Label of the lease that protects what lost records may have referenced. */
const RECOVERED_LABEL = 'berth/recovered';

/** Labels of a namespace whose own are lost: they may have demanded signatures, so the new ones allow no image. */
const DEMANDS_SIGNATURES = {'berth/require-signature': 'true'};
const recreated = (name: string): string =>
  `record recreated, its labels are lost; they may have demanded signatures, so no image is allowed until: ${berth`namespaces label ${name} berth/require-signature=`}`;

export type RepairOutcome = readonly [finding: StoreFinding, action: string, done: boolean];

/**
 * Moves unreadable and misplaced files away, restores records from the journal, and recreates records of namespaces.
 *
 * @returns the outcome for each finding about records; none for a finding that needs another repair
 */
export async function repairRecords(
  context: Context,
  inspection: Inspection,
  findings: readonly StoreFinding[],
): Promise<readonly RepairOutcome[]> {
  const {store} = context;
  const {root} = store.layout;
  const relativePath = ({path}: StoreFinding): string => path.slice(root.length + 1);
  const unreadable = findingsOf(findings, 'record').filter(({severity}) => severity === 'damage');
  const misplaced = findingsOf(findings, 'entry').filter(({target: {entry}}) => entry.isItem && entry.kind !== 'foreign');
  const unusable: readonly StoreFinding[] = [...unreadable, ...misplaced];
  const missing = findingsOf(findings, 'namespace', 'content', 'snapshot', 'container').flatMap((finding) => {
    const path = missingRecord(finding, inspection);
    return path === undefined ? [] : [{finding, path}];
  });
  const left = findingsOf(findings, 'record', 'entry').filter((finding) => !unusable.includes(finding));
  const untouched = left.map((finding): RepairOutcome => [finding, 'left alone', false]);
  if (unusable.length + missing.length === 0) return untouched;

  const moved = new Map<StoreFinding, string | undefined>();
  const {restored, leases} = await store.update('repair of records', (tx) => {
    const back = new Set<StoreFinding>();
    const restore = (finding: StoreFinding, path: string): boolean => {
      const document = store.lastWritten(path);
      if (document === undefined) return false;
      tx.replace(path, document);
      back.add(finding);
      return true;
    };
    for (const finding of unusable) {
      moved.set(finding, moved.get(finding) ?? quarantine(store.layout, finding.path));
      // The journal has only records.
      const path = relativePath(finding);
      if (isRecord(path) && !restore(finding, path)) tx.replace(path, undefined);
    }
    for (const {finding, path} of missing) restore(finding, path);
    const lost = unusable.filter((finding) => !back.has(finding)).map(relativePath);
    const names = new Set(lost.filter((path) => path.startsWith(`${recordPath.namespaces}/`)).map((path) => path.split('/')[1]!));
    const nameless = [...names].filter((name) => lost.includes(recordPath.namespace(name)));
    for (const name of [...findingsOf(findings, 'namespace').map(({target}) => target.name), ...nameless]) {
      const now = new Date().toISOString();
      if (tx.namespaces.find(name) === undefined) tx.namespaces.put({name, labels: DEMANDS_SIGNATURES, createdAt: now, updatedAt: now});
    }
    return {restored: back, leases: new Map([...names].map((name) => [name, leaseUnreferenced(tx, name, lost, inspection)]))};
  });

  const describe = (finding: StoreFinding): string => {
    const target = moved.get(finding);
    const where = target === undefined ? 'is gone' : `moved to ${target}`;
    if (restored.has(finding)) return `${target === undefined ? '' : `${where}; `}restored from the journal`;
    const lease = leases.get(relativePath(finding).split('/')[1] ?? '');
    return lease === undefined ? where : `${where}; lease ${lease} protects what it may have referenced`;
  };
  return [
    ...untouched,
    ...unusable.map((finding): RepairOutcome => [finding, describe(finding), true]),
    ...missing.flatMap(({finding}): readonly RepairOutcome[] => {
      if (restored.has(finding)) return [[finding, 'record restored from the journal', true]];
      return finding.target.kind === 'namespace' ? [[finding, recreated(finding.target.name), true]] : [];
    }),
  ];
}

/** @param path relative to the root */
const isRecord = (path: string): boolean =>
  [`${recordPath.namespaces}/`, `${recordPath.sharedRefs}/`].some((prefix) => path.startsWith(prefix));

/** Path of the missing record, relative to the root. */
function missingRecord({target}: FindingOf<'namespace' | 'content' | 'snapshot' | 'container'>, {survey}: Inspection): string | undefined {
  switch (target.kind) {
    case 'namespace':
      return recordPath.namespace(target.name);
    case 'content':
      return `${recordPath.directory(target.namespace, 'content')}/${recordFile(target.digest)}`;
    case 'snapshot':
      return `${recordPath.snapshots(target.namespace, target.snapshotter)}/${recordFile(target.key)}`;
    case 'container': {
      const ns = survey.namespaces.find(({name}) => name === target.namespace);
      const container = ns?.containers.find(({id}) => id === target.id);
      return container && `${recordPath.snapshots(target.namespace, container.snapshotter)}/${recordFile(container.snapshotKey)}`;
    }
  }
}

/**
 * Leases everything unreferenced in a namespace, because a lost record may have referenced it. The lease has no end: the user decides.
 *
 * @param lost paths relative to the root
 * @returns the lease's id; `undefined` when nothing is unreferenced
 */
function leaseUnreferenced(tx: StoreTransaction, name: string, lost: readonly string[], {unreferenced}: Inspection): string | undefined {
  const now = new Date();
  const ns = tx.survey().namespaces.find((one) => one.name === name);
  if (ns === undefined) return undefined;
  const live = mark({...ns, leases: ns.leases.filter((lease) => !isLeaseExpired(lease, now.getTime()))}, now.getTime());
  const lacks = (kind: string): boolean => lost.some((path) => path.startsWith(`${recordPath.namespaces}/${name}/${kind}/`));
  const content = [
    ...ns.content.map(({digest}) => digest).filter((digest) => !live.has(contentNode(digest))),
    ...(lacks('content') ? unreferenced.blobs : []),
  ];
  const snapshots = ns.snapshots
    .filter(({snapshotter, key}) => !live.has(snapshotNode(snapshotter, key)))
    .map(({snapshotter, key}) => `${snapshotter}/${key}`);
  const layers = lacks('snapshots') ? unreferenced.layers.filter(isOwnLayer) : [];
  if (content.length + snapshots.length + layers.length === 0) return undefined;
  const id = `recovered-${randomHex(8)}`;
  const createdAt = now.toISOString();
  tx.namespace(name).leases.put({id, labels: {[RECOVERED_LABEL]: createdAt}, content, layers, snapshots, createdAt, updatedAt: createdAt});
  return id;
}
