/** Index, manifest and config. */
import assert from 'node:assert/strict';
import type {Digest} from '../../../src/lib/oci/descriptor.ts';
import {
  chainIDs,
  children,
  gcLabels,
  MAX_ANNOTATIONS_BYTES,
  pairLayers,
  parseImageConfig,
  parseIndex,
  parseManifest,
} from '../../../src/lib/oci/manifest.ts';
import {kindOf, OCI_CONFIG, OCI_INDEX, OCI_LAYER, OCI_MANIFEST} from '../../../src/lib/oci/mediatypes.ts';
import {formatPlatform, hostPlatform, matcher, normalizePlatform} from '../../../src/lib/oci/platform.ts';
import type {Target} from '../target.ts';

const digest = `sha256:${'5'.repeat(64)}` as Digest;
const json = (value: unknown): Buffer => Buffer.from(JSON.stringify(value));
const config = {mediaType: OCI_CONFIG, digest, size: 2};
const layer = {mediaType: `${OCI_LAYER}+gzip`, digest, size: 100, annotations: {a: 'b'}, urls: ['https://example.com/x']};
const host = matcher([hostPlatform()]);

export const target: Target = {
  name: 'documents',
  seeds: [
    json({schemaVersion: 2, mediaType: OCI_MANIFEST, config, layers: [layer, layer], subject: {mediaType: OCI_MANIFEST, digest, size: 7}}),
    json({
      schemaVersion: 2,
      mediaType: OCI_INDEX,
      manifests: [
        {mediaType: OCI_MANIFEST, digest, size: 1, platform: {os: 'linux', architecture: 'arm', variant: 'v7', 'os.features': ['x']}},
        {mediaType: OCI_MANIFEST, digest, size: 1, platform: {os: 'windows', architecture: 'amd64', 'os.version': '10.0.17763.1'}},
      ],
      annotations: {k: 'v'},
    }),
    json({
      created: '2024-01-01T00:00:00Z',
      architecture: 'amd64',
      os: 'linux',
      config: {
        User: '0:0',
        Env: ['A=b', 'NOT'],
        Entrypoint: ['/a'],
        Cmd: null,
        WorkingDir: '/',
        Labels: {a: 'b'},
        Volumes: {'/v': {}},
        ExposedPorts: {'80/tcp': {}},
        StopSignal: 'SIGTERM',
      },
      rootfs: {type: 'layers', diff_ids: [digest, digest]},
      history: [{created_by: 'x', empty_layer: true}],
    }),
    Buffer.from(
      '{"schemaVersion":2,"__proto__":{"layers":[]},"config":{"mediaType":"x","digest":"sha256:../../x","size":1e3},"layers":[]}',
    ),
  ],
  tokens: [
    '{',
    '}',
    '[',
    ']',
    ',',
    ':',
    '"',
    '\\',
    '\\u0000',
    'null',
    'true',
    '1e400',
    '-0',
    '""',
    '{}',
    '[]',
    '"__proto__":',
    '"layers":',
    '"manifests":',
    '"size":',
    '"digest":',
    '"mediaType":',
    OCI_INDEX,
    '\xef\xbb\xbf',
    '\xff',
  ],
  sources: ['/oci/manifest.ts', '/oci/platform.ts', '/oci/descriptor.ts'],
  refuses: ['invalid_argument', 'failed_precondition', 'not_implemented'],
  run(bytes) {
    const errors: unknown[] = [];
    const attempt = (action: () => void): void => {
      try {
        action();
      } catch (err) {
        errors.push(err);
      }
    };
    const desc = (mediaType: string) => ({mediaType, digest, size: bytes.length});
    attempt(() => {
      const {manifests} = parseIndex(bytes, desc(OCI_INDEX));
      for (const {platform, size} of manifests) {
        assert.ok(Number.isSafeInteger(size) && size >= 0);
        if (platform !== undefined) assert.equal(typeof formatPlatform(normalizePlatform(platform)), 'string');
      }
      manifests.filter(({platform}) => platform !== undefined && host.match(platform)).sort((a, b) => host.less(a.platform!, b.platform!));
    });
    attempt(() => {
      const manifest = parseManifest(bytes, desc(OCI_MANIFEST));
      const below = children('manifest', bytes, desc(OCI_MANIFEST));
      assert.equal(below.length, manifest.layers.length + 1);
      assert.ok(Object.keys(gcLabels(desc(OCI_MANIFEST), below)).length <= below.length);
      assert.ok(below.every(({mediaType}) => typeof kindOf(mediaType) === 'string'));
    });
    attempt(() => {
      const image = parseImageConfig(bytes, desc(OCI_CONFIG));
      assert.equal(chainIDs(image.rootfs.diffIDs).length, image.rootfs.diffIDs.length);
      assert.ok(image.config.Env?.every((entry) => entry.indexOf('=') > 0) ?? true);
      assert.ok(JSON.stringify(image.config.Labels ?? {}).length <= 8 * MAX_ANNOTATIONS_BYTES);
      pairLayers({layers: image.rootfs.diffIDs.map(() => layer)}, image);
    });
    const bug = errors.find((err) => !(err instanceof Error && 'code' in err && target.refuses.includes(err.code as never)));
    if (bug !== undefined) throw bug;
    if (errors.length === 3) throw errors[0];
  },
};
