/** Resolving and fetching: what is asked of a registry, and what of its answers is believed. */
import type {Hash} from 'node:crypto';
import {ErrdefsError} from '../errdefs.ts';
import {type Descriptor, type Digest, digestParts, isDigest} from '../oci/descriptor.ts';
import {DOCKER_LIST, DOCKER_MANIFEST, isForeignLayer, kindOf, OCI_INDEX, OCI_MANIFEST} from '../oci/mediatypes.ts';
import {formatReference, type Reference} from '../oci/reference.ts';
import type {Realm} from './auth.ts';
import {
  type BytesOptions,
  type CredentialSource,
  type Fetcher,
  type Host,
  type HostSource,
  MANIFEST_LIMIT,
  type Remote,
  type RemoteOptions,
  type RemoteSources,
  type Resolved,
  type ResolveOptions,
  type Sink,
  type StreamOptions,
} from './contract.ts';
import {type Attempt, refusal, WireError, wireFailure} from './failure.ts';
import {defaultHosts, isLinkLocal} from './hosts.ts';
import {IDLE_OPENINGS} from './retry.ts';
import {type Reply, Session} from './session.ts';
import {type BodySink, type Head, TRICKLE, Transport} from './transport.ts';

const MANIFEST_ACCEPT = [DOCKER_MANIFEST, DOCKER_LIST, OCI_MANIFEST, OCI_INDEX, '*/*'].join(', ');
const SCHEMA_1 = /^application\/vnd\.docker\.distribution\.manifest\.v1\+(?:json|prettyjws)$/;
/** Types that registries and proxies give to what they do not know: they say nothing. */
const SAYS_NOTHING = new Set(['', 'application/json', 'application/octet-stream', 'binary/octet-stream', 'text/plain', 'text/html']);

/**
 * Opens a session with registries. Costs nothing until the first request, when the HTTP client is loaded.
 *
 * @param sources what to ask for hosts and credentials instead of the rule of `hosts.ts` and the options given here
 */
export function openRemote(options: RemoteOptions = {}, sources: RemoteSources = {}): Remote {
  const connectTimeoutMs = options.connectTimeoutMs ?? 30_000;
  const stallTimeoutMs = options.stallTimeoutMs ?? 30_000;
  const transport = new Transport({connectTimeoutMs, stallTimeoutMs, skipVerify: options.skipVerify ?? false});
  const session = new Session(transport, sources.credentials ?? staticCredentials(options), {
    backoffMs: options.backoffMs ?? 200,
    userAgent: options.userAgent ?? 'berth',
  });
  const hosts = sources.hosts ?? defaultHosts({plainHTTP: options.plainHTTP ?? false, connectTimeoutMs});
  return new RegistryRemote(transport, session, hosts, options.signal);
}

function staticCredentials({credentials, refreshToken}: RemoteOptions): CredentialSource {
  const given = refreshToken === undefined ? credentials : {refreshToken};
  return async () => given;
}

class RegistryRemote implements Remote {
  readonly #transport: Transport;
  readonly #session: Session;
  readonly #hosts: HostSource;
  readonly #signal: AbortSignal | undefined;

  constructor(transport: Transport, session: Session, hosts: HostSource, signal: AbortSignal | undefined) {
    this.#transport = transport;
    this.#session = session;
    this.#hosts = hosts;
    this.#signal = signal;
  }

