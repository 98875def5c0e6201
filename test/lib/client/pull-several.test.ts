/** Several references in one pull, fetching without unpacking, and pulls on behalf of `run`. */
import assert from 'node:assert/strict';
import {execFile} from 'node:child_process';
import {randomBytes} from 'node:crypto';
import {describe, it, type TestContext} from 'node:test';
import {promisify} from 'node:util';
import type {Client, FetchOptions, PullPolicy} from '../../../src/lib/client/types/index.ts';
import {isErrdefs} from '../../../src/lib/errdefs.ts';
import {runOnFakes} from '../../cli/fake-client.ts';
import {startContainerd} from '../../e2e/containerd.ts';
import {digestOf, type FakeRegistry, startFakeRegistry} from '../../fakes/registry.ts';
import {findProgram, is, newClient, requiresProgram, requiresRoot} from '../../support/helpers.ts';
import {checkStore} from '../../support/invariants.ts';
import {ARCHITECTURE} from '../../support/layouts.ts';
import {file, tar} from '../../support/tartest.ts';

const exec = promisify(execFile);
const layer = (name: string): Buffer => tar(file(name, randomBytes(20_000)));

function add(registry: FakeRegistry, name: string, layers: readonly Buffer[], tag = 'v1'): string {
  const rootfs = {type: 'layers', diff_ids: layers.map((bytes) => digestOf(bytes))};
  registry.addImage(name, tag, layers, {architecture: ARCHITECTURE, os: 'linux', rootfs});
  return `${registry.host}/${name}:${tag}`;
}

describe('a pull of several references', () => {
  it('pulls all that can be pulled, shared layers once, over few connections', async (t) => {
    const registry = await startFakeRegistry(t);
    const shared = layer('shared');
    const refs = Array.from({length: 6}, (_, i) => add(registry, `app${i}`, [shared, layer(`own${i}`)]));
    const missing = `${registry.host}/missing:v1`;
    const client = await newClient(t);
    const ns = client.namespace('default');
    const asked = [refs[0]!, missing, ...refs.slice(1), refs[0]!];
    const outcomes = await ns.pullAll(asked, {unpack: false, plainHTTP: true, maxConcurrentDownloads: 2});
    assert.deepEqual(
      outcomes.map(({ref}) => ref),
      asked,
    );
    assert.deepEqual(
      outcomes.flatMap(({ref, error}) => (error === undefined ? [] : [ref])),
      [missing],
    );
    assert.ok(is('not_found')(outcomes[1]!.error));
    assert.equal(registry.count('GET', new RegExp(digestOf(shared))), 1);
    assert.deepEqual(
      (await ns.images.records()).map(({name}) => name),
      [...refs].sort(),
    );
    // Four pulls ask for documents at once; two of their layers come at once.
    assert.ok(registry.connections <= 6, `${registry.connections} connections`);
    assert.deepEqual(checkStore(client.root), []);
  });

  it('pulls nothing when a reference is malformed, or a password would go to several registries', async (t) => {
    const [one, other] = [await startFakeRegistry(t), await startFakeRegistry(t)];
    const refs = [add(one, 'app', [layer('a')]), add(other, 'app', [layer('b')])];
    const ns = (await newClient(t)).namespace('default');
    await assert.rejects(ns.pullAll([...refs, 'NOT/a ref'], {unpack: false}), is('invalid_argument'));
    const credentials = {username: 'me', password: 'secret'};
    await assert.rejects(ns.pullAll(refs, {unpack: false, credentials}), is('invalid_argument'));
    assert.deepEqual([one.requests, other.requests], [[], []]);
    assert.equal((await ns.pullAll(refs, {unpack: false})).length, 2);
  });

  it('is a list with --json, and has the status of its first failure', async (t) => {
    const registry = await startFakeRegistry(t);
    const refs = [add(registry, 'a', [layer('a')]), add(registry, 'b', [layer('b')])];
    const missing = `${registry.host}/missing:v1`;
    const namespace = (await newClient(t)).namespace('default');
    const {status, stdout} = await runOnFakes(['pull', '--json', '--no-unpack', '--progress', 'none', refs[0]!, missing, refs[1]!], {
      namespace,
    });
    assert.equal(status, 5);
    const list = JSON.parse(stdout) as {ref: string; image?: {name: string}; error?: {kind: string}}[];
    assert.deepEqual(
      list.map(({ref, image, error}) => [ref, image?.name, error?.kind]),
      [
        [refs[0], refs[0], undefined],
        [missing, undefined, 'not_found'],
        [refs[1], refs[1], undefined],
      ],
    );
    const one = await runOnFakes(['pull', '--json', '--no-unpack', '--progress', 'none', refs[0]!], {namespace});
    assert.deepEqual([one.status, JSON.parse(one.stdout).image.name], [0, refs[0]]);
    const quiet = await runOnFakes(['pull', '-q', '--no-unpack', refs[1]!, missing, refs[0]!], {namespace});
    assert.deepEqual([quiet.status, quiet.stdout], [5, `${refs[1]}\n${refs[0]}\n`]);
  });
});

