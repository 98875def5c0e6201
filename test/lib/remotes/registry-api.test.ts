/** Lists of tags and repositories over pages, the size of a blob, referrers and deletion, at a server that answers as the test says. */
import assert from 'node:assert/strict';
import {once} from 'node:events';
import {createServer, type IncomingMessage} from 'node:http';
import type {AddressInfo} from 'node:net';
import {describe, it, type TestContext} from 'node:test';
import {isErrdefs} from '../../../src/lib/errdefs.ts';
import type {Digest} from '../../../src/lib/oci/descriptor.ts';
import {OCI_INDEX} from '../../../src/lib/oci/mediatypes.ts';
import {openRemote, type Remote} from '../../../src/lib/remotes/index.ts';
import {nextLink} from '../../../src/lib/remotes/registry-api.ts';
import {randomOf} from '../../fuzz/seeded-random.ts';
import {is, onEnd, SAMPLE, TORTURE} from '../../support/helpers.ts';

interface Answer {
  readonly status?: number;
  readonly headers?: Readonly<Record<string, string>>;
  readonly body?: unknown;
}

interface Server {
  readonly domain: string;
  readonly url: string;
  readonly requests: string[];
  readonly remote: Remote;
}

/** A server that answers with JSON, and a remote for it. */
async function serve(t: TestContext, answer: (url: URL, request: IncomingMessage) => Answer): Promise<Server> {
  const requests: string[] = [];
  const server = createServer((request, response) => {
    requests.push(`${request.method} ${request.url}`);
    const {status = 200, headers = {}, body} = answer(new URL(request.url!, 'http://x'), request);
    const text = body === undefined ? '' : typeof body === 'string' ? body : JSON.stringify(body);
    response.writeHead(status, {'content-type': 'application/json', 'content-length': String(Buffer.byteLength(text)), ...headers});
    response.end(request.method === 'HEAD' ? '' : text);
  });
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  const domain = `127.0.0.1:${(server.address() as AddressInfo).port}`;
  const remote = openRemote({plainHTTP: true, backoffMs: 1});
  onEnd(t, async () => {
    await remote.close();
    server.close();
    server.closeAllConnections();
  });
  return {domain, url: `http://${domain}`, requests, remote};
}

async function collect<T>(source: AsyncIterable<T>): Promise<T[]> {
  const all: T[] = [];
  for await (const item of source) all.push(item);
  return all;
}

const DIGEST = `sha256:${'a'.repeat(64)}` as Digest;

describe('lists over pages', () => {
  it('are those of the server, whatever its pages and links', async (t) => {
    for (let round = 0; round < (TORTURE ? 1000 : 40); round++) {
      const {below} = randomOf(SAMPLE, round);
      const names = Array.from({length: below(40)}, (_, i) => `t${i}-${below(1000)}`);
      const most = 1 + below(12);
      const form = below(4);
      const {domain, url, remote, requests} = await serve(t, ({pathname, searchParams}) => {
        const asked = Number(searchParams.get('n') ?? most);
        const start = searchParams.has('last') ? names.indexOf(searchParams.get('last')!) + 1 : 0;
        const end = start + Math.min(asked, most);
        const page = names.slice(start, end);
        const next = `${pathname}?n=${asked}&last=${page.at(-1)}`;
        const link = [
          `<${next}>; rel="next"`,
          `<${url}${next}>; rel=next`,
          `<//x>; rel="prev", <${next}>; type="a"; rel="next"`,
          `<https://${domain}${next}>;rel="next"`,
        ][form]!;
        const list = pathname.endsWith('_catalog') ? 'repositories' : 'tags';
        return {body: {name: 'app', [list]: names.length === 0 ? null : page}, headers: end < names.length ? {link} : {}};
      });
      assert.deepEqual(await collect(remote.api({domain, path: 'team/app'}).tags()), names);
      assert.deepEqual(await collect(remote.catalog(domain)), names);
      const limit = 1 + below(45);
      requests.length = 0;
      assert.deepEqual(await collect(remote.api({domain, path: 'team/app'}).tags({limit})), names.slice(0, limit));
      assert.ok(
        requests.length <= Math.ceil(limit / Math.min(limit, most)) + 1,
        `${requests.length} requests for ${limit} of ${most} each`,
      );
    }
  });

  it('are asked for page by page, as they are consumed', async (t) => {
    const {domain, remote, requests} = await serve(t, ({searchParams}) => {
      const n = Number(searchParams.get('page') ?? 0);
      return {body: {tags: [`t${n}`]}, headers: {link: `</v2/app/tags/list?page=${n + 1}>; rel="next"`}};
    });
    const seen: string[] = [];
    for await (const tag of remote.api({domain, path: 'app'}).tags()) {
      seen.push(tag);
      if (seen.length === 3) break;
    }
    assert.deepEqual(seen, ['t0', 't1', 't2']);
    assert.equal(requests.length, 3);
  });

  it('end with an error where pages go round in a circle, or lead to another host', async (t) => {
    for (const [link, message] of [
      ['</v2/app/tags/list?page=1>; rel="next"', /circle/],
      ['<http://other.example/v2/app/tags/list>; rel="next"', /other\.example, another host/],
      ['<http://[>; rel="next"', /no URL/],
    ] as const) {
      const {domain, remote, requests} = await serve(t, () => ({body: {tags: ['a']}, headers: {link}}));
      await assert.rejects(collect(remote.api({domain, path: 'app'}).tags()), (err) => {
        is('failed_precondition')(err);
        assert.match((err as Error).message, message);
        return true;
      });
      assert.ok(requests.length <= 2);
    }
  });

  it('that are not lists of names are refused', async (t) => {
    for (const body of ['', '<html>', '[]', {tags: 'a'}, {tags: [1]}, {tags: {}}]) {
      const {domain, remote} = await serve(t, () => ({body}));
      const listing = collect(remote.api({domain, path: 'app'}).tags());
      if (body === '[]') assert.deepEqual(await listing, []);
      else await assert.rejects(listing, is('failed_precondition'));
    }
  });

  it('are asked for without a number where the registry refuses ours', async (t) => {
    const {domain, remote, requests} = await serve(t, ({searchParams}) =>
      searchParams.has('n')
        ? {status: 400, body: {errors: [{code: 'PAGINATION_NUMBER_INVALID', message: 'too many'}]}}
        : {body: {repositories: ['a', 'b']}},
    );
    assert.deepEqual(await collect(remote.catalog(domain)), ['a', 'b']);
    assert.deepEqual(requests, ['GET /v2/_catalog?n=1000', 'GET /v2/_catalog']);
  });
});

