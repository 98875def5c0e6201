/** Repairs findings: fetches or rebuilds objects, and quarantines the records of lost ones. Never deletes anything that a user made. */
import {existsSync, lstatSync} from 'node:fs';
import {dirname, join} from 'node:path';
import {ErrdefsError, hasCode, isErrdefs} from '../../errdefs.ts';
import {isTemporary, sweepTemporary} from '../../fs/durable.ts';
import type {Descriptor, Digest} from '../../oci/descriptor.ts';
import {formatReference, type Reference} from '../../oci/reference.ts';
import type {Remote} from '../../remotes/types.ts';
import {findRuntime} from '../../runtime/oci-runtime.ts';
import {cleanup, removeBundle} from '../../runtime/run-directory.ts';
import {Ingest} from '../../store/blob-store.ts';
import {isMountLease} from '../../store/gc.ts';
import {isOwnLayer} from '../../store/layer-store.ts';
import {recordFile, recordPath} from '../../store/layout.ts';
import {quarantine} from '../../store/quarantine.ts';
import {contentNode} from '../../store/refcounts.ts';
import {getSnapshotter} from '../../store/snapshotters.ts';
import type {Store} from '../../store/store.ts';
import type {StoreTransaction} from '../../store/transaction-types.ts';
import type {Context} from '../context.ts';
import {deleteContainer} from '../delete-container.ts';
import {withSource} from '../pull/distribution-source.ts';
import {discardOthers, lockDownload} from '../pull/download-lock.ts';
import {ensureUnpacked, warnOfLayers} from '../pull/ensure-unpacked.ts';
import {refKey} from '../pull/fetch-and-unpack.ts';
import {snapshotLabel} from '../pull/image-snapshots.ts';
import {isAbandoned, runDirectory, runningContainers} from '../running-containers.ts';
import {collectGarbage, syncLayers} from '../space/gc.ts';
import type {CheckOptions} from '../types/index.ts';
import {
  cannotBeRead,
  type FindingOf,
  type FindingTarget,
  findingKey,
  findingsOf,
  type Inspection,
  type StoreFinding,
} from './inspect-store.ts';
import {findProvenance, type LayerOrigin, type Provenance} from './provenance.ts';
import {repairRecords} from './repair-records.ts';
import {actualDigest, rebuildLayer, reindexLayer} from './scrub.ts';
import {createPause, type Pause} from './yield-to-event-loop.ts';

/**
 * Verifies an ingest.
 *
 * @param mayRepeat is asked when it has another digest
 * @returns whether to fetch it again
 */
function finishOr(ingest: Ingest, mayRepeat: () => boolean): boolean {
  try {
    ingest.finish();
    return false;
  } catch (err) {
    if (hasCode(err, 'failed_precondition') && mayRepeat()) return true;
    throw err;
  }
}

export class Repair {
  readonly #context: Context;
  readonly #o: CheckOptions;
  readonly #pause: Pause;
  readonly #inspection: Inspection;
  readonly #actions: Map<string, {readonly action: string; readonly done: boolean}>;
  /** The last error of fetching a blob. */
  readonly #fetchErrors = new Map<Digest, ErrdefsError>();
  #remote: Remote | undefined;
  #findings: readonly StoreFinding[] = [];

