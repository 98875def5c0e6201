/** Mends what `check` found: fetches or rebuilds what can be had, and takes out of the way what cannot. Nothing that a user made is deleted. */
import {existsSync, lstatSync} from 'node:fs';
import {dirname, join} from 'node:path';
import {ErrdefsError, hasCode, isErrdefs} from '../../errdefs.ts';
import {isTemporary, removeTree, sweepTemporary} from '../../fs/durable.ts';
import type {Descriptor, Digest} from '../../oci/descriptor.ts';
import {formatReference, type Reference} from '../../oci/reference.ts';
import type {Remote} from '../../remotes/types.ts';
import {cleanup, removeBundle} from '../../runtime/bundle.ts';
import {findRuntime} from '../../runtime/runc.ts';
import {Ingest} from '../../store/blob-store.ts';
import {isMountLease} from '../../store/gc.ts';
import {isOwnLayer} from '../../store/layer-store.ts';
import {recordFile, recordPath} from '../../store/layout.ts';
import {quarantine} from '../../store/quarantine.ts';
import {contentNode} from '../../store/refcounts.ts';
import {getSnapshotter} from '../../store/snapshotters.ts';
import type {Store} from '../../store/store.ts';
import type {StoreTransaction} from '../../store/transaction-types.ts';
import {deleteContainer} from '../api/containers.ts';
import type {Context} from '../context.ts';
import {discardOthers, lockDownload} from '../pull/download-lock.ts';
import {refKey} from '../pull/fetch-and-unpack.ts';
import {ensureUnpacked, snapshotLabel, warnOfLayers} from '../pull/unpack.ts';
import {isAbandoned, runDirectory, runningContainers} from '../running.ts';
import {collectGarbage, settleLayers} from '../space/gc.ts';
import type {CheckOptions} from '../types/index.ts';
import {cannotBeRead, type Inspection, keyOf, type Problem, type ProblemOf, problemsOf, type Subject} from './inspect-store.ts';
import {type Pause, pauses} from './pause.ts';
import {findOrigins, type LayerOrigin, type Origins, sourceLabel} from './provenance.ts';
import {recoverRecords} from './repair-records.ts';
import {actualDigest, indexAgain, unpackAgain} from './scrub.ts';

export class Repair {
  readonly #context: Context;
  readonly #o: CheckOptions;
  readonly #pause: Pause;
  readonly #inspection: Inspection;
  readonly #actions: Map<string, {readonly action: string; readonly done: boolean}>;
  /** Why a blob cannot be had, for those that need it. */
  readonly #lost = new Map<Digest, ErrdefsError>();
  #remote: Remote | undefined;
  #problems: readonly Problem[] = [];

  /** @param actions gets what is done about each problem, by its key */
  constructor(
    context: Context,
    options: CheckOptions,
    inspection: Inspection,
    actions: Map<string, {readonly action: string; readonly done: boolean}>,
  ) {
    this.#context = context;
    this.#o = options;
    this.#inspection = inspection;
    this.#actions = actions;
    this.#pause = pauses(options.signal);
  }

  async run(problems: readonly Problem[]): Promise<void> {
    this.#problems = problems;
    const settle = async (): Promise<void> => {
      if (problemsOf(problems, 'layer', 'snapshot').length > 0) await settleLayers(this.#context, 0);
    };
    for (const step of [
      () => this.#records(),
      () => this.#content(),
      () => this.#layers(),
      () => this.#snapshots(),
      settle,
      () => this.#empty(),
      () => this.#counts(),
      () => this.#runs(),
      () => this.#ingests(),
      () => this.#garbage(),
    ]) {
      await step();
      await this.#pause();
    }
  }

  async close(): Promise<void> {
    await this.#remote?.close();
  }

  /** Problems about such subjects that nothing has helped against yet. */
  #of<K extends Subject['kind']>(...kinds: readonly K[]): readonly ProblemOf<K>[] {
    return problemsOf(this.#problems, ...kinds).filter((problem) => this.#actions.get(keyOf(problem))?.done !== true);
  }

  #did(problem: Problem, action: string, done = true): void {
    this.#actions.set(keyOf(problem), {action, done});
  }