  async resolve(ref: Reference, options: ResolveOptions = {}): Promise<Resolved> {
    const what = `resolve ${formatReference(ref)}`;
    if (ref.digest === undefined && ref.tag === undefined)
      throw new ErrdefsError('invalid_argument', `${what}: a tag or digest is required`);
    const signal = anyOf(this.#signal, options.signal);
    return this.#eachHost(ref, what, signal, (host) => new Resolution(this.#session, host, ref, what, signal).run());
  }

  fetcher(ref: Reference): Fetcher {
    const {domain, path} = ref;
    const named = (desc: Descriptor): string => `fetch ${formatReference({domain, path, digest: desc.digest})}`;
    return {
      bytes: (desc, options) => {
        const signal = anyOf(this.#signal, options.signal);
        const what = named(desc);
        return this.#eachHost(ref, what, signal, (host) =>
          fetchBytes(this.#session, placeOf(host, ref, desc), desc, what, {...options, signal}),
        );
      },
      stream: async (desc, sink, options) => {
        const signal = anyOf(this.#signal, options.signal);
        const what = named(desc);
        const download = new Download(this.#session, desc, what, sink, {...options, signal});
        if (download.done) return;
        for (const place of foreignPlaces(desc)) if (await download.tryFrom(place)) return;
        await this.#eachHost(
          ref,
          what,
          signal,
          (host) => download.from(placeOf(host, ref, desc)),
          () => download.sinkFailed,
        );
      },
    };
  }

  async close(): Promise<void> {
    await this.#transport.close();
  }

  /** The first host that can; the last one's failure, which is the registry's own, if none can. */
  async #eachHost<T>(
    {domain}: Reference,
    what: string,
    signal: AbortSignal | undefined,
    use: (host: Host) => Promise<T>,
    isFinal: () => boolean = () => false,
  ): Promise<T> {
    const [hosts] = await Promise.all([this.#hosts(domain, signal), this.#transport.open()]).catch((err: unknown) => {
      throw err instanceof WireError ? wireFailure(err, {what, url: new URL(`https://${domain}`), attempt: 1}) : err;
    });
    const last = hosts.at(-1)!;
    for (const host of hosts.slice(0, -1)) {
      try {
        return await use(host);
      } catch (err) {
        if (signal?.aborted || isFinal()) throw err;
      }
    }
    return use(last);
  }
}

const anyOf = (a: AbortSignal | undefined, b: AbortSignal | undefined): AbortSignal | undefined =>
  a === undefined || b === undefined ? (a ?? b) : AbortSignal.any([a, b]);

const realmOf = (host: Host, {path}: Reference): Realm => ({host, scope: `repository:${path}:pull`});

interface Place {
  readonly url: URL;
  /** None for a place that gets no credentials. */
  readonly realm?: Realm;
}

function placeOf(host: Host, ref: Reference, {digest, mediaType}: Descriptor): Place {
  const kind = kindOf(mediaType);
  const under = kind === 'manifest' || kind === 'index' ? 'manifests' : 'blobs';
  return {url: new URL(`${host.origin}${host.path}/${ref.path}/${under}/${digest}`), realm: realmOf(host, ref)};
}

/**
 * The URLs of a layer that registries need not have. Only a foreign media type makes them count, and nobody's credentials
 * ever go there: a manifest's author could otherwise collect them (CVE-2020-15157). Link-local addresses are left out.
 */
function foreignPlaces({mediaType, urls = []}: Descriptor): Place[] {
  if (!isForeignLayer(mediaType)) return [];
  return urls.flatMap((text) => {
    const url = URL.parse(text);
    if (url === null || (url.protocol !== 'https:' && url.protocol !== 'http:') || isLinkLocal(url.hostname)) return [];
    url.username = '';
    url.password = '';
    return [{url}];
  });
}

const single = (header: string | string[] | undefined): string | undefined => (Array.isArray(header) ? header[0] : header);

/** A media type without its parameters. */
const mediaTypeOf = ({headers}: Head): string => (headers['content-type'] ?? '').split(';', 1)[0]!.trim();

/** Bytes that the answer says it has; undefined when it does not, or not in digits. */
function lengthOf({headers}: Head): number | undefined {
  const text = headers['content-length'];
  return text !== undefined && /^\d{1,15}$/.test(text) ? Number(text) : undefined;
}

/** We ask for identity: other encodings make length, ranges and digest mean something else, so they are refused, not undone. */
function checkEncoding({headers}: Head, on: Attempt): void {
  const encoding = headers['content-encoding'];
  if (encoding !== undefined && encoding !== 'identity')
    throw refusal(on, `answered in Content-Encoding ${JSON.stringify(encoding)}, unasked`);
}

/** @throws failed_precondition another digest */
async function verify(body: Buffer, digest: Digest, on: Attempt): Promise<void> {
  const [algorithm] = digestParts(digest);
  const got = await hash(body, algorithm);
  if (got !== digest) throw refusal(on, `${digest} (${body.length} B) arrived as ${got}`);
}

async function hash(body: Buffer, algorithm: string): Promise<Digest> {
  const {createHash} = await import('node:crypto');
  const hasher: Hash = createHash(algorithm);
  return `${algorithm}:${hasher.update(body).digest('hex')}` as Digest;
}

/** Keeps a body, and refuses one of more than `limit` bytes before and while it is read. */
class Collector {
  #chunks: Buffer[] = [];
  #size = 0;

  /** @param why what more bytes than `limit` are */
  start(head: Head, limit: number, on: Attempt, why: string): BodySink {
    const length = lengthOf(head);
    if (length !== undefined && length > limit) throw refusal(on, `${length} B, ${why}`);
    this.#chunks = [];
    this.#size = 0;
    return (chunk) => {
      this.#size += chunk.length;
      if (this.#size > limit) throw refusal(on, `more than ${limit} B, ${why}`);
      this.#chunks.push(chunk);
    };
  }

  body(): Buffer {
    return Buffer.concat(this.#chunks, this.#size);
  }
}

/** One reference at one host. */
class Resolution {
  readonly #session: Session;
  readonly #ref: Reference;
  readonly #what: string;
  readonly #signal: AbortSignal | undefined;
  readonly #url: URL;
  readonly #realm: Realm;

  constructor(session: Session, host: Host, ref: Reference, what: string, signal: AbortSignal | undefined) {
    this.#session = session;
    this.#ref = ref;
    this.#what = what;
    this.#signal = signal;
    this.#url = new URL(`${host.origin}${host.path}/${ref.path}/manifests/${ref.digest ?? ref.tag}`);
    this.#realm = realmOf(host, ref);
  }

  /** HEAD, then GET where that says too little, or refuses without the reason that only a body can give. */
  async run(): Promise<Resolved> {
    const reply = await this.#send('HEAD', () => () => undefined);
    if (reply.status < 300) {
      const descriptor = this.#fromHead(reply);
      return descriptor === undefined ? this.#byGet() : {descriptor};
    }
    if (reply.status === 401 || reply.status === 429 || reply.status < 400) throw await this.#session.refused(reply, this.#realm);
    return this.#byGet();
  }

  #send(method: 'GET' | 'HEAD', onBody: (head: Head, on: Attempt) => BodySink): Promise<Reply> {
    return this.#session.send({
      what: this.#what,
      method,
      url: this.#url,
      headers: {accept: MANIFEST_ACCEPT},
      realm: this.#realm,
      signal: this.#signal,
      onBody,
      restartable: true,
      checked: this.#ref.digest !== undefined,
    });
  }

  /** The descriptor, if the headers have all of it. What they say is a promise: the bytes are verified when they come. */
  #fromHead(reply: Reply): Descriptor | undefined {
    const mediaType = mediaTypeOf(reply);
    this.#refuseSchema1(mediaType);
    const size = lengthOf(reply);
    const digest = this.#headerDigest(reply);
    if (!size || digest === undefined || SAYS_NOTHING.has(mediaType) || reply.headers['content-encoding'] !== undefined) return undefined;
    if (size > MANIFEST_LIMIT) throw refusal(reply.on, `a manifest of ${size} B, more than the ${MANIFEST_LIMIT} B allowed`);
    return {mediaType, digest: this.#ref.digest ?? digest, size};
  }

  /**
   * `Docker-Content-Digest`, if it is a digest; a registry may have its own idea of the algorithm.
   *
   * @throws failed_precondition another digest than the one that was asked for
   */
  #headerDigest({headers, on}: Pick<Reply, 'headers' | 'on'>): Digest | undefined {
    const text = single(headers['docker-content-digest']);
    if (!isDigest(text)) return undefined;
    const asked = this.#ref.digest;
    if (asked !== undefined && text !== asked && digestParts(text)[0] === digestParts(asked)[0]) throw refusal(on, `answered for ${text}`);
    return text;
  }

