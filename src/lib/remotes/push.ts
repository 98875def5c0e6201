/**
 * Pushes blobs and manifests to one repository.
 *
 * A blob is mounted from another repository of the registry where it is known to be; else it is uploaded in one PUT. Registries and
 * proxies that do not take that much at once get it in chunks.
 *
 * Protocol after the distribution specification, "Pushing blobs" and "Pushing Manifests".
 */
import {ErrdefsError, isErrdefs} from '../errdefs.ts';
import {type Descriptor, type Digest, digestParts, isDigest} from '../oci/descriptor.ts';
import {kindOf} from '../oci/mediatypes.ts';
import {formatReference, type Reference} from '../oci/reference.ts';
import {pushScope, type TokenScope} from './auth.ts';
import {limiter} from './concurrency-limit.ts';
import {protocolError, WireError, wireFailure} from './errors.ts';
import {urlOf} from './hosts.ts';
import {isTemporary, MAX_ATTEMPTS} from './retry.ts';
import {type HttpClient, type HttpResponse, redirectTarget} from './retrying-client.ts';
import type {BlobOutcome, BlobPushOptions, Host, ManifestPushOptions, ManifestPushResult, OpenBlob, Pusher} from './types.ts';
import {type Method, type RequestBody, TRICKLE_BYTES} from './undici-exchange.ts';
import {UploadBody} from './upload-body.ts';
import {contentLength, mediaTypeOf} from './validate-response.ts';

/** Requests without a body of ours at once. */
const MAX_SMALL_REQUESTS = 8;
/** Repositories that a blob is mounted from, one after the other, before it is uploaded. */
const MAX_MOUNTS = 3;
/** First size of a chunk in bytes, and the smallest. */
const CHUNK_BYTES = 16 << 20;
const MIN_CHUNK_BYTES = 64 << 10;
/** An upload with fewer bytes is started again rather than resumed. */
const RESUME_BYTES = 1 << 20;
/** A registry hashes and moves a blob before it answers the last request: its time to answer, in stall timeouts. */
const PATIENCE = 10;

/** Codes of an upload that is gone, or whose bytes did not arrive as they were: another one may succeed. */
const UPLOAD_LOST = new Set(['BLOB_UPLOAD_UNKNOWN', 'BLOB_UPLOAD_INVALID', 'DIGEST_INVALID', 'SIZE_INVALID', 'RANGE_INVALID']);

const single = (header: string | string[] | undefined): string | undefined => (Array.isArray(header) ? header[0] : header);
const withoutBody = () => () => undefined;

/** A digest that the registry names for what it has stored. @throws failed_precondition another one of the same algorithm */
function checkDigest({headers, context}: HttpResponse, digest: Digest): void {
  const stored = single(headers['docker-content-digest']);
  if (isDigest(stored) && stored !== digest && digestParts(stored)[0] === digestParts(digest)[0])
    throw protocolError(context, `stored it as ${stored}`);
}

/** An upload that the registry has begun. */
interface Session {
  readonly location: URL;
  /** The smallest chunk that the registry takes, in bytes. */
  readonly minChunk: number;
}

interface Call {
  readonly what: string;
  readonly method: Method;
  readonly url: URL;
  readonly headers?: Readonly<Record<string, string>>;
  readonly body?: RequestBody;
  readonly bodyLength?: number;
  readonly patience?: number;
  readonly resumable?: boolean;
  readonly fallback?: 'same-host';
  readonly scope?: TokenScope;
  readonly signal: AbortSignal | undefined;
  readonly onSend?: (() => void) | undefined;
}

/** What pushes to one repository at one host have in common. */
class Repository {
  readonly client: HttpClient;
  readonly host: Host;
  readonly ref: Pick<Reference, 'domain' | 'path'>;
  readonly scope: TokenScope;

  constructor(client: HttpClient, host: Host, ref: Pick<Reference, 'domain' | 'path'>) {
    this.client = client;
    this.host = host;
    this.ref = ref;
    this.scope = pushScope(host, ref);
  }

  url(path: string): URL {
    return urlOf(this.host, `/${this.ref.path}/${path}`);
  }

