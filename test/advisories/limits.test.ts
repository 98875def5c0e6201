/**
 * Limits of docs/LIMITS.md, by the command. Values at a limit are accepted. Values above it are rejected with one line and a hint, before
 * they cost memory or disk. CVE-2023-25153 (containerd), GHSA-f36w (oras-go), gzip bombs.
 */
import assert from 'node:assert/strict';
import {mkdirSync, readFileSync, statfsSync} from 'node:fs';
import {join} from 'node:path';
import {it} from 'node:test';
import {gzipSync, zstdCompressSync} from 'node:zlib';
import {
  MAX_EXTENDED_HEADERS,
  MAX_HEADER_BYTES,
  MAX_NAME_BYTES,
  MAX_NAME_DEPTH,
  MAX_PAX_RECORDS,
  MAX_TARGET_BYTES,
} from '../../src/lib/archive/limits.ts';
import type {ErrorJSON} from '../../src/lib/errdefs.ts';
import type {Descriptor} from '../../src/lib/oci/descriptor.ts';
import {MAX_ANNOTATIONS_BYTES, MAX_CHILDREN, MAX_CONFIG_BYTES, MAX_MANIFEST_BYTES} from '../../src/lib/oci/manifest.ts';
import {OCI_CONFIG, OCI_INDEX, OCI_LAYER, OCI_MANIFEST} from '../../src/lib/oci/mediatypes.ts';
import {MAX_DEPTH} from '../../src/lib/oci/walk.ts';
import {root, run} from '../cli/harness.ts';
import {diskUsage} from '../e2e/fixtures.ts';
import {digestOf} from '../fakes/registry.ts';
import {requiresProgram, requiresRoot, temporaryDirectory} from '../support/helpers.ts';
import {ARCHITECTURE} from '../support/layouts.ts';
import {dir, encode, file, link, paxRecords, symlink} from '../support/tartest.ts';
import {type AttackSetup, describeOnEngines, SNAPSHOTTERS, setUpAttack} from './hostile-registry.ts';

const limited = (error: ErrorJSON, message: RegExp): void => {
  assert.match(error.message, message);
  assert.ok(error.hint, 'it says what to do');
};

/** Adds a document under an image's tag. @returns its reference */
function publishDocument({registry}: AttackSetup, document: object, mediaType: string): string {
  registry.addManifest('image', document, mediaType, 'document');
  return `${registry.host}/image:document`;
}

const layerOf = (bytes: Buffer): Descriptor => ({mediaType: OCI_LAYER, digest: digestOf(bytes), size: bytes.length});

