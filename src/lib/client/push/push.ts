/** `push REF`: look for what is missing here, put blobs and then manifests into the registry, and note where they are. */
import {berth} from '../../berth-command.ts';
import {ErrdefsError, hasCode, isErrdefs, wrap} from '../../errdefs.ts';
import {type Descriptor, type Digest, parseDigest} from '../../oci/descriptor.ts';
import {mediaTypeOfDocument} from '../../oci/manifest.ts';
import {formatPlatform} from '../../oci/platform.ts';
import {formatReference, parseReference, type Reference} from '../../oci/reference.ts';
import type {BlobOutcome, Pusher} from '../../remotes/types.ts';
import type {Labels} from '../../store/records.ts';
import {findImage, planLocally} from '../api/find-image.ts';
import type {Context} from '../context.ts';
import {leaseContent, releaseLeases} from '../pull/content-leases.ts';
import {allSources, sourcesOf, withSource} from '../pull/distribution-source.ts';
import {refKey} from '../pull/fetch-and-unpack.ts';
import type {ProgressEvent, PushOptions, PushResult} from '../types/index.ts';
import {blobBytes} from './blob-bytes.ts';
import {isDocument, type Node, nodesOf, readTree} from './descriptor-tree.ts';

/** Milliseconds between two progress events of one blob. */
const PROGRESS_MS = 100;
/** Missing objects that a message names. */
const MAX_NAMED = 5;

const STATUS: Readonly<Record<BlobOutcome, ProgressEvent['status']>> = {exists: 'exists', mounted: 'mounted', uploaded: 'done'};

/** What is pushed, and the name of its image if it has one. */
interface Subject {
  readonly root: Descriptor;
  readonly image?: string;
  readonly warnings: readonly string[];
}

export async function push(context: Context, namespace: string, text: string, options: PushOptions): Promise<PushResult> {
  const ref = parseReference(text);
  const name = formatReference(ref);
  try {
    const subject = await findSubject(context, namespace, name, options);
    if (ref.digest !== undefined && ref.digest !== subject.root.digest)
      throw new ErrdefsError('invalid_argument', `the image is ${subject.root.digest}, not what the reference says`);
    return await new Push(context, namespace, ref, name, subject, options).run();
  } catch (err) {
    throw wrap(`unable to push ${name}`, err);
  }
}

async function findSubject(context: Context, namespace: string, name: string, options: PushOptions): Promise<Subject> {
  const {manifest, manifestType, platform} = options;
  if (manifest !== undefined) return {root: findManifest(context, namespace, parseDigest(manifest), manifestType), warnings: []};
  const image = findImage(context, namespace, options.from ?? name);
  if (platform === undefined) return {root: image.target, image: image.name, warnings: []};
  const plan = await planLocally(context, namespace, image, platform).catch((err: unknown) => {
    if (!isErrdefs(err) || err.code !== 'not_found' || err.details?.offered !== undefined) throw err;
    throw new ErrdefsError('not_found', err.message, {
      cause: err,
      hint: `pull it: ${berth`-n ${namespace} images pull --no-unpack --platform ${platform} ${image.name}`}`,
    });
  });
  const {mediaType, digest, size} = plan.manifests[0]!.descriptor;
  return {root: {mediaType, digest, size}, image: image.name, warnings: plan.warnings ?? []};
}

function findManifest({store}: Context, namespace: string, digest: Digest, given: string | undefined): Descriptor {
  const record = store.view((tx) => tx.namespace(namespace).content.find(digest));
  const bytes = record === undefined ? undefined : store.blobs.readSmall(digest);
  if (bytes === undefined) throw new ErrdefsError('not_found', `content ${digest} in namespace ${JSON.stringify(namespace)}`);
  const mediaType = given ?? mediaTypeOfDocument(bytes);
  if (mediaType === undefined)
    throw new ErrdefsError('invalid_argument', `content ${digest} is neither a manifest nor an index`, {
      hint: 'name its media type with --manifest-type',
    });
  return {mediaType, digest, size: bytes.length};
}

