import assert from 'node:assert/strict';
import {randomBytes} from 'node:crypto';
import {describe, it, type TestContext} from 'node:test';
import {setTimeout as sleep} from 'node:timers/promises';
import type {Descriptor, Digest} from '../../../src/lib/oci/descriptor.ts';
import {DOCKER_FOREIGN_LAYER, OCI_INDEX, OCI_LAYER, OCI_MANIFEST} from '../../../src/lib/oci/mediatypes.ts';
import {foreignSources} from '../../../src/lib/remotes/fetch.ts';
import {openRemote, type RemoteOptions} from '../../../src/lib/remotes/index.ts';
import {digestOf, type Fault, startFakeRegistry} from '../../fakes/registry.ts';
import {streamed} from '../../suites/resolver.ts';
import {is, onEnd} from '../../support/helpers.ts';

const SIZE = 300_000;

async function open(t: TestContext, options: RemoteOptions = {}) {
  const registry = await startFakeRegistry(t);
  const bytes = randomBytes(SIZE);
  const desc: Descriptor = registry.addBlob(bytes, OCI_LAYER);
  const remote = openRemote({backoffMs: 1, ...options});
  onEnd(t, () => remote.close());
  return {registry, remote, bytes, desc, fetcher: remote.fetcher({domain: registry.host, path: 'team/app'})};
}

type Failure = Error & {details: Record<string, unknown>};

describe('a stream that breaks', () => {
  for (const [title, fault] of [
    ['is cut', {truncateAt: 100_000, times: 2}],
    ['is reset', {resetAt: 100_000, times: 2}],
    ['stalls', {stallAt: 100_000, times: 2}],
    ['is cut without a length', {chunked: true, truncateAt: 100_000, times: 2}],
  ] as const satisfies readonly (readonly [string, Fault])[])
    it(`${title} goes on at the next byte`, async (t) => {
      const {registry, bytes, desc, fetcher} = await open(t, {stallTimeoutMs: 200});
      registry.fault(fault);
      assert.ok((await streamed(fetcher, desc)).equals(bytes));
      assert.deepEqual(
        registry.requests.map(({range}) => range),
        [undefined, 'bytes=100000-', 'bytes=200000-'],
      );
      assert.equal(registry.bytesSent(), SIZE, 'and no byte is sent twice');
    });
  it('continues at the offset of the caller', async (t) => {
    const {registry, bytes, desc, fetcher} = await open(t);
    registry.fault({truncateAt: 1000, times: 1});
    assert.ok((await streamed(fetcher, desc, 5)).equals(bytes.subarray(5)));
    assert.deepEqual(
      registry.requests.map(({range}) => range),
      ['bytes=5-', 'bytes=1005-'],
    );
  });
  it('skips bytes that it has if the registry ignores Range', async (t) => {
    const {registry, bytes, desc, fetcher} = await open(t);
    registry.fault({truncateAt: 100_000, times: 1});
    registry.fault({ignoreRange: true});
    assert.ok((await streamed(fetcher, desc)).equals(bytes));
  });
  it('skips bytes that it has if the registry refuses ranges', async (t) => {
    const {registry, bytes, desc, fetcher} = await open(t);
    registry.fault({truncateAt: 100_000, times: 1});
    registry.fault({status: 416, times: 1});
    assert.ok((await streamed(fetcher, desc)).equals(bytes));
    assert.deepEqual(
      registry.requests.map(({range}) => range),
      [undefined, 'bytes=100000-', undefined],
    );
  });
  it('is unavailable after three attempts without a byte, and reports its progress', async (t) => {
    const {registry, desc, fetcher} = await open(t);
    registry.fault({truncateAt: 100_000, times: 1});
    registry.fault({truncateAt: 0});
    await assert.rejects(streamed(fetcher, desc), (err: Failure) => {
      is('unavailable')(err);
      assert.match(err.message, /100000 of 300000 B/);
      assert.deepEqual([err.details.bytesDone, err.details.attempt, err.details.host], [100_000, 4, registry.host]);
      return true;
    });
    assert.equal(registry.requests.length, 4);
  });
  it('may break any number of times as long as it makes progress', async (t) => {
    const {registry, bytes, desc, fetcher} = await open(t);
    registry.fault({truncateAt: 20_000});
    assert.ok((await streamed(fetcher, desc)).equals(bytes));
    assert.equal(registry.requests.length, 15);
  });
  it('that only trickles counts as stalled', async (t) => {
    const {registry, desc, fetcher} = await open(t, {stallTimeoutMs: 150});
    registry.fault({trickle: {bytes: 100, everyMs: 20}});
    await assert.rejects(streamed(fetcher, desc), (err: Failure) => {
      is('unavailable')(err);
      assert.match(err.message, /stalled/);
      return true;
    });
    assert.ok(registry.requests.length <= 4);
  });
  it('with a slow sink does not count as stalled', async (t) => {
    const {registry, bytes, desc, fetcher} = await open(t, {stallTimeoutMs: 500});
    const chunks: Buffer[] = [];
    const sink = async (chunk: Buffer): Promise<void> => {
      if (chunks.length === 0) await sleep(1500);
      chunks.push(chunk);
    };
    await fetcher.stream(desc, sink, {offset: 0});
    assert.ok(Buffer.concat(chunks).equals(bytes));
    assert.equal(registry.requests.length, 1);
  });
  it('while its sink is busy loses nothing of what has arrived', async (t) => {
    const {registry, bytes, desc, fetcher} = await open(t);
    registry.fault({truncateAt: 100_000, times: 2});
    const chunks: Buffer[] = [];
    let running = 0;
    const sink = async (chunk: Buffer): Promise<void> => {
      assert.equal(++running, 1);
      await sleep(60);
      chunks.push(chunk);
      running--;
    };
    await fetcher.stream(desc, sink, {offset: 0});
    assert.ok(Buffer.concat(chunks).equals(bytes));
  });
  it('before its answer is asked for again', async (t) => {
    const {registry, bytes, desc, fetcher} = await open(t, {stallTimeoutMs: 200});
    registry.fault({status: 503, times: 2});
    registry.fault({stallAt: -1, times: 1});
    assert.ok((await streamed(fetcher, desc)).equals(bytes));
    assert.equal(registry.requests.length, 4);
  });
});

