/** Images of a list, copied between two real registries and into a directory; skopeo with the same list is the oracle. */
import assert from 'node:assert/strict';
import {execFileSync} from 'node:child_process';
import {mkdirSync, readdirSync, readFileSync, rmSync, writeFileSync} from 'node:fs';
import {join} from 'node:path';
import {after, before, describe, it, type TestContext} from 'node:test';
import {parseSyncFile} from '../../../src/lib/client/copy/sync-file.ts';
import {openClient} from '../../../src/lib/client/index.ts';
import type {Client, SyncResult} from '../../../src/lib/client/types/index.ts';
import type {Digest} from '../../../src/lib/oci/descriptor.ts';
import {selfSigned} from '../../fakes/certificate.ts';
import {findProgram, is, onEnd, requiresProgram, temporaryDirectory} from '../../support/helpers.ts';
import {addImage, setTarget} from '../../support/layouts.ts';
import {blobGets, pushImage, type Registry, sharedRegistry, startRegistry} from '../../support/registry.ts';
import {BASE_LAYER, file, tar} from '../../support/tartest.ts';

const origin = sharedRegistry();
const layouts = temporaryDirectory({after});
const digests = new Map<string, Digest>();

const IMAGES = [
  'team/app:1.0.0',
  'team/app:1.1.0',
  'team/app:1.2.0-rc1',
  'team/app:latest',
  'web:a1',
  'web:a2',
  'web:b1',
  'other/app:1.0.0',
];

let from: Registry | undefined;
before(async () => {
  if (findProgram('docker-registry') === undefined) return;
  from = await origin({skip: () => {}});
  for (const name of IMAGES) {
    const layout = join(layouts, name.replaceAll(/\W/g, '-'));
    mkdirSync(layout);
    digests.set(name, setTarget(layout, addImage(layout, {layers: [BASE_LAYER, tar(file('name', name))]})).digest);
    await pushImage(from!, name, layout);
  }
});

function newClient(t: TestContext): Client['registry'] {
  const client = openClient({root: '/proc/nowhere', state: '/proc/nowhere'});
  onEnd(t, () => client.close());
  return client.registry;
}

const list = (...lines: string[]): string => [`"${from!.host}":`, '  tls-verify: false', ...lines.map((line) => `  ${line}`)].join('\n');

const SELECTIONS: Readonly<Record<string, readonly [lines: readonly string[], expected: readonly string[]]>> = {
  'tags and digests': [
    ['images:', '  team/app: ["1.0.0", latest]', '  web:', '    - a1'],
    ['team/app:1.0.0', 'team/app:latest', 'web:a1'],
  ],
  'all tags': [
    ['images:', '  web: []'],
    ['web:a1', 'web:a2', 'web:b1'],
  ],
  'a regular expression': [
    ['images-by-tag-regex:', '  web: ^a'],
    ['web:a1', 'web:a2'],
  ],
  'a range of versions': [
    ['images-by-semver:', "  team/app: '>= 1.0.0, < 2'"],
    ['team/app:1.0.0', 'team/app:1.1.0'],
  ],
  'several of them': [
    ['images:', '  team/app: [latest]', 'images-by-tag-regex:', '  web: ^b', 'images-by-semver:', '  team/app: 1.1.x'],
    ['team/app:latest', 'web:b1', 'team/app:1.1.0'],
  ],
};

/** Repositories and tags in a registry, sorted. */
async function everything(client: Client['registry'], {host}: Registry): Promise<string[]> {
  const names: string[] = [];
  for await (const repository of await client.catalog(host))
    for await (const tag of await client.tags(`${host}/${repository}`)) names.push(`${repository}:${tag}`);
  return names.sort();
}