  /** Sends a request. Hosts other than the registry's, as of an upload location, get no credentials. */
  async send({scope = this.scope, ...call}: Call): Promise<HttpResponse> {
    const isOwn = call.url.origin === this.host.origin;
    const response = await this.client.send({
      ...call,
      ...(isOwn ? {scope} : {host: this.host}),
      onBody: withoutBody,
      restartable: true,
      digestVerified: false,
    });
    // A proxy's or a portal's: nothing has come to the registry.
    if (call.method !== 'HEAD' && response.status < 300 && mediaTypeOf(response) === 'text/html')
      throw protocolError(response.context, 'answered with a web page');
    return response;
  }

  toError(response: HttpResponse): Promise<ErrdefsError> {
    return this.client.toError(response, this.scope);
  }

  /** @returns undefined when the registry does not have it @throws errors of the registry, such as permission_denied */
  async head(what: string, url: URL, accept: string, signal: AbortSignal | undefined): Promise<HttpResponse | undefined> {
    const response = await this.send({what, method: 'HEAD', url, headers: {accept}, signal});
    if (response.status < 300) return response;
    if (response.status === 404) return undefined;
    throw await this.toError(response);
  }
}

/** @param host finds the host to push to, once */
export function openPusher(
  client: HttpClient,
  host: (what: string, signal: AbortSignal | undefined) => Promise<Host>,
  {domain, path}: Reference,
  {maxConcurrentUploads = 3, signal: own}: {readonly maxConcurrentUploads?: number | undefined; readonly signal?: AbortSignal | undefined},
): Pusher {
  const small = limiter(MAX_SMALL_REQUESTS);
  const uploads = limiter(maxConcurrentUploads);
  let repository: Promise<Repository> | undefined;
  const open = async (what: string, signal: AbortSignal | undefined): Promise<Repository> => {
    repository ??= host(what, signal).then((found) => new Repository(client, found, {domain, path}));
    const opened = repository;
    try {
      return await opened;
    } catch (err) {
      if (repository === opened) repository = undefined;
      throw err;
    }
  };
  const both = (signal: AbortSignal | undefined): AbortSignal | undefined =>
    own === undefined || signal === undefined ? (own ?? signal) : AbortSignal.any([own, signal]);
  const named = ({digest}: Descriptor): string => `push ${formatReference({domain, path, digest})}`;

  return {
    exists: async (desc, {tag, signal: asked} = {}) => {
      const signal = both(asked);
      const what = named(desc);
      const at = await open(what, signal);
      return small(() => exists(at, desc, what, tag, signal));
    },

    blob: async (desc, source, {signal: asked, ...options} = {}) => {
      const signal = both(asked);
      const what = named(desc);
      const at = await open(what, signal);
      const found = await small(() => new BlobSearch(at, desc, what, signal).run(options.from ?? []));
      if (typeof found === 'string') return found;
      const upload = new BlobUpload(at, desc, what, source, found.session, {...options, signal});
      return uploads(() => upload.run());
    },

    manifest: async (desc, bytes, {signal: asked, ...options} = {}) => {
      const signal = both(asked);
      const what = named(desc);
      const at = await open(what, signal);
      return small(() => putManifest(at, desc, bytes, what, {...options, signal}));
    },
  };
}

async function exists(
  at: Repository,
  desc: Descriptor,
  what: string,
  tag: string | undefined,
  signal: AbortSignal | undefined,
): Promise<boolean> {
  const {digest, mediaType, size} = desc;
  const kind = kindOf(mediaType);
  const isBlob = kind !== 'manifest' && kind !== 'index';
  const path = isBlob ? `blobs/${digest}` : `manifests/${tag ?? digest}`;
  const response = await at.head(what, at.url(path), isBlob ? '*/*' : `${mediaType}, */*`, signal);
  if (response === undefined) return false;
  if (single(response.headers['docker-content-digest']) === digest) return true;
  // A tag may name another manifest. By digest the size tells it from a page that something else has answered with; an answer that tells
  // neither says nothing of what is there.
  return (isBlob || tag === undefined) && contentLength(response) === size;
}

/** Whether the repository has a blob; false, too, when the registry refuses to tell, as it may one who may only push. */
async function isHere(at: Repository, desc: Descriptor, what: string, signal: AbortSignal | undefined): Promise<boolean> {
  try {
    return await exists(at, desc, what, undefined, signal);
  } catch (err) {
    const status = isErrdefs(err) ? err.details?.httpStatus : undefined;
    if (!signal?.aborted && typeof status === 'number' && status < 500 && status !== 429) return false;
    throw err;
  }
}