describe('a stream whose registry restarts', () => {
  it('continues at the next byte when the registry is back', async (t) => {
    const {registry, bytes, desc, fetcher} = await open(t, {backoffMs: 100});
    registry.fault({restartAt: 100_000, restartMs: 400, times: 1});
    assert.ok((await streamed(fetcher, desc)).equals(bytes));
    assert.deepEqual(
      registry.requests.map(({range}) => range),
      [undefined, 'bytes=100000-'],
    );
  });
  it('is retried as often as a broken connection', async (t) => {
    const {registry, desc, fetcher} = await open(t, {backoffMs: 1});
    registry.fault({restartAt: 100_000, restartMs: 60_000, times: 1});
    const ended = assert.rejects(streamed(fetcher, desc), (err: Failure) => {
      is('unavailable')(err);
      assert.deepEqual([err.details.errno, err.details.attempt], ['ECONNREFUSED', 5]);
      return true;
    });
    await ended;
  });
  it('is not retried if the registry never answered', async (t) => {
    const {registry, desc, fetcher} = await open(t, {backoffMs: 10_000});
    await registry.close();
    await assert.rejects(streamed(fetcher, desc), is('unavailable'));
  });
});

describe('a stream whose first byte', () => {
  for (const stallTimeoutMs of [1000, 0])
    it(`takes long comes, with a stall timeout of ${stallTimeoutMs} ms`, async (t) => {
      const {registry, bytes, desc, fetcher} = await open(t, {stallTimeoutMs});
      registry.fault({delayMs: 500});
      assert.ok((await streamed(fetcher, desc)).equals(bytes));
      assert.equal(registry.requests.length, 1);
    });
});

describe('a stream whose range is answered with another one', () => {
  for (const [title, range] of [
    ['that begins before', `bytes 99-${SIZE - 1}/${SIZE}`],
    ['that begins after', `bytes 101-${SIZE - 1}/${SIZE}`],
    ['that ends after the end', `bytes 100-${SIZE}/${SIZE}`],
    ['of another total', `bytes 100-${SIZE - 1}/${SIZE + 1}`],
    ['that cannot be read', 'bytes 100-'],
    ['without its place', null],
  ] as const)
    it(`${title} comes whole from the beginning, and what is here is skipped`, async (t) => {
      const {registry, bytes, desc, fetcher} = await open(t);
      registry.fault({times: 1, headers: {'content-range': range}});
      assert.ok((await streamed(fetcher, desc, 100)).equals(bytes.subarray(100)));
      assert.deepEqual(
        registry.requests.map((request) => request.range),
        ['bytes=100-', undefined],
      );
    });
  it('for ever ends as a protocolError', async (t) => {
    const {registry, desc, fetcher} = await open(t);
    registry.fault({status: 206, headers: {'content-range': `bytes 99-${SIZE - 1}/${SIZE}`}});
    await assert.rejects(streamed(fetcher, desc, 100), is('failed_precondition'));
    assert.equal(registry.requests.length, 2);
  });
});

