/** Mends what `check` found: fetches or rebuilds what can be had, and takes out of the way what cannot. Nothing that a user made is deleted. */
import {randomBytes} from 'node:crypto';
import {existsSync, rmSync} from 'node:fs';
import {dirname, join} from 'node:path';
import {ErrdefsError, is, isErrdefs} from '../errdefs.ts';
import {isTemporary, sweepTemporary} from '../fs/durable.ts';
import type {Descriptor, Digest} from '../oci/descriptor.ts';
import {formatReference, type Reference} from '../oci/reference.ts';
import type {Remote} from '../remotes/contract.ts';
import {cleanup, removeBundle} from '../runtime/bundle.ts';
import {findRuntime} from '../runtime/runc.ts';
import {downloadKey, Ingest} from '../store/blobs.ts';
import {leaseExpired, mark} from '../store/gc.ts';
import {recordFile, recordPath} from '../store/layout.ts';
import {contentNode, snapshotNode} from '../store/refs.ts';
import {getSnapshotter} from '../store/snapshotters.ts';
import type {StoreTransaction} from '../store/store.ts';
import {quarantine} from '../store/survey.ts';
import {deleteContainer} from './containers.ts';
import type {Context} from './context.ts';
import {actualDigest, indexAgain, unpackAgain} from './deep.ts';
import {type Inspection, isOwnLayer, keyOf, type Problem, type Subject} from './findings.ts';
import {collectGarbage, settleLayers} from './gc.ts';
import {refOf} from './materialise.ts';
import {findOrigins, type LayerOrigin, type Origins} from './origins.ts';
import {runDirectory, runningContainers, TRANSIENT} from './run.ts';
import type {CheckOptions, Labels} from './types.ts';
import {ensureUnpacked} from './unpack.ts';

type Of<K extends Subject['kind']> = Problem & {readonly subject: Extract<Subject, {readonly kind: K}>};

/** Label of the lease that keeps what a record kept that could not be read. */
const RECOVERED = 'berth/recovered';

