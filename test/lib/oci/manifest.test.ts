import assert from 'node:assert/strict';
import {createHash} from 'node:crypto';
import {describe, it} from 'node:test';
import fc from 'fast-check';
import {type Code, isErrdefs} from '../../../src/lib/errdefs.ts';
import type {Descriptor, Digest} from '../../../src/lib/oci/descriptor.ts';
import {digestOf, verifyBytes} from '../../../src/lib/oci/hash.ts';
import {
  chainIDs,
  children,
  gcLabels,
  type ImageConfig,
  MAX_BLOB_BYTES,
  MAX_CONFIG_BYTES,
  MAX_MANIFEST_BYTES,
  pairLayers,
  parseImageConfig,
  parseIndex,
  parseManifest,
} from '../../../src/lib/oci/manifest.ts';
import {
  DOCKER_CONFIG,
  DOCKER_LAYER,
  DOCKER_LIST,
  DOCKER_MANIFEST,
  OCI_CONFIG,
  OCI_INDEX,
  OCI_LAYER,
  OCI_MANIFEST,
} from '../../../src/lib/oci/mediatypes.ts';

type JSONObject = Readonly<Record<string, unknown>>;

const sha = (text: string): Digest => `sha256:${createHash('sha256').update(text).digest('hex')}` as Digest;
const describeBytes = (mediaType: string, bytes: Uint8Array): Descriptor => ({mediaType, digest: digestOf(bytes), size: bytes.length});
const desc = (mediaType: string, name: string, more: JSONObject = {}): JSONObject => ({mediaType, digest: sha(name), size: 7, ...more});

const CONFIG = desc(OCI_CONFIG, 'config');
const LAYER = desc(`${OCI_LAYER}+gzip`, 'layer');
const MANIFEST: JSONObject = {schemaVersion: 2, mediaType: OCI_MANIFEST, config: CONFIG, layers: [LAYER]};
const INDEX: JSONObject = {
  schemaVersion: 2,
  mediaType: OCI_INDEX,
  manifests: [desc(OCI_MANIFEST, 'm', {platform: {os: 'linux', architecture: 'arm64', variant: 'v8'}})],
};
const IMAGE: JSONObject = {os: 'linux', architecture: 'amd64', rootfs: {type: 'layers', diff_ids: [sha('diff')]}};

const READ = {
  index: {parse: parseIndex, mediaType: OCI_INDEX, document: INDEX},
  manifest: {parse: parseManifest, mediaType: OCI_MANIFEST, document: MANIFEST},
  config: {parse: parseImageConfig, mediaType: OCI_CONFIG, document: IMAGE},
} as const;
type Sort = keyof typeof READ;

const read = (sort: Sort, json: string, mediaType: string = READ[sort].mediaType): unknown => {
  const bytes = Buffer.from(json);
  return READ[sort].parse(bytes, describeBytes(mediaType, bytes));
};

/** For `assert.throws`: the class, and that the message has the document and these words. */
const failure =
  (sort: Sort, code: Code, words: string) =>
  (err: unknown): true => {
    assert.ok(isErrdefs(err), String(err));
    assert.equal(err.code, code, err.message);
    assert.ok(err.message.startsWith(`${sort} sha256:`), err.message);
    assert.ok(err.message.includes(words), `${err.message}\nhas no ${JSON.stringify(words)}`);
    return true;
  };