describeOnEngines('documents', (engine) => {
  const manifest = (attack: AttackSetup, more: object): string => {
    const config = attack.registry.addBlob(Buffer.from('{}'), OCI_CONFIG);
    return publishDocument(attack, {schemaVersion: 2, mediaType: OCI_MANIFEST, config, layers: [], ...more}, OCI_MANIFEST);
  };

  it('a manifest is not larger than 4 MiB', async (t) => {
    const attack = await setUpAttack(t, engine);
    if (attack === undefined) return;
    const error = await attack.refused(manifest(attack, {annotations: {a: 'x'.repeat(MAX_MANIFEST_BYTES)}}), 'failed_precondition');
    assert.match(error.message, /more than the 4194304 B/);
  });

  it('a config is not larger than 8 MiB, even with a smaller declared size', async (t) => {
    const attack = await setUpAttack(t, engine);
    if (attack === undefined) return;
    const bytes = Buffer.alloc(MAX_CONFIG_BYTES + 1, ' ');
    const config = attack.registry.addBlob(bytes, OCI_CONFIG);
    limited(await attack.refused(manifest(attack, {config}), 'invalid_argument'), /config\.size must not be more than 8388608 bytes/);
    const lies = await attack.refused(manifest(attack, {config: {...config, size: 2}}), 'failed_precondition');
    assert.match(lies.message, /not the 2 B expected/);
  });

  it('annotations and labels are not larger than 1 MiB', async (t) => {
    const attack = await setUpAttack(t, engine);
    if (attack === undefined) return;
    const much = {a: 'x'.repeat(MAX_ANNOTATIONS_BYTES)};
    limited(await attack.refused(manifest(attack, {annotations: much}), 'invalid_argument'), /annotations has 1048577 bytes/);
    limited(await attack.refused(attack.publish([[file('f')]], {config: {Labels: much}}), 'invalid_argument'), /Labels has 1048577 bytes/);
  });

  it('a manifest has no more than 1000 layers, an index no more than 1000 manifests', async (t) => {
    const attack = await setUpAttack(t, engine);
    if (attack === undefined) return;
    const layers = Array.from({length: MAX_CHILDREN + 1}, (_, i) => layerOf(Buffer.from(String(i))));
    limited(await attack.refused(manifest(attack, {layers}), 'invalid_argument'), /layers has 1001 entries/);
    const manifests = layers.map((desc) => ({...desc, mediaType: OCI_MANIFEST}));
    const index = publishDocument(attack, {schemaVersion: 2, mediaType: OCI_INDEX, manifests}, OCI_INDEX);
    limited(await attack.refused(index, 'invalid_argument'), /manifests has 1001 entries/);
  });

  it('indexes are not nested deeper than four, and every command handles wide ones', async (t) => {
    const attack = await setUpAttack(t, engine);
    if (attack === undefined) return;
    const image = attack.publish([[file('f', 'x')]]);
    await attack.harmless(image);
    const [{target}] = JSON.parse(await attack.ctr.ok(['images', 'ls', '--json'])) as [{target: Descriptor}];
    const nest = (depth: number, times: number): string => {
      let desc: Descriptor = {mediaType: target.mediaType, digest: target.digest, size: target.size};
      for (let i = 0; i < depth; i++)
        desc = attack.registry.addIndex(
          'image',
          `nested${depth}`,
          Array.from({length: times}, () => desc),
        );
      return `${attack.registry.host}/image:nested${depth}`;
    };
    limited(await attack.refused(nest(MAX_DEPTH, 1), 'invalid_argument'), /nested more than 4 deep/);
    // 10¹² manifests, if each path is followed.
    const wide = nest(MAX_DEPTH - 1, MAX_CHILDREN);
    await attack.harmless(wide);
    for (const args of [
      ['images', 'ls'],
      ['images', 'check'],
      ['images', 'inspect', wide],
      ['check', '--deep', '--progress', 'none'],
      ['df'],
      ['gc'],
    ])
      await attack.ctr.ok(args, {timeoutMs: 30_000});
    await attack.ctr.ok(['pull', '--progress', 'none', '--all-platforms', '--snapshotter', 'overlayfs', wide], {timeoutMs: 30_000});
    await attack.assertUnharmed();
  });

  it('documents are not larger than 64 MiB together', async (t) => {
    const attack = await setUpAttack(t, engine);
    if (attack === undefined) return;
    const padding = ' '.repeat(MAX_MANIFEST_BYTES - 200);
    const unique = Array.from({length: 17}, (_, n) => {
      const text = JSON.stringify({schemaVersion: 2, mediaType: OCI_INDEX, manifests: [], annotations: {n: String(n)}});
      return attack.registry.addManifest('image', Buffer.from(text + padding), OCI_INDEX);
    });
    attack.registry.addIndex('image', 'many', unique);
    const ref = `${attack.registry.host}/image:many`;
    limited(await attack.refused(ref, 'resource_exhausted', {flags: ['--all-platforms']}), /refers to more than/);
  });
});