export class Repair {
  readonly #context: Context;
  readonly #o: CheckOptions;
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
  }

  async run(problems: readonly Problem[]): Promise<void> {
    this.#problems = problems;
    await this.#records();
    await this.#content();
    await this.#layers();
    await this.#snapshots();
    await this.#empty();
    await this.#counts();
    await this.#runs();
    await this.#garbage();
  }

  async close(): Promise<void> {
    await this.#remote?.close();
  }

  #of<K extends Subject['kind']>(...kinds: readonly K[]): readonly Of<K>[] {
    return this.#problems.filter((problem): problem is Of<K> => kinds.includes(problem.subject.kind as K));
  }

  #did(problem: Problem, action: string, done = true): void {
    this.#actions.set(keyOf(problem), {action, done});
  }

  /** What is no record is moved away, what it kept is kept on, and namespaces get a record again. */
  async #records(): Promise<void> {
    const {store} = this.#context;
    const records = this.#of('record').filter(({severity}) => severity === 'damage');
    const odd = this.#of('odd').filter(({subject: {oddity}}) => oddity.isItem && oddity.kind !== 'foreign');
    const namespaces = this.#of('namespace');
    for (const problem of this.#of('record', 'odd'))
      if (!records.includes(problem as Of<'record'>) && !odd.includes(problem as Of<'odd'>)) this.#did(problem, 'left alone', false);
    if (records.length + odd.length + namespaces.length === 0) return;
    const moved = new Map<string, string>();
    const leases = await store.update('repair of records', (tx) => {
      for (const problem of [...records, ...odd]) {
        const target = quarantine(store.layout, problem.path);
        if (target !== undefined) moved.set(problem.path, target);
        tx.forget(problem.path.slice(store.layout.root.length + 1));
      }
      const touched = new Set([...records.map(({subject}) => subject.record.namespace), ...namespaces.map(({subject}) => subject.name)]);
      for (const problem of odd) {
        const [, kind, name] = problem.path.slice(store.layout.root.length).split('/');
        if (kind === recordPath.namespaces && name !== undefined) touched.add(name);
      }
      return new Map([...touched].map((name) => [name, this.#keepOn(tx, name, records)]));
    });
    for (const problem of [...records, ...odd]) {
      const lease = leases.get(problem.namespace ?? '');
      const kept = lease === undefined ? '' : `; lease ${lease} keeps what it may have kept`;
      const target = moved.get(problem.path);
      this.#did(problem, target === undefined ? 'is gone' : `moved to ${target}${kept}`);
    }
    for (const problem of namespaces) this.#did(problem, 'has a record again, without labels');
  }

  /** Nobody knows what a damaged record kept: all that nothing else keeps is leased until a person has looked. @returns the lease's id */
  #keepOn(tx: StoreTransaction, name: string, records: readonly Of<'record'>[]): string | undefined {
    const now = new Date();
    const found = tx.survey().namespaces.find((ns) => ns.name === name);
    if (found === undefined) return undefined;
    const ns = tx.namespace(name);
    if (found.record === undefined) tx.namespaces.put({name, labels: {}, createdAt: now.toISOString(), updatedAt: now.toISOString()});
    const graph = {...found, leases: found.leases.filter((lease) => !leaseExpired(lease, now.getTime()))};
    const live = mark(graph, now.getTime());
    const kinds = new Set(records.filter(({subject}) => subject.record.namespace === name).map(({subject}) => subject.record.kind));
    const unnamed = (prefix: string): readonly string[] =>
      this.#inspection.problems
        .filter(({severity, subject, object}) => severity === 'garbage' && subject.kind === 'garbage' && object.startsWith(prefix))
        .map(({object}) => object.slice(prefix.length));
    const content = [
      ...found.content.map(({digest}) => digest).filter((digest) => !live.has(contentNode(digest))),
      ...(kinds.has('content') ? (unnamed('content ') as Digest[]) : []),
    ];
    const snapshots = found.snapshots
      .filter(({snapshotter, key}) => !live.has(snapshotNode(snapshotter, key)))
      .map(({snapshotter, key}) => `${snapshotter}/${key}`);
    const layers = kinds.has('snapshots') ? unnamed('layer ').filter(isOwnLayer) : [];
    if (content.length + snapshots.length + layers.length === 0) return undefined;
    const id = `recovered-${randomBytes(8).toString('hex')}`;
    ns.leases.put({
      id,
      labels: {[RECOVERED]: now.toISOString()},
      content,
      layers,
      snapshots,
      createdAt: now.toISOString(),
      updatedAt: now.toISOString(),
    });
    return id;
  }

  /** Blobs first, then the records that need them; a document that is whole again tells of more. */
  async #content(): Promise<void> {
    const todo = new Set([...this.#of('blob'), ...this.#of('content')]);
    for (let before = todo.size + 1; todo.size > 0 && todo.size < before; ) {
      before = todo.size;
      const origins = await findOrigins(this.#context.store, this.#survey());
      for (const problem of todo) {
        const action =
          problem.subject.kind === 'blob'
            ? await this.#blob(problem.subject.digest, origins)
            : await this.#missingContent(problem as Of<'content'>, origins);
        if (action === undefined) continue;
        this.#did(problem, action);
        todo.delete(problem);
      }
    }
    for (const problem of todo) {
      const digest = (problem.subject as {digest: Digest}).digest;
      const why = this.#lost.get(digest);
      this.#did(problem, await this.#putAside(digest, why === undefined ? 'nothing here tells where it came from' : why.message), false);
    }
  }

  #survey(): Inspection['survey'] {
    return this.#context.store.view((tx) => tx.survey());
  }

  /** @returns what was done; `undefined` when it cannot be had */
  async #blob(digest: Digest, origins: Origins): Promise<string | undefined> {
    const {store} = this.#context;
    const {signal} = this.#o;
    const size = store.blobs.size(digest);
    if (size !== undefined && size !== this.#inspection.blobs.get(digest)) {
      // Its bytes may be right, and a record wrong.
      if ((await actualDigest(this.#context, digest, () => {}, signal)) === digest) {
        await this.#resize(digest, size);
        return 'its bytes are right: record mended';
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
    const key = downloadKey(digest);
    const what = `content ${digest}`;
    for (const source of sources) {
      this.#remote ??= await openRemote(this.#o);
      using _lock = await store.blobs.lock(key, {
        timeoutMs: lockTimeoutMs,
        whileAlive: true,
        purpose: `repair of ${digest}`,
        ...(signal === undefined ? {} : {signal}),
      });
      store.blobs.discardIngest(key);
      const ingest = Ingest.open(store.blobs.beginIngest(key, {ref: refOf(descriptor), namespace: '', total: size}), {digest, size}, what);
      try {
        const sink = (chunk: Buffer): void => ingest.write(chunk);
        await this.#remote.fetcher(source).stream(descriptor, sink, {offset: 0, ...(signal === undefined ? {} : {signal})});
        ingest.finish();
        store.blobs.publish(key, digest);
        return `fetched from ${formatReference({domain: source.domain, path: source.path})}`;
      } catch (err) {
        store.blobs.discardIngest(key);
        if (!isErrdefs(err) || signal?.aborted || is(err, 'resource_exhausted')) throw err;
        this.#lost.set(digest, err);
      } finally {
        ingest.close();
      }
    }
    return undefined;
  }

  /** A namespace gets the record of content that it needs. */
  async #missingContent({subject: {namespace, digest}}: Of<'content'>, origins: Origins): Promise<string | undefined> {
    const {store} = this.#context;
    const known = origins.content.get(digest);
    if (known === undefined) return undefined;
    const {descriptor, labels} = known;
    const isHere = store.blobs.size(digest) === descriptor.size;
    const action = isHere ? 'its bytes are here: record made anew' : await this.#fetch(descriptor, origins.sources(digest));
    if (action === undefined) return undefined;
    const sources: Labels = Object.fromEntries(
      origins.sources(digest).map(({domain, path}) => [`containerd.io/distribution.source.${domain}`, path]),
    );
    await store.update(`repair of content ${digest}`, (tx) => {
      const now = new Date().toISOString();
      if (!store.blobs.has(descriptor))
        throw new ErrdefsError('aborted', `content ${digest} was removed meanwhile`, {hint: 'run it again'});
      const {content} = tx.namespace(namespace);
      if (content.find(digest) !== undefined) return;
      content.put({digest, size: descriptor.size, labels: {...sources, ...labels}, createdAt: now, updatedAt: now});
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
    const {store} = this.#context;
    const {signal} = this.#o;
    const origins = await findOrigins(store, this.#survey());
    const inUse = await this.#layersInUse();
    const doubted = new Set(problems.map(({subject}) => subject.id));
    for (const problem of problems) {
      const {id} = problem.subject;
      if (isOwnLayer(id)) {
        this.#describe(problem);
        continue;
      }
      const container = inUse.get(id);
      if (container !== undefined) {
        this.#did(problem, `left alone: container ${JSON.stringify(container)} runs on it`, false);
        continue;
      }
      try {
        const action = await this.#rebuild(id, origins.layers.get(id), (other) => doubted.has(other));
        this.#did(problem, action ?? 'no image here has it, so that nothing can make it anew', action !== undefined);
        if (action !== undefined) doubted.delete(id);
      } catch (err) {
        if (!isErrdefs(err) || signal?.aborted || is(err, 'resource_exhausted')) throw err;
        this.#did(problem, err.message, false);
      }
    }
  }

  /** A user's own tree can be described anew, not made anew. */
  #describe(problem: Of<'layer'>): void {
    const {layers} = this.#context.store;
    const {id} = problem.subject;
    const snapshotter = this.#inspection.layers.get(id)!;
    if (layers.info(id) !== undefined || !existsSync(getSnapshotter(snapshotter).tree(layers.path(id)))) return;
    layers.describeOwn(id, snapshotter);
    this.#did(problem, 'its layer.json is written anew');
  }

  async #rebuild(id: string, origin: LayerOrigin | undefined, doubted: (id: string) => boolean): Promise<string | undefined> {
    const {store} = this.#context;
    const {signal} = this.#o;
    const work = store.layers.createWork();
    try {
      const canUnpack = origin !== undefined && store.blobs.size(origin.layer.blob.digest) === origin.layer.blob.size;
      const made = canUnpack
        ? await unpackAgain(this.#context, origin, work, doubted, signal)
        : await indexAgain(this.#context, id, this.#inspection.layers.get(id)!, work, signal);
      if (made === undefined) return undefined;
      await store.update(`repair of layer ${id}`, (tx) => {
        if (made.id !== id) renameLayer(tx, id, made.id);
        tx.afterCommit(() => store.layers.replace(made.id, made.directory));
      });
      return canUnpack ? 'rebuilt from its blob' : 'indexed anew';
    } finally {
      rmSync(work, {recursive: true, force: true});
    }
  }

  /** Layers that running containers stand on, each with one of these: their trees must not be taken away. */
  async #layersInUse(): Promise<ReadonlyMap<string, string>> {
    const inUse = new Map<string, string>();
    for (const ns of this.#inspection.survey.namespaces) {
      const running = await runningContainers(this.#context, ns.name);
      const snapshots = new Map(ns.snapshots.map((record) => [`${record.snapshotter}/${record.key}`, record]));
      for (const {id, snapshotter, snapshotKey} of ns.containers) {
        if (!running.includes(id)) continue;
        const seen = new Set<string>();
        for (let key: string | undefined = snapshotKey; key !== undefined && !seen.has(key); ) {
          seen.add(key);
          const record = snapshots.get(`${snapshotter}/${key}`);
          if (record?.layer !== undefined) inUse.set(record.layer, id);
          key = record?.parent;
        }
      }
    }
    return inUse;
  }

  /** Snapshots of images are made again from what is here. */
  async #snapshots(): Promise<void> {
    const problems = this.#of('snapshot');
    if (problems.length > 0) {
      const origins = await findOrigins(this.#context.store, this.#survey());
      for (const problem of problems) {
        const {namespace, snapshotter, key} = problem.subject;
        const origin = origins.snapshots.get(`${namespace}/${snapshotter}/${key}`);
        if (origin === undefined) {
          this.#did(problem, 'no image here tells how to make it', false);
          continue;
        }
        const {manifest, planned} = origin;
        const blobs = planned.layers.map(({blob}) => blob);
        const plan = {root: manifest.descriptor, documents: new Map(), manifests: [manifest], blobs};
        try {
          await ensureUnpacked(this.#context, namespace, origin.image, plan, origin.snapshotter, this.#o.signal);
          this.#did(problem, 'unpacked anew');
        } catch (err) {
          if (!isErrdefs(err) || this.#o.signal?.aborted || is(err, 'resource_exhausted')) throw err;
          this.#did(problem, err.message, false);
        }
      }
    }
    if (problems.length + this.#of('layer').length > 0) await settleLayers(this.#context, 0);
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
    return why === undefined || is(why, 'not_found');
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
    if (problems.length + this.#of('record', 'odd', 'namespace').length === 0) return;
    const counted = await store.update('recount of references', (tx) => {
      const isReadable = tx.survey().unreadable.length === 0;
      if (isReadable) tx.rebuildRefs();
      return isReadable;
    });
    for (const problem of problems)
      this.#did(problem, counted ? 'counted anew' : 'cannot be counted while a record cannot be read', counted);
  }

  async #runs(): Promise<void> {
    for (const problem of this.#of('run')) {
      const {namespace, id} = problem.subject;
      if (problem.severity !== 'garbage') {
        this.#did(problem, 'left alone: it runs', false);
        continue;
      }
      await cleanup(runDirectory(this.#context, namespace), id, findRuntime());
      const record = this.#context.store.view((tx) => tx.namespace(namespace).containers.find(id));
      if (record?.labels[TRANSIENT] !== undefined) await deleteContainer(this.#context, namespace, id, {keepSnapshot: false});
      this.#did(problem, 'removed');
    }
    for (const problem of this.#of('view')) {
      removeBundle(problem.path);
      this.#did(problem, 'removed');
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
      if (!isErrdefs(err) || (!is(err, 'data_loss') && !is(err, 'failed_precondition'))) throw err;
      for (const problem of problems) this.#did(problem, err.message, false);
    }
  }
}

/** A record that names nothing that can be had. */
interface Emptied {
  readonly collection: {delete(key: string): boolean};
  readonly key: string;
  /** Below the root. */
  readonly directory: string;
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