describe('documents', () => {
  it('an OCI index and a docker list give their manifests with platforms', () => {
    assert.deepEqual(read('index', JSON.stringify(INDEX)), {mediaType: OCI_INDEX, manifests: INDEX.manifests});
    const list = {
      schemaVersion: 2,
      mediaType: DOCKER_LIST,
      manifests: [
        desc(DOCKER_MANIFEST, 'm', {platform: {os: 'windows', architecture: 'amd64', 'os.version': '10', 'os.features': ['win32k']}}),
      ],
    };
    assert.deepEqual(read('index', JSON.stringify(list), DOCKER_LIST), {mediaType: DOCKER_LIST, manifests: list.manifests});
  });

  it('a manifest gives config and layers, and what it says besides', () => {
    const layer = desc(OCI_LAYER, 'l', {urls: ['https://x'], annotations: {a: 'b'}, artifactType: 'x/y'});
    const full = {
      ...MANIFEST,
      layers: [LAYER, layer],
      subject: desc(OCI_MANIFEST, 's'),
      annotations: {k: 'v'},
      artifactType: 'a/b',
      other: [1],
    };
    assert.deepEqual(read('manifest', JSON.stringify(full)), {
      mediaType: OCI_MANIFEST,
      config: CONFIG,
      layers: [LAYER, layer],
      subject: full.subject,
      annotations: {k: 'v'},
      artifactType: 'a/b',
    });
    const docker = {schemaVersion: 2, mediaType: DOCKER_MANIFEST, config: desc(DOCKER_CONFIG, 'c'), layers: [desc(DOCKER_LAYER, 'l')]};
    assert.deepEqual(read('manifest', JSON.stringify(docker), DOCKER_MANIFEST), {
      mediaType: DOCKER_MANIFEST,
      config: docker.config,
      layers: docker.layers,
    });
  });

  it('a config gives what a container is started with', () => {
    const config = {
      User: 'redis:redis',
      Env: ['PATH=/bin', 'EMPTY=', 'A=b=c'],
      Entrypoint: ['/entry'],
      Cmd: ['redis-server'],
      WorkingDir: '/data',
      Labels: {team: 'x', __proto__x: 'y'},
      StopSignal: 'SIGINT',
      Volumes: {'/data': {}},
      ExposedPorts: {'6379/tcp': {}},
    };
    const history = [{created: '2026-01-01T00:00:00Z', created_by: 'RUN x', comment: 'c', author: 'a', empty_layer: true}, {}];
    assert.deepEqual(read('config', JSON.stringify({...IMAGE, variant: 'v2', created: '2026-01-01T00:00:00Z', config, history})), {
      os: 'linux',
      architecture: 'amd64',
      variant: 'v2',
      rootfs: {type: 'layers', diffIDs: [sha('diff')]},
      config,
      created: '2026-01-01T00:00:00Z',
      history: [{created: '2026-01-01T00:00:00Z', createdBy: 'RUN x', comment: 'c', author: 'a', emptyLayer: true}, {}],
    });
  });

  it("null stands for nothing, as Go's writers have it", () => {
    const config = {Env: null, Cmd: null, Entrypoint: null, Labels: null, Volumes: null, ExposedPorts: null, User: null, OnBuild: null};
    assert.deepEqual((read('config', JSON.stringify({...IMAGE, config})) as ImageConfig).config, {});
    assert.deepEqual((read('config', JSON.stringify({...IMAGE, config: null})) as ImageConfig).config, {});
    assert.deepEqual((read('config', JSON.stringify({config: {}})) as ImageConfig).rootfs, {type: '', diffIDs: []});
    assert.deepEqual(read('manifest', JSON.stringify({config: CONFIG, layers: null, annotations: null, mediaType: null})), {
      mediaType: OCI_MANIFEST,
      config: CONFIG,
      layers: [],
    });
    assert.deepEqual(read('index', JSON.stringify({manifests: [desc(OCI_MANIFEST, 'm', {platform: {}})]})), {
      mediaType: OCI_INDEX,
      manifests: [desc(OCI_MANIFEST, 'm', {platform: {os: '', architecture: ''}})],
    });
  });

  it('may be as large as the limits', () => {
    const size = MAX_BLOB_BYTES - 1;
    const layers = [desc(OCI_LAYER, 'l', {size}), desc('x/y', 'u', {size})];
    const written = {mediaType: OCI_MANIFEST, config: {...CONFIG, size: MAX_CONFIG_BYTES}, layers};
    assert.deepEqual(read('manifest', JSON.stringify(written).padEnd(MAX_MANIFEST_BYTES)), written);
    const manifests = [desc(OCI_MANIFEST, 'm', {size: MAX_MANIFEST_BYTES})];
    assert.deepEqual(read('index', JSON.stringify({manifests})), {mediaType: OCI_INDEX, manifests});
  });

  it('drop entries of Env that are no assignment (CVE-2026-57231)', () => {
    const {config} = read(
      'config',
      JSON.stringify({...IMAGE, config: {Env: ['PATH=/bin', 'AWS_SECRET_ACCESS_KEY', '=x', '']}}),
    ) as ImageConfig;
    assert.deepEqual(config.Env, ['PATH=/bin']);
  });

  it('are taken as values as well as in bytes', () => {
    assert.deepEqual(parseManifest(MANIFEST, {mediaType: OCI_MANIFEST, digest: sha('x'), size: 1}).layers, [LAYER]);
    const inherited = Object.create(MANIFEST);
    assert.throws(
      () => parseManifest(inherited, {mediaType: OCI_MANIFEST, digest: sha('x'), size: 1}),
      failure('manifest', 'invalid_argument', 'config must be an object'),
    );
  });
});