describe('a stream refuses', () => {
  for (const [title, fault, offset] of [
    ['a refused range of another total', {status: 416, headers: {'content-range': 'bytes */77'}}, 100],
    ['a longer blob', {body: (right: Buffer) => Buffer.concat([right, right]), headers: {'content-length': String(2 * SIZE)}}, 0],
    ['a longer blob that hides its length', {chunked: true, body: (right: Buffer) => Buffer.concat([right, right])}, 0],
    ['a shorter blob', {body: (right: Buffer) => right.subarray(1), headers: {'content-length': String(SIZE - 1)}}, 0],
    ['an encoding', {headers: {'content-encoding': 'gzip'}}, 0],
  ] as const satisfies readonly (readonly [string, Fault, number])[])
    it(title, async (t) => {
      const {registry, desc, fetcher} = await open(t);
      registry.fault(fault);
      let got = 0;
      const stream = fetcher.stream(
        desc,
        (chunk) => {
          got += chunk.length;
        },
        {offset},
      );
      await assert.rejects(stream, is('failed_precondition'));
      assert.ok(got <= SIZE - offset, 'and never gives more than was promised');
      assert.equal(registry.requests.length, 1);
    });
  it('to go on for ever with a blob that only ever is too short', async (t) => {
    const {registry, desc, fetcher} = await open(t);
    registry.fault({chunked: true, ignoreRange: true, body: (right) => right.subarray(0, 1000)});
    await assert.rejects(streamed(fetcher, desc), is('unavailable'));
    assert.equal(registry.requests.length, 4);
  });
  it('a partial answer that it did not ask for, unless it begins at the beginning', async (t) => {
    const {registry, bytes, desc, fetcher} = await open(t);
    registry.fault({times: 1, status: 206, headers: {'content-range': `bytes 5-${SIZE - 1}/${SIZE}`}});
    await assert.rejects(streamed(fetcher, desc), is('failed_precondition'));
    assert.ok((await streamed(fetcher, desc)).equals(bytes));
  });
});

describe('a stream', () => {
  it('of nothing more asks for nothing', async (t) => {
    const {registry, desc, fetcher} = await open(t);
    assert.equal((await streamed(fetcher, desc, SIZE)).length, 0);
    const empty: Descriptor = {mediaType: OCI_LAYER, size: 0, digest: digestOf(Buffer.alloc(0))};
    assert.equal((await streamed(fetcher, empty)).length, 0);
    assert.deepEqual(registry.requests, []);
  });
  it('takes what a range of unknown total brings', async (t) => {
    const {registry, bytes, desc, fetcher} = await open(t);
    registry.fault({headers: {'content-range': `bytes 100-${SIZE - 1}/*`}});
    assert.ok((await streamed(fetcher, desc, 100)).equals(bytes.subarray(100)));
  });
  it('has connections of its own, that are used again', async (t) => {
    const {registry, desc, fetcher} = await open(t, {plainHTTP: true});
    for (let i = 0; i < 3; i++) await Promise.all([streamed(fetcher, desc), streamed(fetcher, desc), streamed(fetcher, desc)]);
    assert.equal(registry.connections, 3);
  });
  it('pauses its socket while the sink is busy', async (t) => {
    const {registry, remote} = await open(t);
    const bytes = Buffer.alloc(64 << 20, 7);
    const desc = registry.addBlob(bytes, OCI_LAYER);
    registry.fault({trickle: {bytes: 1 << 20, everyMs: 0}});
    let release: () => void = () => undefined;
    const held = new Promise<void>((resolve) => {
      release = resolve;
    });
    let got = 0;
    let calls = 0;
    const stream = remote.fetcher({domain: registry.host, path: 'a'}).stream(
      desc,
      (chunk) => {
        calls++;
        got += chunk.length;
        return held;
      },
      {offset: 0},
    );
    while (calls === 0) await sleep(10);
    await sleep(500);
    assert.equal(calls, 1);
    assert.ok(registry.bytesSent() <= 32 << 20, 'what fits into sockets, and no more');
    release();
    await stream;
    assert.equal(got, bytes.length);
  });
});

