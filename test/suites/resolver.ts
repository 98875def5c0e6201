/** The contract of remotes, for any registry: resolve, fetch, stream. */
import assert from 'node:assert/strict';
import {randomBytes} from 'node:crypto';
import {describe, it, type TestContext} from 'node:test';
import {setTimeout as sleep} from 'node:timers/promises';
import type {Descriptor, Digest} from '../../src/lib/oci/descriptor.ts';
import {
  DOCKER_CONFIG,
  DOCKER_LAYER,
  DOCKER_MANIFEST,
  OCI_CONFIG,
  OCI_INDEX,
  OCI_LAYER,
  OCI_MANIFEST,
} from '../../src/lib/oci/mediatypes.ts';
import type {Reference} from '../../src/lib/oci/reference.ts';
import type {Fetcher, Remote} from '../../src/lib/remotes/index.ts';
import {digestOf} from '../fakes/registry.ts';
import {is, onEnd} from '../support/helpers.ts';

/** Blobs and documents of the repository. */
export interface Content {
  readonly blobs: readonly Buffer[];
  /** In order: a document follows those that it refers to. */
  readonly documents: readonly {readonly bytes: Buffer; readonly mediaType: string; readonly tag?: string}[];
}

export interface Opened {
  readonly remote: Remote;
  /** Host name in references. */
  readonly domain: string;
}

export const REPOSITORY = 'suite/image';

/** Collects a stream, and checks its contract for calls of the sink. */
export async function streamed(fetcher: Fetcher, desc: Descriptor, offset = 0, signal?: AbortSignal): Promise<Buffer> {
  const chunks: Buffer[] = [];
  await fetcher.stream(
    desc,
    (chunk) => {
      chunks.push(chunk);
    },
    {offset, signal},
  );
  return Buffer.concat(chunks);
}

const descriptor = (bytes: Buffer, mediaType: string): Descriptor => ({mediaType, digest: digestOf(bytes), size: bytes.length});

function makeContent() {
  const layers = [1, 4096, 65_537, 3_000_000].map((size) => randomBytes(size));
  const config = Buffer.from('{"architecture":"amd64","os":"linux"}');
  const oci = Buffer.from(
    JSON.stringify({
      schemaVersion: 2,
      mediaType: OCI_MANIFEST,
      config: descriptor(config, OCI_CONFIG),
      layers: layers.map((bytes) => descriptor(bytes, OCI_LAYER)),
    }),
  );
  const docker = Buffer.from(
    JSON.stringify({
      schemaVersion: 2,
      mediaType: DOCKER_MANIFEST,
      config: descriptor(config, DOCKER_CONFIG),
      layers: layers.map((bytes) => descriptor(bytes, `${DOCKER_LAYER}.gzip`)),
    }),
  );
  const index = Buffer.from(
    JSON.stringify({
      schemaVersion: 2,
      mediaType: OCI_INDEX,
      manifests: [{...descriptor(oci, OCI_MANIFEST), platform: {os: 'linux', architecture: 'amd64'}}],
    }),
  );
  const documents = [
    {bytes: oci, mediaType: OCI_MANIFEST, tag: 'oci'},
    {bytes: docker, mediaType: DOCKER_MANIFEST, tag: 'docker'},
    {bytes: index, mediaType: OCI_INDEX, tag: 'index'},
  ];
  return {layers, config, documents};
}

