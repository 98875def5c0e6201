/** Commands that make images from images, and that verify signatures, on both engines: what they print, and that the results run through both. */
import assert from 'node:assert/strict';
import {writeFileSync} from 'node:fs';
import {join} from 'node:path';
import {after, it} from 'node:test';
import {digestOf, startFakeRegistry} from '../fakes/registry.ts';
import {envelopeFor, KEY_KINDS, newSigner, publishBundle, publishSimple} from '../support/cosign.ts';
import {temporaryDirectory} from '../support/helpers.ts';
import {publishImage} from '../support/published-images.ts';
import {dir, file, opaque, tar, whiteout} from '../support/tartest.ts';
import {type CommandLine, commandLine, forEachEngine} from './harness.ts';

const LAYERS = [
  tar(dir('etc'), file('etc/a', 'hello'.repeat(30_000)), file('gone')),
  tar(whiteout('gone'), dir('etc'), opaque('etc'), file('b', 'x')),
];
const ADDED = tar(file('added', 'y'.repeat(5000)));

const registry = await startFakeRegistry({after});
publishImage(registry, 'app', LAYERS);
const app = `${registry.host}/app:latest`;

interface Config {
  readonly config: {readonly Cmd?: readonly string[]; readonly Entrypoint?: readonly string[]; readonly Labels: object};
  readonly created: string;
  readonly rootfs: {readonly diff_ids: readonly string[]};
}

async function configOf(ctr: CommandLine, name: string): Promise<{mediaTypes: readonly string[]; config: Config}> {
  const tree = JSON.parse(await ctr.ok(['images', 'inspect', '--content', '--json', name])) as {
    children: {descriptor: {mediaType: string}; content?: Config}[];
  };
  return {mediaTypes: tree.children.slice(1).map(({descriptor}) => descriptor.mediaType), config: tree.children[0]!.content!};
}

