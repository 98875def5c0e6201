/** Fetches manifests, configs and layers by descriptor; resumes broken downloads. */
import {ErrdefsError} from '../errdefs.ts';
import type {Descriptor} from '../oci/descriptor.ts';
import {embeddedData} from '../oci/hash.ts';
import {isForeignLayer, kindOf} from '../oci/mediatypes.ts';
import type {Reference} from '../oci/reference.ts';
import {pullScope, type TokenScope} from './auth.ts';
import {encodingsOf} from './content-encoding.ts';
import {protocolError, type RequestContext, WireError, wireFailure} from './errors.ts';
import {urlOf} from './hosts.ts';
import {MAX_ATTEMPTS_WITH_FALLBACK, MAX_IDLE_ATTEMPTS} from './retry.ts';
import type {HttpClient, HttpResponse} from './retrying-client.ts';
import type {BytesOptions, Host, Sink, StreamOptions} from './types.ts';
import {type BodySink, type ResponseHead, TRICKLE_BYTES} from './undici-exchange.ts';
import {BodyCollector, checkKind, contentLength, verify} from './validate-response.ts';

/** A URL that may have a blob. */
export interface BlobSource {
  readonly url: URL;
  /** Absent for a server that gets no credentials. */
  readonly scope?: TokenScope;
  /** Another source follows if this one fails. */
  readonly hasFallback: boolean;
}

export function registrySource(host: Host, ref: Reference, {digest, mediaType}: Descriptor, hasFallback: boolean): BlobSource {
  const kind = kindOf(mediaType);
  const under = kind === 'manifest' || kind === 'index' ? 'manifests' : 'blobs';
  return {url: urlOf(host, `/${ref.path}/${under}/${digest}`), scope: pullScope(host, ref), hasFallback};
}

/**
 * The `urls` of a foreign layer's descriptor. They count only for foreign media types, and get no credentials: the author of
 * a manifest could otherwise collect them (CVE-2020-15157).
 */
export function foreignSources({mediaType, urls = []}: Descriptor): BlobSource[] {
  if (!isForeignLayer(mediaType)) return [];
  return urls.flatMap((text) => {
    const url = URL.parse(text);
    if (url === null || (url.protocol !== 'https:' && url.protocol !== 'http:')) return [];
    return [{url, hasFallback: false}];
  });
}

export async function fetchBytes(
  client: HttpClient,
  {url, scope, hasFallback}: BlobSource,
  desc: Descriptor,
  what: string,
  {limit, signal}: BytesOptions,
): Promise<Buffer> {
  if (desc.size > limit) {
    throw new ErrdefsError('failed_precondition', `${what}: ${desc.size} B, more than the ${limit} B allowed`);
  }
  const collector = new BodyCollector();
  const response = await client.send({
    what,
    method: 'GET',
    url,
    headers: {accept: `${desc.mediaType}, */*`},
    scope,
    signal,
    onBody: (head, context) => {
      checkKind(head, desc, context);
      return collector.start(head, desc.size, context, `not the ${desc.size} B expected`);
    },
    restartable: true,
    hasFallback,
    digestVerified: true,
  });
  if (response.status >= 300) throw await client.toError(response, scope);
  const body = collector.body();
  if (body.length !== desc.size) throw protocolError(response.context, `${body.length} B, not the ${desc.size} B expected`);
  verify(body, desc.digest, response.context);
  return body;
}

/** Whether a `Content-Range` starts at `offset` of a blob of `size` bytes. An unknown total is `*`. */
function isRangeFrom(offset: number, size: number, header: string | undefined): boolean {
  const [, start, end, total] = /^bytes (\d{1,15})-(\d{1,15})\/(\d{1,15}|\*)$/.exec(header ?? '') ?? [];
  return start !== undefined && Number(start) === offset && Number(end) < size && (total === '*' || Number(total) === size);
}

/** The response has another range than requested. */
class UnexpectedRange extends Error {}

/** Downloads one blob into a sink, from several sources in turn where needed. */
export class Download {
  readonly #client: HttpClient;
  readonly #desc: Descriptor;
  readonly #what: string;
  readonly #sink: Sink;
  readonly #signal: AbortSignal | undefined;
  #offset: number;
  #sinkFailed = false;

  constructor(client: HttpClient, desc: Descriptor, what: string, sink: Sink, {offset, signal}: StreamOptions) {
    if (!Number.isSafeInteger(offset) || offset < 0 || offset > desc.size)
      throw new ErrdefsError('invalid_argument', `${what}: offset ${offset} of ${desc.size} B`);
    this.#client = client;
    this.#desc = desc;
    this.#what = what;
    this.#sink = sink;
    this.#offset = offset;
    this.#signal = signal;
  }

  get done(): boolean {
    return this.#offset === this.#desc.size;
  }

  get sinkFailed(): boolean {
    return this.#sinkFailed;
  }

