/**
 * A registry on loopback that speaks the distribution specification as far as pulls and pushes go, over a map in memory, and
 * fails as it is told: `registry.fault({path: /blobs/, times: 1, truncateAt: 1000})`. It remembers each request, with the
 * `Authorization` that came with it, and the bytes of its answer.
 */
import {createHash, randomBytes} from 'node:crypto';
import {once} from 'node:events';
import {createServer, type IncomingHttpHeaders, type IncomingMessage, type Server, type ServerResponse} from 'node:http';
import {createServer as createSecureServer} from 'node:https';
import type {AddressInfo} from 'node:net';
import {setTimeout as sleep} from 'node:timers/promises';
import {deflateSync, gzipSync, zstdCompressSync} from 'node:zlib';
import type {Descriptor, Digest} from '../../src/lib/oci/descriptor.ts';
import {OCI_CONFIG, OCI_INDEX, OCI_LAYER, OCI_MANIFEST} from '../../src/lib/oci/mediatypes.ts';
import {onEnd, type Scope} from '../support/helpers.ts';
import type {Certificate} from './certificate.ts';

export interface TokenAuth {
  readonly kind: 'token';
  /** Who may have a token; without one everybody may, and credentials are not looked at. */
  readonly login?: {readonly username: string; readonly password: string};
  /** A refresh token that is as good as the login. */
  readonly refreshToken?: string;
  /** Seconds in `expires_in`; left out of the answer when undefined. */
  readonly expiresIn?: number;
  /** What POST, oauth2's way, is answered with when it is not spoken. */
  readonly postStatus?: 400 | 401 | 404 | 405;
  /** Where the challenge says tokens are; default the registry's own `/token`. */
  readonly realm?: string;
  /** Which of the requested scopes a token gets; default all. */
  readonly grants?: (scope: string) => boolean;
}

export interface BasicAuth {
  readonly kind: 'basic';
  readonly login: {readonly username: string; readonly password: string};
}

export interface FakeOptions {
  readonly auth?: TokenAuth | BasicAuth;
  readonly tls?: Certificate;
  /** PEM of the certificate that a client has to show. */
  readonly clientCert?: string;
  /** What becomes of a Range: another one comes (all of the blob, as a part of it), or none counts. Default: it is honoured. */
  readonly ranges?: 'honoured' | 'ignored' | 'wrong';
  /** Closes the connection after each answer. */
  readonly closes?: boolean;
  /** Largest body of a request in bytes; above it the answer is a proxy's 413. */
  readonly maxBody?: number;
  /** `OCI-Chunk-Min-Length`: smaller chunks than the last are refused. */
  readonly minChunk?: number;
  /** Keeps the bytes of a request that broke off, and tells how many those are. Default: the upload is gone. */
  readonly resumes?: boolean;
  /** Where an upload goes on; default a path. */
  readonly locations?: 'relative' | 'absolute';
  /** Such as `127.0.0.2` or `::1`, to be another host for the same machine. Default `127.0.0.1`. */
  readonly address?: string;
}

export interface RecordedRequest {
  readonly method: string;
  /** With query. */
  readonly path: string;
  readonly range: string | undefined;
  readonly authorization: string | undefined;
  readonly accept: string | undefined;
  readonly userAgent: string | undefined;
  readonly headers: IncomingHttpHeaders;
  /** What a POST brought. */
  readonly body: string;
  /** Bytes of the request's body that were read. */
  readonly bodySize: number;
  /** `performance.now()` at its arrival. */
  readonly at: number;
  /** Filled in as the answer goes out. */
  status: number;
  bytesSent: number;
}