describe('content fetch', () => {
  it('stores and names an image, and unpacks nothing', async (t) => {
    const registry = await startFakeRegistry(t);
    const ref = add(registry, 'app', [layer('a')]);
    const client = await newClient(t);
    const ns = client.namespace('default');
    const {image, unpacked} = await ns.content.fetch(ref);
    assert.deepEqual([image.name, unpacked], [ref, []]);
    assert.equal((await ns.content.list()).length, 3);
    assert.deepEqual(await ns.snapshots('native').list(), []);
  });

  it('of metadata fetches no layer, keeps all documents, and a pull later completes the image', async (t) => {
    const registry = await startFakeRegistry(t);
    const {ref, documents, layers} = addPlatforms(registry);
    const client = await newClient(t);
    const ns = client.namespace('default');
    const stored = async (): Promise<readonly string[]> => (await ns.content.list()).map(({digest}) => digest).sort();
    const {image} = await ns.content.fetch(ref, {metadataOnly: true});
    assert.equal(image.name, ref);
    assert.deepEqual(await stored(), [...documents].sort());
    await client.gc();
    assert.deepEqual(await stored(), [...documents].sort());
    assert.deepEqual(checkStore(client.root), []);
    assert.deepEqual((await client.check()).findings, []);
    assert.deepEqual(
      (await ns.images.check()).map(({status}) => status),
      ['incomplete'],
    );
    assert.equal(registry.count('GET', new RegExp(layers.map(({digest}) => digest).join('|'))), 0);

    await ns.pull(ref, {unpack: false});
    const own = layers.filter(({architecture}) => architecture === ARCHITECTURE).map(({digest}) => digest);
    assert.deepEqual(await stored(), [...documents, ...own].sort());
    await ns.content.fetch(ref, {metadataOnly: true});
    await client.gc();
    assert.deepEqual(await stored(), [...documents, ...own].sort());
    assert.deepEqual(
      (await ns.images.check()).map(({status}) => status),
      ['complete'],
    );
  });

  it('fetches metadata of all platforms beside the layers of one', async (t) => {
    const registry = await startFakeRegistry(t);
    const {ref, documents, layers} = addPlatforms(registry);
    const client = await newClient(t);
    for (const [i, fetch] of (['fetch', 'pull'] as const).entries()) {
      const ns = client.namespace(`n${i}`);
      const options = {allMetadata: true, platforms: ['linux/s390x']};
      await (fetch === 'fetch' ? ns.content.fetch(ref, options) : ns.pull(ref, {...options, unpack: false}));
      const own = layers.filter(({architecture}) => architecture === 's390x').map(({digest}) => digest);
      assert.deepEqual((await ns.content.list()).map(({digest}) => digest).sort(), [...documents, ...own].sort());
    }
    assert.deepEqual((await client.check()).findings, []);
  });

  it('stores what containerd stores, with each choice of platforms and metadata', async (t) => {
    if (!requiresRoot(t) || !requiresProgram(t, 'ctr', 'containerd')) return;
    const registry = await startFakeRegistry(t);
    const {ref} = addPlatforms(registry);
    const {socket, ctr} = await startContainerd(t);
    const client = await newClient(t);
    const choices: readonly (readonly [flags: readonly string[], options: FetchOptions])[] = [
      [[], {}],
      [['--platform', 'linux/s390x'], {platforms: ['linux/s390x']}],
      [['--all-platforms'], {allPlatforms: true}],
      [['--all-metadata'], {allMetadata: true}],
      [['--all-metadata', '--platform', 'linux/s390x'], {allMetadata: true, platforms: ['linux/s390x']}],
      [['--metadata-only'], {metadataOnly: true}],
    ];
    for (const [i, [flags, options]] of choices.entries()) {
      const name = `choice-${i}`;
      await exec(findProgram('ctr')!, ['--address', socket, '-n', name, 'content', 'fetch', '--plain-http', ...flags, ref]);
      const {content} = client.namespace(name);
      await content.fetch(ref, options);
      const ours = (await content.list()).map(({digest}) => digest).sort();
      assert.deepEqual(ours, ctr('-n', name, 'content', 'ls', '-q').trim().split('\n').sort(), flags.join(' '));
    }
  });
});