async function putManifest(
  at: Repository,
  {digest, mediaType}: Descriptor,
  bytes: Buffer,
  what: string,
  {tag, signal, onSend}: ManifestPushOptions,
): Promise<ManifestPushResult> {
  for (let attempt = 1; ; attempt++) {
    const response = await at.send({
      what: tag === undefined ? what : `${what} as ${JSON.stringify(tag)}`,
      method: 'PUT',
      url: at.url(`manifests/${tag ?? digest}`),
      headers: {'content-type': mediaType},
      body: bytes,
      signal,
      onSend,
    });
    if (response.status < 300) {
      checkDigest(response, digest);
      const subject = single(response.headers['oci-subject']);
      return isDigest(subject) ? {subject} : {};
    }
    const err = await at.toError(response);
    // docker's registry answers so while another upload rewrites its link to a blob that the manifest refers to.
    if (err.details?.registryCode !== 'DIGEST_INVALID' || attempt >= MAX_ATTEMPTS) throw err;
    await at.client.pause(at.client.backoff(attempt), what, signal);
  }
}

/** Adds the digest that ends an upload. The query is the registry's own and stays as it is written. */
function withDigest(location: URL, digest: Digest): URL {
  const url = new URL(location);
  url.search = `${url.search === '' ? '' : `${url.search}&`}digest=${encodeURIComponent(digest)}`;
  return url;
}

/** @throws failed_precondition the response names no location, or an unsafe one */
function sessionOf({headers, context}: HttpResponse, before?: Session): Session {
  const location = headers.location;
  if (location === undefined) {
    if (before !== undefined) return before;
    throw protocolError(context, 'names no location for the upload');
  }
  const target = URL.parse(location, context.url.href);
  // A registry behind a proxy that ends TLS may not know of it.
  const isOwn = target?.hostname === context.url.hostname && target.protocol === 'http:' && context.url.protocol === 'https:';
  const safe = isOwn ? `${context.url.origin}${target.pathname}${target.search}` : location;
  const length = single(headers['oci-chunk-min-length']);
  return {
    location: redirectTarget(safe, context, false),
    minChunk: length !== undefined && /^\d{1,15}$/.test(length) ? Number(length) : (before?.minChunk ?? 0),
  };
}

/** Looks for a blob at the registry: in the repository, and in others to mount it from. */
class BlobSearch {
  readonly #at: Repository;
  readonly #desc: Descriptor;
  readonly #what: string;
  readonly #signal: AbortSignal | undefined;

  constructor(at: Repository, desc: Descriptor, what: string, signal: AbortSignal | undefined) {
    this.#at = at;
    this.#desc = desc;
    this.#what = what;
    this.#signal = signal;
  }