describe('a Link header', () => {
  for (const [header, expected] of [
    ['<a>; rel="next"', 'a'],
    ['<a>;rel=next', 'a'],
    ['<a>; title="x"; rel="next"', 'a'],
    ['<a>; REL="NEXT"', 'a'],
    ['<a>', undefined],
    ['<a>; rel="prev"', undefined],
    ['<a>; rel="prev", <b>; rel="next"', 'b'],
    ['<a>; rel="nextish"', undefined],
    ['', undefined],
    [undefined, undefined],
    [['<a>; rel="prev"', '<b>; rel="next"'], 'b'],
  ] as const)
    it(`${JSON.stringify(header)} leads to ${expected}`, () => assert.equal(nextLink(header), expected));
});

describe('referrers', () => {
  const entry = (n: number) => ({
    mediaType: 'application/vnd.oci.image.manifest.v1+json',
    digest: `sha256:${String(n).padStart(64, '0')}`,
    size: n,
  });

  it('are those of all pages', async (t) => {
    const {domain, remote} = await serve(t, ({searchParams}) => {
      const n = Number(searchParams.get('page') ?? 0);
      return {
        body: {schemaVersion: 2, mediaType: OCI_INDEX, manifests: [entry(2 * n), entry(2 * n + 1)]},
        headers: {'content-type': OCI_INDEX, ...(n < 4 ? {link: `</v2/app/referrers/${DIGEST}?page=${n + 1}>; rel="next"`} : {})},
      };
    });
    const found = await remote.api({domain, path: 'app'}).referrers(DIGEST);
    assert.deepEqual(
      found?.map(({size}) => size),
      [0, 1, 2, 3, 4, 5, 6, 7, 8, 9],
    );
  });

  it('are unknown where the registry does not have the API', async (t) => {
    for (const answer of [{status: 404}, {status: 405}, {status: 501}, {body: '<html>', headers: {'content-type': 'text/html'}}]) {
      const {domain, remote} = await serve(t, () => answer);
      assert.equal(await remote.api({domain, path: 'app'}).referrers(DIGEST), undefined, JSON.stringify(answer));
    }
  });

  it('are a failure where the registry fails', async (t) => {
    for (const [status, code] of [
      [401, 'unauthenticated'],
      [403, 'permission_denied'],
      [500, 'unavailable'],
    ] as const) {
      const {domain, remote} = await serve(t, () => ({status}));
      await assert.rejects(remote.api({domain, path: 'app'}).referrers(DIGEST), is(code));
    }
  });
});

describe('the size of a blob', () => {
  it('is that of a manifest, where it is none', async (t) => {
    const {domain, remote, requests} = await serve(t, ({pathname}) =>
      pathname.includes('/manifests/') ? {body: 'x'.repeat(7), headers: {'content-type': OCI_INDEX}} : {status: 404},
    );
    assert.deepEqual(await remote.api({domain, path: 'app'}).stat(DIGEST), {mediaType: OCI_INDEX, digest: DIGEST, size: 7});
    assert.deepEqual(requests, [`HEAD /v2/app/blobs/${DIGEST}`, `HEAD /v2/app/manifests/${DIGEST}`]);
  });

  it('that is neither is not found', async (t) => {
    const {domain, remote} = await serve(t, () => ({status: 404}));
    await assert.rejects(remote.api({domain, path: 'app'}).stat(DIGEST), is('not_found'));
  });
});

describe('deletion', () => {
  it('succeeds with each status of success, and names the reason of a failure', async (t) => {
    for (const [status, code] of [
      [202, undefined],
      [200, undefined],
      [204, undefined],
      [404, 'not_found'],
      [405, 'not_implemented'],
      [403, 'permission_denied'],
    ] as const) {
      const {domain, remote, requests} = await serve(t, () => ({status}));
      const deleting = remote.api({domain, path: 'app'}).delete(DIGEST);
      if (code === undefined) await deleting;
      else await assert.rejects(deleting, is(code));
      assert.deepEqual(requests, [`DELETE /v2/app/manifests/${DIGEST}`]);
    }
  });

  it('whose response was lost is no failure', async (t) => {
    let asked = 0;
    const {domain, remote} = await serve(t, (_, request) => {
      if (asked++ === 0) request.socket.destroy();
      return {status: 404};
    });
    await remote.api({domain, path: 'app'}).delete(DIGEST);
    assert.equal(asked, 2);
    await assert.rejects(remote.api({domain, path: 'app'}).delete(DIGEST), (err) => isErrdefs(err) && err.code === 'not_found');
  });
});