/** Which requests, and what becomes of them. All that is given applies. */
export interface Fault {
  readonly method?: 'GET' | 'HEAD' | 'POST' | 'PUT' | 'PATCH' | 'DELETE';
  /** Matched against path and query. Default: every path. */
  readonly path?: RegExp;
  /** How many requests it befalls; default all. */
  readonly times?: number;
  /** Passes over so many requests first. */
  readonly after?: number;
  /** Answers this status instead; with `code` in the registry's error body. */
  readonly status?: number;
  readonly code?: string;
  readonly message?: string;
  /** Headers that replace the answer's; null takes one away. */
  readonly headers?: Readonly<Record<string, string | readonly string[] | null>>;
  /** The answer's body, from the one that would be right. Headers stay as for the right one, unless `Content-Length` is replaced. */
  readonly body?: (right: Buffer) => Buffer;
  /** Without a length: chunked. */
  readonly chunked?: boolean;
  /** Closes the connection after so many bytes of body. */
  readonly truncateAt?: number;
  /** Resets it; before the head when negative. */
  readonly resetAt?: number;
  /** After so many bytes of body, or before the head when negative, the registry ends, and begins again after `restartMs`. */
  readonly restartAt?: number;
  readonly restartMs?: number;
  /** Encodes the body, and says so. */
  readonly encoding?: 'gzip' | 'deflate' | 'zstd';
  /** Goes silent after so many bytes, or before the head when negative. */
  readonly stallAt?: number;
  /** Sends the body in such pieces, each after such a pause. */
  readonly trickle?: {readonly bytes: number; readonly everyMs: number};
  readonly ignoreRange?: boolean;
  readonly redirect?: string | ((request: IncomingMessage) => string);
  /** Reads no more than so many bytes of the request's body; what else is given happens then. */
  readonly readAt?: number;
  readonly delayMs?: number;
  /** Waits for it before it answers. */
  readonly until?: Promise<unknown>;
}

export interface FakeImage {
  readonly manifest: Descriptor;
  readonly config: Descriptor;
  readonly layers: readonly Descriptor[];
}

/** Names on a page of a list when a request does not say. */
const LIST_PAGE = 2;

interface Answer {
  status: number;
  headers: Record<string, string | readonly string[]>;
  body: Buffer;
}

export const digestOf = (bytes: Buffer, algorithm = 'sha256'): Digest =>
  `${algorithm}:${createHash(algorithm).update(bytes).digest('hex')}` as Digest;

const errorBody = (code: string, message: string): Buffer => Buffer.from(JSON.stringify({errors: [{code, message}]}));
const isBasic = (header: string | undefined, {username, password}: BasicAuth['login']): boolean =>
  header === `Basic ${Buffer.from(`${username}:${password}`).toString('base64')}`;

/** Starts one that ends with the scope. */
export async function startFakeRegistry(scope: Scope, options: FakeOptions = {}): Promise<FakeRegistry> {
  const registry = new FakeRegistry(options);
  onEnd(scope, () => registry.close());
  await registry.listen();
  return registry;
}

export class FakeRegistry {
  /** Oldest first. */
  readonly requests: RecordedRequest[] = [];
  /** Connections that were ever made. */
  connections = 0;
  readonly #options: FakeOptions;
  readonly #server: Server;
  readonly #blobs = new Map<Digest, Buffer>();
  /** Repositories that a blob is in; of one that is not named here all. */
  readonly #repositories = new Map<Digest, Set<string>>();
  readonly #uploads = new Map<string, {readonly repository: string; bytes: Buffer; state: string; isShort: boolean}>();
  /** By `<repository> <tag or digest>`. */
  readonly #manifests = new Map<string, {bytes: Buffer; mediaType: string}>();
  readonly #faults: {fault: Fault; left: number; passed: number}[] = [];
  readonly #tokens = new Map<string, {scopes: readonly string[]; expires: number}>();
  #restarting: Promise<void> | undefined;
  #port = 0;
  readonly #stop = new AbortController();
  /** Requests that a fault has befallen. */
  faulted = 0;

