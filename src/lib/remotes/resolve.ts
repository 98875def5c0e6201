/** Resolves a tag or digest to a descriptor. */
import {ErrdefsError} from '../errdefs.ts';
import {type Descriptor, type Digest, digestParts, isDigest} from '../oci/descriptor.ts';
import {digestOf} from '../oci/hash.ts';
import {MAX_MANIFEST_BYTES, mediaTypeOfDocument} from '../oci/manifest.ts';
import {DOCKER_LIST, DOCKER_MANIFEST, OCI_INDEX, OCI_MANIFEST} from '../oci/mediatypes.ts';
import type {Reference} from '../oci/reference.ts';
import {pullScope, type TokenScope} from './auth.ts';
import {protocolError, type RequestContext} from './errors.ts';
import {urlOf} from './hosts.ts';
import {isTemporary} from './retry.ts';
import type {HttpClient, HttpResponse} from './retrying-client.ts';
import type {Host, Resolved} from './types.ts';
import type {BodySink, ResponseHead} from './undici-exchange.ts';
import {BodyCollector, contentLength, GENERIC_MEDIA_TYPES, mediaTypeOf, verify} from './validate-response.ts';

/** The `Accept` header of requests for manifests. */
export const MANIFEST_ACCEPT = [DOCKER_MANIFEST, DOCKER_LIST, OCI_MANIFEST, OCI_INDEX, '*/*'].join(', ');
const SCHEMA_1 = /^application\/vnd\.docker\.distribution\.manifest\.v1\+(?:json|prettyjws)$/;
const single = (header: string | string[] | undefined): string | undefined => (Array.isArray(header) ? header[0] : header);

/** Resolves one reference at one host. */
export class Resolution {
  readonly #client: HttpClient;
  readonly #ref: Reference;
  readonly #what: string;
  readonly #signal: AbortSignal | undefined;
  readonly #url: URL;
  readonly #scope: TokenScope;
  readonly #hasFallback: boolean;

  /** @param hasFallback another host follows */
  constructor(client: HttpClient, host: Host, ref: Reference, what: string, signal: AbortSignal | undefined, hasFallback: boolean) {
    this.#client = client;
    this.#ref = ref;
    this.#what = what;
    this.#signal = signal;
    this.#url = urlOf(host, `/${ref.path}/manifests/${ref.digest ?? ref.tag}`);
    this.#scope = pullScope(host, ref);
    this.#hasFallback = hasFallback;
  }

  /** Sends HEAD, then GET if the headers are incomplete, or for the error in the body of a failure. */
  async run(): Promise<Resolved> {
    const response = await this.#send('HEAD', () => () => undefined);
    if (response.status < 300) {
      const descriptor = this.#fromHead(response);
      return descriptor === undefined ? this.#byGet() : {descriptor};
    }
    const isPlain = response.status === 404 && this.#hasFallback;
    if (response.status === 401 || response.status < 400 || isTemporary(response.status) || isPlain)
      throw await this.#client.toError(response, this.#scope);
    return this.#byGet();
  }

  #send(method: 'GET' | 'HEAD', onBody: (head: ResponseHead, context: RequestContext) => BodySink): Promise<HttpResponse> {
    return this.#client.send({
      what: this.#what,
      method,
      url: this.#url,
      headers: {accept: MANIFEST_ACCEPT},
      scope: this.#scope,
      signal: this.#signal,
      onBody,
      restartable: true,
      hasFallback: this.#hasFallback,
      digestVerified: this.#ref.digest !== undefined,
    });
  }

  /** The descriptor, if the headers have all of it. The bytes are verified later, by the fetch. */
  #fromHead(response: HttpResponse): Descriptor | undefined {
    const mediaType = mediaTypeOf(response);
    this.#refuseSchema1(mediaType);
    const size = contentLength(response);
    const digest = this.#headerDigest(response);
    if (!size || digest === undefined || GENERIC_MEDIA_TYPES.has(mediaType)) return undefined;
    if (size > MAX_MANIFEST_BYTES)
      throw protocolError(response.context, `a manifest of ${size} B, more than the ${MAX_MANIFEST_BYTES} B allowed`);
    return {mediaType, digest: this.#ref.digest ?? digest, size};
  }

  /**
   * The `Docker-Content-Digest` header, if it is a digest. Its algorithm may differ from the requested one.
   *
   * @throws failed_precondition not the requested digest
   */
  #headerDigest({headers, context}: HttpResponse): Digest | undefined {
    const text = single(headers['docker-content-digest']);
    if (!isDigest(text)) return undefined;
    const asked = this.#ref.digest;
    if (asked !== undefined && text !== asked && digestParts(text)[0] === digestParts(asked)[0])
      throw protocolError(context, `returned ${text} instead`);
    return text;
  }

  #refuseSchema1(mediaType: string): void {
    if (SCHEMA_1.test(mediaType)) throw new ErrdefsError('not_implemented', `${this.#what}: schema 1 manifest`);
  }

  async #byGet(): Promise<Resolved> {
    const collector = new BodyCollector();
    const response = await this.#send('GET', (head, context) => {
      this.#refuseSchema1(mediaTypeOf(head));
      return collector.start(head, MAX_MANIFEST_BYTES, context, `more than the ${MAX_MANIFEST_BYTES} B that a manifest may have`);
    });
    if (response.status >= 300) throw await this.#client.toError(response, this.#scope);
    const {context} = response;
    const body = collector.body();
    const headerDigest = this.#headerDigest(response);
    if (headerDigest !== undefined) verify(body, headerDigest, context);
    if (this.#ref.digest !== undefined) verify(body, this.#ref.digest, context);
    const stated = mediaTypeOf(response);
    const mediaType = GENERIC_MEDIA_TYPES.has(stated) ? this.#mediaTypeOfBody(body, context) : stated;
    return {descriptor: {mediaType, digest: this.#ref.digest ?? headerDigest ?? digestOf(body), size: body.length}, body};
  }

  /** For servers that send no media type. */
  #mediaTypeOfBody(body: Buffer, context: RequestContext): string {
    const mediaType = mediaTypeOfDocument(body);
    if (mediaType === undefined) throw protocolError(context, 'the response is not a manifest');
    this.#refuseSchema1(mediaType);
    return mediaType;
  }
}