describe('malformed documents', () => {
  // Sort, change to a good document, words of the message.
  const ROWS: readonly (readonly [sort: Sort, change: JSONObject, words: string])[] = [
    ['index', {layers: []}, 'layers does not belong: expected index but found manifest'],
    ['index', {config: null}, 'config does not belong: expected index but found manifest'],
    ['index', {mediaType: OCI_MANIFEST}, 'mediaType is "application/vnd.oci.image.manifest.v1+json", the descriptor says'],
    ['index', {mediaType: DOCKER_LIST}, 'mediaType is'],
    ['index', {mediaType: 7}, 'mediaType must be a string'],
    ['index', {schemaVersion: 3}, 'schemaVersion must be 2'],
    ['index', {manifests: undefined}, 'manifests must be a list'],
    ['index', {manifests: {}}, 'manifests must be a list'],
    ['index', {manifests: [null]}, 'manifests[0] must be an object'],
    ['index', {manifests: [[]]}, 'manifests[0] must be an object'],
    ['index', {manifests: ['x']}, 'manifests[0] must be an object'],
    [
      'index',
      {manifests: [desc(OCI_MANIFEST, 'm'), desc(OCI_MANIFEST, 'm', {platform: 'linux'})]},
      'manifests[1].platform must be an object',
    ],
    ['index', {manifests: [desc(OCI_MANIFEST, 'm', {platform: {os: 1}})]}, 'manifests[0].platform.os must be a string'],
    [
      'index',
      {manifests: [desc(OCI_MANIFEST, 'm', {platform: {'os.features': [1]}})]},
      'manifests[0].platform.os.features[0] must be a string',
    ],
    [
      'index',
      {manifests: [desc(OCI_MANIFEST, 'm', {size: MAX_MANIFEST_BYTES + 1})]},
      'manifests[0].size must not be more than 4194304 bytes',
    ],
    ['index', {manifests: [desc(OCI_INDEX, 'm', {size: 2 ** 40})]}, 'manifests[0].size must not be more than 4194304 bytes'],
    ['index', {subject: desc(OCI_MANIFEST, 's', {digest: 'sha256:short'})}, 'subject.digest must be a digest'],
    ['manifest', {manifests: []}, 'manifests does not belong: expected manifest but found index'],
    ['manifest', {manifests: null}, 'manifests does not belong: expected manifest but found index'],
    ['manifest', {mediaType: OCI_INDEX}, 'mediaType is'],
    ['manifest', {mediaType: DOCKER_MANIFEST}, 'mediaType is'],
    ['manifest', {schemaVersion: '2'}, 'schemaVersion must be 2'],
    ['manifest', {config: undefined}, 'config must be an object'],
    ['manifest', {config: null}, 'config must be an object'],
    ['manifest', {config: []}, 'config must be an object'],
    ['manifest', {config: {...CONFIG, size: MAX_CONFIG_BYTES + 1}}, 'config.size must not be more than 8388608 bytes'],
    ['manifest', {layers: undefined}, 'layers must be a list'],
    ['manifest', {layers: 'x'}, 'layers must be a list'],
    ['manifest', {layers: [LAYER, {...LAYER, mediaType: undefined}]}, 'layers[1].mediaType must be a string'],
    ['manifest', {layers: [{...LAYER, mediaType: ''}]}, 'layers[0].mediaType must not be empty'],
    ['manifest', {layers: [{...LAYER, size: undefined}]}, 'layers[0].size must be a whole number of bytes'],
    ['manifest', {layers: [{...LAYER, size: null}]}, 'layers[0].size must be a whole number of bytes'],
    ['manifest', {layers: [{...LAYER, size: '7'}]}, 'layers[0].size must be a whole number of bytes'],
    ['manifest', {layers: [{...LAYER, size: -1}]}, 'layers[0].size must be a whole number of bytes'],
    ['manifest', {layers: [{...LAYER, size: 1.5}]}, 'layers[0].size must be a whole number of bytes'],
    ['manifest', {layers: [{...LAYER, size: 2 ** 53}]}, 'layers[0].size must be a whole number of bytes'],
    ['manifest', {layers: [{...LAYER, size: MAX_BLOB_BYTES}]}, 'layers[0].size must not be more than'],
    [
      'manifest',
      {layers: [{...LAYER, digest: 'sha256:../../x'}]},
      'layers[0].digest must be a digest of a known algorithm, not "sha256:../../x"',
    ],
    ['manifest', {layers: [{...LAYER, digest: `sha256:${'a'.repeat(63)}`}]}, 'layers[0].digest must be a digest'],
    ['manifest', {layers: [{...LAYER, digest: `sha256:${'A'.repeat(64)}`}]}, 'layers[0].digest must be a digest'],
    ['manifest', {layers: [{...LAYER, digest: `md5:${'a'.repeat(32)}`}]}, 'layers[0].digest must be a digest'],
    ['manifest', {layers: [{...LAYER, digest: `constructor:${'a'.repeat(64)}`}]}, 'layers[0].digest must be a digest'],
    ['manifest', {layers: [{...LAYER, digest: `${LAYER.digest}\n`}]}, 'layers[0].digest must be a digest'],
    ['manifest', {layers: [{...LAYER, digest: 'x'.repeat(1000)}]}, `not "${'x'.repeat(128)}…": invalid`],
    ['manifest', {layers: [{...LAYER, digest: [LAYER.digest]}]}, 'layers[0].digest must be a digest'],
    ['manifest', {layers: [{...LAYER, urls: 'https://x'}]}, 'layers[0].urls must be a list'],
    ['manifest', {layers: [{...LAYER, urls: [null]}]}, 'layers[0].urls[0] must be a string'],
    ['manifest', {layers: [{...LAYER, annotations: {k: 1}}]}, 'layers[0].annotations.k must be a string'],
    ['manifest', {annotations: []}, 'annotations must be an object'],
    ['manifest', {artifactType: {}}, 'artifactType must be a string'],
    ['config', {rootfs: 'x'}, 'rootfs must be an object'],
    ['config', {rootfs: {}}, 'rootfs.type must be a string'],
    ['config', {rootfs: {type: 'layers'}}, 'rootfs.diff_ids must be a list'],
    ['config', {rootfs: {type: 'layers', diff_ids: ['sha256:../x']}}, 'rootfs.diff_ids[0] must be a digest'],
    ['config', {os: 1}, 'os must be a string'],
    ['config', {architecture: []}, 'architecture must be a string'],
    ['config', {config: []}, 'config must be an object'],
    ['config', {config: {Env: 'A=b'}}, 'config.Env must be a list'],
    ['config', {config: {Env: [1]}}, 'config.Env[0] must be a string'],
    ['config', {config: {Env: ['A=b\0C=d']}}, 'config.Env[0] must not contain a NUL'],
    ['config', {config: {Entrypoint: 'sh'}}, 'config.Entrypoint must be a list'],
    ['config', {config: {Cmd: [{}]}}, 'config.Cmd[0] must be a string'],
    ['config', {config: {User: 0}}, 'config.User must be a string'],
    ['config', {config: {WorkingDir: '/a\0b'}}, 'config.WorkingDir must not contain a NUL'],
    ['config', {config: {Labels: {k: null}}}, 'config.Labels.k must be a string'],
    ['config', {config: {Volumes: ['/data']}}, 'config.Volumes must be an object'],
    ['config', {config: {ExposedPorts: {'80/tcp': 1}}}, 'config.ExposedPorts.80/tcp must be an object'],
    ['config', {created: 5}, 'created must be a string'],
    ['config', {history: {}}, 'history must be a list'],
    ['config', {history: [{empty_layer: 'true'}]}, 'history[0].empty_layer must be true or false'],
  ];
  for (const [sort, change, words] of ROWS) {
    it(`${sort}: ${words}`, () => {
      assert.throws(() => read(sort, JSON.stringify({...READ[sort].document, ...change})), failure(sort, 'invalid_argument', words));
    });
  }

  for (const sort of ['index', 'manifest'] as const) {
    it(`${sort} of docker's schema 1 is not implemented`, () => {
      for (const old of [{schemaVersion: 1}, {fsLayers: []}, {fsLayers: null, schemaVersion: 2}])
        assert.throws(() => read(sort, JSON.stringify({...READ[sort].document, ...old})), failure(sort, 'not_implemented', 'schema 1'));
    });
  }

  for (const sort of Object.keys(READ) as Sort[]) {
    const {parse, mediaType, document} = READ[sort];
    const good = JSON.stringify(document);

    for (const [name, json, words] of [
      ['nothing', '', 'not JSON'],
      ['half of it', good.slice(0, -10), 'not JSON'],
      ['more after it', `${good}{}`, 'not JSON'],
      ['a byte order mark', `\ufeff${good}`, 'not JSON'],
      ['null', 'null', 'the document must be an object'],
      ['a list', `[${good}]`, 'the document must be an object'],
      ['a number', '7', 'the document must be an object'],
      ['deep lists', '['.repeat(500_000) + ']'.repeat(500_000), 'the document must be an object'],
      ['deep lists left open', '['.repeat(500_000), 'not JSON'],
      ['the same key twice', `${good.slice(0, -1)},"config":{},"config":{}}`, 'a key of one object occurs twice'],
      ['the same key twice, once escaped', `{"x":[{"a":1,"\\u0061":2}],${good.slice(1)}`, 'a key of one object occurs twice'],
      [
        'the same key twice after strings that look like keys',
        `{"q\\"\\\\":"\\\\\\":","a":{"b":1},"a":{},${good.slice(1)}`,
        'a key of one object occurs twice',
      ],
    ] as const) {
      it(`${sort}: ${name}`, () => assert.throws(() => read(sort, json), failure(sort, 'invalid_argument', words)));
    }

    it(`${sort}: bytes that are no UTF-8`, () => {
      const bytes = Buffer.concat([Buffer.from(good.slice(0, -1)), Buffer.from(',"x":"'), Buffer.of(0xff), Buffer.from('"}')]);
      assert.throws(() => parse(bytes, describeBytes(mediaType, bytes)), failure(sort, 'invalid_argument', 'not JSON'));
    });

    it(`${sort}: not as long as promised`, () => {
      const bytes = Buffer.from(good);
      assert.throws(
        () => parse(bytes, {...describeBytes(mediaType, bytes), size: bytes.length + 1}),
        failure(sort, 'failed_precondition', `unexpected size ${bytes.length}, expected ${bytes.length + 1}`),
      );
    });

    it(`${sort}: longer than allowed, before any of it is read`, () => {
      const bytes = Buffer.alloc((sort === 'config' ? MAX_CONFIG_BYTES : MAX_MANIFEST_BYTES) + 1);
      assert.throws(
        () => parse(bytes, {mediaType, digest: sha('x'), size: bytes.length}),
        failure(sort, 'invalid_argument', `rejecting ${bytes.length} byte ${sort}`),
      );
    });

    it(`${sort}: a descriptor of something else`, () => {
      for (const other of [
        'text/plain',
        OCI_LAYER,
        ...Object.values(READ)
          .map((r) => r.mediaType)
          .filter((m) => m !== mediaType),
      ])
        assert.throws(
          () => read(sort, good, other),
          failure(sort, 'invalid_argument', `the media type "${other}" is not ${sort === 'index' ? 'an' : 'a'} ${sort}: `),
        );
    });

    it(`${sort}: keys called __proto__ stay keys`, () => {
      const json = `{"__proto__":{"layers":[],"fsLayers":[],"manifests":[]},${good.slice(1)}`;
      assert.deepEqual(read(sort, json), read(sort, good));
      assert.equal(({} as {layers?: unknown}).layers, undefined);
    });

    const leaf = fc.oneof(
      fc.jsonValue({maxDepth: 2}),
      fc.constantFrom<unknown>(null, -1, 2 ** 40, 2 ** 60, 1e-7, '', 'sha256:../../x', sha('x'), OCI_LAYER, OCI_INDEX, [], {}),
    );
    it(`${sort}: whatever is in it, it is read or refused with a class`, () => {
      const known = [
        'mediaType',
        'digest',
        'size',
        'schemaVersion',
        'manifests',
        'layers',
        'config',
        'rootfs',
        'platform',
        'annotations',
        '__proto__',
      ];
      const change = fc.dictionary(fc.oneof(fc.constantFrom(...known), fc.string({maxLength: 5})), leaf, {maxKeys: 4});
      const refused = new Set<Code>(['invalid_argument', 'not_implemented']);
      fc.assert(
        fc.property(change, change, leaf, fc.nat(3), (outer, inner, item, where) => {
          const changed = {...document, ...outer};
          const nested = {
            ...document,
            ...(sort === 'index' ? {manifests: [inner, item]} : {layers: [item], config: inner, history: [item]}),
          };
          for (const json of [
            JSON.stringify(changed),
            JSON.stringify(nested),
            JSON.stringify(item),
            good.slice(0, where) + good.slice(where + 1),
          ]) {
            try {
              read(sort, json);
            } catch (err) {
              assert.ok(isErrdefs(err) && refused.has(err.code), String(err));
            }
          }
        }),
        {seed: 3, numRuns: 500},
      );
    });
  }

  const name = fc.stringMatching(/^[a-z]{1,8}$/);
  it('read what they were written from', () => {
    const descriptor = fc
      .record(
        {
          mediaType: fc.constantFrom(OCI_LAYER, `${OCI_LAYER}+zstd`, DOCKER_LAYER, 'x/y'),
          digest: name.map(sha),
          size: fc.nat(2 ** 31),
          annotations: fc.dictionary(fc.string(), fc.string(), {maxKeys: 3}),
          urls: fc.array(fc.string(), {maxLength: 2}),
        },
        {requiredKeys: ['mediaType', 'digest', 'size'], noNullPrototype: true},
      )
      .map((d) => JSON.parse(JSON.stringify(d)) as JSONObject);
    fc.assert(
      fc.property(fc.array(descriptor, {maxLength: 4}), (layers) => {
        const written = {mediaType: OCI_MANIFEST, config: CONFIG, layers};
        assert.deepEqual(read('manifest', JSON.stringify(written)), written);
      }),
      {seed: 4, numRuns: 300},
    );
  });
});

