/** The bytes that a descriptor promises. */
import {ErrdefsError} from '../errdefs.ts';
import type {Descriptor} from '../oci/descriptor.ts';
import {isForeignLayer, kindOf} from '../oci/mediatypes.ts';
import type {Reference} from '../oci/reference.ts';
import type {Realm} from './auth.ts';
import {encodingsOf} from './content-encoding.ts';
import {type Attempt, refusal, WireError, wireFailure} from './errors.ts';
import {realmOf, urlOf} from './hosts.ts';
import type {Reply, Session} from './http-client.ts';
import {IDLE_OPENINGS} from './retry.ts';
import {type BodySink, type Head, TRICKLE} from './transport.ts';
import type {BytesOptions, Host, Sink, StreamOptions} from './types.ts';
import {Collector, checkKind, lengthOf, verify} from './validate-response.ts';

export interface Place {
  readonly url: URL;
  /** None for a place that gets no credentials. */
  readonly realm?: Realm;
  /** There is another place to ask. */
  readonly hasNext: boolean;
}

export function placeOf(host: Host, ref: Reference, {digest, mediaType}: Descriptor, hasNext: boolean): Place {
  const kind = kindOf(mediaType);
  const under = kind === 'manifest' || kind === 'index' ? 'manifests' : 'blobs';
  return {url: urlOf(host, `/${ref.path}/${under}/${digest}`), realm: realmOf(host, ref), hasNext};
}

/**
 * The URLs of a layer that registries need not have. Only a foreign media type makes them count, and nobody's credentials
 * ever go there: a manifest's author could otherwise collect them (CVE-2020-15157).
 */
export function foreignPlaces({mediaType, urls = []}: Descriptor): Place[] {
  if (!isForeignLayer(mediaType)) return [];
  return urls.flatMap((text) => {
    const url = URL.parse(text);
    if (url === null || (url.protocol !== 'https:' && url.protocol !== 'http:')) return [];
    return [{url, hasNext: false}];
  });
}

export async function fetchBytes(
  session: Session,
  {url, realm, hasNext}: Place,
  desc: Descriptor,
  what: string,
  {limit, signal}: BytesOptions,
): Promise<Buffer> {
  if (desc.size > limit) {
    throw new ErrdefsError('failed_precondition', `${what}: ${desc.size} B, more than the ${limit} B allowed`);
  }
  const collector = new Collector();
  const reply = await session.send({
    what,
    method: 'GET',
    url,
    headers: {accept: `${desc.mediaType}, */*`},
    realm,
    signal,
    onBody: (head, on) => {
      checkKind(head, desc, on);
      return collector.start(head, desc.size, on, `not the ${desc.size} B expected`);
    },
    restartable: true,
    hasNext,
    checked: true,
  });
  if (reply.status >= 300) throw await session.refused(reply, realm);
  const body = collector.body();
  if (body.length !== desc.size) throw refusal(reply.on, `${body.length} B, not the ${desc.size} B expected`);
  verify(body, desc.digest, reply.on);
  return body;
}

/** Whether `bytes START-END/TOTAL` is from `offset` on, of a blob of `size` bytes; an unknown total is `*`. */
function isRangeFrom(offset: number, size: number, header: string | undefined): boolean {
  const [, start, end, total] = /^bytes (\d{1,15})-(\d{1,15})\/(\d{1,15}|\*)$/.exec(header ?? '') ?? [];
  return start !== undefined && Number(start) === offset && Number(end) < size && (total === '*' || Number(total) === size);
}

/** An answer with another range than the one that was asked for. */
class OtherRange extends Error {}

/** One blob on its way into a sink, from whatever places can give the next byte. */
export class Download {
  readonly #session: Session;
  readonly #desc: Descriptor;
  readonly #what: string;
  readonly #sink: Sink;
  readonly #signal: AbortSignal | undefined;
  #offset: number;
  #sinkFailed = false;