  /** @returns what is so now, or the session of a mount that came to nothing */
  async run(from: readonly string[]): Promise<Exclude<BlobOutcome, 'uploaded'> | {readonly session: Session | undefined}> {
    const {path} = this.#at.ref;
    const isExpected = from.includes(path);
    if (isExpected && (await isHere(this.#at, this.#desc, this.#what, this.#signal))) return 'exists';
    let session: Session | undefined;
    for (const other of from.filter((name) => name !== path).slice(0, MAX_MOUNTS)) {
      const answer = await this.#mount(other);
      if (answer === 'mounted') return answer;
      session = answer ?? session;
    }
    return !isExpected && (await isHere(this.#at, this.#desc, this.#what, this.#signal)) ? 'exists' : {session};
  }

  /**
   * Mounts from another repository. Whatever the reason, a mount that fails is no failure of the push: the repository may be private or
   * gone, and some registries answer 401, 403, 404 or 500.
   *
   * @returns the session that the registry begins instead, if any
   */
  async #mount(other: string): Promise<'mounted' | Session | undefined> {
    const {digest} = this.#desc;
    const url = this.#at.url('blobs/uploads/');
    url.searchParams.set('mount', digest);
    url.searchParams.set('from', other);
    try {
      const response = await this.#at.send({
        what: this.#what,
        method: 'POST',
        url,
        scope: pushScope(this.#at.host, this.#at.ref, other),
        fallback: 'same-host',
        signal: this.#signal,
      });
      if (response.status === 201) {
        checkDigest(response, digest);
        return 'mounted';
      }
      return response.status === 202 ? sessionOf(response) : undefined;
    } catch (err) {
      if (this.#signal?.aborted || !isErrdefs(err)) throw err;
      return undefined;
    }
  }
}

/** The registry did not take a request of an upload. */
class Refused extends Error {
  readonly response: HttpResponse;
  constructor(response: HttpResponse) {
    super(`status ${response.status}`);
    this.response = response;
  }
}

/** Uploads one blob, over as many requests and sessions as needed. */
class BlobUpload {
  readonly #at: Repository;
  readonly #desc: Descriptor;
  readonly #what: string;
  readonly #signal: AbortSignal | undefined;
  readonly #body: UploadBody;
  #session: Session | undefined;
  /** Bytes that the registry has confirmed for this session. */
  #offset = 0;
  /** Bytes of this session that were sent, confirmed or not. */
  #sent = 0;
  /** Size of a chunk in bytes; undefined: all at once. */
  #chunk: number | undefined;
  /** How often bytes that the registry had confirmed were lost: resuming and losing in turn would never end. */
  #restarts = 0;

  constructor(at: Repository, desc: Descriptor, what: string, open: OpenBlob, session: Session | undefined, options: BlobPushOptions) {
    this.#at = at;
    this.#desc = desc;
    this.#what = what;
    this.#signal = options.signal;
    this.#session = session;
    const {onProgress} = options;
    this.#body = new UploadBody(desc, what, open, (offset) => {
      this.#sent = offset;
      onProgress?.(offset);
    });
  }

  async run(): Promise<BlobOutcome> {
    try {
      for (let idle = 0; ; ) {
        const before = this.#offset;
        let failure: ErrdefsError;
        try {
          await this.#send();
          return 'uploaded';
        } catch (err) {
          if (err instanceof Refused && err.response.status === 413 && this.#shrink()) {
            this.#forget();
            continue;
          }
          const {error, pauseMs} = await this.#retryable(err, idle + 1);
          failure = error;
          await this.#at.client.pause(pauseMs, this.#what, this.#signal);
        }
        // The answer to the last request may be what was lost.
        if (await isHere(this.#at, this.#desc, this.#what, this.#signal)) return 'uploaded';
        await this.#resume();
        idle = this.#offset - before >= TRICKLE_BYTES ? 0 : idle + 1;
        if (idle >= MAX_ATTEMPTS || this.#restarts >= MAX_ATTEMPTS) throw failure;
        // Something between here and the registry may bound the time or the size of a request without saying so.
        if (idle > 1) this.#shrink();
      }
    } finally {
      await this.#body.close();
    }
  }

  /** Makes chunks smaller. @returns false when they cannot be */
  #shrink(): boolean {
    const floor = Math.max(MIN_CHUNK_BYTES, this.#session?.minChunk ?? 0);
    const before = this.#chunk ?? Math.max(this.#desc.size, 2 * CHUNK_BYTES);
    const next = Math.max(floor, Math.min(CHUNK_BYTES, this.#chunk === undefined ? this.#desc.size / 2 : before / 2));
    if (next >= Math.min(before, this.#desc.size)) return false;
    this.#chunk = Math.floor(next);
    return true;
  }

  #forget(): void {
    if (this.#offset > 0) this.#restarts++;
    this.#session = undefined;
    this.#offset = 0;
    this.#sent = 0;
  }

  /** The failure and the pause before the next attempt. @throws a failure that is final */
  async #retryable(err: unknown, attempt: number): Promise<{readonly error: ErrdefsError; readonly pauseMs: number}> {
    const {client} = this.#at;
    const what = `${this.#what}: ${this.#sent} of ${this.#desc.size} B`;
    const pauseMs = client.backoff(Math.min(attempt, MAX_ATTEMPTS));
    if (err instanceof WireError) {
      const url = err.url ?? this.#at.url('blobs/uploads/');
      return {error: wireFailure(err, {what, url, attempt, bytesDone: this.#sent}), pauseMs};
    }
    if (!(err instanceof Refused)) throw err;
    const {response} = err;
    const error = await this.#at.toError({...response, context: {...response.context, what, attempt, bytesDone: this.#sent}});
    if (isTemporary(response.status)) {
      const asked = client.pauseAfter(response, attempt);
      if (asked === undefined) throw error;
      return {error, pauseMs: asked};
    }
    if (response.status === 413)
      throw new ErrdefsError(error.code, error.message, {
        hint: 'the registry, or a proxy before it, bounds the size of a request: raise that limit (nginx: client_max_body_size)',
        ...(error.details === undefined ? {} : {details: error.details}),
      });
    const code = error.details?.registryCode;
    const isLost = response.status === 416 || (response.status === 404 && code === undefined) || UPLOAD_LOST.has(String(code));
    if (!isLost) throw error;
    this.#forget();
    return {error, pauseMs};
  }

  /** Finds out how much of the session's bytes the registry has. Without an answer the upload starts again. */
  async #resume(): Promise<void> {
    if (this.#session === undefined || this.#sent < RESUME_BYTES) {
      this.#forget();
      return;
    }
    const response = await this.#at.send({what: this.#what, method: 'GET', url: this.#session.location, signal: this.#signal});
    const offset = response.status < 300 ? confirmed(response) : undefined;
    if (offset === undefined || offset > this.#desc.size) {
      this.#forget();
      return;
    }
    this.#session = sessionOf(response, this.#session);
    this.#offset = offset;
  }

  /** Sends the rest of the blob, and ends the upload. */
  async #send(): Promise<void> {
    const {size, digest} = this.#desc;
    this.#session ??= await this.#start();
    const isWhole = this.#offset === 0 && this.#chunk === undefined;
    while (!isWhole && this.#offset < size) await this.#patch();
    const response = await this.#request('PUT', withDigest(this.#session.location, digest), isWhole ? size : 0);
    if (response.status >= 300) throw new Refused(response);
    checkDigest(response, digest);
  }

  async #start(): Promise<Session> {
    const response = await this.#at.send({
      what: this.#what,
      method: 'POST',
      url: this.#at.url('blobs/uploads/'),
      signal: this.#signal,
    });
    if (response.status !== 202) {
      const error =
        response.status < 300 ? protocolError(response.context, `answered ${response.status}`) : await this.#at.toError(response);
      if (error.code !== 'not_found') throw error;
      throw new ErrdefsError(error.code, error.message, {
        hint: 'some registries want a repository to be created before the first push',
        ...(error.details === undefined ? {} : {details: error.details}),
      });
    }
    this.#offset = 0;
    this.#sent = 0;
    return sessionOf(response);
  }

  async #patch(): Promise<void> {
    const {size} = this.#desc;
    const length = Math.min(this.#chunk ?? size, size - this.#offset);
    const end = this.#offset + length;
    const response = await this.#request('PATCH', this.#session!.location, length, {
      'content-range': `${this.#offset}-${end - 1}`,
    });
    if (response.status >= 300) throw new Refused(response);
    const has = confirmed(response) ?? end;
    if (has <= this.#offset || has > end) throw protocolError(response.context, `has ${has} B of the upload, ${end} B were sent`);
    this.#session = sessionOf(response, this.#session);
    this.#offset = has;
  }

  /** Sends bytes of the blob from the confirmed offset on. */
  #request(method: 'PUT' | 'PATCH', url: URL, length: number, headers: Readonly<Record<string, string>> = {}): Promise<HttpResponse> {
    const from = this.#offset;
    return this.#at.send({
      what: this.#what,
      method,
      url,
      headers: {'content-type': 'application/octet-stream', ...headers},
      body: () => this.#body.read(from, length),
      bodyLength: length,
      patience: PATIENCE,
      resumable: true,
      signal: this.#signal,
    });
  }
}

/** Bytes that the registry has of an upload, by the header `Range`; undefined when it does not tell. */
function confirmed({headers}: HttpResponse): number | undefined {
  const end = /^(?:bytes[= ])?0-(\d{1,15})$/.exec(headers.range ?? '')?.[1];
  if (end === undefined) return undefined;
  // docker's registry writes 0-0 for no byte at all.
  return end === '0' ? 0 : Number(end) + 1;
}