class Push {
  readonly #context: Context;
  readonly #namespace: string;
  readonly #ref: Reference;
  readonly #name: string;
  readonly #subject: Subject;
  readonly #o: PushOptions;
  readonly #emit: (event: ProgressEvent) => void;
  readonly #tree: Node;
  readonly #nodes: readonly Node[];
  /** Labels of the stored content. */
  readonly #labels: ReadonlyMap<Digest, Labels>;
  /** What the registry was found to have. A document that it has is complete there. */
  readonly #found = new Set<Digest>();
  readonly #running = new Map<Digest, Promise<void>>();
  readonly #stop = new AbortController();
  readonly #signal: AbortSignal;
  readonly #counts = {uploaded: 0, mounted: 0, existing: 0, skipped: 0};
  #pusher!: Pusher;
  #transferred = 0;
  #noting: Promise<void> | undefined;
  #lease: Promise<string | undefined> | undefined;

  constructor(context: Context, namespace: string, ref: Reference, name: string, subject: Subject, options: PushOptions) {
    this.#context = context;
    this.#namespace = namespace;
    this.#ref = ref;
    this.#name = name;
    this.#subject = subject;
    this.#o = options;
    this.#emit = options.onEvent ?? (() => {});
    this.#signal = options.signal === undefined ? this.#stop.signal : AbortSignal.any([options.signal, this.#stop.signal]);
    const {store} = context;
    const labels = new Map<Digest, Labels>();
    this.#labels = labels;
    this.#tree = store.view((tx) => {
      const {content} = tx.namespace(namespace);
      const source = {
        has: (desc: Descriptor): boolean => {
          const record = content.find(desc.digest);
          if (record === undefined || !store.blobs.has(desc)) return false;
          labels.set(desc.digest, record.labels);
          return true;
        },
        read: (desc: Descriptor): Buffer => this.#document(desc),
      };
      return readTree(subject.root, source, {withForeign: options.allowNonDistributable ?? false});
    });
    this.#nodes = nodesOf(this.#tree);
  }

  #document({digest}: Descriptor): Buffer {
    const bytes = this.#context.store.blobs.readSmall(digest);
    if (bytes === undefined) throw new ErrdefsError('aborted', `content ${digest} was removed meanwhile`);
    return bytes;
  }

  async run(): Promise<PushResult> {
    const started = performance.now();
    const remote = await this.#context.openRemote(this.#o);
    try {
      this.#pusher = remote.pusher(this.#ref, {maxConcurrentUploads: this.#o.maxConcurrentUploads});
      await this.#requireComplete();
      for (const {descriptor, isSkipped} of this.#nodes) if (!isSkipped) this.#report(descriptor, 'waiting', 0);
      await this.#putAll();
      await this.#note();
    } finally {
      await remote.close();
      await this.#release();
    }
    const {mediaType, digest, size} = this.#tree.descriptor;
    return {
      name: this.#name,
      target: {mediaType, digest, size},
      transferredBytes: this.#transferred,
      elapsedMs: performance.now() - started,
      objects: this.#counts,
      warnings: this.#subject.warnings,
    };
  }

  #report(desc: Descriptor, status: ProgressEvent['status'], offset = desc.size): void {
    this.#emit({ref: refKey(desc), status, offset, total: desc.size});
  }

  /** @throws failed_precondition something is neither here nor at the registry; before anything is sent */
  async #requireComplete(): Promise<void> {
    const missing = new Set<Node>();
    const look = async (node: Node): Promise<void> => {
      if (!node.isIncomplete) return;
      // A registry takes a manifest without its foreign layers.
      const tellsOfAll = !nodesOf(node).some(({isForeign}) => isForeign) || !node.isStored;
      if (tellsOfAll && (await this.#pusher.exists(node.descriptor, {signal: this.#signal}))) this.#found.add(node.descriptor.digest);
      else if (!node.isStored) missing.add(node);
      else await Promise.all(node.children.map(look));
    };
    await look(this.#tree);
    if (missing.size > 0) throw this.#lacks(this.#nodes.filter((node) => missing.has(node)));
  }

  #lacks(missing: readonly Node[]): ErrdefsError {
    const {image} = this.#subject;
    const {descriptor, kind, children} = this.#tree;
    const named = missing.slice(0, MAX_NAMED).map(({descriptor: {digest, platform}, kind: what}) => {
      const shown = platform === undefined ? '' : ` (${formatPlatform(platform)})`;
      return `${what === 'unknown' ? 'content' : what} ${digest}${shown}`;
    });
    const more = missing.length > named.length ? `, and ${missing.length - named.length} more` : '';
    const whose = image === undefined ? `${kind} ${descriptor.digest}` : `image ${JSON.stringify(image)}`;
    const parts = missing.length === 1 ? '1 part' : `${missing.length} parts`;
    const whole = children.find(
      ({isIncomplete, descriptor: {platform}}) => !isIncomplete && platform !== undefined && platform.os !== 'unknown',
    );
    const words = [...(kind === 'index' ? ['--all-platforms'] : []), this.#origin()];
    const pull = `pull the rest: ${berth`-n ${this.#namespace} images pull --no-unpack ${words}`}`;
    return new ErrdefsError(
      'failed_precondition',
      `${parts} of ${whose} ${missing.length === 1 ? 'is' : 'are'} neither here nor at the registry: ${named.join(', ')}${more}`,
      {
        hint: whole === undefined ? pull : `push one platform with --platform ${formatPlatform(whole.descriptor.platform!)}, or ${pull}`,
        details: {missing: missing.map(({descriptor: {mediaType, digest, size}}) => ({mediaType, digest, size}))},
      },
    );
  }

  /** The reference to pull the image by: its name, unless it was pulled by another one. */
  #origin(): string {
    const {image} = this.#subject;
    const {digest} = this.#tree.descriptor;
    const sources = allSources(this.#labels.get(digest) ?? {});
    const own = image === undefined ? undefined : parseReference(image);
    const [first] = sources;
    if (first === undefined || sources.some(({domain, path}) => domain === own?.domain && path === own.path)) return image ?? digest;
    return formatReference({...first, digest});
  }

  /** Puts everything into the registry. After a failure nothing new is begun; throws the first one when all has ended. */
  async #putAll(): Promise<void> {
    let failure: {readonly err: unknown} | undefined;
    await this.#put(this.#tree).catch((err: unknown) => {
      failure = {err};
    });
    await Promise.allSettled(this.#running.values());
    await this.#noting;
    if (failure !== undefined) throw this.#stop.signal.aborted ? this.#stop.signal.reason : failure.err;
  }

  #put(node: Node): Promise<void> {
    const {digest} = node.descriptor;
    const known = this.#running.get(digest);
    if (known !== undefined) return known;
    const begun = (isDocument(node.kind) ? this.#putDocument(node) : this.#putBlob(node)).catch((err: unknown) => {
      this.#stop.abort(err);
      throw err;
    });
    this.#running.set(digest, begun);
    return begun;
  }

  async #putBlob({descriptor, isSkipped}: Node): Promise<void> {
    const {digest} = descriptor;
    if (isSkipped) {
      this.#counts.skipped++;
      return;
    }
    if (this.#found.has(digest)) {
      this.#count(descriptor, 'exists');
      return;
    }
    let reported = Number.NEGATIVE_INFINITY;
    const open = (offset: number): AsyncIterable<Uint8Array> => {
      this.#hold();
      return blobBytes(this.#context.store, digest, offset);
    };
    const outcome = await this.#pusher.blob(descriptor, open, {
      from: this.#sources(digest),
      onProgress: (offset) => {
        const now = performance.now();
        if (now - reported < PROGRESS_MS) return;
        reported = now;
        this.#report(descriptor, 'uploading', offset);
      },
      signal: this.#signal,
    });
    this.#count(descriptor, outcome);
  }

  /**
   * Keeps what is pushed, whatever is removed meanwhile, from the first upload on: what is mounted needs no lease. A store that cannot be
   * written, and a full disk, do without.
   */
  #hold(): void {
    const content = this.#nodes.filter(({isSkipped, isStored}) => isStored && !isSkipped).map(({descriptor}) => descriptor.digest);
    this.#lease ??= leaseContent(this.#context.store, this.#namespace, `push of ${this.#name}`, content).catch((err: unknown) => {
      if (!isErrdefs(err)) throw err;
      return undefined;
    });
    this.#lease.catch(() => {}); // awaited by `#release`
  }

  async #release(): Promise<void> {
    const lease = await this.#lease;
    if (lease !== undefined) await releaseLeases(this.#context.store, this.#namespace, `push of ${this.#name}`, [lease]);
  }

  #count(desc: Descriptor, outcome: BlobOutcome): void {
    this.#counts[outcome === 'exists' ? 'existing' : outcome]++;
    if (outcome === 'uploaded') this.#transferred += desc.size;
    this.#report(desc, STATUS[outcome]);
  }

  /** Repositories of the registry that have a blob, those with a name like the target's first. */
  #sources(digest: Digest): readonly string[] {
    const {domain, path} = this.#ref;
    const parents = this.#nodes.filter(({children}) => children.some(({descriptor}) => descriptor.digest === digest));
    const known = [digest, ...parents.map(({descriptor}) => descriptor.digest)].flatMap((one) =>
      sourcesOf(this.#labels.get(one) ?? {}, domain),
    );
    const parts = path.split('/');
    const likeness = (other: string): number => {
      const differs = other.split('/').findIndex((part, i) => part !== parts[i]);
      return differs === -1 ? parts.length : differs;
    };
    return [...new Set(known)].sort((a, b) => likeness(b) - likeness(a));
  }

  /**
   * A document is asked for before what it refers to only where it is expected: all below it is there then. The answer for an
   * unexpected one would delay the rest.
   */
  async #putDocument(node: Node): Promise<void> {
    const {descriptor} = node;
    const {domain, path} = this.#ref;
    const isRoot = node === this.#tree;
    const tag = isRoot ? this.#ref.tag : undefined;
    const isExpected = sourcesOf(this.#labels.get(descriptor.digest) ?? {}, domain).includes(path);
    const isNamed = tag === undefined ? undefined : this.#isThere(descriptor, tag);
    isNamed?.catch(() => {}); // awaited below
    let isThere = this.#found.has(descriptor.digest);
    if (isExpected && !isThere) isThere = (await isNamed) || (await this.#isThere(descriptor));
    if (isThere) await Promise.all(this.#foundWith(node).map((foreign) => this.#put(foreign)));
    else await Promise.all(node.children.map((child) => this.#put(child)));
    if ((await isNamed) ?? isThere) {
      this.#count(descriptor, 'exists');
      return;
    }
    this.#report(descriptor, 'uploading', 0);
    const bytes = this.#document(descriptor);
    // Writing the labels blocks the thread, so the request goes first.
    const note = (): void => void (this.#signal.aborted || this.#note());
    const onSend = (): void => void setImmediate(note);
    await this.#pusher.manifest(descriptor, bytes, {tag, onSend: isRoot ? onSend : undefined, signal: this.#signal});
    this.#count(descriptor, 'uploaded');
  }

  /** False, too, when the registry refuses to tell: the push itself will show. */
  async #isThere(desc: Descriptor, tag?: string): Promise<boolean> {
    try {
      return await this.#pusher.exists(desc, {tag, signal: this.#signal});
    } catch (err) {
      if (!this.#signal.aborted && (hasCode(err, 'unauthenticated') || hasCode(err, 'permission_denied'))) return false;
      throw err;
    }
  }

  /** Reports all below a document that the registry has. @returns foreign layers to push, without which it takes a document */
  #foundWith(document: Node): readonly Node[] {
    const foreign: Node[] = [];
    for (const node of nodesOf(document)) {
      const {digest} = node.descriptor;
      if (node === document || this.#running.has(digest)) continue;
      this.#running.set(digest, Promise.resolve());
      if (node.isForeign && !node.isSkipped) {
        this.#running.delete(digest);
        foreign.push(node);
      } else if (node.isSkipped) this.#counts.skipped++;
      else this.#count(node.descriptor, 'exists');
    }
    return foreign;
  }

  /**
   * Notes the repository in the labels of the content, beside the last request: the labels are a hint for later pushes, and what they
   * say is tried. A failure to write them is a warning.
   */
  #note(): Promise<void> {
    this.#noting ??= this.#writeLabels();
    return this.#noting;
  }

  async #writeLabels(): Promise<void> {
    const isNew = ({descriptor: {digest}, isSkipped}: Node): boolean => {
      const labels = this.#labels.get(digest);
      return labels !== undefined && !isSkipped && withSource(labels, this.#ref) !== labels;
    };
    const digests = this.#nodes.filter(isNew).map(({descriptor}) => descriptor.digest);
    if (digests.length === 0) return;
    try {
      await this.#context.store.update(`push of ${this.#name}`, (tx) => {
        const {content} = tx.namespace(this.#namespace);
        const updatedAt = new Date().toISOString();
        for (const digest of digests) {
          const record = content.find(digest);
          if (record !== undefined) content.put({...record, labels: withSource(record.labels, this.#ref), updatedAt});
        }
      });
    } catch (err) {
      if (!isErrdefs(err)) throw err;
      this.#context.warn(wrap(`${this.#name} is pushed; its repository is not noted in the labels of its content`, err));
    }
  }
}