/** An image for two platforms. */
function addPlatforms(registry: FakeRegistry): {
  readonly ref: string;
  readonly documents: readonly string[];
  readonly layers: readonly {readonly architecture: string; readonly digest: string}[];
} {
  const documents: string[] = [];
  const layers: {architecture: string; digest: string}[] = [];
  const manifests = [ARCHITECTURE, 's390x'].map((architecture) => {
    const bytes = layer(architecture);
    const rootfs = {type: 'layers', diff_ids: [digestOf(bytes)]};
    const image = registry.addImage('app', architecture, [bytes], {architecture, os: 'linux', rootfs});
    documents.push(image.manifest.digest, image.config.digest);
    layers.push(...image.layers.map(({digest}) => ({architecture, digest})));
    return {...image.manifest, platform: {os: 'linux', architecture}};
  });
  const index = registry.addIndex('app', 'all', manifests);
  return {ref: `${registry.host}/app:all`, documents: [...documents, index.digest], layers};
}

/** A run whose command is not in the image, so that it ends before a container runs. @returns the class of its failure */
async function tryRun(client: Client, ref: string, pull: PullPolicy): Promise<string> {
  try {
    await client.namespace('default').run(ref, 'c', {
      pull,
      rm: true,
      args: ['/absent'],
      snapshotter: 'native',
      stdio: ['ignore', 'ignore', 'ignore'],
    });
  } catch (err) {
    if (isErrdefs(err)) return err.details?.runExit === 127 ? 'pulled' : err.code;
    throw err;
  }
  return 'run';
}

describe('run --pull', () => {
  const requires = (t: TestContext): boolean => requiresRoot(t) && requiresProgram(t, 'runc', 'unshare', 'mount');
  /** HEADs when the image is absent, current, and moved at the registry. */
  const policies: Readonly<Record<PullPolicy, readonly [absent: number, current: number, moved: number]>> = {
    always: [1, 1, 1],
    missing: [1, 0, 0],
    never: [0, 0, 0],
    newer: [1, 1, 1],
  };
  for (const [policy, [absent, current, moved]] of Object.entries(policies) as [PullPolicy, readonly [number, number, number]][])
    it(`${policy} asks the registry when it should, and runs what it should`, async (t) => {
      if (!requires(t)) return;
      const registry = await startFakeRegistry(t);
      const ref = add(registry, 'app', [layer('a')]);
      const client = await newClient(t);
      const {images} = client.namespace('default');
      const run = async (heads: number): Promise<string | undefined> => {
        registry.clear();
        assert.equal(await tryRun(client, ref, policy), policy === 'never' ? 'not_found' : 'pulled');
        assert.equal(registry.count('HEAD'), heads);
        return (await images.records()).find(({name}) => name === ref)?.target.digest;
      };
      const first = await run(absent);
      assert.equal(await run(current), first);
      add(registry, 'app', [layer('b')]);
      assert.equal((await run(moved)) === first, policy === 'missing' || policy === 'never');
    });

  it('newer runs what is here, with a warning, when the registry cannot be asked', async (t) => {
    if (!requires(t)) return;
    const registry = await startFakeRegistry(t);
    const ref = add(registry, 'app', [layer('a')]);
    const warnings: string[] = [];
    const client = await newClient(t, {onWarning: ({message}) => void warnings.push(message)});
    assert.equal(await tryRun(client, ref, 'newer'), 'pulled');
    await registry.close();
    assert.equal(await tryRun(client, ref, 'newer'), 'pulled');
    assert.match(warnings.join(), /the local image is used: .*connection refused/);
    assert.equal(await tryRun(client, ref, 'always'), 'unavailable');
    assert.equal(await tryRun(client, `${registry.host}/other:v1`, 'newer'), 'unavailable');
  });
});
