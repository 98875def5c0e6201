/** Images look the same to berth and skopeo, and names mean the same as for docker. */
import assert from 'node:assert/strict';
import {execFileSync} from 'node:child_process';
import {createHash} from 'node:crypto';
import {describe, it} from 'node:test';
import type {Descriptor, Platform} from '../../src/lib/oci/descriptor.ts';
import {type CommandLine, commandLine, forEachEngine} from '../cli/harness.ts';
import {type ImageName, imagesForTests} from '../support/cached-images.ts';
import {requiresProgram, slow} from '../support/helpers.ts';
import {ARCHITECTURE} from '../support/layouts.ts';
import {document, type Published, publishedImages} from './fixtures.ts';

const published = publishedImages();

const skopeo = (...args: readonly string[]): Buffer =>
  execFileSync('skopeo', ['inspect', '--tls-verify=false', ...args], {maxBuffer: 16 << 20, stdio: ['ignore', 'pipe', 'pipe']});

interface Inspected {
  readonly Digest: string;
  readonly Architecture: string;
  readonly Os: string;
  readonly Layers: readonly string[];
}

interface Summary {
  readonly name: string;
  readonly target: Descriptor;
  readonly platforms: readonly string[];
}

interface Tree {
  readonly descriptor: Descriptor;
  readonly present: boolean;
  readonly content?: Record<string, unknown>;
  readonly children: readonly Tree[];
}

const sha256 = (bytes: string | Buffer): string => `sha256:${createHash('sha256').update(bytes).digest('hex')}`;

const images = async (ctr: CommandLine): Promise<readonly Summary[]> => JSON.parse(await ctr.ok(['images', 'ls', '--json']));

/** Image manifests of the tree whose content is present. */
function manifestsOf(tree: Tree): readonly Tree[] {
  const children = tree.children.flatMap(manifestsOf);
  return tree.children.some(({descriptor}) => /config|container\.image/.test(descriptor.mediaType)) && tree.present
    ? [tree, ...children]
    : children;
}

/** Compares a local image for one platform with skopeo's view of the registry. */
async function assertAgreed(ctr: CommandLine, {ref}: Pick<Published, 'ref'>, architecture: string): Promise<void> {
  const raw = skopeo('--raw', `docker://${ref}`);
  const summary = (await images(ctr)).find(({name}) => name === ref)!;
  assert.equal(summary.target.digest, sha256(raw));
  assert.equal(summary.target.size, raw.length);
  assert.equal(await ctr.ok(['content', 'get', summary.target.digest]), raw.toString());

  const platform = ['--override-os', 'linux', '--override-arch', architecture];
  const said = JSON.parse(skopeo(...platform, '--no-tags', `docker://${ref}`).toString()) as Inspected;
  const config = skopeo(...platform, '--config', '--raw', `docker://${ref}`);
  const found = manifestsOf(JSON.parse(await ctr.ok(['images', 'inspect', '--content', '--json', ref]))).find(
    ({children: [first]}) => first!.descriptor.digest === sha256(config),
  );
  assert.ok(found !== undefined, `a manifest with the config ${sha256(config)}`);
  const [configNode, ...layers] = found.children;
  assert.deepEqual(configNode!.content, JSON.parse(config.toString()));
  assert.equal(await ctr.ok(['content', 'get', configNode!.descriptor.digest]), config.toString());
  assert.deepEqual(
    layers.map(({descriptor}) => descriptor.digest),
    said.Layers,
  );
  assert.ok(layers.every(({present}) => present));
  const {os, architecture: own, variant} = JSON.parse(config.toString()) as Platform;
  assert.deepEqual([said.Os, said.Architecture], [os, own]);
  const name = [os, own, variant].filter((part) => part !== undefined).join('/');
  assert.ok(summary.platforms.includes(name), `${name} among ${summary.platforms}`);
  if (summary.platforms.length === 1) assert.equal(said.Digest, summary.target.digest);
}

const SINGLE = imagesForTests().filter((name) => !name.startsWith('busybox-multi'));
const MULTI: readonly ImageName[] = ['busybox-multi', 'busybox-multi-docker'];

describe('with skopeo', () => {
  for (const name of SINGLE)
    it(`agrees on digest, config, layers and platform of ${name}`, async (t) => {
      if (name.startsWith('awkward') && !slow(t)) return;
      if (!requiresProgram(t, 'skopeo')) return;
      const image = await published(t, name);
      if (image === undefined) return;
      const ctr = commandLine(t, 'executable');
      await ctr.ok(['pull', '--no-unpack', image.ref]);
      await assertAgreed(ctr, image, ARCHITECTURE);
    });

  for (const name of MULTI) {
    for (const [flags, architectures] of [
      [[], [ARCHITECTURE]],
      [['--platform', 'linux/arm64'], ['arm64']],
      [
        ['--platform', 'linux/amd64', '--platform', 'linux/arm64'],
        ['amd64', 'arm64'],
      ],
      [['--all-platforms'], ['amd64', 'arm64']],
    ] as const)
      it(`agrees on ${name} pulled with ${flags.join(' ') || "this machine's platform"}`, async (t) => {
        if (!requiresProgram(t, 'skopeo')) return;
        const image = await published(t, name);
        if (image === undefined) return;
        const ctr = commandLine(t, 'executable');
        await ctr.ok(['pull', '--no-unpack', ...flags, image.ref]);
        for (const architecture of architectures) await assertAgreed(ctr, image, architecture);
        const [{platforms}] = (await images(ctr)) as [Summary];
        assert.deepEqual(
          platforms.map((platform) => platform.split('/')[1]),
          [...architectures],
          'what was not asked for is not here',
        );
        const {manifests} = document<{manifests: readonly Descriptor[]}>(image.image, image.image.target);
        const here = (JSON.parse(await ctr.ok(['images', 'inspect', '--json', image.ref])) as Tree).children.filter(({present}) => present);
        assert.equal(here.length, flags.includes('--all-platforms' as never) ? manifests.length : architectures.length);
      });
  }
});