  #refuseSchema1(mediaType: string): void {
    if (SCHEMA_1.test(mediaType)) throw new ErrdefsError('not_implemented', `${this.#what}: schema 1 manifest`);
  }

  async #byGet(): Promise<Resolved> {
    const collector = new Collector();
    const reply = await this.#send('GET', (head, on) => {
      checkEncoding(head, on);
      this.#refuseSchema1(mediaTypeOf(head));
      return collector.start(head, MANIFEST_LIMIT, on, `more than the ${MANIFEST_LIMIT} B that a manifest may have`);
    });
    if (reply.status >= 300) throw await this.#session.refused(reply, this.#realm);
    const {on} = reply;
    const body = collector.body();
    const promised = this.#headerDigest(reply);
    if (promised !== undefined) await verify(body, promised, on);
    if (this.#ref.digest !== undefined) await verify(body, this.#ref.digest, on);
    const said = mediaTypeOf(reply);
    const mediaType = SAYS_NOTHING.has(said) ? this.#mediaTypeOfBody(body, on) : said;
    return {descriptor: {mediaType, digest: this.#ref.digest ?? promised ?? (await hash(body, 'sha256')), size: body.length}, body};
  }

  /** What a document says that it is, or has the shape of. */
  #mediaTypeOfBody(body: Buffer, on: Attempt): string {
    let document: {mediaType?: unknown; schemaVersion?: unknown; manifests?: unknown; layers?: unknown} = {};
    try {
      document = Object(JSON.parse(body.toString()));
    } catch {
      // Not JSON: then it is no manifest either.
    }
    const {mediaType, schemaVersion, manifests, layers} = document;
    if (schemaVersion === 1) throw new ErrdefsError('not_implemented', `${this.#what}: schema 1 manifest`);
    if (typeof mediaType === 'string') return mediaType;
    if (Array.isArray(manifests) && layers === undefined) return OCI_INDEX;
    if (Array.isArray(layers) && manifests === undefined) return OCI_MANIFEST;
    throw refusal(on, 'the answer is no manifest');
  }
}