describe('a sync', () => {
  for (const [name, [lines, expected]] of Object.entries(SELECTIONS))
    it(`copies what skopeo copies: ${name}`, async (t) => {
      if (!requiresProgram(t, 'docker-registry', 'skopeo')) return;
      const [ours, theirs] = await Promise.all([startRegistry(t), startRegistry(t)]);
      const client = newClient(t);
      const text = list(...lines);
      const yaml = join(temporaryDirectory(t), 'list.yaml');
      writeFileSync(yaml, text);
      for (const [scoped, prefix] of [
        [false, '/mirror'],
        [true, '/deep/mirror'],
      ] as const) {
        const result = await client.sync(text, `${ours.host}${prefix}`, {scoped});
        assert.deepEqual(
          result.images.map(({source, status}) => [source.replace(`docker://${from!.host}/`, ''), status]),
          expected.map((image) => [image, 'copied']),
        );
        for (const {destination, digest} of result.images) assert.equal((await client.resolve(destination.slice(9))).digest, digest);
        assert.deepEqual([result.copied, result.exists, result.failed], [expected.length, 0, 0]);
        // A registry with a port is no component of a repository, so skopeo cannot do that.
        if (scoped) continue;
        execFileSync(
          'skopeo',
          ['--insecure-policy', 'sync', '--src', 'yaml', '--dest', 'docker', '--dest-tls-verify=false', yaml, `${theirs.host}${prefix}`],
          {stdio: ['ignore', 'pipe', 'pipe']},
        );
        assert.deepEqual(await everything(client, ours), await everything(client, theirs));
      }
    });

  it('skips images that the target has, also after an interruption', async (t) => {
    if (!requiresProgram(t, 'docker-registry')) return;
    const to = await startRegistry(t);
    const client = newClient(t);
    const text = list('images:', '  web: []', '  team/app: []');
    const abort = new AbortController();
    await assert.rejects(
      client.sync(text, to.host, {
        maxConcurrentImages: 1,
        signal: abort.signal,
        // The second image begins.
        onEvent: ({ref, status}) => {
          if (ref.endsWith('web:a2') && status === 'resolved') abort.abort();
        },
      }),
      is('canceled'),
    );
    from!.clearLog();
    const {copied, exists, images} = await client.sync(text, to.host);
    assert.deepEqual([copied, exists], [6, 1]);
    assert.equal(images.find(({status}) => status === 'exists')?.source, `docker://${from!.host}/web:a1`);
    from!.clearLog();
    const again = await client.sync(text, to.host);
    assert.deepEqual([again.copied, again.exists, again.transferredBytes, [...blobGets(from!)]], [0, 7, 0, []]);
  });

  it('reads and sends a blob once, and mounts it in the other repositories that have it', async (t) => {
    if (!requiresProgram(t, 'docker-registry')) return;
    const client = newClient(t);
    const text = list('images:', '  web: []', '  team/app: []', '  other/app: []');
    const dir = temporaryDirectory(t);
    from!.clearLog();
    await client.sync(text, `dir:${dir}`, {scoped: true});
    const baseLayers = readdirSync(join(dir, from!.host, 'team')).length;
    assert.equal(baseLayers, 4);
    for (const source of [text, {directory: dir}]) {
      const to = await startRegistry(t);
      from!.clearLog();
      const {copied, images} = await client.sync(source, to.host, {scoped: true, maxConcurrentImages: IMAGES.length});
      assert.equal(copied, IMAGES.length);
      for (const {destination, digest} of images) assert.equal((await client.resolve(destination.slice(9))).digest, digest);
      const taken = to.requests().filter(({status}) => status === 201);
      const uploads = taken.filter(({method, path}) => method === 'PUT' && path.includes('/blobs/uploads/'));
      const mounts = taken.filter(({method}) => method === 'POST');
      // A layer and a config of each image, and one layer of all; three repositories.
      assert.deepEqual([uploads.length, mounts.length], [2 * IMAGES.length + 1, 2]);
      if (typeof source === 'string') assert.ok([...blobGets(from!).values()].every(([requests]) => requests === 1));
    }
  });

  it('to a directory is one image a directory, and can be repeated', async (t) => {
    if (!requiresProgram(t, 'docker-registry')) return;
    const dir = temporaryDirectory(t);
    const client = newClient(t);
    const text = list('images:', '  web: [a1, a2]', 'images-by-semver:', '  team/app: 1.0.0');
    const {copied} = await client.sync(text, `dir:${dir}`, {appendSuffix: '-x'});
    assert.equal(copied, 3);
    assert.deepEqual(readdirSync(dir).sort(), ['app:1.0.0-x', 'web:a1-x', 'web:a2-x']);
    assert.ok(readFileSync(join(dir, 'web:a1-x/manifest.json')).length > 0);
    const again = await client.sync(text, `dir:${dir}`, {appendSuffix: '-x'});
    assert.deepEqual([again.copied, again.exists, again.transferredBytes], [0, 3, 0]);
  });

  it('that only shows copies nothing', async (t) => {
    if (!requiresProgram(t, 'docker-registry')) return;
    const to = await startRegistry(t);
    const client = newClient(t);
    const {images} = await client.sync(list('images:', '  web: []'), `${to.host}/x`, {dryRun: true});
    assert.deepEqual(
      images,
      ['a1', 'a2', 'b1'].map((tag) => ({
        source: `docker://${from!.host}/web:${tag}`,
        destination: `docker://${to.host}/x/web:${tag}`,
        status: 'planned',
      })),
    );
    assert.deepEqual(
      to.requests().filter(({path}) => path !== '/v2/'),
      [],
    );
  });

  it('reports a tag that it sets on an image that is there, as copied', async (t) => {
    if (!requiresProgram(t, 'docker-registry')) return;
    const to = await startRegistry(t);
    const client = newClient(t);
    await client.copy(`${from!.host}/web:a1`, `${to.host}/web:other`);
    const text = list('images:', '  web: [a1]');
    for (const status of ['copied', 'exists']) {
      const {images} = await client.sync(text, to.host);
      assert.deepEqual(
        images.map((image) => [image.status, image.transferredBytes]),
        [[status, 0]],
      );
    }
  });

  it('that fails reports what it has copied, what failed and what it did not reach', async (t) => {
    if (!requiresProgram(t, 'docker-registry')) return;
    const to = await startRegistry(t);
    const client = newClient(t);
    const reports: SyncResult[] = [];
    const options = {maxConcurrentImages: 1, onReport: (report: SyncResult) => void reports.push(report)};
    await assert.rejects(client.sync(list('images:', '  web: [a1, nope, a2]'), to.host, options), is('not_found'));
    await assert.rejects(client.sync(list('images:', '  web: [a1]', '  nowhere: []'), to.host, options), is('not_found'));
    await client.sync(list('images:', '  web: [a1]'), to.host, options);
    assert.deepEqual(
      reports.map(({images}) => images.map(({status, error}) => error?.kind ?? status)),
      [
        ['copied', 'not_found', 'pending'],
        ['not_found', 'pending'],
      ],
    );
  });

  it('stops at the first failure, or continues and reports all of them', async (t) => {
    if (!requiresProgram(t, 'docker-registry')) return;
    const to = await startRegistry(t);
    const client = newClient(t);
    const text = list('images:', '  web: [nope, a1]', '  nowhere: []');
    await assert.rejects(client.sync(text, to.host, {maxConcurrentImages: 1}), is('not_found'));
    assert.deepEqual(await everything(client, to), []);
    const {images, failed, copied} = await client.sync(text, to.host, {keepGoing: true});
    assert.deepEqual([failed, copied], [2, 1]);
    assert.deepEqual(
      images.map(({status, error}) => error?.kind ?? status),
      ['not_found', 'not_found', 'copied'],
    );
    assert.deepEqual(await everything(client, to), ['web:a1']);
  });

  it('believes the CA of a cert-dir, and shows its client certificate', async (t) => {
    if (!requiresProgram(t, 'docker-registry')) return;
    const dir = temporaryDirectory(t);
    const server = selfSigned('127.0.0.1');
    const own = selfSigned('client');
    const running = await startRegistry(t, {tls: {...server, clientCA: own.cert}});
    const client = newClient(t);
    const text = (certDir: string): string => `"${running.host}": {images: {app: []}, cert-dir: ${JSON.stringify(certDir)}}`;
    await assert.rejects(client.sync(text(dir), '127.0.0.1:1'), is('failed_precondition'), 'an unknown CA');
    for (const [name, content] of Object.entries({'ca.crt': server.cert, 'client.cert': own.cert, 'client.key': own.key}))
      writeFileSync(join(dir, name), content);
    // The registry answers: it has no such repository.
    await assert.rejects(client.sync(text(dir), '127.0.0.1:1'), is('not_found'));
    writeFileSync(join(dir, 'other.crt'), own.cert);
    await assert.rejects(client.sync(text(dir), '127.0.0.1:1'), is('not_implemented'));
    await assert.rejects(client.sync(text(join(dir, 'nope')), '127.0.0.1:1'), is('not_found'));
  });

  it('sends one password to one registry only', async (t) => {
    const client = newClient(t);
    const text = '{"127.0.0.1:1": {images: {a: [b]}}, "127.0.0.2:1": {images: {c: [d]}}}';
    const source = {credentials: {username: 'me', password: 'secret'}};
    await assert.rejects(client.sync(text, '127.0.0.1:1', {source, dryRun: true}), is('invalid_argument'));
    assert.equal((await client.sync(text, '127.0.0.1:1', {dryRun: true})).images.length, 2);
  });

  for (const scoped of [false, true])
    it(`of a directory is what skopeo makes of it, ${scoped ? 'with' : 'without'} whole names, and each image comes back`, async (t) => {
      if (!requiresProgram(t, 'docker-registry', 'skopeo')) return;
      const dir = temporaryDirectory(t);
      const client = newClient(t);
      const digest = digests.get('web:b1')!;
      await client.sync(list('images:', '  team/app: ["1.0.0", latest]', `  web: [a1, "${digest}"]`), `dir:${dir}`, {scoped});
      writeFileSync(join(dir, 'notes'), 'mine');
      const [ours, theirs] = await Promise.all([startRegistry(t), startRegistry(t)]);
      const plan = await client.sync({directory: dir}, `${ours.host}/m`, {scoped, dryRun: true});
      const {images} = await client.sync({directory: dir}, `${ours.host}/m`, {scoped});
      assert.deepEqual(
        images.map(({source, destination}) => [source, destination]),
        plan.images.map(({source, destination}) => [source, destination]),
      );
      assert.deepEqual(
        images.map((image) => image.digest).sort(),
        ['team/app:1.0.0', 'team/app:latest', 'web:a1', 'web:b1'].map((name) => digests.get(name)).sort(),
      );
      assert.ok((await client.sync({directory: dir}, `${ours.host}/m`, {scoped})).images.every(({status}) => status === 'exists'));
      // One image alone, as skopeo has it.
      if (!scoped) {
        const one = join(dir, 'app:1.0.0');
        await client.sync({directory: one}, `${ours.host}/one`);
        assert.equal((await client.resolve(`${ours.host}/one/app:1.0.0`)).digest, digests.get('team/app:1.0.0'));
        rmSync(join(dir, `web@${digest}`), {recursive: true});
        execFileSync(
          'skopeo',
          ['--insecure-policy', 'sync', '--src', 'dir', '--dest', 'docker', '--dest-tls-verify=false', dir, `${theirs.host}/m`],
          {stdio: 'pipe'},
        );
        assert.deepEqual(
          await everything(client, theirs),
          (await everything(client, ours)).filter((name) => name.startsWith('m/') && !name.includes('@')),
        );
      }
    });

  it('of a directory without images, or with other names than images have, is refused', async (t) => {
    const client = newClient(t);
    const dir = temporaryDirectory(t);
    await assert.rejects(client.sync({directory: dir}, '127.0.0.1:1'), is('not_found'));
    await assert.rejects(client.sync({directory: join(dir, 'nope')}, '127.0.0.1:1'), is('not_found'));
    for (const name of ['App:1', 'a b', 'a:', 'a@sha256:00', ':1']) {
      const path = join(dir, name);
      mkdirSync(path);
      for (const file of ['version', 'manifest.json']) writeFileSync(join(path, file), '{}');
      await assert.rejects(client.sync({directory: dir}, '127.0.0.1:1', {dryRun: true}), is('invalid_argument'), name);
      rmSync(path, {recursive: true});
    }
  });

  it('refuses two images for one destination', async (t) => {
    if (!requiresProgram(t, 'docker-registry')) return;
    const client = newClient(t);
    const text = list('images:', '  team/app: ["1.0.0"]', '  other/app: ["1.0.0"]');
    await assert.rejects(client.sync(text, '127.0.0.1:1', {dryRun: true}), is('invalid_argument'));
    assert.equal((await client.sync(text, '127.0.0.1:1', {dryRun: true, scoped: true})).images.length, 2);
    for (const wrong of ['', 'dir:', 'http://x', 'a b', 'X/y', '127.0.0.1:1/x:y'])
      await assert.rejects(client.sync(text, wrong), is('invalid_argument'), wrong);
  });
});

