/** What a tag stands for. */
import {ErrdefsError} from '../errdefs.ts';
import {type Descriptor, type Digest, digestParts, isDigest} from '../oci/descriptor.ts';
import {MAX_MANIFEST_BYTES} from '../oci/manifest.ts';
import {DOCKER_LIST, DOCKER_MANIFEST, OCI_INDEX, OCI_MANIFEST} from '../oci/mediatypes.ts';
import type {Reference} from '../oci/reference.ts';
import type {Realm} from './auth.ts';
import {type Attempt, refusal} from './errors.ts';
import {realmOf, urlOf} from './hosts.ts';
import type {Reply, Session} from './http-client.ts';
import {isTemporary} from './retry.ts';
import type {BodySink, Head} from './transport.ts';
import type {Host, Resolved} from './types.ts';
import {Collector, hash, lengthOf, mediaTypeOf, SAYS_NOTHING, verify} from './validate-response.ts';

const MANIFEST_ACCEPT = [DOCKER_MANIFEST, DOCKER_LIST, OCI_MANIFEST, OCI_INDEX, '*/*'].join(', ');
const SCHEMA_1 = /^application\/vnd\.docker\.distribution\.manifest\.v1\+(?:json|prettyjws)$/;
const single = (header: string | string[] | undefined): string | undefined => (Array.isArray(header) ? header[0] : header);

/** One reference at one host. */
export class Resolution {
  readonly #session: Session;
  readonly #ref: Reference;
  readonly #what: string;
  readonly #signal: AbortSignal | undefined;
  readonly #url: URL;
  readonly #realm: Realm;
  readonly #hasNext: boolean;

  /** @param hasNext there is another host to ask */
  constructor(session: Session, host: Host, ref: Reference, what: string, signal: AbortSignal | undefined, hasNext: boolean) {
    this.#session = session;
    this.#ref = ref;
    this.#what = what;
    this.#signal = signal;
    this.#url = urlOf(host, `/${ref.path}/manifests/${ref.digest ?? ref.tag}`);
    this.#realm = realmOf(host, ref);
    this.#hasNext = hasNext;
  }

  /** HEAD, then GET where that says too little, or refuses without the reason that only a body can give. */
  async run(): Promise<Resolved> {
    const reply = await this.#send('HEAD', () => () => undefined);
    if (reply.status < 300) {
      const descriptor = this.#fromHead(reply);
      return descriptor === undefined ? this.#byGet() : {descriptor};
    }
    const isPlain = reply.status === 404 && this.#hasNext;
    if (reply.status === 401 || reply.status < 400 || isTemporary(reply.status) || isPlain)
      throw await this.#session.refused(reply, this.#realm);
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
      hasNext: this.#hasNext,
      checked: this.#ref.digest !== undefined,
    });
  }

  /** The descriptor, if the headers have all of it. What they say is a promise: the bytes are verified when they come. */
  #fromHead(reply: Reply): Descriptor | undefined {
    const mediaType = mediaTypeOf(reply);
    this.#refuseSchema1(mediaType);
    const size = lengthOf(reply);
    const digest = this.#headerDigest(reply);
    if (!size || digest === undefined || SAYS_NOTHING.has(mediaType)) return undefined;
    if (size > MAX_MANIFEST_BYTES) throw refusal(reply.on, `a manifest of ${size} B, more than the ${MAX_MANIFEST_BYTES} B allowed`);
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
      this.#refuseSchema1(mediaTypeOf(head));
      return collector.start(head, MAX_MANIFEST_BYTES, on, `more than the ${MAX_MANIFEST_BYTES} B that a manifest may have`);
    });
    if (reply.status >= 300) throw await this.#session.refused(reply, this.#realm);
    const {on} = reply;
    const body = collector.body();
    const promised = this.#headerDigest(reply);
    if (promised !== undefined) verify(body, promised, on);
    if (this.#ref.digest !== undefined) verify(body, this.#ref.digest, on);
    const said = mediaTypeOf(reply);
    const mediaType = SAYS_NOTHING.has(said) ? this.#mediaTypeOfBody(body, on) : said;
    return {descriptor: {mediaType, digest: this.#ref.digest ?? promised ?? hash(body, 'sha256'), size: body.length}, body};
  }

  /** What a document says that it is, or has the shape of; whether it is only that is for its reader to see. */
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
    if (Array.isArray(manifests)) return OCI_INDEX;
    if (Array.isArray(layers)) return OCI_MANIFEST;
    throw refusal(on, 'the answer is not a manifest');
  }
}
