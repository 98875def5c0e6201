/** Pushes to a repository: mounts, uploads in one piece and in chunks, what goes on after a failure, and who gets credentials. */
import assert from 'node:assert/strict';
import {randomBytes} from 'node:crypto';
import {describe, it, type TestContext} from 'node:test';
import type {Descriptor} from '../../../src/lib/oci/descriptor.ts';
import {OCI_CONFIG, OCI_LAYER, OCI_MANIFEST} from '../../../src/lib/oci/mediatypes.ts';
import {openRemote, type Pusher, type RemoteOptions} from '../../../src/lib/remotes/index.ts';
import {eventually} from '../../e2e/fixtures.ts';
import {digestOf, type FakeOptions, type FakeRegistry, type Fault, startFakeRegistry} from '../../fakes/registry.ts';
import {is, onEnd} from '../../support/helpers.ts';
import {type Registry, sharedRegistry} from '../../support/registry.ts';

const MiB = 1 << 20;
const describing = (bytes: Buffer, mediaType: string): Descriptor => ({mediaType, digest: digestOf(bytes), size: bytes.length});

/** Streams bytes in chunks; counts how often and from where it was opened. */
function source(bytes: Buffer, chunk = 100_000) {
  const opened: number[] = [];
  return {
    opened,
    open: (offset: number) => {
      opened.push(offset);
      return (async function* () {
        for (let at = offset; at < bytes.length; at += chunk) yield bytes.subarray(at, Math.min(at + chunk, bytes.length));
      })();
    },
  };
}

function pusherOf(t: TestContext, {host}: Pick<FakeRegistry | Registry, 'host'>, path: string, options: RemoteOptions = {}): Pusher {
  const remote = openRemote({backoffMs: 1, ...options});
  onEnd(t, () => remote.close());
  return remote.pusher({domain: host, path, tag: 'v1'});
}

async function setup(t: TestContext, options: FakeOptions = {}, remote: RemoteOptions = {}) {
  const registry = await startFakeRegistry(t, options);
  const bytes = randomBytes(3 * MiB);
  return {registry, bytes, desc: describing(bytes, OCI_LAYER), pusher: pusherOf(t, registry, 'team/app', remote)};
}

const calls = ({requests}: FakeRegistry): string[] =>
  requests.map(
    ({method, path, status}) =>
      `${method} ${path
        .replace(/^\/v2\//, '')
        .replace(/[?].*|sha256:.*/, '')
        .replace(/uploads\/.+/, 'uploads/…')} ${status}`,
  );

const real = sharedRegistry();