  constructor(session: Session, desc: Descriptor, what: string, sink: Sink, {offset, signal}: StreamOptions) {
    if (!Number.isSafeInteger(offset) || offset < 0 || offset > desc.size)
      throw new ErrdefsError('invalid_argument', `${what}: offset ${offset} of ${desc.size} B`);
    this.#session = session;
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

  /** @returns whether the rest came; what did come is not asked for again */
  async tryFrom(place: Place): Promise<boolean> {
    try {
      await this.from(place);
      return true;
    } catch (err) {
      if (this.#sinkFailed || this.#signal?.aborted) throw err;
      return false;
    }
  }

  /** The rest of the blob from one place, over as many connections as it takes. */
  async from({url, realm, hasNext}: Place): Promise<void> {
    const {mediaType, size} = this.#desc;
    let idle = 0;
    let ranges = true;
    for (let opening = 1; !this.done; opening++) {
      const before = this.#offset;
      let broken: WireError;
      try {
        const reply = await this.#session.send({
          what: this.#what,
          method: 'GET',
          url,
          headers: {accept: `${mediaType}, */*`, ...(before > 0 && ranges ? {range: `bytes=${before}-`} : {})},
          realm,
          signal: this.#signal,
          onBody: (head, on) => this.#receive(head, on, before > 0 && ranges),
          restartable: false,
          hasNext,
          checked: true,
        });
        if (this.done) return;
        if (reply.status === 416 && ranges) {
          this.#checkUnsatisfied(reply);
          ranges = false;
          continue;
        }
        if (reply.status >= 300) throw await this.#session.refused({...reply, on: {...reply.on, bytesDone: this.#offset}}, realm);
        broken = new WireError('broken');
        broken.url = reply.on.url;
      } catch (err) {
        if (err instanceof OtherRange) {
          ranges = false;
          continue;
        }
        if (!(err instanceof WireError)) throw err;
        broken = err;
      }
      // A trickle is no progress, or it would keep us for ever.
      const progress = this.#offset - before >= (broken.kind === 'stalled' ? TRICKLE : 1);
      idle = progress ? 0 : idle + 1;
      if (idle >= IDLE_OPENINGS) {
        throw wireFailure(broken, {what: `${this.#what}: ${this.#offset} of ${size} B`, url, attempt: opening, bytesDone: this.#offset});
      }
      if (idle > 0) await this.#session.pause(this.#session.backoff(idle), this.#what, this.#signal);
    }
  }

  /** A range that cannot be had: of another blob than promised, or of a server that knows no ranges. */
  #checkUnsatisfied({headers, on}: Reply): void {
    const total = /^bytes \*\/(\d{1,15})$/.exec(headers['content-range'] ?? '')?.[1];
    if (total !== undefined && Number(total) !== this.#desc.size) throw this.#wrongSize(on, `${total} B`);
  }

  #wrongSize(on: Attempt, got: string): ErrdefsError {
    return refusal({...on, bytesDone: this.#offset}, `${got}, not the ${this.#desc.size} B expected`);
  }

  /**
   * Checks how an answer begins, and takes its body from there.
   *
   * @param asked for a range; where its answer cannot be used, the whole is asked for instead
   * @throws OtherRange
   */
  #receive(head: Head, on: Attempt, asked: boolean): BodySink {
    const {size} = this.#desc;
    const range = head.headers['content-range'];
    const partial = head.status === 206;
    // A part of an encoded body is not one of ours.
    if (partial && !(isRangeFrom(this.#offset, size, range) && encodingsOf(head).length === 0)) {
      if (asked) throw new OtherRange();
      throw refusal({...on, bytesDone: this.#offset}, `asked for all bytes, got ${JSON.stringify(range ?? 'a part')}`);
    }
    const total = partial ? size : lengthOf(head);
    if (total !== undefined && total !== size) throw this.#wrongSize(on, `${total} B`);
    // RFC 9110, 14.2: a server may ignore Range, then the answer is 200 and begins at the beginning.
    let skip = partial ? 0 : this.#offset;
    return (chunk) => {
      let bytes = chunk;
      if (skip > 0) {
        const skipped = Math.min(skip, chunk.length);
        skip -= skipped;
        if (skipped === chunk.length) return undefined;
        bytes = chunk.subarray(skipped);
      }
      if (bytes.length > size - this.#offset) throw this.#wrongSize(on, 'more bytes');
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