async function fetchBytes(
  session: Session,
  {url, realm}: Place,
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
      checkEncoding(head, on);
      return collector.start(head, desc.size, on, `not the ${desc.size} B promised`);
    },
    restartable: true,
    checked: true,
  });
  if (reply.status >= 300) throw await session.refused(reply, realm);
  const body = collector.body();
  if (body.length !== desc.size) throw refusal(reply.on, `${body.length} B, not the ${desc.size} B promised`);
  await verify(body, desc.digest, reply.on);
  return body;
}

/** `bytes START-END/TOTAL`; an unknown total is undefined. */
function parseContentRange(header: string | undefined): {start: number; total: number | undefined} | undefined {
  const match = /^bytes (\d{1,15})-(\d{1,15})\/(\d{1,15}|\*)$/.exec(header ?? '');
  return match === null ? undefined : {start: Number(match[1]), total: match[3] === '*' ? undefined : Number(match[3])};
}

/** One blob on its way into a sink, from whatever places can give the next byte. */
class Download {
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
  async from({url, realm}: Place): Promise<void> {
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
          onBody: (head, on) => this.#receive(head, on),
          restartable: false,
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
    return refusal({...on, bytesDone: this.#offset}, `${got}, not the ${this.#desc.size} B promised`);
  }

  /** Checks how an answer begins, and takes its body from there. */
  #receive(head: Head, on: Attempt): BodySink {
    checkEncoding(head, on);
    const {size} = this.#desc;
    const partial = head.status === 206;
    const range = partial ? parseContentRange(head.headers['content-range']) : {start: 0, total: lengthOf(head)};
    // RFC 9110, 14.2: a server may ignore Range, then the answer is 200 and begins at the beginning.
    if (range === undefined || (partial && range.start !== this.#offset)) {
      throw refusal(
        {...on, bytesDone: this.#offset},
        `asked for bytes from ${this.#offset}, got ${JSON.stringify(head.headers['content-range'] ?? '')}`,
      );
    }
    if (range.total !== undefined && range.total !== size) throw this.#wrongSize(on, `${range.total} B`);
    let skip = this.#offset - range.start;
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