describe('children', () => {
  const document = (sort: 'index' | 'manifest', value: JSONObject): readonly [Buffer, Descriptor] => {
    const bytes = Buffer.from(JSON.stringify(value));
    return [bytes, describeBytes(READ[sort].mediaType, bytes)];
  };

  it('are the manifests of an index, and config before layers of a manifest', () => {
    assert.deepEqual(children('index', ...document('index', INDEX)), INDEX.manifests);
    assert.deepEqual(children('manifest', ...document('manifest', MANIFEST)), [CONFIG, LAYER]);
  });

  it('are none of anything else, whose bytes are not read', () => {
    for (const kind of ['config', 'layer', 'unknown'] as const)
      assert.deepEqual(children(kind, Buffer.from('junk'), CONFIG as unknown as Descriptor), []);
  });

  it("are kept by containerd's labels", () => {
    const kids = [
      desc(OCI_CONFIG, 'c'),
      desc(OCI_LAYER, 'l0'),
      desc(`${DOCKER_LAYER}.gzip`, 'l1'),
      desc(OCI_MANIFEST, 'm0'),
      desc(DOCKER_MANIFEST, 'm1'),
      desc(OCI_INDEX, 'i'),
      desc('x/y', 'u'),
      desc(DOCKER_CONFIG, 'c1'),
    ] as unknown as Descriptor[];
    const ref = 'containerd.io/gc.ref.content.';
    const labels = {
      [`${ref}config`]: sha('c'),
      [`${ref}l.0`]: sha('l0'),
      [`${ref}l.1`]: sha('l1'),
      [`${ref}m.0`]: sha('m0'),
      [`${ref}m.1`]: sha('m1'),
      [`${ref}0`]: sha('i'),
      [`${ref}1`]: sha('u'),
      [`${ref}config1`]: sha('c1'),
    };
    for (const mediaType of [OCI_INDEX, DOCKER_LIST, OCI_MANIFEST, DOCKER_MANIFEST]) assert.deepEqual(gcLabels({mediaType}, kids), labels);
    assert.deepEqual(gcLabels({mediaType: OCI_LAYER}, kids), {});
  });
});