describe('a list', () => {
  for (const [name, text, message] of [
    ['no YAML', 'a: [', /not YAML/],
    ['a key twice', 'r.example: {}\nr.example: {}', /not YAML/],
    ['a list', '- a', /must be a mapping/],
    ['text', 'x', /must be a mapping/],
    ['empty', '', /must be a mapping/],
    ['an unknown key', 'r.example: {image: {}}', /"image" is not known/],
    ['a number as a tag', 'r.example: {images: {a: [1.10]}}', /must be a string/],
    ['a tag in a name', 'r.example: {images: {"a:b": []}}', /without a tag/],
    [
      'a host that is a directory of Docker Hub',
      'mirror: {images: {a: []}, credentials: {username: a, password: b}}',
      /^mirror: is no registry/,
    ],
    ['a bad repository', 'r.example: {images: {A: []}}', /lower case/],
    ['a bad tag', 'r.example: {images: {a: ["b c"]}}', /whitespace/],
    ['a bad expression', 'r.example: {images-by-tag-regex: {a: "("}}', /missing closing/],
    ['a bad range', 'r.example: {images-by-semver: {a: latest}}', /constraint/],
    ['half credentials', 'r.example: {credentials: {username: a}}', /password/],
    ['a word for tls-verify', 'r.example: {tls-verify: "no"}', /true or false/],
    [
      'a bomb',
      `a: &a [x,x,x,x,x,x,x,x,x,x]\n${'bcdef'
        .split('')
        .map((c, i) => `${c}: &${c} [${`*${'abcdef'[i]},`.repeat(10)}]`)
        .join('\n')}`,
      /aliases|mapping/,
    ],
  ] as const)
    it(`with ${name} is refused`, () =>
      assert.throws(
        () => parseSyncFile(text),
        (err) => {
          is('invalid_argument')(err);
          assert.match((err as Error).message, message);
          return true;
        },
      ));

  it('has what skopeo documents', () => {
    const [registry] = parseSyncFile(`
      registry.example.com:
          images:
              busybox: []
              redis: ["1.0", "sha256:${'0'.repeat(64)}"]
          images-by-tag-regex: {nginx: "^1\\\\.13\\\\.[12]-alpine-perl$"}
          credentials: {username: john, password: "this is a secret"}
          tls-verify: true
          cert-dir: /home/john/certs`);
    assert.deepEqual(
      [registry!.host, registry!.credentials, registry!.tlsVerify, registry!.certDir],
      ['registry.example.com', {username: 'john', password: 'this is a secret'}, true, '/home/john/certs'],
    );
    const [busybox, redis, nginx] = registry!.images;
    assert.ok(busybox!.wants!('any'));
    assert.deepEqual(
      redis!.references?.map(({tag, digest}) => tag ?? digest),
      ['1.0', `sha256:${'0'.repeat(64)}`],
    );
    assert.deepEqual([nginx!.wants!('1.13.1-alpine-perl'), nginx!.wants!('1.13.3-alpine-perl')], [true, false]);
  });
});