describeOnEngines('layers', (engine) => {
  const deep = (depth: number): string => 'd/'.repeat(depth - 1);
  const longName = (length: number): string => `${'e'.repeat(250)}/`.repeat(Math.ceil(length / 251)).slice(0, length);
  const CASES = {
    'a name is not longer than 3840 bytes': [[file(longName(MAX_NAME_BYTES + 1))], /name of 3841 B, at most 3840/],
    'a name is not deeper than 256 directories': [[file(`${deep(MAX_NAME_DEPTH + 1)}f`)], /deeper than 256/],
    'a link target is not longer than 4095 bytes': [[symlink('x'.repeat(MAX_TARGET_BYTES + 1), 's')], /link target of 4096 B/],
    "a hard link's target is not longer than 4095 bytes": [
      [file('f'), link('x'.repeat(MAX_TARGET_BYTES + 1), 'l')],
      /link target of 4096 B/,
    ],
    'a PAX header is not larger than 1 MiB': [
      [file('f', '', 0o644, {pax: {comment: 'x'.repeat(MAX_HEADER_BYTES)}})],
      /header of type x has \d+ B, at most 1048576/,
    ],
    'a PAX header has no more than 1000 records': [
      [file('f', '', 0o644, {pax: Object.fromEntries(Array.from({length: MAX_PAX_RECORDS + 1}, (_, i) => [`k${i}`, 'v']))})],
      /more than 1000 records/,
    ],
    'an entry has no more than 16 extended headers': [
      [...Array.from({length: MAX_EXTENDED_HEADERS + 1}, () => header('x', paxRecords({comment: 'x'}))), file('f')],
      /more than 16 extended headers/,
    ],
  } as const;
  for (const [name, [entries, message]] of Object.entries(CASES))
    it(name, async (t) => {
      const attack = await setUpAttack(t, engine);
      if (attack === undefined) return;
      const ref = attack.publish([entries]);
      for (const snapshotter of SNAPSHOTTERS) {
        const error = await attack.refused(ref, 'invalid_argument', {snapshotter});
        assert.match(error.message, message);
      }
    });

  it('values at the limits are accepted', async (t) => {
    const attack = await setUpAttack(t, engine);
    if (attack === undefined) return;
    const ref = attack.publish([
      [
        file(`${deep(MAX_NAME_DEPTH)}f`, 'x'),
        file(longName(MAX_NAME_BYTES), 'x'),
        symlink('x'.repeat(MAX_TARGET_BYTES), 's'),
        file('p', '', 0o644, {pax: Object.fromEntries(Array.from({length: MAX_PAX_RECORDS}, (_, i) => [`k${i}`, 'v']))}),
        ...Array.from({length: MAX_EXTENDED_HEADERS}, () => header('x', paxRecords({comment: 'x'}))),
        file('f'),
      ],
    ]);
    for (const snapshotter of SNAPSHOTTERS) await attack.harmless(ref, {snapshotter});
  });

  it('implicit parents are limited', async (t) => {
    const attack = await setUpAttack(t, engine);
    if (attack === undefined) return;
    const entries = Array.from({length: 500}, (_, i) => encode(dir(`${i}/${'x'.repeat(14)}${`/${'y'.repeat(14)}`.repeat(250)}`)));
    const many = (n: number): string => attack.publish([Buffer.concat([...entries.slice(0, n), Buffer.alloc(1024)])], {compress: gzipSync});
    const ref = many(500);
    for (const snapshotter of ['erofs', 'overlayfs'] as const)
      limited(await attack.refused(ref, 'resource_exhausted', {snapshotter}), /implies too many parent directories/);
    await attack.harmless(many(20), {snapshotter: 'erofs'});
  });

  it('sparse files are not larger than a tebibyte', async (t) => {
    const attack = await setUpAttack(t, engine);
    if (attack === undefined) return;
    const sparse = (name: string, size: number) =>
      file(name, 'x', 0o644, {pax: {'GNU.sparse.size': `${size}`, 'GNU.sparse.numblocks': '1', 'GNU.sparse.map': '0,1'}});
    const ref = attack.publish([[sparse('f', 2 ** 40 - 1), file('g', 'xx')]]);
    for (const snapshotter of SNAPSHOTTERS)
      limited(await attack.refused(ref, 'resource_exhausted', {snapshotter}), /layer has more than 1099511627776 B/);
    // A hole takes no disk space, and neither does its copy.
    const holes = attack.publish([[sparse('f', 2 ** 39)], [link('f', 'g')]]);
    for (const snapshotter of SNAPSHOTTERS) await attack.harmless(holes, {snapshotter});
    assert.ok(diskUsage(attack.root) < 16 << 20);
  });
});

