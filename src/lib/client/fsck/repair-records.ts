/** Records that are lost or cannot be read: as the journal has them, or out of the way, with what they may have kept. */
import {randomHex} from '../../oci/hash.ts';
import {isLeaseExpired, mark} from '../../store/gc.ts';
import {isOwnLayer} from '../../store/layer-store.ts';
import {recordFile, recordPath} from '../../store/layout.ts';
import {quarantine} from '../../store/quarantine.ts';
import {contentNode, snapshotNode} from '../../store/refcounts.ts';
import type {StoreTransaction} from '../../store/transaction-types.ts';
import type {Context} from '../context.ts';
import {type Inspection, type Problem, type ProblemOf, problemsOf} from './inspect-store.ts';

/** Label of the lease that keeps what a record kept that could not be read. */
const RECOVERED = 'berth/recovered';

export type Treated = readonly [problem: Problem, action: string, done: boolean];

/**
 * Moves away what is no record, restores what the journal still has, and gives namespaces a record again.
 *
 * @returns what was done about each problem, and whether that helped; nothing about those that need something else
 */
export async function recoverRecords(context: Context, inspection: Inspection, problems: readonly Problem[]): Promise<readonly Treated[]> {
  const {store} = context;
  const {root} = store.layout;
  const below = ({path}: Problem): string => path.slice(root.length + 1);
  const unreadable = problemsOf(problems, 'record').filter(({severity}) => severity === 'damage');
  const odd = problemsOf(problems, 'odd').filter(({subject: {oddity}}) => oddity.isItem && oddity.kind !== 'foreign');
  const bad: readonly Problem[] = [...unreadable, ...odd];
  const missing = problemsOf(problems, 'namespace', 'content', 'snapshot', 'container').flatMap((problem) => {
    const path = missingRecord(problem, inspection);
    return path === undefined ? [] : [{problem, path}];
  });
  const left = problemsOf(problems, 'record', 'odd').filter((problem) => !bad.includes(problem));
  const untouched = left.map((problem): Treated => [problem, 'left alone', false]);
  if (bad.length + missing.length === 0) return untouched;

  const moved = new Map<Problem, string | undefined>();
  const {restored, leases} = await store.update('repair of records', (tx) => {
    const back = new Set<Problem>();
    const restore = (problem: Problem, path: string): boolean => {
      const document = store.lastWritten(path);
      if (document === undefined) return false;
      tx.replace(path, document);
      back.add(problem);
      return true;
    };
    for (const problem of bad) {
      moved.set(problem, moved.get(problem) ?? quarantine(store.layout, problem.path));
      // What lies elsewhere is none of the journal's.
      const path = below(problem);
      if (isRecord(path) && !restore(problem, path)) tx.replace(path, undefined);
    }
    for (const {problem, path} of missing) restore(problem, path);
    const lost = bad.filter((problem) => !back.has(problem)).map(below);
    const names = new Set(lost.filter((path) => path.startsWith(`${recordPath.namespaces}/`)).map((path) => path.split('/')[1]!));
    const nameless = [...names].filter((name) => lost.includes(recordPath.namespace(name)));
    for (const name of [...problemsOf(problems, 'namespace').map(({subject}) => subject.name), ...nameless]) {
      const now = new Date().toISOString();
      if (tx.namespaces.find(name) === undefined) tx.namespaces.put({name, labels: {}, createdAt: now, updatedAt: now});
    }
    return {restored: back, leases: new Map([...names].map((name) => [name, keepOn(tx, name, lost, inspection)]))};
  });

  const tell = (problem: Problem): string => {
    const target = moved.get(problem);
    const where = target === undefined ? 'is gone' : `moved to ${target}`;
    if (restored.has(problem)) return `${target === undefined ? '' : `${where}; `}restored from the journal`;
    const lease = leases.get(below(problem).split('/')[1] ?? '');
    return lease === undefined ? where : `${where}; lease ${lease} protects what it may have referenced`;
  };
  return [
    ...untouched,
    ...bad.map((problem): Treated => [problem, tell(problem), true]),
    ...missing.flatMap(({problem}): readonly Treated[] => {
      if (restored.has(problem)) return [[problem, 'record restored from the journal', true]];
      return problem.subject.kind === 'namespace' ? [[problem, 'record recreated, without labels', true]] : [];
    }),
  ];
}

/** @param path below the root */
const isRecord = (path: string): boolean =>
  [`${recordPath.namespaces}/`, `${recordPath.sharedRefs}/`].some((prefix) => path.startsWith(prefix));

/** Below the root, the record whose lack is the problem. */
function missingRecord({subject}: ProblemOf<'namespace' | 'content' | 'snapshot' | 'container'>, {survey}: Inspection): string | undefined {
  switch (subject.kind) {
    case 'namespace':
      return recordPath.namespace(subject.name);
    case 'content':
      return `${recordPath.directory(subject.namespace, 'content')}/${recordFile(subject.digest)}`;
    case 'snapshot':
      return `${recordPath.snapshots(subject.namespace, subject.snapshotter)}/${recordFile(subject.key)}`;
    case 'container': {
      const ns = survey.namespaces.find(({name}) => name === subject.namespace);
      const container = ns?.containers.find(({id}) => id === subject.id);
      return container && `${recordPath.snapshots(subject.namespace, container.snapshotter)}/${recordFile(container.snapshotKey)}`;
    }
  }
}

/**
 * Nobody knows what a lost record kept: all that nothing else keeps is leased, until a person has looked.
 *
 * @param lost paths below the root
 * @returns the lease's id; `undefined` when there is nothing
 */
function keepOn(tx: StoreTransaction, name: string, lost: readonly string[], {unnamed}: Inspection): string | undefined {
  const now = new Date();
  const ns = tx.survey().namespaces.find((one) => one.name === name);
  if (ns === undefined) return undefined;
  const live = mark({...ns, leases: ns.leases.filter((lease) => !isLeaseExpired(lease, now.getTime()))}, now.getTime());
  const lacks = (kind: string): boolean => lost.some((path) => path.startsWith(`${recordPath.namespaces}/${name}/${kind}/`));
  const content = [
    ...ns.content.map(({digest}) => digest).filter((digest) => !live.has(contentNode(digest))),
    ...(lacks('content') ? unnamed.blobs : []),
  ];
  const snapshots = ns.snapshots
    .filter(({snapshotter, key}) => !live.has(snapshotNode(snapshotter, key)))
    .map(({snapshotter, key}) => `${snapshotter}/${key}`);
  const layers = lacks('snapshots') ? unnamed.layers.filter(isOwnLayer) : [];
  if (content.length + snapshots.length + layers.length === 0) return undefined;
  const id = `recovered-${randomHex(8)}`;
  const createdAt = now.toISOString();
  tx.namespace(name).leases.put({id, labels: {[RECOVERED]: createdAt}, content, layers, snapshots, createdAt, updatedAt: createdAt});
  return id;
}