describe('layers', () => {
  const layers = ['a', 'b'].map((n) => desc(OCI_LAYER, n)) as unknown as Descriptor[];

  it('each go with their diff ID', () => {
    assert.deepEqual(pairLayers({layers}, {rootfs: {type: 'layers', diffIDs: [sha('1'), sha('2')]}}), [
      {layer: layers[0], diffID: sha('1')},
      {layer: layers[1], diffID: sha('2')},
    ]);
  });

  it('are as many as the diff IDs', () => {
    assert.throws(() => pairLayers({layers}, {rootfs: {type: 'layers', diffIDs: [sha('1')]}}), {
      code: 'invalid_argument',
      message: "number of layers and diffIDs don't match: 2 != 1: invalid argument",
    });
  });

  it('are stacked as the specification has it', () => {
    const [a, b, c] = [sha('a'), sha('b'), sha('c')];
    assert.deepEqual(chainIDs([]), []);
    assert.deepEqual(chainIDs([a]), [a]);
    assert.deepEqual(chainIDs([a, b, c]), [a, sha(`${a} ${b}`), sha(`${sha(`${a} ${b}`)} ${c}`)]);
  });
});

describe('verifyBytes', () => {
  const bytes = Buffer.from('promised');
  for (const algorithm of ['sha256', 'sha384', 'sha512']) {
    const digest = `${algorithm}:${createHash(algorithm).update(bytes).digest('hex')}` as Digest;
    it(`takes the bytes that were promised by ${algorithm}, and no others`, () => {
      verifyBytes('blob x', bytes, {digest, size: bytes.length});
      assert.throws(() => verifyBytes('blob x', Buffer.from('delivers'), {digest, size: bytes.length}), {
        code: 'failed_precondition',
        message: new RegExp(`^blob x: ${digest} \\(8 B\\) arrived as ${algorithm}:[0-9a-f]+ \\(8 B\\): failed precondition$`),
      });
      assert.throws(() => verifyBytes('blob x', bytes, {digest, size: 9}), {code: 'failed_precondition'});
    });
  }
});