/** Mounts a small file system for a store in a private mount namespace, which ends with the process. */
const ON_A_SMALL_DISK =
  'mount -t tmpfs -o size=24m,mode=0700 tmpfs "$1"; shift; "$@"; status=$?; df -B1 --output=used,avail "$BERTH_ROOT" >&3; find "$BERTH_ROOT/work" "$BERTH_ROOT/layers" "$BERTH_ROOT/trash" -mindepth 1 >&3 2>/dev/null; exit $status';

describeOnEngines('the disk', (engine) => {
  for (const [name, compress] of [
    ['gzip', gzipSync],
    ['zstd', zstdCompressSync],
  ] as const)
    for (const snapshotter of SNAPSHOTTERS)
      it(`is not filled by a ${name} bomb, and gets its space back, with ${snapshotter}`, async (t) => {
        if (!requiresRoot(t) || !requiresProgram(t, 'unshare', 'mount')) return;
        const attack = await setUpAttack(t, engine);
        if (attack === undefined) return;
        const bomb = attack.publish([[file('zeros', Buffer.alloc(64 << 20))]], {compress: (bytes) => compress(bytes)});
        const small = join(temporaryDirectory(t), 'root');
        mkdirSync(small);
        const report = join(small, '..', 'report');
        const command = [join(root, 'bin/ctr'), 'pull', '--json', '--progress', 'none', '--snapshotter', snapshotter, bomb];
        const script = ['unshare', '--mount', '--propagation', 'private', 'sh', '-c', ON_A_SMALL_DISK, 'sh', small, ...command];
        const {status, stderr} = await run('sh', ['-c', 'exec 3>"$1"; shift; exec "$@"', 'sh', report, ...script], {
          env: {...attack.ctr.env, BERTH_ROOT: small},
        });
        assert.equal(status, 8, stderr);
        const {error} = JSON.parse(stderr) as {error: ErrorJSON};
        limited(error, /unpacking stopped after \d+ B: the disk has \d+ B left/);
        const [, numbers = '', ...left] = readFileSync(report, 'utf8').trimEnd().split('\n');
        const [used = 0, available = 0] = numbers.trim().split(/\s+/).map(Number);
        assert.ok(used < 2 << 20 && available > 20 << 20, numbers);
        assert.deepEqual(
          left.filter((path) => path.split('/').length > small.split('/').length + 2),
          [],
        );
      });

  it('has space for a download, or no request is sent', async (t) => {
    const attack = await setUpAttack(t, engine);
    if (attack === undefined) return;
    const {bavail, bsize} = statfsSync(attack.root);
    const config = attack.registry.addBlob(
      Buffer.from(
        JSON.stringify({architecture: ARCHITECTURE, os: 'linux', rootfs: {type: 'layers', diff_ids: [digestOf(Buffer.from('x'))]}}),
      ),
      OCI_CONFIG,
    );
    const layers = [{...layerOf(Buffer.from('x')), size: Math.min(bavail * bsize + 2 ** 30, 2 ** 40 - 1)}];
    const ref = publishDocument(attack, {schemaVersion: 2, mediaType: OCI_MANIFEST, config, layers}, OCI_MANIFEST);
    const error = await attack.refused(ref, 'resource_exhausted', {flags: ['--no-unpack']});
    limited(error, /download: \d+ B needed, \d+ B available/);
    assert.equal(attack.registry.count('GET', new RegExp(layers[0]!.digest)), 0);
    // One that fits, but not together with its files.
    const big = {...layerOf(Buffer.from('y')), size: Math.floor(bavail * bsize * 0.7)};
    if (big.size >= 2 ** 40) return;
    const whole = publishDocument(attack, {schemaVersion: 2, mediaType: OCI_MANIFEST, config, layers: [big]}, OCI_MANIFEST);
    limited(
      await attack.refused(whole, 'resource_exhausted'),
      /download \(\d+ B\) and unpacked layers \(at least \d+ B\): \d+ B needed, \d+ B available/,
    );
    assert.equal(attack.registry.count('GET', new RegExp(big.digest)), 0);
  });
});

function header(typeflag: string, content: Buffer): Buffer {
  return encode({name: 'h', typeflag, content});
}