  constructor(options: FakeOptions) {
    this.#options = options;
    const listener = (request: IncomingMessage, response: ServerResponse): void => {
      this.#serve(request, response).catch((err: unknown) => response.destroy(err as Error));
    };
    const {tls, clientCert} = options;
    const clients = clientCert === undefined ? {} : {ca: clientCert, requestCert: true, rejectUnauthorized: true};
    this.#server = tls === undefined ? createServer(listener) : createSecureServer({...tls, ...clients}, listener);
    this.#server.on('connection', () => {
      this.connections++;
    });
  }

  async listen(): Promise<void> {
    this.#server.listen(this.#port, this.#options.address ?? '127.0.0.1');
    await once(this.#server, 'listening');
    this.#port = (this.#server.address() as AddressInfo).port;
  }

  async close(): Promise<void> {
    this.#stop.abort();
    await this.#restarting;
    await this.#end();
  }

  /** Ends it, and has it back at the same port. */
  async restart(afterMs: number): Promise<void> {
    this.#restarting ??= (async () => {
      await this.#end();
      await sleep(afterMs, undefined, {signal: this.#stop.signal}).catch(() => undefined);
      this.#restarting = undefined;
      if (!this.#stop.signal.aborted) await this.listen();
    })();
    await this.#restarting;
  }

  async #end(): Promise<void> {
    if (!this.#server.listening) return;
    const closed = once(this.#server, 'close');
    this.#server.close();
    this.#server.closeAllConnections();
    await closed;
  }

  /** Such as `127.0.0.1:41817`: a reference's domain. */
  get host(): string {
    const {address = '127.0.0.1'} = this.#options;
    return `${address.includes(':') ? `[${address}]` : address}:${this.#port}`;
  }

  get url(): string {
    return `${this.#options.tls === undefined ? 'http' : 'https'}://${this.host}`;
  }

  /** Puts a blob in; it is in every repository. */
  addBlob(bytes: Buffer, mediaType = 'application/octet-stream', algorithm = 'sha256'): Descriptor {
    const digest = digestOf(bytes, algorithm);
    this.#blobs.set(digest, bytes);
    return {mediaType, digest, size: bytes.length};
  }

  /** Puts a blob into one repository. */
  addBlobTo(repository: string, bytes: Buffer, mediaType?: string): Descriptor {
    const isEverywhere = this.#blobs.has(digestOf(bytes)) && !this.#repositories.has(digestOf(bytes));
    const desc = this.addBlob(bytes, mediaType);
    if (!isEverywhere) this.#repositories.set(desc.digest, (this.#repositories.get(desc.digest) ?? new Set()).add(repository));
    return desc;
  }

  /** The bytes of a blob that is in a repository. */
  blobIn(repository: string, digest: Digest): Buffer | undefined {
    const only = this.#repositories.get(digest);
    return only === undefined || only.has(repository) ? this.#blobs.get(digest) : undefined;
  }

  /** A manifest or index of a repository. @param reference tag or digest */
  manifestIn(repository: string, reference: string): Buffer | undefined {
    return this.#manifests.get(`${repository} ${reference}`)?.bytes;
  }

  /** Uploads that were begun and not ended. */
  get uploads(): number {
    return this.#uploads.size;
  }

  /** Puts a manifest or index in, under its digest and, if given, a tag. */
  addManifest(repository: string, document: Buffer | object, mediaType: string, tag?: string, algorithm = 'sha256'): Descriptor {
    const bytes = Buffer.isBuffer(document) ? document : Buffer.from(JSON.stringify(document));
    const digest = digestOf(bytes, algorithm);
    for (const key of tag === undefined ? [digest] : [digest, tag]) this.#manifests.set(`${repository} ${key}`, {bytes, mediaType});
    return {mediaType, digest, size: bytes.length};
  }

  /** Puts an image of these layers in, whatever their bytes. */
  addImage(repository: string, tag: string, layers: readonly Buffer[], config: object = {architecture: 'amd64', os: 'linux'}): FakeImage {
    const configured = this.addBlob(Buffer.from(JSON.stringify(config)), OCI_CONFIG);
    const layered = layers.map((bytes) => this.addBlob(bytes, OCI_LAYER));
    const document = {schemaVersion: 2, mediaType: OCI_MANIFEST, config: configured, layers: layered};
    return {manifest: this.addManifest(repository, document, OCI_MANIFEST, tag), config: configured, layers: layered};
  }

  addIndex(repository: string, tag: string, manifests: readonly Descriptor[]): Descriptor {
    return this.addManifest(repository, {schemaVersion: 2, mediaType: OCI_INDEX, manifests}, OCI_INDEX, tag);
  }

  /** Makes requests fail from now on; the first fault that matches a request is its own. @returns undoes it */
  fault(fault: Fault): () => void {
    const entry = {fault, left: fault.times ?? Number.POSITIVE_INFINITY, passed: 0};
    this.#faults.push(entry);
    return () => {
      entry.left = 0;
    };
  }

  /** Requests so far, of a method and to paths like this. */
  count(method: string, path = /./): number {
    return this.requests.filter((r) => r.method === method && path.test(r.path)).length;
  }

  /** Bytes of bodies sent so far from paths like this. */
  bytesSent(path = /./): number {
    return this.requests.filter((r) => path.test(r.path)).reduce((sum, r) => sum + r.bytesSent, 0);
  }

  /** Every `Authorization` that has come, each once. */
  get authorizations(): string[] {
    return [...new Set(this.requests.flatMap(({authorization}) => authorization ?? []))];
  }

  /** Connections that are open now. */
  openConnections(): Promise<number> {
    return new Promise((resolve, reject) => this.#server.getConnections((err, count) => (err ? reject(err) : resolve(count))));
  }

  /** Forgets requests and faults. */
  clear(): void {
    this.requests.length = 0;
    this.#faults.length = 0;
  }

  /** Takes all tokens back, as a registry that restarts does. */
  revokeTokens(): void {
    this.#tokens.clear();
  }

  async #serve(request: IncomingMessage, response: ServerResponse): Promise<void> {
    const {method = '', url: path = '', headers} = request;
    const fault = this.#faultFor(method, path);
    const {body, isWhole} = await readBody(request, fault.readAt ?? Number.POSITIVE_INFINITY);
    const record: RecordedRequest = {
      method,
      path,
      range: headers.range,
      authorization: headers.authorization,
      accept: headers.accept,
      userAgent: headers['user-agent'],
      headers,
      body: method === 'POST' ? body.toString() : '',
      bodySize: body.length,
      at: performance.now(),
      status: 0,
      bytesSent: 0,
    };
    this.requests.push(record);
    if (!isWhole) this.#interrupt(path, body);
    if (fault.delayMs !== undefined) await sleep(fault.delayMs);
    await fault.until;
    if ((fault.stallAt ?? 0) < 0) return;
    if ((fault.resetAt ?? 0) < 0) {
      response.socket?.resetAndDestroy();
      return;
    }
    if ((fault.restartAt ?? 0) < 0) {
      void this.restart(fault.restartMs ?? 0);
      return;
    }
    // What is refused has no effect.
    const isRefused = !['GET', 'HEAD'].includes(method) && (fault.status !== undefined || fault.redirect !== undefined);
    const right = isRefused ? {status: 200, headers: {}, body: Buffer.alloc(0)} : this.#answer(record, fault, body);
    const answer = this.#spoil(right, fault, request);
    record.status = answer.status;
    await this.#send(answer, fault, record, response);
  }

  #faultFor(method: string, path: string): Fault {
    const entry = this.#faults.find(
      (one) =>
        one.left > 0 &&
        (one.fault.method ?? method) === method &&
        (one.fault.path === undefined || one.fault.path.test(path)) &&
        one.passed++ >= (one.fault.after ?? 0),
    );
    if (entry === undefined) return {};
    entry.left--;
    this.faulted++;
    return entry.fault;
  }

  #answer(record: RecordedRequest, fault: Fault, body: Buffer): Answer {
    const url = new URL(record.path, this.url);
    if (url.pathname === '/token') return this.#answerToken(record, url);
    const {method} = record;
    if (body.length > (this.#options.maxBody ?? Number.POSITIVE_INFINITY))
      return {status: 413, headers: {'content-type': 'text/html', connection: 'close'}, body: Buffer.from('<html>too large</html>')};
    const upload = /^\/v2\/(.+)\/blobs\/uploads\/([^/]*)$/.exec(url.pathname);
    if (upload !== null || method === 'PUT') {
      const repository = upload?.[1] ?? /^\/v2\/(.+)\/manifests\//.exec(url.pathname)?.[1];
      if (repository === undefined) return refuse(404, 'NAME_UNKNOWN', 'no such path');
      const from = url.searchParams.get('from');
      const needs = [`repository:${repository}:pull,push`, ...(from === null ? [] : [`repository:${from}:pull`])];
      const challenge = this.#challenge(record.authorization, needs);
      if (challenge !== undefined) return unauthorized(challenge);
      if (upload === null) return this.#takeManifest(repository, url.pathname.split('/').at(-1)!, record, body);
      if (upload[2] === '') return method === 'POST' ? this.#beginUpload(repository, url) : refuse(405, 'UNSUPPORTED', 'POST only');
      return this.#continueUpload(repository, upload[2]!, record, url, body);
    }
    const listed = /^\/v2\/(?:_catalog|(.+)\/tags\/list)$/.exec(url.pathname);
    if (listed !== null) return this.#list(listed[1], record, url);
    const match = /^\/v2\/(?:(.+)\/(manifests|blobs)\/([^/]+))?$/.exec(url.pathname);
    if (match === null) return refuse(404, 'NAME_UNKNOWN', 'no such path');
    const [, repository, kind, reference] = match;
    const challenge = this.#challenge(record.authorization, repository === undefined ? [] : [`repository:${repository}:pull`]);
    if (challenge !== undefined) return unauthorized(challenge);
    if (repository === undefined) return {status: 200, headers: {}, body: Buffer.from('{}')};
    if (method === 'DELETE') return this.#delete(repository, reference!);
    if (kind === 'manifests') {
      const found = this.#manifests.get(`${repository} ${reference}`);
      const isKnown = [...this.#manifests.keys()].some((key) => key.startsWith(`${repository} `));
      if (found === undefined)
        return isKnown ? refuse(404, 'MANIFEST_UNKNOWN', 'manifest unknown') : refuse(404, 'NAME_UNKNOWN', 'name unknown');
      const digest = reference!.includes(':') ? reference! : digestOf(found.bytes);
      return {status: 200, headers: {'content-type': found.mediaType, 'docker-content-digest': digest}, body: found.bytes};
    }
    const blob = this.blobIn(repository, reference as Digest);
    if (blob === undefined) return refuse(404, 'BLOB_UNKNOWN', 'blob unknown');
    const {ranges} = this.#options;
    const answer = ranged(blob, reference!, fault.ignoreRange || ranges === 'ignored' ? undefined : record.range);
    if (answer.status !== 206 || ranges !== 'wrong') return answer;
    return {...answer, headers: {...answer.headers, 'content-range': `bytes 0-${blob.length - 1}/${blob.length}`}, body: blob};
  }

  /** A page of the tags of a repository, or of the repositories. */
  #list(repository: string | undefined, {authorization}: RecordedRequest, {pathname, searchParams}: URL): Answer {
    const challenge = this.#challenge(authorization, [repository === undefined ? 'registry:catalog:*' : `repository:${repository}:pull`]);
    if (challenge !== undefined) return unauthorized(challenge);
    const keys = [...this.#manifests.keys()].map((key) => key.split(' ') as [name: string, reference: string]);
    const tags = keys.filter(([name, reference]) => name === repository && !reference.includes(':')).map(([, tag]) => tag);
    const all = [...new Set(repository === undefined ? keys.map(([name]) => name) : tags)].sort();
    const rest = all.filter((name) => name > (searchParams.get('last') ?? ''));
    const page = rest.slice(0, Number(searchParams.get('n') ?? LIST_PAGE));
    const next = `<${pathname}?n=${page.length}&last=${encodeURIComponent(page.at(-1) ?? '')}>; rel="next"`;
    return {
      status: 200,
      headers: {'content-type': 'application/json', ...(page.length < rest.length ? {link: next} : {})},
      body: Buffer.from(JSON.stringify(repository === undefined ? {repositories: page} : {name: repository, tags: page})),
    };
  }

  /** Takes a manifest away, with the tags that name it, or a tag. */
  #delete(repository: string, reference: string): Answer {
    const found = this.manifestIn(repository, reference);
    if (found === undefined) return refuse(404, 'MANIFEST_UNKNOWN', 'manifest unknown');
    for (const [key, {bytes}] of this.#manifests)
      if (key === `${repository} ${reference}` || (reference.includes(':') && key.startsWith(`${repository} `) && bytes.equals(found)))
        this.#manifests.delete(key);
    return {status: 202, headers: {}, body: Buffer.alloc(0)};
  }

  #beginUpload(repository: string, {searchParams}: URL): Answer {
    const [digest, from] = [searchParams.get('mount') as Digest | null, searchParams.get('from')];
    if (digest !== null && from !== null && this.blobIn(from, digest) !== undefined) {
      this.#repositories.get(digest)?.add(repository);
      const headers = {location: `/v2/${repository}/blobs/${digest}`, 'docker-content-digest': digest};
      return {status: 201, headers, body: Buffer.alloc(0)};
    }
    const id = randomBytes(8).toString('hex');
    this.#uploads.set(id, {repository, bytes: Buffer.alloc(0), state: '', isShort: false});
    const {minChunk} = this.#options;
    return this.#uploadState(id, 202, minChunk === undefined ? {} : {'oci-chunk-min-length': String(minChunk)});
  }

  /** What an upload has, and where it goes on: another place after each part, with a query that has to come back as it is. */
  #uploadState(id: string, status: number, more: Readonly<Record<string, string>> = {}): Answer {
    const upload = this.#uploads.get(id)!;
    upload.state = `${randomBytes(6).toString('base64')}+a%20b==`;
    const path = `/v2/${upload.repository}/blobs/uploads/${id}?_state=${upload.state}`;
    const location = this.#options.locations === 'absolute' ? `${this.url}${path}` : path;
    const range = `0-${Math.max(0, upload.bytes.length - 1)}`;
    return {status, headers: {location, range, 'docker-upload-uuid': id, ...more}, body: Buffer.alloc(0)};
  }

  #continueUpload(repository: string, id: string, {method, path, headers}: RecordedRequest, {searchParams}: URL, body: Buffer): Answer {
    const upload = this.#uploads.get(id);
    if (upload?.repository !== repository) return refuse(404, 'BLOB_UPLOAD_UNKNOWN', 'no such upload');
    if (!path.includes(`?_state=${upload.state}`))
      return refuse(400, 'BLOB_UPLOAD_INVALID', 'an upload goes on where its last answer says');
    if (method === 'GET') return this.#uploadState(id, 204);
    if (method !== 'PATCH' && method !== 'PUT') return refuse(405, 'UNSUPPORTED', 'not of uploads');
    const start = /^(\d+)-(\d+)$/.exec(headers['content-range'] ?? '')?.[1];
    if ((method === 'PATCH' && start === undefined) || (start !== undefined && Number(start) !== upload.bytes.length))
      return {...refuse(416, 'RANGE_INVALID', 'out of order'), headers: {range: `0-${Math.max(0, upload.bytes.length - 1)}`}};
    if (body.length > 0 && upload.isShort) return refuse(400, 'SIZE_INVALID', 'a chunk that was not the last one was too small');
    upload.isShort = method === 'PATCH' && body.length < (this.#options.minChunk ?? 0);
    upload.bytes = Buffer.concat([upload.bytes, body]);
    if (method === 'PATCH') return this.#uploadState(id, 202);
    const digest = searchParams.get('digest') as Digest;
    this.#uploads.delete(id);
    if (digestOf(upload.bytes, digest.split(':')[0]) !== digest) return refuse(400, 'DIGEST_INVALID', 'not what it says');
    if (!this.#blobs.has(digest)) this.#repositories.set(digest, new Set());
    this.#blobs.set(digest, upload.bytes);
    this.#repositories.get(digest)?.add(repository);
    const stored = {location: `/v2/${repository}/blobs/${digest}`, 'docker-content-digest': digest};
    return {status: 201, headers: stored, body: Buffer.alloc(0)};
  }

  /** A request of an upload that broke off. */
  #interrupt(path: string, body: Buffer): void {
    const id = /\/blobs\/uploads\/([^/?]+)/.exec(path)?.[1] ?? '';
    const upload = this.#uploads.get(id);
    if (upload === undefined) return;
    if (this.#options.resumes) upload.bytes = Buffer.concat([upload.bytes, body]);
    else this.#uploads.delete(id);
  }

  /** Takes a manifest only after what it refers to. */
  #takeManifest(repository: string, reference: string, {headers}: RecordedRequest, bytes: Buffer): Answer {
    const document = JSON.parse(bytes.toString()) as {manifests?: Descriptor[]; config?: Descriptor; layers?: Descriptor[]};
    const blobs = [document.config ?? [], document.layers ?? []].flat().filter(({urls}) => urls === undefined);
    const isThere = ({digest}: Descriptor): boolean =>
      this.blobIn(repository, digest) !== undefined || this.manifestIn(repository, digest) !== undefined;
    const missing = [...blobs, ...(document.manifests ?? [])].find((desc) => !isThere(desc));
    if (missing !== undefined) return refuse(400, 'MANIFEST_BLOB_UNKNOWN', missing.digest);
    const digest = digestOf(bytes, reference.includes(':') ? reference.split(':')[0] : 'sha256');
    if (reference.includes(':') && reference !== digest) return refuse(400, 'DIGEST_INVALID', 'not what it says');
    this.addManifest(repository, bytes, headers['content-type'] ?? '', reference.includes(':') ? undefined : reference);
    return {
      status: 201,
      headers: {location: `/v2/${repository}/manifests/${digest}`, 'docker-content-digest': digest},
      body: Buffer.alloc(0),
    };
  }

  /**
   * The challenge that a request has to answer; undefined when it may pass.
   *
   * @param needs scopes, of one repository each
   */
  #challenge(authorization: string | undefined, needs: readonly string[]): string | undefined {
    const {auth} = this.#options;
    if (auth === undefined) return undefined;
    if (auth.kind === 'basic') return isBasic(authorization, auth.login) ? undefined : 'Basic realm="fake"';
    const token = this.#tokens.get(/^Bearer (.+)$/.exec(authorization ?? '')?.[1] ?? '');
    const known = token !== undefined && token.expires > performance.now();
    if (known && needs.every((need) => token.scopes.some((scope) => covers(scope, need)))) return undefined;
    return [
      `Bearer realm="${auth.realm ?? `${this.url}/token`}",service="fake"`,
      ...(needs.length === 0 ? [] : [`scope="${needs.join(' ')}"`]),
      ...(known ? ['error="insufficient_scope"'] : []),
    ].join(',');
  }

  #answerToken({method, authorization, body}: RecordedRequest, {searchParams}: URL): Answer {
    const {auth} = this.#options;
    if (auth?.kind !== 'token') return refuse(404, 'UNSUPPORTED', 'no tokens here');
    const form = new URLSearchParams(body);
    const isPost = method === 'POST';
    if (isPost && auth.postStatus !== undefined) return refuse(auth.postStatus, 'UNSUPPORTED', 'no oauth2 here');
    const asked = isPost ? (form.get('scope') ?? '').split(' ') : searchParams.getAll('scope');
    const scopes = asked.filter((scope) => auth.grants?.(scope) ?? true);
    const {login} = auth;
    const isRefresh = form.get('grant_type') === 'refresh_token';
    const welcome = isPost
      ? isRefresh
        ? form.get('refresh_token') === auth.refreshToken
        : form.get('username') === login?.username && form.get('password') === login?.password
      : login === undefined || isBasic(authorization, login);
    if (!welcome) return refuse(401, 'UNAUTHORIZED', 'who are you');
    const token = `token-${randomBytes(12).toString('hex')}`;
    const {expiresIn} = auth;
    this.#tokens.set(token, {scopes, expires: performance.now() + (expiresIn ?? 3600) * 1000});
    const field = isPost ? 'access_token' : 'token';
    return {
      status: 200,
      headers: {'content-type': 'application/json'},
      body: Buffer.from(JSON.stringify({[field]: token, ...(expiresIn === undefined ? {} : {expires_in: expiresIn})})),
    };
  }

  /** The answer as the fault has it, body and head. */
  #spoil(right: Answer, fault: Fault, request: IncomingMessage): Answer {
    const {status, code = 'UNKNOWN', message = 'as told', redirect} = fault;
    let answer = status === undefined ? right : refuse(status, code, message);
    if (redirect !== undefined) {
      const location = typeof redirect === 'string' ? redirect : redirect(request);
      answer = {status: status ?? 307, headers: {location}, body: Buffer.from('elsewhere')};
    }
    if (fault.encoding !== undefined && answer.status === 200) {
      const encode = {gzip: gzipSync, deflate: deflateSync, zstd: zstdCompressSync}[fault.encoding];
      answer = {...answer, headers: {...answer.headers, 'content-encoding': fault.encoding}, body: encode(answer.body)};
    }
    const headers: Answer['headers'] = {'content-length': String(answer.body.length), ...answer.headers};
    if (this.#options.closes) headers.connection = 'close';
    if (fault.chunked) delete headers['content-length'];
    for (const [name, value] of Object.entries(fault.headers ?? {})) {
      if (value === null) delete headers[name];
      else headers[name] = value;
    }
    return {status: answer.status, headers, body: fault.body === undefined ? answer.body : fault.body(answer.body)};
  }

  async #send({status, headers, body}: Answer, fault: Fault, record: RecordedRequest, response: ServerResponse): Promise<void> {
    const {truncateAt, resetAt, restartAt, restartMs, stallAt, trickle} = fault;
    const {socket} = response;
    response.strictContentLength = false;
    response.writeHead(status, headers as Record<string, string | string[]>);
    if (record.method === 'HEAD') {
      response.end();
      return;
    }
    const write = async (bytes: Buffer): Promise<void> => {
      // A request that came while an answer before it was cut: its connection is closed already.
      if (socket?.writable !== true) return;
      record.bytesSent += bytes.length;
      if (!response.write(bytes)) await once(response, 'drain').catch(() => undefined);
    };
    const cut = Math.min(...[truncateAt, resetAt, restartAt, stallAt].map((at) => at ?? body.length));
    const sent = body.subarray(0, cut);
    response.flushHeaders();
    if (trickle !== undefined) {
      for (let at = 0; at < sent.length && !socket?.destroyed; at += trickle.bytes) {
        await write(sent.subarray(at, at + trickle.bytes));
        await sleep(trickle.everyMs);
      }
    } else if (sent.length > 0) {
      await write(sent);
    }
    if (cut === body.length && truncateAt === undefined && resetAt === undefined && restartAt === undefined && stallAt === undefined) {
      response.end();
      return;
    }
    if (stallAt !== undefined) return;
    // What has been written must arrive: a reset takes back what the other side has not read.
    await sleep(20);
    if (restartAt !== undefined) void this.restart(restartMs ?? 0);
    else if (resetAt !== undefined) socket?.resetAndDestroy();
    else socket?.destroySoon();
  }
}

