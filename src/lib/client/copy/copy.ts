/** `copy SRC DST`: reads the documents of an image, copies the blobs that the target lacks, then the manifests, and the name last. */
import {ErrdefsError, wrap} from '../../errdefs.ts';
import {type Descriptor, type Digest, digestParts} from '../../oci/descriptor.ts';
import {MAX_MANIFEST_BYTES, parseIndex, parseManifest} from '../../oci/manifest.ts';
import {isForeignLayer, kindOf} from '../../oci/mediatypes.ts';
import {MAX_DEPTH} from '../../oci/walk.ts';
import type {Remote} from '../../remotes/types.ts';
import type {Context} from '../context.ts';
import {choose, MAX_DOCUMENTS, MAX_DOCUMENTS_BYTES, type PlatformChoice, platformChoice} from '../pull/plan.ts';
import {verified} from '../registry/verify-stream.ts';
import type {CopyOptions, CopyResult, ProgressEvent, RegistryOptions} from '../types/index.ts';
import {BlobLocations} from './blob-locations.ts';
import {convert, needsConversion} from './convert-media-types.ts';
import {openSource, openTarget} from './open.ts';
import {formatPlace, parsePlace} from './place.ts';
import type {BlobOutcome, Document, ImageSource, ImageTarget, Node} from './types.ts';

const MAX_CONCURRENT = 6;

export async function copy(context: Context, from: string, to: string, options: CopyOptions): Promise<CopyResult> {
  const remotes = new SharedRemotes(context);
  try {
    return (await copyWith(remotes, from, to, options)).result;
  } finally {
    await remotes.close();
  }
}

/**
 * Remotes of one or several copies: for the same options object one, so that copies share connections and tokens, and what they find out
 * about blobs at their destinations.
 */
export class SharedRemotes {
  readonly blobLocations = new BlobLocations();
  readonly #context: Context;
  readonly #open = new Map<RegistryOptions, Promise<Remote>>();

  constructor(context: Context) {
    this.#context = context;
  }

  get(options: RegistryOptions): Promise<Remote> {
    let remote = this.#open.get(options);
    if (remote === undefined) {
      remote = this.#context.openRemote(options);
      this.#open.set(options, remote);
    }
    return remote;
  }