describe('bytes', () => {
  it('that break off are asked for again', async (t) => {
    const {registry, bytes, desc, fetcher} = await open(t, {stallTimeoutMs: 200});
    registry.fault({truncateAt: 1000, times: 1});
    registry.fault({resetAt: 1000, times: 1});
    registry.fault({stallAt: 1000, times: 1});
    assert.ok((await fetcher.bytes(desc, {limit: SIZE})).equals(bytes));
  });
  for (const [title, fault] of [
    ['of another digest', {body: (right: Buffer) => Buffer.concat([Buffer.from([right[0]! ^ 1]), right.subarray(1)])}],
    ['of another length', {body: (right: Buffer) => right.subarray(1), headers: {'content-length': String(SIZE - 1)}}],
    ['that are fewer, without a length', {chunked: true, body: (right: Buffer) => right.subarray(1)}],
    ['that are more, without a length', {chunked: true, body: (right: Buffer) => Buffer.concat([right, right])}],
    ['in an encoding', {headers: {'content-encoding': 'br'}}],
  ] as const satisfies readonly (readonly [string, Fault])[])
    it(`${title} are refused, once`, async (t) => {
      const {registry, desc, fetcher} = await open(t);
      registry.fault(fault);
      await assert.rejects(fetcher.bytes(desc, {limit: SIZE}), is('failed_precondition'));
      assert.equal(registry.requests.length, 1);
    });
  it('above the limit are not asked for', async (t) => {
    const {registry, desc, fetcher} = await open(t);
    await assert.rejects(fetcher.bytes(desc, {limit: SIZE - 1}), is('failed_precondition'));
    assert.deepEqual(registry.requests, []);
  });
  it('of documents come from where documents are, of others from where blobs are', async (t) => {
    const {registry, fetcher} = await open(t);
    const manifest = registry.addManifest('team/app', {schemaVersion: 2}, OCI_MANIFEST);
    const index = registry.addManifest('team/app', {schemaVersion: 2, manifests: []}, OCI_INDEX);
    const other = registry.addBlob(Buffer.from('?'), 'application/x');
    for (const desc of [manifest, index, other]) await fetcher.bytes(desc, {limit: 1000});
    assert.deepEqual(
      registry.requests.map(({path}) => path.split('/')[4]),
      ['manifests', 'manifests', 'blobs'],
    );
  });
  it('are verified by the algorithm of their digest', async (t) => {
    const {registry, fetcher} = await open(t);
    for (const algorithm of ['sha384', 'sha512']) {
      const desc = registry.addBlob(Buffer.from('abc'), 'application/x', algorithm);
      assert.equal((await fetcher.bytes(desc, {limit: 3})).toString(), 'abc');
      const wrong = `${desc.digest.slice(0, -1)}${desc.digest.endsWith('0') ? 1 : 0}` as Digest;
      registry.fault({path: new RegExp(wrong), redirect: `/v2/team/app/blobs/${desc.digest}`});
      await assert.rejects(fetcher.bytes({...desc, digest: wrong}, {limit: 3}), is('failed_precondition'));
    }
  });
});