/** @param open returns a remote, and a registry whose `suite/image` has the content; undefined when the test was skipped */
export function resolverSuite(name: string, open: (t: TestContext, content: Content) => Promise<Opened | undefined>): void {
  const {layers, config, documents} = makeContent();
  const content: Content = {blobs: [...layers, config], documents};
  const layer = layers.at(-1)!;

  describe(`resolver: ${name}`, () => {
    const test = (
      title: string,
      run: (opened: {remote: Remote; ref: Reference; fetcher: Fetcher}, t: TestContext) => Promise<void>,
    ): void => {
      it(title, async (t) => {
        const opened = await open(t, content);
        if (opened === undefined) return;
        const {remote, domain} = opened;
        onEnd(t, () => remote.close());
        const ref: Reference = {domain, path: REPOSITORY};
        await run({remote, ref, fetcher: remote.fetcher(ref)}, t);
      });
    };

    for (const {bytes, mediaType, tag} of documents) {
      test(`a tag is the ${tag} document's type, digest and size`, async ({remote, ref}) => {
        const {descriptor: got} = await remote.resolve({...ref, tag});
        assert.deepEqual(got, descriptor(bytes, mediaType));
      });
      test(`a digest is the ${tag} document itself, also with a tag of something else`, async ({remote, ref}) => {
        for (const other of [{}, {tag: 'nosuch'}]) {
          const {descriptor: got} = await remote.resolve({...ref, ...other, digest: digestOf(bytes)});
          assert.deepEqual(got, descriptor(bytes, mediaType));
        }
      });
      test(`the ${tag} document's bytes are as stored`, async ({fetcher}) => {
        assert.deepEqual(await fetcher.bytes(descriptor(bytes, mediaType), {limit: 1 << 20}), bytes);
      });
    }

    test('an unknown tag is not found', async ({remote, ref}) => {
      await assert.rejects(remote.resolve({...ref, tag: 'nosuch'}), (err: Error & {details: Record<string, unknown>}) => {
        is('not_found')(err);
        assert.equal(err.details.httpStatus, 404);
        assert.match(
          err.message,
          new RegExp(`^resolve ${ref.domain}/suite/image:nosuch: ${ref.domain} answered 404 MANIFEST_UNKNOWN: not found$`),
        );
        return true;
      });
    });
    test('an unknown repository is not found', async ({remote, ref}) => {
      await assert.rejects(remote.resolve({...ref, path: 'no/such', tag: 'latest'}), is('not_found'));
    });
    test('an unknown digest is not found, resolved or fetched', async ({remote, ref, fetcher}) => {
      const digest: Digest = digestOf(Buffer.from('never put in'));
      await assert.rejects(remote.resolve({...ref, digest}), is('not_found'));
      await assert.rejects(fetcher.bytes({mediaType: OCI_CONFIG, digest, size: 12}, {limit: 100}), is('not_found'));
      await assert.rejects(streamed(fetcher, {mediaType: OCI_LAYER, digest, size: 12}), is('not_found'));
    });
    test('neither tag nor digest is an invalid argument', async ({remote, ref}) => {
      await assert.rejects(remote.resolve(ref), is('invalid_argument'));
    });

    test('a config is fetched whole', async ({fetcher}) => {
      assert.deepEqual(await fetcher.bytes(descriptor(config, OCI_CONFIG), {limit: config.length}), config);
    });
    test('an object above the limit is refused', async ({fetcher}) => {
      await assert.rejects(fetcher.bytes(descriptor(config, OCI_CONFIG), {limit: config.length - 1}), is('failed_precondition'));
    });
    test('an object of an unexpected size is refused', async ({fetcher}) => {
      for (const by of [-1, 1]) {
        const desc = {...descriptor(config, OCI_CONFIG), size: config.length + by};
        await assert.rejects(fetcher.bytes(desc, {limit: 1 << 20}), is('failed_precondition'));
        await assert.rejects(streamed(fetcher, desc), is('failed_precondition'));
      }
    });

    for (const bytes of layers)
      test(`a blob of ${bytes.length} B is complete from any offset`, async ({fetcher}) => {
        const desc = descriptor(bytes, OCI_LAYER);
        const offsets = new Set([0, 1, bytes.length >> 1, bytes.length - 1, bytes.length]);
        for (const offset of offsets) assert.ok((await streamed(fetcher, desc, offset)).equals(bytes.subarray(offset)), `from ${offset}`);
      });
    test('an offset outside of the blob is an invalid argument', async ({fetcher}) => {
      for (const offset of [-1, 0.5, layer.length + 1]) {
        await assert.rejects(streamed(fetcher, descriptor(layer, OCI_LAYER), offset), is('invalid_argument'));
      }
    });
    test('several blobs are fetched at once', async ({fetcher}) => {
      const got = await Promise.all([...layers, ...layers].map((bytes) => streamed(fetcher, descriptor(bytes, OCI_LAYER))));
      assert.ok(got.every((bytes, i) => bytes.equals(layers[i % layers.length]!)));
    });

    test('a slow sink gets each byte once, in order, one call at a time', async ({fetcher}) => {
      const chunks: Buffer[] = [];
      let running = 0;
      const sink = async (chunk: Buffer): Promise<void> => {
        assert.equal(++running, 1);
        await sleep(chunks.length % 7 === 0 ? 2 : 0);
        chunks.push(chunk);
        running--;
      };
      await fetcher.stream(descriptor(layer, OCI_LAYER), sink, {offset: 0});
      assert.equal(running, 0);
      assert.ok(Buffer.concat(chunks).equals(layer));
    });
    test("a sink's failure ends the stream with the same error", async ({fetcher}) => {
      const mine = new Error('disk full');
      for (const sink of [() => assert.fail(mine), async () => assert.fail(mine), () => sleep(5).then(() => assert.fail(mine))]) {
        let calls = 0;
        const failing = fetcher.stream(
          descriptor(layer, OCI_LAYER),
          (chunk) => {
            calls++;
            return (sink as (chunk: Buffer) => Promise<void>)(chunk);
          },
          {offset: 0},
        );
        await assert.rejects(failing, (err) => err === mine);
        assert.equal(calls, 1);
      }
      assert.ok((await streamed(fetcher, descriptor(layer, OCI_LAYER))).equals(layer), 'and the remote goes on');
    });

    test('a signal cancels a stream, and the remote stays usable', async ({fetcher}) => {
      const abort = new AbortController();
      let calls = 0;
      const stopping = fetcher.stream(
        descriptor(layer, OCI_LAYER),
        () => {
          calls++;
          abort.abort();
        },
        {offset: 0, signal: abort.signal},
      );
      await assert.rejects(stopping, is('canceled'));
      assert.equal(calls, 1);
      await assert.rejects(fetcher.bytes(descriptor(config, OCI_CONFIG), {limit: 100, signal: abort.signal}), is('canceled'));
      assert.ok((await streamed(fetcher, descriptor(layer, OCI_LAYER))).equals(layer));
    });
    test('closing a remote ends running requests and refuses new ones', async ({remote, ref, fetcher}) => {
      const running = fetcher.stream(descriptor(layer, OCI_LAYER), () => sleep(20), {offset: 0});
      const ended = assert.rejects(running, is('canceled'));
      await sleep(10);
      await remote.close();
      await ended;
      await assert.rejects(remote.resolve({...ref, tag: 'oci'}), is('canceled'));
      await assert.rejects(streamed(fetcher, descriptor(layer, OCI_LAYER)), is('canceled'));
    });
  });
}
