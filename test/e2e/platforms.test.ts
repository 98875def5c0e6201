/** Platforms that a pull selects, compared with containerd's ctr. */
import assert from 'node:assert/strict';
import {describe, it} from 'node:test';
import {gzipSync} from 'node:zlib';
import {commandLine, run} from '../cli/harness.ts';
import {digestOf, startFakeRegistry} from '../fakes/registry.ts';
import {requiresProgram, requiresRoot} from '../support/helpers.ts';
import {ARCHITECTURE} from '../support/layouts.ts';
import {file, tar} from '../support/tartest.ts';
import {startContainerd} from './containerd.ts';

const TREE = tar(file('f', 'x'));
const OTHER = ARCHITECTURE === 's390x' ? 'ppc64le' : 's390x';
const GZIP_LAYER = 'application/vnd.oci.image.layer.v1.tar+gzip';

/** Config of an image and whether there is a warning, by wanted platform; `''` is this machine's. */
const CONFIGS: Readonly<Record<string, {readonly config: object; readonly warns: Readonly<Record<string, boolean>>}>> = {
  none: {config: {}, warns: {'': false, other: false}},
  empty: {config: {os: '', architecture: ''}, warns: {'': false, other: false}},
  own: {config: {os: 'linux', architecture: ARCHITECTURE}, warns: {'': false, other: true}},
  other: {config: {os: 'linux', architecture: OTHER}, warns: {'': true, other: false}},
  windows: {config: {os: 'windows', architecture: ARCHITECTURE}, warns: {'': true, other: true}},
};

/** For an index with one manifest without a platform, ctr finds none; berth takes it, as without an index. */
const MEANT = ['listed none', 'listed empty'];

describe('a pull', () => {
  it('selects the same platform as ctr', async (t) => {
    if (!requiresRoot(t) || !requiresProgram(t, 'containerd', 'ctr', 'unshare')) return;
    const registry = await startFakeRegistry(t);
    const peer = await startContainerd(t);
    for (const [name, {config}] of Object.entries(CONFIGS)) {
      const rootfs = {type: 'layers', diff_ids: [digestOf(TREE)]};
      const layer = registry.addBlob(gzipSync(TREE), GZIP_LAYER);
      const configured = registry.addBlob(Buffer.from(JSON.stringify({...config, rootfs})), 'application/vnd.oci.image.config.v1+json');
      const mediaType = 'application/vnd.oci.image.manifest.v1+json';
      const manifest = registry.addManifest('alone', {schemaVersion: 2, mediaType, config: configured, layers: [layer]}, mediaType, name);
      registry.addManifest('listed', {schemaVersion: 2, mediaType, config: configured, layers: [layer]}, mediaType);
      registry.addIndex('listed', name, [
        {
          ...manifest,
          ...('os' in config && (config as {os: string}).os !== '' ? {platform: config as {os: string; architecture: string}} : {}),
        },
      ]);
    }
    const differences: string[] = [];
    for (const repository of ['alone', 'listed'])
      for (const [name, {warns}] of Object.entries(CONFIGS))
        for (const [wanted, flags] of [
          ['', []],
          ['other', ['--platform', `linux/${OTHER}`]],
        ] as const) {
          const ref = `${registry.host}/${repository}:${name}`;
          const peerTakes = (await run('ctr', ['--address', peer.socket, 'images', 'pull', '--plain-http', ...flags, ref])).status === 0;
          const {status, stderr} = await commandLine(t, 'executable')(['pull', '--progress', 'none', ...flags, ref]);
          if ((status === 0) !== (peerTakes || MEANT.includes(`${repository} ${name}`)))
            differences.push(`${ref} ${flags.join(' ')}: ctr ${peerTakes}, ${status} ${stderr}`);
          if (repository === 'alone' && status === 0)
            assert.equal(/warning: the image is for /.test(stderr), warns[wanted], `${ref}: ${stderr}`);
        }
    assert.deepEqual(differences, []);
  });
});