describe('the URLs of a foreign layer', () => {
  const elsewhere = async (t: TestContext, options: RemoteOptions = {allowForeign: true}) => {
    const opened = await open(t, options);
    const other = await startFakeRegistry(t);
    const bytes = randomBytes(SIZE);
    const there = other.addBlob(bytes, DOCKER_FOREIGN_LAYER);
    return {...opened, other, bytes, desc: {...there, urls: [`${other.url}/v2/x/blobs/${there.digest}`]}};
  };
  it('are where it comes from, if the registry does not have it', async (t) => {
    const {registry, other, bytes, desc, fetcher} = await elsewhere(t);
    other.fault({truncateAt: 1000, times: 1});
    assert.ok((await streamed(fetcher, desc)).equals(bytes));
    assert.deepEqual([registry.requests.length, other.requests.length], [1, 2]);
  });
  it('are not asked for what the registry has', async (t) => {
    for (const allowForeign of [false, true]) {
      const {registry, other, bytes, desc, fetcher} = await elsewhere(t, {allowForeign});
      registry.addBlob(bytes);
      assert.ok((await streamed(fetcher, desc)).equals(bytes));
      assert.deepEqual(other.requests, []);
    }
  });
  it('are not followed unless that is allowed', async (t) => {
    const {other, desc, fetcher} = await elsewhere(t, {});
    await assert.rejects(streamed(fetcher, desc), (err: Failure & {hint?: string}) => {
      is('failed_precondition')(err);
      assert.ok(err.message.includes(desc.digest));
      assert.equal(err.hint, `fetch it from ${other.host} with --allow-foreign`);
      return true;
    });
    assert.deepEqual(other.requests, []);
  });
  it('are not followed when the registry cannot be asked', async (t) => {
    const {registry, other, desc, fetcher} = await elsewhere(t);
    for (const [status, code] of [
      [500, 'unavailable'],
      [429, 'resource_exhausted'],
    ] as const) {
      registry.clear();
      registry.fault({status});
      await assert.rejects(streamed(fetcher, desc), is(code));
    }
    assert.deepEqual(other.requests, []);
  });
  it('are tried in order, from the byte that is missing', async (t) => {
    const {other, bytes, desc, fetcher} = await elsewhere(t);
    const last = await startFakeRegistry(t);
    last.addBlob(bytes);
    other.fault({truncateAt: 1000, times: 1});
    other.fault({status: 404});
    const urls = [...desc.urls, 'file:///etc/passwd', 'nonsense', `${last.url}/v2/x/blobs/${desc.digest}`];
    assert.ok((await streamed(fetcher, {...desc, urls})).equals(bytes));
    assert.equal(last.requests[0]?.range, 'bytes=1000-');
  });
  it('end with the sink, as the registry does', async (t) => {
    const {other, desc, fetcher} = await elsewhere(t);
    const mine = new Error('disk full');
    await assert.rejects(
      fetcher.stream(
        {...desc, urls: [...desc.urls, ...desc.urls]},
        () => {
          throw mine;
        },
        {offset: 0},
      ),
      (err) => err === mine,
    );
    assert.equal(other.requests.length, 1);
  });
  it('are web addresses', () => {
    const urls = ['https://a.example/x', 'http://b.example/', 'ftp://c.example/', 'file:///etc/passwd', '/x', ''];
    const desc: Descriptor = {mediaType: DOCKER_FOREIGN_LAYER, size: 1, digest: digestOf(Buffer.from('x')), urls};
    assert.deepEqual(
      foreignSources(desc).map(({url}) => url.href),
      urls.slice(0, 2),
    );
  });
  it('mean nothing for a layer that is not foreign', async (t) => {
    const {other, desc, fetcher} = await elsewhere(t);
    await assert.rejects(streamed(fetcher, {...desc, mediaType: OCI_LAYER}), is('not_found'));
    assert.deepEqual(other.requests, []);
  });
});

describe('content that a descriptor embeds', () => {
  it('is not fetched', async (t) => {
    const {registry, bytes, desc, fetcher} = await open(t);
    const embedded = {...desc, data: bytes.toString('base64')};
    assert.ok((await fetcher.bytes(embedded, {limit: SIZE})).equals(bytes));
    for (const offset of [0, 1, SIZE - 1]) assert.ok((await streamed(fetcher, embedded, offset)).equals(bytes.subarray(offset)));
    assert.deepEqual(registry.requests, []);
  });
  it('is fetched where its size or digest is another, or it is more than is allowed', async (t) => {
    const {registry, bytes, desc, fetcher} = await open(t);
    const wrong = Buffer.from(bytes);
    wrong[7]! ^= 1;
    for (const data of [wrong, bytes.subarray(1), Buffer.concat([bytes, bytes]), Buffer.alloc(0)]
      .map((b) => b.toString('base64'))
      .concat('?', '{}')) {
      registry.clear();
      assert.ok((await fetcher.bytes({...desc, data}, {limit: SIZE})).equals(bytes));
      assert.ok((await streamed(fetcher, {...desc, data})).equals(bytes));
      assert.equal(registry.requests.length, 2);
    }
    await assert.rejects(fetcher.bytes({...desc, data: bytes.toString('base64')}, {limit: 10}), is('failed_precondition'));
  });
});
