/** What a registry offers besides content: lists of tags, repositories and referrers, the size of a blob, deletion. */
import {hasCode, isErrdefs} from '../errdefs.ts';
import type {Descriptor, Digest} from '../oci/descriptor.ts';
import {parseIndex} from '../oci/manifest.ts';
import {OCI_INDEX} from '../oci/mediatypes.ts';
import {formatReference, type Reference} from '../oci/reference.ts';
import {catalogScope, deleteScope, pullScope, type TokenScope} from './auth.ts';
import {protocolError, type RequestContext} from './errors.ts';
import {urlOf} from './hosts.ts';
import {MANIFEST_ACCEPT} from './resolve.ts';
import type {HttpClient, HttpResponse} from './retrying-client.ts';
import type {Capability, Host, ListingOptions, RegistryCallOptions, RepositoryApi} from './types.ts';
import {BodyCollector, contentLength, mediaTypeOf} from './validate-response.ts';

/** Calls `use` with a registry's hosts in turn until it succeeds. */
export type EachHost = <T>(
  domain: string,
  what: string,
  signal: AbortSignal | undefined,
  needed: readonly Capability[],
  use: (host: Host, hasFallback: boolean) => Promise<T>,
) => Promise<T>;

/** Entries to ask for in one page; more is refused by some registries. */
const PAGE_ENTRIES = 1000;
/** Registries without pages send the whole list: 16 MiB are more than 100 000 tags. */
const MAX_PAGE_BYTES = 16 * 1024 * 1024;
const MAX_PAGES = 10_000;

/** The target of `rel=next` in a `Link` header (RFC 8288). */
export function nextLink(header: string | readonly string[] | undefined): string | undefined {
  for (const [, target, params = ''] of [header ?? []]
    .flat()
    .join(',')
    .matchAll(/<([^>]*)>((?:\s*;[^,]*)?)/g))
    if (/;\s*rel\s*=\s*"?next"?\s*(?:;|$)/i.test(params)) return target;
  return undefined;
}

interface Page {
  readonly body: Buffer;
  readonly response: HttpResponse;
}

interface PageRequest {
  readonly what: string;
  readonly scope: TokenScope;
  readonly accept: string;
  readonly signal: AbortSignal | undefined;
  readonly hasFallback: boolean;
}

/** Implements `RepositoryApi` and the catalog. */
export class RegistryApi {
  readonly #client: HttpClient;
  readonly #eachHost: EachHost;
  /** Joins a call's signal with the remote's. */
  readonly #join: (signal: AbortSignal | undefined) => AbortSignal | undefined;

  constructor(client: HttpClient, eachHost: EachHost, join: (signal: AbortSignal | undefined) => AbortSignal | undefined) {
    this.#client = client;
    this.#eachHost = eachHost;
    this.#join = join;
  }

  repository(ref: Reference): RepositoryApi {
    const joined = <T extends RegistryCallOptions>(options: T): T => ({...options, signal: this.#join(options.signal)});
    return {
      tags: (options = {}) => this.#tags(ref, joined(options)),
      referrers: (digest, options = {}) => this.#referrers(ref, digest, joined(options)),
      stat: (digest, options = {}) => this.#stat(ref, digest, joined(options)),
      delete: (target, options = {}) => this.#delete(ref, target, joined(options)),
    };
  }

  catalog(domain: string, {limit, signal}: ListingOptions): AsyncGenerator<string> {
    const options = {limit, signal: this.#join(signal)};
    return this.#names('repositories', domain, `list repositories of ${domain}`, options, (host) => ({
      path: '/_catalog',
      scope: catalogScope(host),
    }));
  }