forEachEngine('images made from images', (engine) => {
  it('have their digest printed, and the right content', async (t) => {
    const ctr = commandLine(t, engine);
    const layer = join(temporaryDirectory(t), 'layer.tar');
    writeFileSync(layer, ADDED);
    await ctr.ok(['pull', '--no-unpack', '--progress', 'none', app]);
    const diffIDs = LAYERS.map((bytes) => digestOf(bytes));
    const made = async (command: string, target: string, ...words: readonly string[]): Promise<Awaited<ReturnType<typeof configOf>>> => {
      const digest = await ctr.ok(['images', command, '--progress', 'none', ...words]);
      assert.match(digest, /^sha256:[0-9a-f]{64}\n$/);
      if (['convert', 'flatten'].includes(command)) {
        const {target: again} = JSON.parse(await ctr.ok(['images', command, '--progress', 'none', '--json', ...words])) as {
          target: {digest: string};
        };
        assert.equal(again.digest, digest.trim(), 'the same input gives the same digest');
      }
      return configOf(ctr, target);
    };
    for (const [compression, level] of [
      ['zstd', '19'],
      ['gzip', '9'],
    ] as const) {
      const {mediaTypes, config} = await made('convert', 'x:1', '--compression', compression, '--level', level, app, 'x:1');
      assert.deepEqual(mediaTypes, Array(2).fill(`application/vnd.oci.image.layer.v1.tar+${compression}`));
      assert.deepEqual(config.rootfs.diff_ids, diffIDs);
    }
    assert.deepEqual(
      (await made('convert', 'x:2', '--docker', '--uncompress', 'x:1', 'x:2')).mediaTypes,
      Array(2).fill('application/vnd.docker.image.rootfs.diff.tar'),
    );
    assert.equal((await made('flatten', 'x:3', 'x:2', 'x:3')).mediaTypes.length, 1);
    assert.deepEqual((await made('append', 'x:4', app, 'x:4', layer)).config.rootfs.diff_ids, [...diffIDs, digestOf(ADDED)]);
    const words = ['--entrypoint', '["/app", "-v"]', '--label', 'b=2', '--label', 'a', '--created', '86400', app, 'x:5'];
    const {config} = await made('mutate', 'x:5', ...words);
    assert.deepEqual(
      [config.config.Entrypoint, config.config.Cmd, config.config.Labels, config.created],
      [['/app', '-v'], undefined, {b: '2'}, '1970-01-02T00:00:00Z'],
    );
    const rebased = await made('rebase', 'x:6', '--old-base', app, '--new-base', 'x:3', 'x:4', 'x:6');
    assert.deepEqual(rebased.config.rootfs.diff_ids.slice(1), [digestOf(ADDED)]);
    assert.match(await ctr.ok(['images', 'ls', '-q']), /x:1\n.*x:6\n/s);
    await ctr.ok(['check', '--deep', '--progress', 'none']);
  });

  it('take their time from SOURCE_DATE_EPOCH, and refuse what makes no sense', async (t) => {
    const ctr = commandLine(t, engine);
    await ctr.ok(['pull', '--no-unpack', '--progress', 'none', app]);
    await ctr.ok(['images', 'mutate', '--progress', 'none', app, 'x:1'], {env: {SOURCE_DATE_EPOCH: '3'}});
    assert.equal((await configOf(ctr, 'x:1')).config.created, '1970-01-01T00:00:03Z');
    for (const [words, status, message] of [
      [['convert', '--docker', '--compression', 'zstd', app, 'y'], 3, /docker's media types have none for zstd/],
      [['convert', '--compression', 'gzip', '--level', '10', app, 'y'], 3, /levels 1 to 9/],
      [['rebase', '--old-base', app, app, 'y'], 9, /base\.name[\s\S]*--new-base/],
      [['mutate', '--cmd', '[1]', app, 'y'], 3, /not a JSON list/],
      [['mutate', '--created', 'now', app, 'y'], 3, /is not a time/],
      [['append', app, 'y', '/nowhere'], 5, /layer "\/nowhere"/],
    ] as const) {
      const {status: got, stderr} = await ctr(['images', ...words.slice(0, 1), '--progress', 'none', ...words.slice(1)]);
      assert.equal(got, status, stderr);
      assert.match(stderr, message);
    }
  });
});

forEachEngine('signatures', (engine) => {
  it('by every kind of key are verified, and an image without one has status 9', async (t) => {
    const ctr = commandLine(t, engine);
    const work = temporaryDirectory(t);
    for (const [i, kind] of KEY_KINDS.entries()) {
      const signer = newSigner(kind);
      const [name, pem] = [`signed-${engine}-${i}`, join(work, `${i}.pub`)];
      const image = publishImage(registry, name, [tar(file(name))]);
      writeFileSync(pem, signer.publicPEM);
      const ref = `${registry.host}/${name}:latest`;
      const pull = ['pull', '--no-unpack', '--progress', 'none', '--verify-key', pem, ref];
      if (i === 0) {
        const {status, stderr} = await ctr(pull);
        assert.equal(status, 9, stderr);
        assert.match(stderr, /has no signature by a key of this call: failed precondition\nhint: /);
      }
      if (i % 2 === 0) publishSimple(registry, name, image, signer);
      else publishBundle(registry, name, image, envelopeFor(signer, image.digest));
      await ctr.ok(pull);
      if (i > 0) continue;
      assert.match(
        await ctr.ok(['images', 'verify', '--key', pem, ref]),
        new RegExp(`^DIGEST +FORM +KEY +IDENTITY\n${image.digest} (simple-signing|bundle) +sha256:`),
      );
      const [, namespace] = [await ctr.ok(['namespaces', 'create', `ns${i}`, `berth/verify-key=${signer.publicPEM}`]), `ns${i}`];
      await ctr.ok(['-n', namespace, 'pull', '--no-unpack', '--progress', 'none', ref]);
      await ctr.ok(['-n', namespace, 'images', 'tag', ref, 'mine:1']);
      assert.equal((await ctr(['-n', namespace, 'pull', '--no-unpack', '--progress', 'none', app])).status, 9);
    }
    const wrong = await ctr(['namespaces', 'label', 'ns0', 'berth/verify-key.other=nonsense']);
    assert.equal(wrong.status, 3, wrong.stderr);
    assert.match(wrong.stderr, /berth\/verify-key\.other.*not a public key/);
  });
});