describe('a pusher', () => {
  for (const kind of ['fake', 'fake with tokens', 'fake with a password', 'docker-registry'] as const)
    it(`puts blobs and manifests where they can be fetched: ${kind}`, async (t) => {
      const login = {username: 'me', password: 'open sesame'};
      const auth = ({'fake with tokens': 'token', 'fake with a password': 'basic'} as const)[kind as 'fake with tokens'];
      const registry =
        kind === 'docker-registry' ? await real(t) : await startFakeRegistry(t, auth === undefined ? {} : {auth: {kind: auth, login}});
      if (registry === undefined) return;
      const remote = openRemote({credentials: login});
      onEnd(t, () => remote.close());
      const ref = {domain: registry.host, path: 'new/app', tag: 'v1'};
      const pusher = remote.pusher(ref);
      const layers = [0, 1, 65_536, 3 * MiB].map((size) => randomBytes(size));
      const config = Buffer.from('{"architecture":"amd64","os":"linux"}');
      const blobs = [describing(config, OCI_CONFIG), ...layers.map((bytes) => describing(bytes, OCI_LAYER))];
      const outcomes = await Promise.all(blobs.map((desc, i) => pusher.blob(desc, source([config, ...layers][i]!).open)));
      assert.deepEqual(new Set(outcomes), new Set(['uploaded']));
      const [configured, ...layered] = blobs;
      const document = Buffer.from(
        JSON.stringify({schemaVersion: 2, mediaType: OCI_MANIFEST, config: configured, layers: layered}, undefined, 3),
      );
      const manifest = describing(document, OCI_MANIFEST);
      assert.equal(await pusher.exists(manifest, {tag: 'v1'}), false);
      await pusher.manifest(manifest, document, {tag: 'v1'});
      assert.equal(await pusher.exists(manifest, {tag: 'v1'}), true);
      assert.equal(await pusher.exists(manifest), true);
      assert.deepEqual((await remote.resolve(ref)).descriptor, manifest);
      const fetcher = remote.fetcher(ref);
      assert.ok((await fetcher.bytes(manifest, {limit: MiB})).equals(document));
      for (const [i, desc] of layered.entries())
        if (desc.size > 0) assert.ok((await fetcher.bytes(desc, {limit: 4 * MiB})).equals(layers[i]!));
      assert.equal(await pusher.blob(blobs[4]!, () => assert.fail('it is there')), 'exists');

      const other = remote.pusher({...ref, path: 'other/app'});
      assert.equal(await other.blob(blobs[4]!, () => assert.fail('it can be mounted'), {from: ['nobody/has', 'new/app']}), 'mounted');
      assert.equal(await other.exists(blobs[4]!), true);
    });

  it('asks for no more than the scopes it needs', async (t) => {
    const {registry, desc, bytes, pusher} = await setup(t, {auth: {kind: 'token'}});
    registry.addBlobTo('lib/base', bytes);
    assert.equal(await pusher.blob(desc, source(bytes).open, {from: ['lib/base']}), 'mounted');
    const scopes = registry.requests.flatMap(({path}) => {
      const {pathname, searchParams} = new URL(path, registry.url);
      return pathname === '/token' ? [searchParams.getAll('scope')] : [];
    });
    assert.deepEqual(scopes, [['repository:lib/base:pull', 'repository:team/app:pull,push']]);
  });

  for (const [why, fault, options] of [
    ['the repository has it not', undefined, {}],
    ['no token is given for the other repository', undefined, {auth: {kind: 'token', grants: (scope: string) => !scope.includes('lib/')}}],
    ...[400, 401, 403, 404, 405, 500, 503].map((status) => [`it is answered by ${status}`, {status}, {}] as const),
    ['it is redirected', {status: 307, redirect: 'http://127.0.0.1:1/'}, {}],
    ['the connection breaks', {resetAt: -1}, {}],
  ] as readonly (readonly [string, Fault | undefined, FakeOptions])[])
    it(`uploads where a mount fails because ${why}`, async (t) => {
      const {registry, desc, bytes, pusher} = await setup(t, options);
      if (why !== 'the repository has it not') registry.addBlobTo('lib/base', bytes);
      if (fault !== undefined) registry.fault({path: /mount=/, ...fault});
      assert.equal(await pusher.blob(desc, source(bytes).open, {from: ['lib/base']}), 'uploaded');
      assert.ok(registry.blobIn('team/app', desc.digest)?.equals(bytes));
    });

  for (const status of [429, 503])
    it(`waits with a mount as long as the registry asks to, for another request or for this one: ${status}`, async (t) => {
      for (const method of ['POST', 'HEAD'] as const) {
        const {registry, desc, bytes, pusher} = await setup(t);
        registry.addBlobTo('lib/base', bytes);
        registry.fault({method, status, headers: {'retry-after': '1'}, times: 1});
        const other = method === 'HEAD' ? pusher.exists(desc) : undefined;
        if (method === 'HEAD') await eventually('the cool-down', () => registry.requests.some((request) => request.status === status));
        assert.equal(await pusher.blob(desc, source(bytes).open, {from: ['lib/base']}), 'mounted');
        await other;
        assert.equal(registry.count('PUT'), 0);
      }
    });

  it('tells of each attempt that a manifest is on its way, before the answer', async (t) => {
    const {registry, pusher} = await setup(t);
    const document = Buffer.from('{"schemaVersion": 2}');
    const order: string[] = [];
    registry.fault({method: 'PUT', times: 1, status: 503});
    await pusher.manifest(describing(document, OCI_MANIFEST), document, {onSend: () => order.push('sent')});
    order.push('answered');
    assert.deepEqual(order, ['sent', 'sent', 'answered']);
  });

  it('takes an answer for the blob only where its digest or its length says so', async (t) => {
    for (const [digest, length, counts] of [
      ['right', 'right', true],
      ['right', null, true],
      [null, 'right', true],
      [null, null, false],
      [null, '0', false],
      [null, '17', false],
      ['wrong', null, false],
      ['no digest', null, false],
    ] as const) {
      const {registry, desc, bytes, pusher} = await setup(t);
      registry.fault({
        method: 'HEAD',
        status: 200,
        body: () => Buffer.alloc(0),
        headers: {
          'docker-content-digest': digest === 'right' ? desc.digest : digest === 'wrong' ? digestOf(Buffer.from('another')) : digest,
          'content-length': length === 'right' ? String(bytes.length) : length,
        },
      });
      assert.equal(await pusher.exists(desc), counts, `${digest}, ${length}`);
      assert.equal(await pusher.blob(desc, source(bytes).open), counts ? 'exists' : 'uploaded');
    }
  });

  it('asks first where the blob is expected, and mounts nothing then', async (t) => {
    const {registry, desc, bytes, pusher} = await setup(t);
    registry.addBlobTo('team/app', bytes);
    assert.equal(await pusher.blob(desc, source(bytes).open, {from: ['team/app', 'lib/base']}), 'exists');
    assert.deepEqual(calls(registry), ['HEAD team/app/blobs/ 200']);
  });

  for (const locations of ['relative', 'absolute'] as const)
    it(`goes on at ${locations} locations, with their query as it is`, async (t) => {
      const {registry, desc, bytes, pusher} = await setup(t, {locations, maxBody: MiB});
      assert.equal(await pusher.blob(desc, source(bytes).open), 'uploaded');
      assert.ok(registry.count('PATCH') >= 3, 'in chunks');
    });
});