/** @param limit bytes to read at most @returns what came, and whether that is all of it */
async function readBody(request: IncomingMessage, limit: number): Promise<{readonly body: Buffer; readonly isWhole: boolean}> {
  const chunks: Buffer[] = [];
  let size = 0;
  try {
    if (limit > 0)
      for await (const chunk of request.iterator({destroyOnReturn: false}) as AsyncIterable<Buffer>) {
        chunks.push(chunk);
        size += chunk.length;
        if (size >= limit) break;
      }
    return {body: Buffer.concat(chunks).subarray(0, limit), isWhole: limit === Number.POSITIVE_INFINITY};
  } catch {
    // The other side has gone.
    return {body: Buffer.concat(chunks), isWhole: false};
  }
}

/** Whether a token's scope allows what another one names. */
function covers(scope: string, need: string): boolean {
  const split = (text: string): [name: string, actions: string[]] => [
    text.slice(0, text.lastIndexOf(':')),
    text.slice(text.lastIndexOf(':') + 1).split(','),
  ];
  const [[name, actions], [wanted, needed]] = [split(scope), split(need)];
  return name === wanted && needed.every((action) => actions.includes(action));
}

const unauthorized = (challenge: string): Answer => ({
  ...refuse(401, 'UNAUTHORIZED', 'authentication required'),
  headers: {'www-authenticate': challenge},
});

function refuse(status: number, code: string, message: string): Answer {
  return {status, headers: {'content-type': 'application/json'}, body: errorBody(code, message)};
}

function ranged(blob: Buffer, digest: string, range: string | undefined): Answer {
  const headers = {'content-type': 'application/octet-stream', 'docker-content-digest': digest, 'accept-ranges': 'bytes'};
  const match = /^bytes=(\d+)-(\d*)$/.exec(range ?? '');
  if (match === null) return {status: 200, headers, body: blob};
  const start = Number(match[1]);
  const end = Math.min(match[2] === '' ? blob.length : Number(match[2]) + 1, blob.length);
  if (start >= end) return {status: 416, headers: {...headers, 'content-range': `bytes */${blob.length}`}, body: Buffer.alloc(0)};
  return {status: 206, headers: {...headers, 'content-range': `bytes ${start}-${end - 1}/${blob.length}`}, body: blob.subarray(start, end)};
}