forEachEngine('an image of several platforms', (engine) => {
  it('is unpacked for each that is asked for, attestations apart', async (t) => {
    const image = await published(t, 'busybox-multi');
    if (image === undefined) return;
    const ctr = commandLine(t, engine);
    const {unpacked} = JSON.parse(await ctr.ok(['pull', '--json', '--all-platforms', image.ref])) as {unpacked: {platform: string}[]};
    assert.deepEqual(unpacked.map(({platform}) => platform).sort(), ['linux/amd64', 'linux/arm64/v8']);
    assert.match(await ctr.ok(['images', 'check']), / complete \(\d+\/\d+\) .* true\n$/);
    const {manifests} = document<{manifests: readonly Descriptor[]}>(image.image, image.image.target);
    const attestation = manifests.find(({platform}) => platform?.os === 'unknown')!;
    const repository = image.ref.replace(/:latest$/, '');
    const alone = await ctr(['pull', '--progress', 'none', `${repository}@${attestation.digest}`]);
    assert.deepEqual([alone.status, /is not an image: .*in-toto.*: failed precondition\n/.test(alone.stderr)], [9, true], alone.stderr);
    await ctr.ok(['pull', '--no-unpack', `${repository}@${attestation.digest}`]);
  });

  it('that has none for the platform is not found, and the hint names those that it has', async (t) => {
    const image = await published(t, 'busybox-multi');
    if (image === undefined) return;
    const {status, stderr} = await commandLine(t, engine)(['pull', '--progress', 'none', '--platform', 'linux/s390x', image.ref]);
    assert.equal(status, 5);
    assert.match(stderr, /^ctr: unable to pull .*linux\/s390x.*: not found\nhint: .*linux\/amd64, linux\/arm64.*\n$/);
  });
});

forEachEngine('a reference', (engine) => {
  it('by digest is pulled, listed, run by and removed under its own name', async (t) => {
    const image = await published(t, 'busybox');
    if (image === undefined) return;
    const ctr = commandLine(t, engine);
    const {digest} = image.image.target;
    const repository = image.ref.replace(/:latest$/, '');
    const byDigest = `${repository}@${digest}`;
    assert.equal(await ctr.ok(['pull', '-q', '--no-unpack', byDigest]), `${byDigest}\n`);
    const both = `${image.ref}@${digest}`;
    await ctr.ok(['pull', '--no-unpack', both]);
    const listed = await images(ctr);
    assert.deepEqual(
      listed.map(({name, target}) => [name, target.digest]),
      [byDigest, both].sort().map((name) => [name, digest]),
    );
    const other = `sha256:${'0'.repeat(64)}`;
    assert.equal((await ctr(['pull', `${repository}@${other}`])).status, 5);
    assert.equal(await ctr.ok(['images', 'rm', byDigest, both]), `${byDigest}\n${both}\n`);
    assert.deepEqual(await images(ctr), []);
  });

  it('without a domain is of docker.io, without a tag is latest, and keeps its case', async (t) => {
    const image = await published(t, 'busybox');
    if (image === undefined) return;
    const ctr = commandLine(t, engine);
    await ctr.ok(['pull', '--no-unpack', image.ref]);
    const cases = {
      redis: 'docker.io/library/redis:latest',
      'redis:7': 'docker.io/library/redis:7',
      'team/app': 'docker.io/team/app:latest',
      'team/app:Release-1.A': 'docker.io/team/app:Release-1.A',
      'docker.io/alpine': 'docker.io/library/alpine:latest',
      'index.docker.io/library/debian:12': 'docker.io/library/debian:12',
      'ghcr.io/team/app:1': 'ghcr.io/team/app:1',
      'localhost/app': 'localhost/app:latest',
      'registry:5000/app': 'registry:5000/app:latest',
    };
    for (const short of Object.keys(cases)) await ctr.ok(['images', 'tag', image.ref, short]);
    assert.deepEqual((await images(ctr)).map(({name}) => name).sort(), [...Object.values(cases), image.ref].sort());
    for (const short of Object.keys(cases)) assert.equal((await ctr(['images', 'tag', image.ref, short])).status, 6, short);
    assert.match(await ctr.ok(['images', 'inspect', 'redis']), /^redis\n/);
    await ctr.ok(['images', 'rm', ...Object.keys(cases)]);
    assert.deepEqual(
      (await images(ctr)).map(({name}) => name),
      [image.ref],
    );
    for (const wrong of ['Redis', 'team/App', 'a b', 'redis:', 'redis@sha256:12', '']) {
      const {status, stderr} = await ctr(['images', 'tag', image.ref, wrong]);
      assert.equal(status, 3, `${wrong}: ${stderr}`);
    }
  });

  it('on this machine is spoken to in plain http, by name and by address', async (t) => {
    const image = await published(t, 'busybox');
    if (image === undefined) return;
    const ctr = commandLine(t, engine);
    const port = image.registry.host.split(':')[1];
    for (const host of ['localhost', '127.0.0.1']) await ctr.ok(['pull', '--no-unpack', `${host}:${port}/${image.name}`]);
    assert.equal((await images(ctr)).length, 2);
  });
});