  async close(): Promise<void> {
    await Promise.all([...this.#open.values()].map(async (opening) => (await opening.catch(() => undefined))?.close()));
  }
}

const DEFAULTS: RegistryOptions = {};

export interface CopyOutcome {
  readonly result: CopyResult;
  /** Whether the destination named the image already. */
  readonly wasCurrent: boolean;
}

/** One copy over shared connections. */
export async function copyWith(remotes: SharedRemotes, from: string, to: string, options: CopyOptions): Promise<CopyOutcome> {
  const [sourcePlace, targetPlace] = [parsePlace(from), parsePlace(to)];
  const platforms = platformChoice(options.platform === undefined ? {} : {platforms: [options.platform]});
  if (options.all && options.platform !== undefined)
    throw new ErrdefsError('invalid_argument', 'copy: all and platform exclude each other');
  const stop = new AbortController();
  const signal = options.signal === undefined ? stop.signal : AbortSignal.any([options.signal, stop.signal]);
  const {maxConcurrent = MAX_CONCURRENT} = options;
  const opener = {
    remote: (registry: RegistryOptions) => remotes.get(registry),
    blobLocations: remotes.blobLocations,
    signal,
    maxConcurrent,
  };
  let source: ImageSource | undefined;
  let target: ImageTarget | undefined;
  try {
    source = await openSource(opener, sourcePlace, options.source ?? DEFAULTS);
    target = await openTarget(opener, targetPlace, options.destination ?? DEFAULTS);
    if (options.preserveDigests && target.rewrites)
      throw new ErrdefsError('failed_precondition', 'this destination does not preserve digests', {
        hint: 'use oci:, oci-archive:, dir: or a registry',
      });
    const work = new Copy(source, target, platforms, {...options, signal, maxConcurrent}, (err) => stop.abort(err));
    return await work.run();
  } catch (err) {
    // What fails first stops the rest, and is the reason.
    const reason: unknown = stop.signal.aborted && !options.signal?.aborted ? stop.signal.reason : err;
    throw wrap(`unable to copy ${formatPlace(sourcePlace)} to ${formatPlace(targetPlace)}`, reason);
  } finally {
    stop.abort();
    await source?.close();
    await target?.close();
  }
}

type Limits = CopyOptions & {readonly signal: AbortSignal; readonly maxConcurrent: number};

class Copy {
  readonly #source: ImageSource;
  readonly #target: ImageTarget;
  readonly #platforms: PlatformChoice;
  readonly #o: Limits;
  readonly #onFailure: (err: unknown) => void;
  readonly #emit: (event: ProgressEvent) => void;
  readonly #outcomes: Record<BlobOutcome, number> = {copied: 0, mounted: 0, exists: 0};
  /** Blobs that are being copied, or have been. */
  readonly #blobs = new Map<Digest, Promise<void>>();
  readonly #free: (() => void)[] = [];
  #running = 0;
  #documents = 0;
  #documentBytes = 0;
  #transferred = 0;

  constructor(source: ImageSource, target: ImageTarget, platforms: PlatformChoice, options: Limits, onFailure: (err: unknown) => void) {
    this.#onFailure = onFailure;
    this.#source = source;
    this.#target = target;
    this.#platforms = platforms;
    this.#o = options;
    this.#emit = options.onEvent ?? (() => {});
  }

  async run(): Promise<CopyOutcome> {
    const started = performance.now();
    const {signal, referrers = false} = this.#o;
    if (referrers && (this.#source.referrers === undefined || this.#target.addReferrer === undefined))
      throw new ErrdefsError('invalid_argument', 'artifacts that refer to the image can only be copied from a registry to a registry');
    if (referrers && this.#o.format !== undefined)
      throw new ErrdefsError('invalid_argument', 'artifacts refer to the digest of the image, which another format would change');
    this.#emit({ref: this.#source.name, status: 'resolving', offset: 0, total: 0});
    const selected = await this.#select(await this.#source.root());
    this.#emit({ref: this.#source.name, status: 'resolved', offset: 0, total: 0});
    const converted = await this.#convert(selected);
    const root = converted ?? selected;
    let target = root.descriptor;
    const wasCurrent = await this.#target.isCurrent(root.descriptor);
    if (wasCurrent) this.#emit(eventOf(root.descriptor, 'exists'));
    else {
      // The tag is missing or old; the manifest may be there all the same.
      if (!(await this.#target.hasManifest(root.descriptor))) await this.#copyBelow(converted ?? (await this.#expand(selected, 1)));
      signal.throwIfAborted();
      target = await this.#target.commit(root);
      this.#emit(eventOf(target, 'done'));
    }
    if (referrers) await this.#copyReferrers(selected, 1);
    const result = {
      source: this.#source.name,
      destination: this.#target.name,
      target,
      blobs: {...this.#outcomes},
      transferredBytes: this.#transferred,
      elapsedMs: performance.now() - started,
    };
    return {result, wasCurrent};
  }

  /** The image for the wanted platform, unless all of an index is wanted. */
  async #select(root: Document): Promise<Document> {
    if (this.#o.all) return root;
    let at = root;
    for (let depth = 1; kindOf(at.descriptor.mediaType) === 'index'; depth++) {
      if (depth > MAX_DEPTH) throw tooDeep(root.descriptor);
      const [descriptor] = choose(parseIndex(at.bytes, at.descriptor).manifests, this.#platforms);
      at = {descriptor: descriptor!, bytes: await this.#read(descriptor!)};
    }
    return at;
  }

  /**
   * The image with the media types that are asked for, or that others expect at the target.
   *
   * @returns undefined when it stays as it is
   */
  async #convert(root: Document): Promise<Node | undefined> {
    const {format, preserveDigests = false} = this.#o;
    const family = format ?? (preserveDigests ? undefined : this.#target.format);
    if (family === undefined) return undefined;
    const node = await this.#expand(root, 1);
    if (!needsConversion(node, family)) return undefined;
    if (preserveDigests)
      throw new ErrdefsError('failed_precondition', `with the media types of ${family} the image would have another digest`);
    return convert(node, family);
  }

  async #read(desc: Descriptor): Promise<Buffer> {
    this.#documentBytes += desc.size;
    if (++this.#documents > MAX_DOCUMENTS || this.#documentBytes > MAX_DOCUMENTS_BYTES)
      throw new ErrdefsError(
        'resource_exhausted',
        `the image has more than ${MAX_DOCUMENTS} manifests, or ${MAX_DOCUMENTS_BYTES} B of them`,
        {
          hint: 'copy one platform at a time',
        },
      );
    return this.#source.document(desc, MAX_MANIFEST_BYTES);
  }

  /** Reads all documents below one. */
  async #expand({descriptor, bytes}: Document, depth: number): Promise<Node> {
    if (depth > MAX_DEPTH) throw tooDeep(descriptor);
    const kind = kindOf(descriptor.mediaType);
    if (kind === 'manifest') {
      const {config, layers} = parseManifest(bytes, descriptor);
      return {descriptor, bytes, children: [], blobs: [config, ...layers]};
    }
    if (kind !== 'index')
      throw new ErrdefsError('not_implemented', `media type ${JSON.stringify(descriptor.mediaType)} of ${descriptor.digest}`);
    const children: Node[] = [];
    const blobs: Descriptor[] = [];
    for (const child of parseIndex(bytes, descriptor).manifests) {
      const childKind = kindOf(child.mediaType);
      if (childKind === 'manifest' || childKind === 'index')
        children.push(await this.#expand({descriptor: child, bytes: await this.#read(child)}, depth + 1));
      else blobs.push(child);
    }
    return {descriptor, bytes, children, blobs};
  }

  /** Copies all below a document, but not the document itself. Images of an index are copied at once, as far as their blobs may. */
  async #copyBelow(node: Node): Promise<void> {
    await this.#target.prepare?.(node, (desc, limit) => this.#source.document(desc, limit));
    await this.#all([
      ...node.blobs.map((blob) => this.#copyBlob(blob)),
      ...node.children.map(async (child) => {
        if (await this.#target.hasManifest(child.descriptor)) {
          this.#emit(eventOf(child.descriptor, 'exists'));
          return;
        }
        await this.#copyBelow(child);
        await this.#target.manifest(child);
        this.#emit(eventOf(child.descriptor, 'done'));
      }),
    ]);
  }

  /** Waits for all tasks; after a failure they are told to stop. */
  async #all(tasks: readonly Promise<void>[]): Promise<void> {
    for (const task of tasks) task.catch(this.#onFailure);
    const failed = (await Promise.allSettled(tasks)).find((result) => result.status === 'rejected');
    if (failed !== undefined) throw failed.reason;
  }

  /** Copies a blob once, whatever the number of images that have it. */
  #copyBlob(desc: Descriptor): Promise<void> {
    let copying = this.#blobs.get(desc.digest);
    if (copying === undefined) {
      copying = this.#inTurn(() => this.#transfer(desc));
      this.#blobs.set(desc.digest, copying);
    }
    return copying;
  }

  async #transfer(desc: Descriptor): Promise<void> {
    const {signal} = this.#o;
    signal.throwIfAborted();
    if (this.#target.keepsForeignLayers && isForeignLayer(desc.mediaType) && (desc.urls?.length ?? 0) > 0) return;
    let reported = 0;
    const give = async (): Promise<BlobOutcome> => {
      let isWrong = false;
      const open = (offset: number): AsyncIterable<Buffer> =>
        this.#verified(desc, offset, () => {
          isWrong = true;
        });
      const onProgress = (offset: number): void => {
        const now = performance.now();
        if (now - reported < PROGRESS_MS) return;
        reported = now;
        this.#emit({...eventOf(desc, 'uploading'), offset});
      };
      try {
        return await this.#target.blob(desc, open, {from: this.#source.repository, onProgress});
      } catch (err) {
        // A mirror that was rejected is not asked for it again, so that this ends.
        const isElsewhere = isWrong && (this.#source.rejected?.(desc) ?? false);
        if (!isElsewhere || !this.#target.takesAgain) throw err;
        return give();
      }
    };
    const outcome = await give();
    this.#outcomes[outcome]++;
    this.#emit(eventOf(desc, outcome === 'copied' ? 'done' : 'exists'));
  }

  /** The bytes of a blob, counted, and verified when they are read from the beginning. */
  async *#verified(desc: Descriptor, offset: number, onWrong: () => void): AsyncGenerator<Buffer> {
    const source = this.#source.blob(desc, offset);
    // The registry verifies an upload that is resumed.
    for await (const chunk of offset === 0 ? verified(desc, source, onWrong) : source) {
      this.#o.signal.throwIfAborted();
      this.#transferred += chunk.length;
      yield chunk;
    }
  }

  async #inTurn(action: () => Promise<void>): Promise<void> {
    if (this.#running >= this.#o.maxConcurrent) await new Promise<void>((resolve) => void this.#free.push(resolve));
    else this.#running++;
    try {
      await action();
    } finally {
      // The turn passes on to the next one.
      const next = this.#free.shift();
      if (next === undefined) this.#running--;
      else next();
    }
  }

  /** Copies the artifacts that refer to a document or one below it, and those that refer to these. */
  async #copyReferrers(root: Document, depth: number): Promise<void> {
    const node = await this.#expand(root, 1);
    const subjects = (of: Node): readonly Descriptor[] => [of.descriptor, ...of.children.flatMap(subjects)];
    for (const subject of subjects(node)) {
      for (const referrer of await this.#source.referrers!(subject.digest)) {
        if (depth >= MAX_DEPTH) throw tooDeep(referrer);
        const artifact = {descriptor: referrer, bytes: await this.#read(referrer)};
        if (!(await this.#target.hasManifest(referrer))) await this.#copyBelow(await this.#expand(artifact, 1));
        await this.#target.addReferrer!(subject.digest, artifact);
        this.#emit(eventOf(referrer, 'done'));
        await this.#copyReferrers(artifact, depth + 1);
      }
      const [algorithm, hex] = digestParts(subject.digest);
      for (const suffix of ATTACHED) {
        const tag = `${algorithm}-${hex}.${suffix}`;
        const attached = await this.#source.tagged?.(tag);
        if (attached === undefined) continue;
        await this.#copyBelow(await this.#expand(attached, 1));
        await this.#target.addTagged!(tag, attached);
        this.#emit(eventOf(attached.descriptor, 'done'));
      }
    }
  }
}

/** What cosign keeps for an image under tags `sha256-<hex>.…`: signatures, attestations, bills of materials. */
const ATTACHED = ['sig', 'att', 'sbom'];

/** Shortest time between two progress events of a blob, in milliseconds. */
const PROGRESS_MS = 100;

const eventOf = (desc: Descriptor, status: ProgressEvent['status']): ProgressEvent => ({
  ref: `${kindOf(desc.mediaType)}-${desc.digest}`,
  status,
  offset: desc.size,
  total: desc.size,
});

const tooDeep = ({digest}: Descriptor): ErrdefsError =>
  new ErrdefsError('invalid_argument', `${digest}: indexes or referrers are nested more than ${MAX_DEPTH} deep`);