  async #records(): Promise<void> {
    for (const [problem, action, done] of await recoverRecords(this.#context, this.#inspection, this.#problems))
      this.#did(problem, action, done);
  }

  /** Blobs first, then the records that need them; a document that is whole again tells of more. */
  async #content(): Promise<void> {
    const todo = new Set([...this.#of('blob'), ...this.#of('content')]);
    for (let before = todo.size + 1; todo.size > 0 && todo.size < before; ) {
      before = todo.size;
      const origins = await findOrigins(this.#context.store, this.#survey(), this.#pause);
      for (const problem of todo) {
        await this.#pause();
        const action =
          problem.subject.kind === 'blob'
            ? await this.#blob(problem.subject.digest, origins)
            : await this.#missingContent(problem as ProblemOf<'content'>, origins);
        if (action === undefined) continue;
        this.#did(problem, action);
        todo.delete(problem);
      }
    }
    for (const problem of todo) {
      const digest = (problem.subject as {digest: Digest}).digest;
      const why = this.#lost.get(digest);
      this.#did(problem, await this.#putAside(digest, why === undefined ? 'the store does not record its source' : why.message), false);
    }
  }

  #survey(): Inspection['survey'] {
    return this.#context.store.view((tx) => tx.survey());
  }

  /** @returns what was done; `undefined` when it cannot be had */
  async #blob(digest: Digest, origins: Origins): Promise<string | undefined> {
    const {store} = this.#context;
    const {signal} = this.#o;
    const size = sizeOf(store, digest);
    if (size !== undefined && size !== this.#inspection.blobs.get(digest)) {
      // Its bytes may be right, and a record wrong.
      const actual = await actualDigest(this.#context, digest, () => {}, signal).catch((err: unknown) => void cannotBeRead(err));
      if (actual === digest) {
        await this.#resize(digest, size);
        return 'its content is intact: record repaired';
      }
    }
    const known = origins.content.get(digest)?.descriptor;
    const recorded = this.#inspection.blobs.get(digest);
    const descriptor = known ?? (recorded === undefined ? undefined : {mediaType: 'application/octet-stream', digest, size: recorded});
    return descriptor === undefined ? undefined : this.#fetch(descriptor, origins.sources(digest));
  }

  async #resize(digest: Digest, size: number): Promise<void> {
    await this.#context.store.update(`repair of content ${digest}`, (tx) => {
      for (const {name} of tx.namespaces.list()) {
        const {content} = tx.namespace(name);
        const record = content.find(digest);
        if (record !== undefined && record.size !== size) content.put({...record, size, updatedAt: new Date().toISOString()});
      }
    });
  }

  /** Fetches a blob from where it came from, whole, and puts it in the place of what is there. */
  async #fetch(descriptor: Descriptor, sources: readonly Reference[]): Promise<string | undefined> {
    const {store, lockTimeoutMs, openRemote} = this.#context;
    const {signal} = this.#o;
    const {digest, size} = descriptor;
    const what = `content ${digest}`;
    for (const source of sources) {
      this.#remote ??= await openRemote(this.#o);
      makeWay(store, digest);
      using lock = await lockDownload(store, descriptor, {
        timeoutMs: lockTimeoutMs,
        purpose: `repair of ${digest}`,
        ...(signal === undefined ? {} : {signal}),
      });
      const {key} = lock;
      store.blobs.discardIngest(key);
      const ingest = Ingest.open(store.blobs.beginIngest(key, {ref: refKey(descriptor), namespace: '', total: size}), {digest, size}, what);
      try {
        const sink = (chunk: Buffer): void => ingest.write(chunk);
        await this.#remote.fetcher(source).stream(descriptor, sink, {offset: 0, ...(signal === undefined ? {} : {signal})});
        ingest.finish();
        store.blobs.publish(key, digest);
        discardOthers(store, digest, key);
        return `fetched from ${formatReference({domain: source.domain, path: source.path})}`;
      } catch (err) {
        store.blobs.discardIngestQuietly(key);
        if (!isErrdefs(err) || signal?.aborted || hasCode(err, 'resource_exhausted')) throw err;
        this.#lost.set(digest, err);
      } finally {
        ingest.close();
      }
    }
    return undefined;
  }

  /** A namespace gets the record of content that it needs. */
  async #missingContent({subject: {namespace, digest}}: ProblemOf<'content'>, origins: Origins): Promise<string | undefined> {
    const {store} = this.#context;
    const descriptor = origins.content.get(digest)?.descriptor;
    if (descriptor === undefined) return undefined;
    const isHere = sizeOf(store, digest) === descriptor.size;
    const action = isHere ? 'its content is present: record recreated' : await this.#fetch(descriptor, origins.sources(digest));
    if (action === undefined) return undefined;
    if (isHere) store.syncBlobNames([digest]);
    // A document that has just come says itself what it keeps.
    const now = isHere ? origins : await findOrigins(store, this.#survey(), this.#pause);
    await store.update(`repair of content ${digest}`, (tx) => {
      if (!store.blobs.has(descriptor))
        throw new ErrdefsError('aborted', `content ${digest} was removed meanwhile`, {hint: 'run it again'});
      const ns = tx.namespace(namespace);
      const date = new Date().toISOString();
      const labels: Record<string, string> = {...now.content.get(digest)?.labels};
      for (const {domain, path} of now.sources(digest))
        labels[sourceLabel(domain)] = [labels[sourceLabel(domain)] ?? [], path].flat().join(',');
      for (const {snapshotter, planned, manifest, ...origin} of now.snapshots.values()) {
        const top = planned.layers.at(-1)!.chainID;
        const isConfig = origin.namespace === namespace && manifest.manifest.config.digest === digest;
        if (isConfig && ns.snapshots(snapshotter.name).find(top) !== undefined) labels[snapshotLabel(snapshotter)] = top;
      }
      if (ns.content.find(digest) === undefined) ns.content.put({digest, size: descriptor.size, labels, createdAt: date, updatedAt: date});
    });
    return action;
  }

  /** Wrong bytes are not given to anybody any more, and the next pull fetches them anew. @returns what was done */
  async #putAside(digest: Digest, why: string): Promise<string> {
    const {store} = this.#context;
    const target = await store.update(`repair of content ${digest}`, () => quarantine(store.layout, store.blobs.path(digest)));
    return target === undefined ? why : `${why}; moved to ${target}`;
  }

  /** Layers are made once more beside the old ones, and take their place when they are whole. */
  async #layers(): Promise<void> {
    const problems = this.#of('layer');
    if (problems.length === 0) return;
    const origins = await findOrigins(this.#context.store, this.#survey(), this.#pause);
    const inUse = await this.#layersInUse();
    const doubted = new Set(problems.map(({subject}) => subject.id));
    for (const problem of problems) {
      await this.#pause();
      const {id} = problem.subject;
      if (isOwnLayer(id)) {
        this.#describe(problem);
        continue;
      }
      const why = inUse.get(id);
      if (why !== undefined) {
        this.#did(problem, `left alone: ${why}`, false);
        continue;
      }
      const rebuild = (): Promise<string | undefined> => this.#rebuild(id, origins.layers.get(id), (other) => doubted.has(other));
      if (await this.#try(problem, rebuild, 'no image in the store contains it, so it cannot be rebuilt')) doubted.delete(id);
    }
  }

  /** A user's own tree can be described anew, not made anew. */
  #describe(problem: ProblemOf<'layer'>): void {
    const {layers, layout} = this.#context.store;
    const {id} = problem.subject;
    const snapshotter = this.#inspection.layers.get(id)!;
    if (layers.info(id) !== undefined || !existsSync(getSnapshotter(snapshotter).tree(layers.path(id)))) return;
    // Something else in its place may be a stranger's.
    if (lstatSync(layers.infoFile(id), {throwIfNoEntry: false})?.isFile() === false) quarantine(layout, layers.infoFile(id));
    layers.restoreOwnInfo(id, snapshotter);
    this.#did(problem, 'its layer.json is rewritten');
  }

  async #rebuild(id: string, origin: LayerOrigin | undefined, doubted: (id: string) => boolean): Promise<string | undefined> {
    const {store} = this.#context;
    const {signal} = this.#o;
    const work = store.layers.createWork();
    let failure: unknown;
    try {
      const canUnpack = origin !== undefined && sizeOf(store, origin.layer.blob.digest) === origin.layer.blob.size;
      const made = canUnpack
        ? await unpackAgain(this.#context, origin, work, doubted, signal)
        : await indexAgain(this.#context, id, this.#inspection.layers.get(id)!, work, signal);
      if (made === undefined) return undefined;
      await store.update(`repair of layer ${id}`, (tx) => {
        if (made.id !== id) renameLayer(tx, id, made.id);
        tx.afterCommit(() => {
          try {
            store.layers.replace(made.id, made.directory);
          } catch (err) {
            failure = err;
          }
        });
      });
      if (failure !== undefined) throw failure;
      warnOfLayers(this.#context, made.warnings);
      return canUnpack ? 'rebuilt from its blob' : 'indexed again';
    } finally {
      store.housekeeping.attempt(`incomplete layer ${work}`, () => removeTree(work));
    }
  }

  /** Layers below running containers and mounts, each with the reason: their trees must not be taken away. */
  async #layersInUse(): Promise<ReadonlyMap<string, string>> {
    const inUse = new Map<string, string>();
    for (const ns of this.#inspection.survey.namespaces) {
      const running = await runningContainers(this.#context, ns.name);
      const snapshots = new Map(ns.snapshots.map((record) => [`${record.snapshotter}/${record.key}`, record]));
      const use = (top: string, why: string): void => {
        const seen = new Set<string>();
        const [snapshotter] = top.split('/', 1);
        for (let node: string | undefined = top; node !== undefined && !seen.has(node); ) {
          seen.add(node);
          const record = snapshots.get(node);
          if (record?.layer !== undefined) inUse.set(record.layer, why);
          node = record?.parent === undefined ? undefined : `${snapshotter}/${record.parent}`;
        }
      };
      for (const {id, snapshotter, snapshotKey} of ns.containers)
        if (running.includes(id)) use(`${snapshotter}/${snapshotKey}`, `container ${JSON.stringify(id)} runs on it`);
      for (const lease of ns.leases.filter(isMountLease))
        for (const snapshot of lease.snapshots) use(snapshot, `it is mounted at ${JSON.stringify(lease.id)}`);
    }
    return inUse;
  }

  /** Snapshots of images are made again from what is here. */
  async #snapshots(): Promise<void> {
    const problems = this.#of('snapshot');
    if (problems.length === 0) return;
    const {signal} = this.#o;
    const origins = await findOrigins(this.#context.store, this.#survey(), this.#pause);
    for (const problem of problems) {
      const {namespace, snapshotter, key} = problem.subject;
      const origin = origins.snapshots.get(`${namespace}/${snapshotter}/${key}`);
      if (origin === undefined) {
        this.#did(problem, 'no image in the store contains it', false);
        continue;
      }
      const {manifest, planned, image} = origin;
      const blobs = planned.layers.map(({blob}) => blob);
      const plan = {root: manifest.descriptor, documents: new Map(), manifests: [manifest], blobs};
      await this.#try(problem, async () => {
        await ensureUnpacked(this.#context, namespace, image, plan, origin.snapshotter, signal);
        return 'unpacked again';
      });
    }
  }

  /** Where one thing cannot be mended the others can; a full disk or an interruption ends it all. @param mend says what it did; `undefined` when it could do nothing */
  async #try(problem: Problem, mend: () => Promise<string | undefined>, otherwise = ''): Promise<boolean> {
    try {
      const action = await mend();
      this.#did(problem, action ?? otherwise, action !== undefined);
      return action !== undefined;
    } catch (err) {
      if (!isErrdefs(err) || this.#o.signal?.aborted || hasCode(err, 'resource_exhausted')) throw err;
      this.#did(problem, err.message, false);
      return false;
    }
  }

  /** Records that name nothing that can be had are moved away. */
  async #empty(): Promise<void> {
    const {store} = this.#context;
    const running = new Map<string, readonly string[]>();
    for (const {subject} of this.#of('container'))
      running.set(subject.namespace, await runningContainers(this.#context, subject.namespace));
    const problems = this.#of('layer', 'container', 'blob', 'content').filter(
      (problem) => this.#actions.get(keyOf(problem))?.done !== true,
    );
    if (problems.length === 0) return;
    await store.update('repair of records', (tx) => {
      for (const problem of problems) {
        const moved = this.#namedBy(tx, problem, running).map((record) => this.#takeAway(record));
        if (moved.length > 0) this.#did(problem, `moved to ${moved.join(', ')}`);
      }
    });
  }

  /** Records that a problem leaves empty. */
  #namedBy(tx: StoreTransaction, {subject}: Problem, running: ReadonlyMap<string, readonly string[]>): readonly Emptied[] {
    const namespaces = this.#inspection.survey.namespaces.map(({name}) => tx.namespace(name));
    switch (subject.kind) {
      case 'layer': {
        if (!isOwnLayer(subject.id)) return [];
        return namespaces.flatMap((ns) =>
          ns.snapshotters().flatMap((snapshotter) => {
            const records = ns.snapshots(snapshotter).list();
            return records
              .filter(({layer, key}) => layer === subject.id && !records.some(({parent}) => parent === key))
              .map(
                ({key}): Emptied => ({collection: ns.snapshots(snapshotter), key, directory: recordPath.snapshots(ns.name, snapshotter)}),
              );
          }),
        );
      }
      case 'container': {
        const {namespace, id} = subject;
        if (running.get(namespace)?.includes(id)) return [];
        return [{collection: tx.namespace(namespace).containers, key: id, directory: recordPath.directory(namespace, 'containers')}];
      }
      case 'blob':
        if (!this.#cannotBeHad(subject.digest)) return [];
        return namespaces
          .filter((ns) => ns.content.find(subject.digest) !== undefined && tx.refs.count(ns.name, contentNode(subject.digest)) === 0)
          .map((ns): Emptied => ({collection: ns.content, key: subject.digest, directory: recordPath.directory(ns.name, 'content')}));
      case 'content': {
        if (!this.#cannotBeHad(subject.digest)) return [];
        const {images, name} = tx.namespace(subject.namespace);
        return images
          .list()
          .filter(({target}) => target.digest === subject.digest)
          .map((image): Emptied => ({collection: images, key: image.name, directory: recordPath.directory(name, 'images')}));
      }
      default:
        return [];
    }
  }

  /** Nothing tells where a blob came from, or it is not there any more. A registry that does not answer now may do so later. */
  #cannotBeHad(digest: Digest): boolean {
    const why = this.#lost.get(digest);
    return why === undefined || hasCode(why, 'not_found');
  }

  #takeAway({collection, key, directory}: Emptied): string {
    const {layout} = this.#context.store;
    collection.delete(key);
    const path = join(layout.root, directory, recordFile(key));
    return quarantine(layout, path) ?? path;
  }

  async #counts(): Promise<void> {
    const problems = this.#of('counts');
    const {store} = this.#context;
    // Where records were moved away, what they kept was counted.
    if (problems.length === 0 && !this.#problems.some(({subject}) => RECORDS.includes(subject.kind))) return;
    const counted = await store.update('expectedCounts of references', (tx) => {
      const {unreadable, namespaces} = tx.survey();
      // A namespace that has lost its record has it again in the next round.
      const isReadable = unreadable.length === 0 && namespaces.every(({record}) => record !== undefined);
      if (isReadable) tx.rebuildRefs();
      return isReadable;
    });
    for (const problem of problems) this.#did(problem, counted ? 'recounted' : 'cannot be recounted while a record is unreadable', counted);
  }

  async #runs(): Promise<void> {
    for (const problem of this.#of('run')) {
      await this.#pause();
      const {namespace, id} = problem.subject;
      if (problem.severity !== 'garbage') {
        this.#did(problem, 'left alone: it is running', false);
        continue;
      }
      await cleanup(runDirectory(this.#context, namespace), id, findRuntime());
      await deleteContainer(this.#context, namespace, id, {keepSnapshot: false, only: isAbandoned});
      this.#did(problem, 'removed');
    }
    for (const problem of this.#of('view')) {
      removeBundle(problem.path);
      this.#did(problem, 'removed');
    }
  }

  /** Whoever goes on with an ingest that is not whole begins anew. */
  #ingests(): void {
    const {blobs} = this.#context.store;
    for (const problem of this.#of('ingest')) {
      const done = blobs.discardIdleIngest(problem.subject.key);
      this.#did(problem, done ? 'removed' : 'left alone: it is in use', done);
    }
  }

  async #garbage(): Promise<void> {
    const problems = this.#of('garbage');
    if (problems.length === 0) return;
    try {
      await collectGarbage(this.#context);
      for (const {path} of problems) if (isTemporary(path)) sweepTemporary(dirname(path));
      for (const problem of problems) this.#did(problem, 'collected');
    } catch (err) {
      if (!isErrdefs(err) || (!hasCode(err, 'data_loss') && !hasCode(err, 'failed_precondition'))) throw err;
      for (const problem of problems) this.#did(problem, err.message, false);
    }
  }
}

/** Subjects whose repair changes records without counting what they keep. */
const RECORDS: readonly Subject['kind'][] = ['record', 'odd', 'namespace', 'content', 'snapshot', 'container'];

/** A record that names nothing that can be had. */
interface Emptied {
  readonly collection: {delete(key: string): boolean};
  readonly key: string;
  /** Below the root. */
  readonly directory: string;
}

/** As `BlobStore.size`; what is no file has none. */
function sizeOf({blobs}: Store, digest: Digest): number | undefined {
  try {
    return blobs.size(digest);
  } catch (err) {
    if (!hasCode(err, 'data_loss')) throw err;
    return undefined;
  }
}

/** What is no file would be in the way of a rename. */
function makeWay({blobs, layout}: Store, digest: Digest): void {
  const path = blobs.path(digest);
  if (lstatSync(path, {throwIfNoEntry: false})?.isFile() === false) quarantine(layout, path);
}

/** Snapshots of all namespaces name another layer from now on. */
function renameLayer(tx: StoreTransaction, from: string, to: string): void {
  for (const {name} of tx.namespaces.list()) {
    const ns = tx.namespace(name);
    for (const snapshotter of ns.snapshotters()) {
      const snapshots = ns.snapshots(snapshotter);
      for (const record of snapshots.list())
        if (record.layer === from) snapshots.put({...record, layer: to, updatedAt: new Date().toISOString()});
    }
  }
}