  /** @param actions receives the repair of each finding, by key */
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
    this.#pause = createPause(options.signal);
  }

  async run(findings: readonly StoreFinding[]): Promise<void> {
    this.#findings = findings;
    const sync = async (): Promise<void> => {
      if (findingsOf(findings, 'layer', 'snapshot').length > 0) await syncLayers(this.#context, 0);
    };
    for (const step of [
      () => this.#records(),
      () => this.#content(),
      () => this.#layers(),
      () => this.#snapshots(),
      sync,
      () => this.#removeUnrepairable(),
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

  /** Findings of these kinds that are not repaired yet. */
  #of<K extends FindingTarget['kind']>(...kinds: readonly K[]): readonly FindingOf<K>[] {
    return findingsOf(this.#findings, ...kinds).filter((finding) => this.#actions.get(findingKey(finding))?.done !== true);
  }

  #setAction(finding: StoreFinding, action: string, done = true): void {
    this.#actions.set(findingKey(finding), {action, done});
  }

  async #records(): Promise<void> {
    for (const [finding, action, done] of await repairRecords(this.#context, this.#inspection, this.#findings))
      this.#setAction(finding, action, done);
  }

  /** Repairs blobs first, then their records. Repeats while that helps: a repaired document has descriptors of others. */
  async #content(): Promise<void> {
    const todo = new Set([...this.#of('blob'), ...this.#of('content')]);
    for (let before = todo.size + 1; todo.size > 0 && todo.size < before; ) {
      before = todo.size;
      const provenance = await findProvenance(this.#context.store, this.#survey(), this.#pause);
      for (const finding of todo) {
        await this.#pause();
        const action =
          finding.target.kind === 'blob'
            ? await this.#blob(finding.target.digest, provenance)
            : await this.#missingContent(finding as FindingOf<'content'>, provenance);
        if (action === undefined) continue;
        this.#setAction(finding, action);
        todo.delete(finding);
      }
    }
    for (const finding of todo) {
      const digest = (finding.target as {digest: Digest}).digest;
      const reason = this.#fetchErrors.get(digest);
      this.#setAction(
        finding,
        await this.#quarantine(digest, reason === undefined ? 'the store does not record its source' : reason.message),
        false,
      );
    }
  }

  #survey(): Inspection['survey'] {
    return this.#context.store.view((tx) => tx.survey());
  }

  /** @returns the repair; `undefined` when the blob cannot be fetched */
  async #blob(digest: Digest, provenance: Provenance): Promise<string | undefined> {
    const {store} = this.#context;
    const {signal} = this.#o;
    const size = sizeOf(store, digest);
    if (size !== undefined && size !== this.#inspection.blobs.get(digest)) {
      // The bytes may be right and the recorded size wrong.
      const actual = await actualDigest(this.#context, digest, () => {}, signal).catch((err: unknown) => void cannotBeRead(err));
      if (actual === digest) {
        await this.#resize(digest, size);
        return 'its content is intact: record repaired';
      }
    }
    const known = provenance.content.get(digest)?.descriptor;
    const recorded = this.#inspection.blobs.get(digest);
    const descriptor = known ?? (recorded === undefined ? undefined : {mediaType: 'application/octet-stream', digest, size: recorded});
    return descriptor === undefined ? undefined : this.#fetch(descriptor, provenance.sources(digest));
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

  /** Fetches a blob from one of its sources, and replaces the local one. */
  async #fetch(descriptor: Descriptor, sources: readonly Reference[]): Promise<string | undefined> {
    const {store, lockTimeoutMs, openRemote} = this.#context;
    const {signal} = this.#o;
    const {digest, size} = descriptor;
    const what = `content ${digest}`;
    for (const source of sources) {
      this.#remote ??= await openRemote(this.#o);
      quarantineNonFile(store, digest);
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
        const fetcher = this.#remote.fetcher(source);
        for (let isWrong = true; isWrong; ) {
          await fetcher.stream(descriptor, sink, {offset: 0, ...(signal === undefined ? {} : {signal})});
          isWrong = finishOr(ingest, () => fetcher.rejected(descriptor));
        }
        store.blobs.publish(key, digest);
        discardOthers(store, digest, key);
        return `fetched from ${formatReference({domain: source.domain, path: source.path})}`;
      } catch (err) {
        store.blobs.discardIngestQuietly(key);
        if (!isErrdefs(err) || signal?.aborted || hasCode(err, 'resource_exhausted')) throw err;
        this.#fetchErrors.set(digest, err);
      } finally {
        ingest.close();
      }
    }
    return undefined;
  }

  /** Creates the content record that a namespace lacks. */
  async #missingContent({target: {namespace, digest}}: FindingOf<'content'>, provenance: Provenance): Promise<string | undefined> {
    const {store} = this.#context;
    const descriptor = provenance.content.get(digest)?.descriptor;
    if (descriptor === undefined) return undefined;
    const isHere = sizeOf(store, digest) === descriptor.size;
    const action = isHere ? 'its content is present: record recreated' : await this.#fetch(descriptor, provenance.sources(digest));
    if (action === undefined) return undefined;
    if (isHere) store.syncBlobNames([digest]);
    // A document that was just fetched provides the labels of its record.
    const now = isHere ? provenance : await findProvenance(store, this.#survey(), this.#pause);
    await store.update(`repair of content ${digest}`, (tx) => {
      if (!store.blobs.has(descriptor))
        throw new ErrdefsError('aborted', `content ${digest} was removed meanwhile`, {hint: 'run it again'});
      const ns = tx.namespace(namespace);
      const date = new Date().toISOString();
      const known = now.content.get(digest)?.labels ?? {};
      const labels: Record<string, string> = {...now.sources(digest).reduce((all, source) => withSource(all, source), known)};
      for (const {snapshotter, planned, manifest, ...origin} of now.snapshots.values()) {
        const top = planned.layers.at(-1)!.chainID;
        const isConfig = origin.namespace === namespace && manifest.manifest.config.digest === digest;
        if (isConfig && ns.snapshots(snapshotter.name).find(top) !== undefined) labels[snapshotLabel(snapshotter)] = top;
      }
      if (ns.content.find(digest) === undefined) ns.content.put({digest, size: descriptor.size, labels, createdAt: date, updatedAt: date});
    });
    return action;
  }

  /** Moves a wrong blob away, so that the next pull fetches it again. @returns the action */
  async #quarantine(digest: Digest, reason: string): Promise<string> {
    const {store} = this.#context;
    const target = await store.update(`repair of content ${digest}`, () => quarantine(store.layout, store.blobs.path(digest)));
    return target === undefined ? reason : `${reason}; moved to ${target}`;
  }

  /** Rebuilds layers beside the old ones, and replaces those when the new ones are complete. */
  async #layers(): Promise<void> {
    const findings = this.#of('layer');
    if (findings.length === 0) return;
    const provenance = await findProvenance(this.#context.store, this.#survey(), this.#pause);
    const inUse = await this.#layersInUse();
    const untrusted = new Set(findings.map(({target}) => target.id));
    for (const finding of findings) {
      await this.#pause();
      const {id} = finding.target;
      if (isOwnLayer(id)) {
        this.#rewriteInfo(finding);
        continue;
      }
      const reason = inUse.get(id);
      if (reason !== undefined) {
        this.#setAction(finding, `left alone: ${reason}`, false);
        continue;
      }
      const rebuild = (): Promise<string | undefined> => this.#rebuild(id, provenance.layers.get(id), (other) => untrusted.has(other));
      if (await this.#attempt(finding, rebuild, 'no image in the store contains it, so it cannot be rebuilt')) untrusted.delete(id);
    }
  }

  /** Rewrites the `layer.json` of a user's own tree; the tree itself cannot be rebuilt. */
  #rewriteInfo(finding: FindingOf<'layer'>): void {
    const {layers, layout} = this.#context.store;
    const {id} = finding.target;
    const snapshotter = this.#inspection.layers.get(id)!;
    if (layers.info(id) !== undefined || !existsSync(getSnapshotter(snapshotter).tree(layers.path(id)))) return;
    // Anything but a file in its place may belong to somebody else.
    if (lstatSync(layers.infoFile(id), {throwIfNoEntry: false})?.isFile() === false) quarantine(layout, layers.infoFile(id));
    layers.restoreOwnInfo(id, snapshotter);
    this.#setAction(finding, 'its layer.json is rewritten');
  }

  async #rebuild(id: string, origin: LayerOrigin | undefined, untrusted: (id: string) => boolean): Promise<string | undefined> {
    const {store} = this.#context;
    const {signal} = this.#o;
    const work = store.layers.createWork();
    let failure: unknown;
    try {
      const hasBlob = origin !== undefined && sizeOf(store, origin.layer.blob.digest) === origin.layer.blob.size;
      const made = hasBlob
        ? await rebuildLayer(this.#context, origin, work, untrusted, signal)
        : await reindexLayer(this.#context, id, this.#inspection.layers.get(id)!, work, signal);
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
      return hasBlob ? 'rebuilt from its blob' : 'indexed again';
    } finally {
      store.layers.discardWork(work);
    }
  }

  /** Layers of running containers and of mounts, each with the reason. Their trees must stay. */
  async #layersInUse(): Promise<ReadonlyMap<string, string>> {
    const inUse = new Map<string, string>();
    for (const ns of this.#inspection.survey.namespaces) {
      const running = await runningContainers(this.#context, ns.name);
      const snapshots = new Map(ns.snapshots.map((record) => [`${record.snapshotter}/${record.key}`, record]));
      const use = (top: string, reason: string): void => {
        const seen = new Set<string>();
        const [snapshotter] = top.split('/', 1);
        for (let node: string | undefined = top; node !== undefined && !seen.has(node); ) {
          seen.add(node);
          const record = snapshots.get(node);
          if (record?.layer !== undefined) inUse.set(record.layer, reason);
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

  /** Recreates snapshots of images from local blobs. */
  async #snapshots(): Promise<void> {
    const findings = this.#of('snapshot');
    if (findings.length === 0) return;
    const {signal} = this.#o;
    const provenance = await findProvenance(this.#context.store, this.#survey(), this.#pause);
    for (const finding of findings) {
      const {namespace, snapshotter, key} = finding.target;
      const origin = provenance.snapshots.get(`${namespace}/${snapshotter}/${key}`);
      if (origin === undefined) {
        this.#setAction(finding, 'no image in the store contains it', false);
        continue;
      }
      const {manifest, planned, image} = origin;
      const blobs = planned.layers.map(({blob}) => blob);
      const plan = {root: manifest.descriptor, documents: new Map(), manifests: [manifest], blobs};
      await this.#attempt(finding, async () => {
        await ensureUnpacked(this.#context, namespace, image, plan, origin.snapshotter, signal);
        return 'unpacked again';
      });
    }
  }

  /**
   * Repairs one finding. A failure does not stop the other repairs; a full disk or an interruption does.
   *
   * @param repair returns the action; `undefined` when it could do nothing
   */
  async #attempt(finding: StoreFinding, repair: () => Promise<string | undefined>, otherwise = ''): Promise<boolean> {
    try {
      const action = await repair();
      this.#setAction(finding, action ?? otherwise, action !== undefined);
      return action !== undefined;
    } catch (err) {
      if (!isErrdefs(err) || this.#o.signal?.aborted || hasCode(err, 'resource_exhausted')) throw err;
      this.#setAction(finding, err.message, false);
      return false;
    }
  }

  /** Moves away the records of objects that are lost. */
  async #removeUnrepairable(): Promise<void> {
    const {store} = this.#context;
    const running = new Map<string, readonly string[]>();
    for (const {target} of this.#of('container')) running.set(target.namespace, await runningContainers(this.#context, target.namespace));
    const findings = this.#of('layer', 'container', 'blob', 'content').filter(
      (finding) => this.#actions.get(findingKey(finding))?.done !== true,
    );
    if (findings.length === 0) return;
    await store.update('repair of records', (tx) => {
      for (const finding of findings) {
        const moved = this.#danglingRecords(tx, finding, running).map((record) => this.#quarantineRecord(record));
        if (moved.length > 0) this.#setAction(finding, `moved to ${moved.join(', ')}`);
      }
    });
  }

  /** Records of the lost object that a finding is about. */
  #danglingRecords(
    tx: StoreTransaction,
    {target}: StoreFinding,
    running: ReadonlyMap<string, readonly string[]>,
  ): readonly DanglingRecord[] {
    const namespaces = this.#inspection.survey.namespaces.map(({name}) => tx.namespace(name));
    switch (target.kind) {
      case 'layer': {
        if (!isOwnLayer(target.id)) return [];
        return namespaces.flatMap((ns) =>
          ns.snapshotters().flatMap((snapshotter) => {
            const records = ns.snapshots(snapshotter).list();
            return records
              .filter(({layer, key}) => layer === target.id && !records.some(({parent}) => parent === key))
              .map(
                ({key}): DanglingRecord => ({
                  collection: ns.snapshots(snapshotter),
                  key,
                  directory: recordPath.snapshots(ns.name, snapshotter),
                }),
              );
          }),
        );
      }
      case 'container': {
        const {namespace, id} = target;
        if (running.get(namespace)?.includes(id)) return [];
        return [{collection: tx.namespace(namespace).containers, key: id, directory: recordPath.directory(namespace, 'containers')}];
      }
      case 'blob':
        if (!this.#isUnavailable(target.digest)) return [];
        return namespaces
          .filter((ns) => ns.content.find(target.digest) !== undefined && tx.refs.count(ns.name, contentNode(target.digest)) === 0)
          .map((ns): DanglingRecord => ({collection: ns.content, key: target.digest, directory: recordPath.directory(ns.name, 'content')}));
      case 'content': {
        if (!this.#isUnavailable(target.digest)) return [];
        const {images, name} = tx.namespace(target.namespace);
        return images
          .list()
          .filter((image) => image.target.digest === target.digest)
          .map((image): DanglingRecord => ({collection: images, key: image.name, directory: recordPath.directory(name, 'images')}));
      }
      default:
        return [];
    }
  }

  /** Whether a blob has no known source, or its sources do not have it. A registry that does not respond may do so later. */
  #isUnavailable(digest: Digest): boolean {
    const reason = this.#fetchErrors.get(digest);
    return reason === undefined || hasCode(reason, 'not_found');
  }

  #quarantineRecord({collection, key, directory}: DanglingRecord): string {
    const {layout} = this.#context.store;
    collection.delete(key);
    const path = join(layout.root, directory, recordFile(key));
    return quarantine(layout, path) ?? path;
  }

  async #counts(): Promise<void> {
    const findings = this.#of('counts');
    const {store} = this.#context;
    // Moving records away changes counts.
    if (findings.length === 0 && !this.#findings.some(({target}) => RECORD_KINDS.includes(target.kind))) return;
    const counted = await store.update('expectedCounts of references', (tx) => {
      const {unreadable, namespaces} = tx.survey();
      // The next round has the recreated records of namespaces.
      const isReadable = unreadable.length === 0 && namespaces.every(({record}) => record !== undefined);
      if (isReadable) tx.rebuildRefs();
      return isReadable;
    });
    for (const finding of findings)
      this.#setAction(finding, counted ? 'recounted' : 'cannot be recounted while a record is unreadable', counted);
  }

  async #runs(): Promise<void> {
    for (const finding of this.#of('run')) {
      await this.#pause();
      const {namespace, id} = finding.target;
      if (finding.severity !== 'garbage') {
        this.#setAction(finding, 'left alone: it is running', false);
        continue;
      }
      await cleanup(runDirectory(this.#context, namespace), id, findRuntime());
      await deleteContainer(this.#context, namespace, id, {keepSnapshot: false, only: isAbandoned});
      this.#setAction(finding, 'removed');
    }
    for (const finding of this.#of('scratch-mount')) {
      removeBundle(finding.path);
      this.#setAction(finding, 'removed');
    }
  }

  /** Removes incomplete ingests; their next download starts again. */
  #ingests(): void {
    const {blobs} = this.#context.store;
    for (const finding of this.#of('ingest')) {
      const done = blobs.discardIdleIngest(finding.target.key);
      this.#setAction(finding, done ? 'removed' : 'left alone: it is in use', done);
    }
  }

  async #garbage(): Promise<void> {
    const findings = this.#of('garbage');
    if (findings.length === 0) return;
    try {
      await collectGarbage(this.#context);
      for (const {path} of findings) if (isTemporary(path)) sweepTemporary(dirname(path));
      for (const finding of findings) this.#setAction(finding, 'collected');
    } catch (err) {
      if (!isErrdefs(err) || (!hasCode(err, 'data_loss') && !hasCode(err, 'failed_precondition'))) throw err;
      for (const finding of findings) this.#setAction(finding, err.message, false);
    }
  }
}

/** Kinds whose repair changes records without counting their references. */
const RECORD_KINDS: readonly FindingTarget['kind'][] = ['record', 'entry', 'namespace', 'content', 'snapshot', 'container'];

/** A record of a lost object. */
interface DanglingRecord {
  readonly collection: {delete(key: string): boolean};
  readonly key: string;
  /** Relative to the root. */
  readonly directory: string;
}

/** As `BlobStore.size`; `undefined` for anything but a file. */
function sizeOf({blobs}: Store, digest: Digest): number | undefined {
  try {
    return blobs.size(digest);
  } catch (err) {
    if (!hasCode(err, 'data_loss')) throw err;
    return undefined;
  }
}

/** Moves away anything but a file in a blob's place, which would make the rename of the new blob fail. */
function quarantineNonFile({blobs, layout}: Store, digest: Digest): void {
  const path = blobs.path(digest);
  if (lstatSync(path, {throwIfNoEntry: false})?.isFile() === false) quarantine(layout, path);
}

/** Replaces a layer's ID in the snapshots of all namespaces. */
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