  /** Bytes that the sink has been given, with those that the caller had. */
  get offset(): number {
    return this.#offset;
  }

  /** @returns whether the descriptor embeds the blob; the sink has it then */
  async embedded(): Promise<boolean> {
    const data = embeddedData(this.#desc);
    if (data === undefined) return false;
    const rest = data.subarray(this.#offset);
    this.#offset = data.length;
    await this.#give(rest);
    return true;
  }

  /** Downloads the rest of the blob from one source, over as many connections as needed. */
  async from({url, scope, hasFallback}: BlobSource): Promise<void> {
    const {mediaType, size} = this.#desc;
    let idle = 0;
    let ranges = true;
    for (let opening = 1; !this.done; opening++) {
      const before = this.#offset;
      let broken: WireError;
      try {
        const response = await this.#client.send({
          what: this.#what,
          method: 'GET',
          url,
          headers: {accept: `${mediaType}, */*`, ...(before > 0 && ranges ? {range: `bytes=${before}-`} : {})},
          scope,
          signal: this.#signal,
          onBody: (head, context) => this.#receive(head, context, before > 0 && ranges),
          restartable: false,
          hasFallback,
          digestVerified: true,
        });
        if (this.done) return;
        if (response.status === 416 && ranges) {
          this.#checkUnsatisfied(response);
          ranges = false;
          continue;
        }
        if (response.status >= 300)
          throw await this.#client.toError({...response, context: {...response.context, bytesDone: this.#offset}}, scope);
        broken = new WireError('broken');
        broken.url = response.context.url;
      } catch (err) {
        if (err instanceof UnexpectedRange) {
          ranges = false;
          continue;
        }
        if (!(err instanceof WireError)) throw err;
        broken = err;
      }
      // A trickle does not count, or it would keep the download alive forever.
      const progress = this.#offset - before >= (broken.kind === 'stalled' ? TRICKLE_BYTES : 1);
      idle = progress ? 0 : idle + 1;
      const isOver = hasFallback && (opening >= MAX_ATTEMPTS_WITH_FALLBACK || broken.kind === 'stalled');
      if (idle >= MAX_IDLE_ATTEMPTS || isOver) {
        throw wireFailure(broken, {what: `${this.#what}: ${this.#offset} of ${size} B`, url, attempt: opening, bytesDone: this.#offset});
      }
      if (idle > 0) await this.#client.pause(this.#client.backoff(idle), this.#what, this.#signal);
    }
  }

  /** A 416: the server has a blob of another size (thrown), or does not support ranges. */
  #checkUnsatisfied({headers, context}: HttpResponse): void {
    const total = /^bytes \*\/(\d{1,15})$/.exec(headers['content-range'] ?? '')?.[1];
    if (total !== undefined && Number(total) !== this.#desc.size) throw this.#wrongSize(context, `${total} B`);
  }

  #wrongSize(context: RequestContext, got: string): ErrdefsError {
    return protocolError({...context, bytesDone: this.#offset}, `${got}, not the ${this.#desc.size} B expected`);
  }

  /**
   * Checks the head of a response, and returns the sink for its body.
   *
   * @param asked whether the request had a Range header
   * @throws UnexpectedRange the range is unusable; the caller requests the whole blob instead
   */
  #receive(head: ResponseHead, context: RequestContext, asked: boolean): BodySink {
    const {size} = this.#desc;
    const range = head.headers['content-range'];
    const partial = head.status === 206;
    // Offsets in an encoded body are not offsets in the blob.
    if (partial && !(isRangeFrom(this.#offset, size, range) && encodingsOf(head).length === 0)) {
      if (asked) throw new UnexpectedRange();
      throw protocolError(
        {...context, bytesDone: this.#offset},
        `requested the whole blob, got ${JSON.stringify(range ?? 'a part of it')}`,
      );
    }
    const total = partial ? size : contentLength(head);
    if (total !== undefined && total !== size) throw this.#wrongSize(context, `${total} B`);
    // A server may ignore Range (RFC 9110, 14.2): then the status is 200 and the body starts at byte 0.
    let skip = partial ? 0 : this.#offset;
    return (chunk) => {
      let bytes = chunk;
      if (skip > 0) {
        const skipped = Math.min(skip, chunk.length);
        skip -= skipped;
        if (skipped === chunk.length) return undefined;
        bytes = chunk.subarray(skipped);
      }
      if (bytes.length > size - this.#offset) throw this.#wrongSize(context, 'more bytes');
      this.#offset += bytes.length;
      return this.#give(bytes);
    };
  }

  #give(bytes: Buffer): Promise<void> | undefined {
    try {
      return this.#sink(bytes)?.catch((err: unknown) => {
        this.#sinkFailed = true;
        throw err;
      });
    } catch (err) {
      this.#sinkFailed = true;
      throw err;
    }
  }
}