describe('an upload', () => {
  it('goes in one piece, and is opened once', async (t) => {
    const {registry, desc, bytes, pusher} = await setup(t);
    const {open, opened} = source(bytes);
    const seen: number[] = [];
    await pusher.blob(desc, open, {onProgress: (offset) => void seen.push(offset)});
    assert.deepEqual(opened, [0]);
    assert.deepEqual(calls(registry), ['HEAD team/app/blobs/ 404', 'POST team/app/blobs/uploads/ 202', 'PUT team/app/blobs/uploads/… 201']);
    assert.deepEqual([seen.at(-1), seen.every((n, i) => i === 0 || n > seen[i - 1]!)], [bytes.length, true]);
  });

  for (const [maxBody, minChunk] of [
    [2 * MiB, undefined],
    [700_000, undefined],
    [300_000, 250_000],
    [70_000, 65_536],
  ] as const)
    it(`goes in chunks where requests may have ${maxBody} B and chunks ${minChunk ?? 0}`, async (t) => {
      const {registry, desc, bytes, pusher} = await setup(t, {maxBody, ...(minChunk === undefined ? {} : {minChunk})});
      const {open, opened} = source(bytes);
      assert.equal(await pusher.blob(desc, open), 'uploaded');
      assert.ok(registry.blobIn('team/app', desc.digest)?.equals(bytes));
      const patches = registry.requests.filter(({method, status}) => method === 'PATCH' && status === 202);
      assert.ok(patches.every(({bodySize}, i) => bodySize <= maxBody && (i === patches.length - 1 || bodySize >= (minChunk ?? 0))));
      assert.ok(
        opened.every((offset) => offset === 0),
        'chunks that follow each other come from one stream',
      );
    });

  it('fails where even the smallest chunk is too large, and says whose limit that is', async (t) => {
    const {desc, bytes, pusher} = await setup(t, {maxBody: 1000});
    await assert.rejects(
      pusher.blob(desc, source(bytes).open),
      (err: Error & {hint?: string}) =>
        is('resource_exhausted')(err) && /answered 413/.test(err.message) && /bounds the size/.test(err.hint!),
    );
  });

  for (const resumes of [true, false])
    it(`that breaks off goes on ${resumes ? 'from the byte that the registry has' : 'from its start where the registry has forgotten it'}`, async (t) => {
      const {registry, desc, bytes, pusher} = await setup(t, {resumes});
      registry.fault({method: 'PUT', readAt: 2 * MiB, resetAt: -1, times: 1});
      const {open, opened} = source(bytes);
      assert.equal(await pusher.blob(desc, open), 'uploaded');
      assert.equal(opened.length, 2);
      assert.ok(resumes ? opened[1]! >= 2 * MiB : opened[1] === 0, `from ${opened[1]}`);
      assert.ok(registry.blobIn('team/app', desc.digest)?.equals(bytes));
    });

  it('is done where only the answer to its end was lost', async (t) => {
    const {registry, desc, bytes, pusher} = await setup(t);
    registry.fault({method: 'PUT', path: /uploads/, resetAt: 0, times: 1});
    assert.equal(await pusher.blob(desc, source(bytes).open), 'uploaded');
    assert.equal(registry.count('PUT'), 1);
  });

  it('that breaks off for good is unavailable, and says how far it came', async (t) => {
    const {registry, desc, bytes, pusher} = await setup(t);
    registry.fault({method: 'PUT', readAt: MiB, resetAt: -1});
    registry.fault({method: 'PATCH', readAt: 1000, resetAt: -1});
    await assert.rejects(pusher.blob(desc, source(bytes).open), (err: Error) => is('unavailable')(err) && /of 3145728 B/.test(err.message));
    assert.ok(registry.requests.length < 30, String(registry.requests.length));
  });

  it('that the registry does not read is a stall, and begins again', async (t) => {
    const {registry, pusher} = await setup(t, {}, {stallTimeoutMs: 300});
    const large = randomBytes(32 * MiB);
    registry.fault({method: 'PUT', readAt: 1, stallAt: -1, times: 1});
    assert.equal(await pusher.blob(describing(large, OCI_LAYER), source(large).open), 'uploaded');
    assert.ok(registry.count('POST') > 1);
  });

  it('that the registry is slow to end is waited for', async (t) => {
    const {registry, pusher} = await setup(t, {}, {stallTimeoutMs: 1000});
    const small = randomBytes(1000);
    registry.fault({method: 'PUT', delayMs: 2000});
    assert.equal(await pusher.blob(describing(small, OCI_LAYER), source(small).open), 'uploaded');
    assert.equal(registry.count('PUT'), 1);
  });

  for (const [what, spoil] of [
    ['ends early', (bytes: Buffer) => bytes.subarray(0, -1)],
    ['is longer', (bytes: Buffer) => Buffer.concat([bytes, Buffer.alloc(1)])],
  ] as const)
    it(`of a source that ${what} is data loss, with no blob at the registry`, async (t) => {
      const {registry, desc, bytes, pusher} = await setup(t);
      await assert.rejects(pusher.blob(desc, source(spoil(bytes)).open), is('data_loss'));
      assert.equal(registry.blobIn('team/app', desc.digest), undefined);
    });

  it('of a source that fails at its very end is incomplete at the registry, and fails as the source does', async (t) => {
    const {registry, desc, bytes, pusher} = await setup(t);
    const failure = Object.assign(new Error('wrong'), {code: 'mine'});
    let ended = 0;
    const open = async function* () {
      try {
        yield* source(bytes).open(0);
        throw failure;
      } finally {
        ended++;
      }
    };
    await assert.rejects(pusher.blob(desc, open), (err) => err === failure);
    assert.equal(ended, 1);
    assert.equal(registry.blobIn('team/app', desc.digest), undefined);
    assert.equal(registry.count('PUT', /./) - registry.requests.filter(({method, status}) => method === 'PUT' && status !== 201).length, 0);
  });

  it('ends with its signal, and closes its source', async (t) => {
    const {registry, pusher} = await setup(t);
    const large = randomBytes(32 * MiB);
    registry.fault({method: 'PUT', readAt: 1, stallAt: -1});
    const abort = new AbortController();
    let closed = false;
    const open = async function* () {
      try {
        for (let at = 0; at < large.length; at += MiB) {
          if (at === 2 * MiB) abort.abort();
          yield large.subarray(at, at + MiB);
        }
      } finally {
        closed = true;
      }
    };
    await assert.rejects(pusher.blob(describing(large, OCI_LAYER), open, {signal: abort.signal}), is('canceled'));
    assert.equal(closed, true);
  });

  it('starts again where the registry has lost it or has got other bytes', async (t) => {
    for (const [status, code] of [
      [404, 'BLOB_UPLOAD_UNKNOWN'],
      [400, 'BLOB_UPLOAD_INVALID'],
      [400, 'DIGEST_INVALID'],
      [416, 'RANGE_INVALID'],
      [503, 'UNKNOWN'],
    ] as const) {
      const {registry, desc, bytes, pusher} = await setup(t);
      registry.fault({method: 'PUT', status, code, times: 1});
      assert.equal(await pusher.blob(desc, source(bytes).open), 'uploaded', code);
    }
  });

  it('ends where what was resumed is lost each time', async (t) => {
    const {registry, desc, bytes, pusher} = await setup(t, {resumes: true});
    registry.fault({method: 'PUT', readAt: 2 * MiB, resetAt: -1});
    registry.fault({method: 'PATCH', status: 404, code: 'BLOB_UPLOAD_UNKNOWN'});
    await assert.rejects(pusher.blob(desc, source(bytes).open));
    assert.ok(registry.count('PATCH', /./) > 1);
  });

  it('is refused as the registry says, with the next step', async (t) => {
    for (const [status, code, expected, hint] of [
      [403, 'DENIED', 'permission_denied', /./],
      [404, 'NAME_UNKNOWN', 'not_found', /created before the first push/],
      [401, 'UNAUTHORIZED', 'unauthenticated', /--user/],
    ] as const) {
      const {registry, desc, bytes, pusher} = await setup(t);
      registry.fault({method: 'POST', status, code});
      await assert.rejects(
        pusher.blob(desc, source(bytes).open),
        (err: Error & {hint?: string}) => is(expected)(err) && hint.test(err.hint ?? ''),
      );
    }
  });

  it('that is redirected keeps method and body, and takes no credentials along', async (t) => {
    const login = {username: 'me', password: 'open sesame'};
    const {registry, desc, bytes, pusher} = await setup(t, {auth: {kind: 'basic', login}}, {credentials: login});
    const elsewhere = await startFakeRegistry(t);
    const {host} = elsewhere;
    elsewhere.fault({method: 'PUT', status: 201, headers: {'docker-content-digest': desc.digest}});
    registry.fault({method: 'PUT', redirect: (request) => `http://${host}${request.url}`, times: 1});
    assert.equal(await pusher.blob(desc, source(bytes).open), 'uploaded');
    assert.deepEqual(
      elsewhere.requests.map(({method, bodySize, authorization}) => [method, bodySize, authorization]),
      [['PUT', bytes.length, undefined]],
    );
    registry.fault({method: 'PUT', status: 302, redirect: `http://${host}/`});
    const other = describing(randomBytes(10), OCI_LAYER);
    await assert.rejects(
      pusher.blob(other, () => source(randomBytes(10)).open(0)),
      is('failed_precondition'),
    );
    assert.equal(elsewhere.requests.length, 1, 'a redirect that would change the method is not followed');
  });

  it('goes to a location on another host without credentials', async (t) => {
    const login = {username: 'me', password: 'open sesame'};
    const {registry, desc, bytes, pusher} = await setup(t, {auth: {kind: 'basic', login}}, {credentials: login});
    const storage = await startFakeRegistry(t);
    storage.fault({method: 'PUT', status: 201});
    registry.fault({method: 'POST', status: 202, headers: {location: `${storage.url}/bucket/key?X-Sig=a%2Bb+c`}});
    // The fault answers every request alike; the first one has to be authorized.
    await assert.doesNotReject(pusher.exists(desc));
    assert.equal(await pusher.blob(desc, source(bytes).open), 'uploaded');
    assert.deepEqual(
      storage.requests.map(({path, authorization, bodySize}) => [path, authorization, bodySize]),
      [[`/bucket/key?X-Sig=a%2Bb+c&digest=${encodeURIComponent(desc.digest)}`, undefined, bytes.length]],
    );
  });

  it('waits as long as the registry asks to', async (t) => {
    const {registry, desc, bytes, pusher} = await setup(t);
    registry.fault({method: 'PUT', status: 429, headers: {'retry-after': '1'}, times: 1});
    assert.equal(await pusher.blob(desc, source(bytes).open), 'uploaded');
    const [first, second] = registry.requests.filter(({method}) => method === 'PUT');
    assert.ok(second!.at - first!.at >= 990);
  });
});

describe('uploads', () => {
  it('run as many at once as they may', async (t) => {
    const registry = await startFakeRegistry(t);
    const remote = openRemote();
    onEnd(t, () => remote.close());
    const pusher = remote.pusher({domain: registry.host, path: 'team/app'}, {maxConcurrentUploads: 2});
    let running = 0;
    let most = 0;
    const {promise: two, resolve} = Promise.withResolvers<void>();
    await Promise.all(
      Array.from({length: 6}, () => {
        const bytes = randomBytes(1000);
        return pusher.blob(describing(bytes, OCI_LAYER), async function* () {
          most = Math.max(most, ++running);
          if (running === 2) resolve();
          await two;
          yield bytes;
          running--;
        });
      }),
    );
    assert.equal(most, 2);
  });
});
