import assert from 'node:assert/strict';
import {execFileSync} from 'node:child_process';
import {readFileSync, writeFileSync} from 'node:fs';
import {join} from 'node:path';
import {describe, it} from 'node:test';
import type {Descriptor} from '../src/lib/oci/descriptor.ts';
import {DOCKER_MANIFEST, kindOf} from '../src/lib/oci/mediatypes.ts';
import {type ImageName, imagesForTests, requiresImage} from './support/cached-images.ts';
import {requiresProgram, requiresRoot, temporaryDirectory} from './support/helpers.ts';
import {blobGets, pushImage, sharedRegistry} from './support/registry.ts';

const registry = sharedRegistry();

describe('the images of the tests', () => {
  for (const name of imagesForTests())
    it(`${name} comes out of a registry as skopeo sees it in the cache`, async (t) => {
      const image = requiresImage(t, name);
      if (image === undefined || !requiresProgram(t, 'skopeo')) return;
      const r = await registry(t);
      if (r === undefined) return;
      assert.deepEqual(await pushImage(r, `library/${name}:1`, image.layout), image.target);
      const dir = join(temporaryDirectory(t), 'copy');
      const flags = ['--insecure-policy', '--quiet', '--all', '--preserve-digests', '--src-tls-verify=false'];
      execFileSync('skopeo', ['copy', ...flags, `docker://${r.host}/library/${name}:1`, `dir:${dir}`]);
      const [, hex] = image.target.digest.split(':');
      assert.deepEqual(readFileSync(join(dir, 'manifest.json')), readFileSync(join(image.layout, 'blobs/sha256', hex!)));
    });

  it('count what a client fetches, and how often', async (t) => {
    const image = requiresImage(t, 'busybox');
    const r = await registry(t);
    if (image === undefined || r === undefined) return;
    await pushImage(r, 'counted:1', image.layout);
    r.clearLog();
    const {digest} = image.target;
    const manifest = (await (await fetch(`${r.url}/v2/counted/manifests/1`, {headers: {accept: image.target.mediaType}})).json()) as {
      layers: Descriptor[];
    };
    const {digest: layer, size} = manifest.layers[0]!;
    for (const range of ['bytes=0-', 'bytes=100-']) await (await fetch(`${r.url}/v2/counted/blobs/${layer}`, {headers: {range}})).bytes();
    await fetch(`${r.url}/v2/counted/blobs/${layer}`, {method: 'HEAD'});
    await (await fetch(`${r.url}/v2/counted/blobs/${digest.replace(/.{8}$/, '00000000')}`)).bytes();
    assert.deepEqual([...blobGets(r)], [[layer, [2, 2 * size - 100]]]);
  });

  it('redis has layers that delete, that hide and that name a file without its directories, and runs', async (t) => {
    if (!requiresRoot(t) || !requiresProgram(t, 'umoci', 'runc', 'skopeo')) return;
    const image = requiresImage(t, 'redis' satisfies ImageName);
    const r = await registry(t);
    if (image === undefined || r === undefined) return;
    assert.equal(image.target.mediaType, DOCKER_MANIFEST);
    const blob = (desc: Descriptor): string => join(image.layout, 'blobs', ...desc.digest.split(':'));
    const {layers} = JSON.parse(readFileSync(blob(image.target), 'utf8')) as {layers: Descriptor[]};
    assert.ok(layers.every(({mediaType}) => kindOf(mediaType) === 'layer'));
    const names = layers.map((layer) =>
      execFileSync('tar', ['-tzf', blob(layer)], {encoding: 'utf8', maxBuffer: 1 << 24})
        .trim()
        .split('\n'),
    );
    assert.ok(names.length >= 5);
    assert.ok(names.some((entries) => entries.some((entry) => /\/\.wh\.(?!\.wh\.)/.test(entry))));
    assert.ok(names.some((entries) => entries.some((entry) => entry.endsWith('/.wh..wh..opq'))));
    assert.deepEqual(names.at(-1), ['usr/local/bin/docker-entrypoint.sh']);

    const dir = temporaryDirectory(t);
    await pushImage(r, 'library/redis:run', image.layout);
    const flags = ['--insecure-policy', '--quiet', '--src-tls-verify=false'];
    execFileSync('skopeo', ['copy', ...flags, `docker://${r.host}/library/redis:run`, `oci:${dir}/layout:latest`]);
    execFileSync('umoci', ['unpack', '--image', `${dir}/layout:latest`, `${dir}/bundle`], {stdio: 'ignore'});
    const file = `${dir}/bundle/config.json`;
    const spec = JSON.parse(readFileSync(file, 'utf8')) as {process: {terminal: boolean; args: string[]}};
    spec.process.terminal = false;
    assert.deepEqual(spec.process.args, ['docker-entrypoint.sh', 'redis-server']);
    spec.process.args.splice(1, 1, 'redis-cli', '--version');
    writeFileSync(file, JSON.stringify(spec));
    const run = ['--root', `${dir}/runc`, 'run', '-b', `${dir}/bundle`, `berth-images-${process.pid}`];
    assert.match(execFileSync('runc', run, {encoding: 'utf8'}), /^redis-cli \d/);
  });
});