  #tags(ref: Reference, options: ListingOptions): AsyncGenerator<string> {
    return this.#names('tags', ref.domain, `list tags of ${ref.domain}/${ref.path}`, options, (host) => ({
      path: `/${ref.path}/tags/list`,
      scope: pullScope(host, ref),
    }));
  }

  /** The names in `key` of each page, as they arrive. */
  async *#names(
    key: 'tags' | 'repositories',
    domain: string,
    what: string,
    {limit = Number.POSITIVE_INFINITY, signal}: ListingOptions,
    list: (host: Host) => {readonly path: string; readonly scope: TokenScope},
  ): AsyncGenerator<string> {
    const needed: Capability[] = ['pull', 'resolve'];
    const begin = (host: Host, hasFallback: boolean, query: string) => {
      const {path, scope} = list(host);
      const url = urlOf(host, path);
      if (query !== '') url.searchParams.set('n', query);
      return {url, request: {what, scope, accept: 'application/json', signal, hasFallback}};
    };
    const first = (query: string): Promise<{url: URL; request: PageRequest; page: Page}> =>
      this.#eachHost(domain, what, signal, needed, async (host, hasFallback) => {
        const {url, request} = begin(host, hasFallback, query);
        return {url, request, page: await this.#page(url, request)};
      });
    const {url, request, page} = await first(String(Math.min(limit, PAGE_ENTRIES))).catch((err: unknown) => {
      // The registry's limit is below ours: let it choose.
      if (isErrdefs(err) && err.details?.registryCode === 'PAGINATION_NUMBER_INVALID') return first('');
      throw err;
    });
    let left = limit;
    for await (const {body, response} of this.#following(url, request, page))
      for (const name of namesOf(body, key, response.context)) {
        if (left-- <= 0) return;
        yield name;
      }
  }

  /** A page and those that its `Link` headers lead to, all from one host. */
  async *#following(start: URL, request: PageRequest, first: Page): AsyncGenerator<Page> {
    const seen = new Set([start.href]);
    let url = start;
    for (let page = first; ; page = await this.#page(url, {...request, hasFallback: false})) {
      yield page;
      const link = nextLink(page.response.headers.link);
      if (link === undefined) return;
      url = nextPage(link, url, page.response.context);
      if (seen.has(url.href)) throw protocolError(page.response.context, 'the pages of the list go round in a circle');
      if (seen.size >= MAX_PAGES) throw protocolError(page.response.context, `more than ${MAX_PAGES} pages`);
      seen.add(url.href);
    }
  }

  async #page(url: URL, {what, scope, accept, signal, hasFallback}: PageRequest): Promise<Page> {
    const collector = new BodyCollector();
    const response = await this.#client.send({
      what,
      method: 'GET',
      url,
      headers: {accept},
      scope,
      signal,
      onBody: (head, context) => collector.start(head, MAX_PAGE_BYTES, context, `more than the ${MAX_PAGE_BYTES} B that a page may have`),
      restartable: true,
      hasFallback,
      digestVerified: false,
    });
    if (response.status >= 300) throw await this.#client.toError(response, scope);
    return {body: collector.body(), response};
  }

  async #referrers(
    ref: Reference,
    digest: Digest,
    {signal, forChange = false}: RegistryCallOptions & {readonly forChange?: boolean},
  ): Promise<readonly Descriptor[] | undefined> {
    const needed: readonly Capability[] = forChange ? ['pull', 'referrers', 'push'] : ['pull', 'referrers'];
    const what = `referrers of ${formatReference({domain: ref.domain, path: ref.path, digest})}`;
    try {
      const {url, request, page} = await this.#eachHost(ref.domain, what, signal, needed, async (host, hasFallback) => {
        const url = urlOf(host, `/${ref.path}/referrers/${digest}`);
        const request = {what, scope: pullScope(host, ref), accept: OCI_INDEX, signal, hasFallback};
        const page = await this.#page(url, request);
        // A web server answers every path with a page of its own.
        if (mediaTypeOf(page.response) !== OCI_INDEX) throw protocolError(page.response.context, 'no index', {code: 'not_implemented'});
        return {url, request, page};
      });
      const found: Descriptor[] = [];
      for await (const {body} of this.#following(url, request, page))
        found.push(...parseIndex(body, {mediaType: OCI_INDEX, digest, size: body.length}).manifests);
      return found;
    } catch (err) {
      if (hasCode(err, 'not_found') || hasCode(err, 'not_implemented')) return undefined;
      throw err;
    }
  }

  async #stat(ref: Reference, digest: Digest, {signal}: RegistryCallOptions): Promise<Descriptor> {
    const what = `fetch ${formatReference({domain: ref.domain, path: ref.path, digest})}`;
    return this.#eachHost(ref.domain, what, signal, ['pull'], async (host, hasFallback) => {
      const scope = pullScope(host, ref);
      const head = (under: 'blobs' | 'manifests'): Promise<HttpResponse> =>
        this.#client.send({
          what,
          method: 'HEAD',
          url: urlOf(host, `/${ref.path}/${under}/${digest}`),
          headers: {accept: under === 'blobs' ? '*/*' : MANIFEST_ACCEPT},
          scope,
          signal,
          onBody: () => () => undefined,
          restartable: true,
          hasFallback,
          digestVerified: true,
        });
      const blob = await head('blobs');
      const response = blob.status === 404 ? await head('manifests') : blob;
      if (response.status >= 300) throw await this.#client.toError(response, scope);
      const size = contentLength(response);
      if (size === undefined) throw protocolError(response.context, 'a response without Content-Length');
      return {mediaType: response === blob ? 'application/octet-stream' : mediaTypeOf(response), digest, size};
    });
  }

  async #delete(ref: Reference, target: string, {signal}: RegistryCallOptions): Promise<void> {
    const {domain, path} = ref;
    const what = `delete ${domain}/${path}${target.includes(':') ? '@' : ':'}${target}`;
    await this.#eachHost(domain, what, signal, ['push'], async (host) => {
      const scope = deleteScope(host, ref);
      const response = await this.#client.send({
        what,
        method: 'DELETE',
        url: urlOf(host, `/${path}/manifests/${target}`),
        scope,
        signal,
        onBody: () => () => undefined,
        restartable: true,
        digestVerified: false,
      });
      // An earlier attempt whose response was lost.
      if (response.status < 300 || (response.status === 404 && response.context.attempt > 1)) return;
      throw await this.#client.toError(response, scope);
    });
  }
}

/** @throws failed_precondition not `{"<key>": ["name", …]}`; `null` stands for an empty list */
function namesOf(body: Buffer, key: string, context: RequestContext): readonly string[] {
  let value: unknown;
  try {
    value = (JSON.parse(body.toString()) as Record<string, unknown> | null)?.[key];
  } catch (err) {
    throw protocolError(context, 'the list is not JSON', {cause: err});
  }
  const names = value ?? [];
  if (!Array.isArray(names) || names.some((name) => typeof name !== 'string')) throw protocolError(context, `the list has no ${key}`);
  return names as readonly string[];
}

/**
 * The URL of the next page. A registry behind a proxy may write another scheme or port; its own origin is asked all the same.
 *
 * @throws failed_precondition it leads to another host
 */
function nextPage(link: string, from: URL, context: RequestContext): URL {
  const target = URL.parse(link, from.href);
  if (target === null || target.hostname !== from.hostname)
    throw protocolError(context, `the next page of the list is at ${target === null ? 'no URL' : target.host}, another host`);
  const next = new URL(target.pathname + target.search, from.origin);
  const ns = from.searchParams.get('ns');
  if (ns !== null) next.searchParams.set('ns', ns);
  return next;
}
