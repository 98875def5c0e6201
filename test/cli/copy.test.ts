/**
 * Commands on registries and archives, on both engines: by a user without root, whose home cannot be written to, with directories for the
 * store that cannot be made.
 */
import assert from 'node:assert/strict';
import {spawn, spawnSync} from 'node:child_process';
import {chmodSync, chownSync, existsSync, mkdirSync, readdirSync, readFileSync, writeFileSync} from 'node:fs';
import {join} from 'node:path';
import {after, describe, it, type TestContext} from 'node:test';
import {setTimeout as sleep} from 'node:timers/promises';
import {startFakeRegistry} from '../fakes/registry.ts';
import {onEnd, requiresProgram, requiresRoot, type Skippable, temporaryDirectory} from '../support/helpers.ts';
import {addImage, setTarget} from '../support/layouts.ts';
import {pushImage, sharedRegistry} from '../support/registry.ts';
import {BASE_LAYER, file, tar} from '../support/tartest.ts';
import {type Engine, engineEnvironment, environment, forEachEngine, type Result, root, run, type SpawnOptions} from './harness.ts';

const NOBODY = 65534;
const AS_NOBODY = ['--reuid', String(NOBODY), '--regid', String(NOBODY), '--clear-groups'];

const registry = sharedRegistry();
const layout = temporaryDirectory({after});
const target = setTarget(layout, addImage(layout, {layers: [BASE_LAYER, tar(file('a', 'a'.repeat(100_000)))]}));

function requirements(t: Skippable): boolean {
  if (!requiresRoot(t) || !requiresProgram(t, 'setpriv', 'docker-registry')) return false;
  if (spawnSync('setpriv', [...AS_NOBODY, 'test', '-x', join(root, 'bin/ctr')]).status === 0) return true;
  t.skip('another user cannot reach this checkout');
  return false;
}

/** `ctr` as nobody, and a directory that belongs to him. */
function nobody(t: TestContext, engine: Engine): {ctr: (args: readonly string[], options?: SpawnOptions) => Promise<Result>; dir: string} {
  const sealed = temporaryDirectory(t);
  chmodSync(sealed, 0o555);
  onEnd(t, () => chmodSync(sealed, 0o700));
  const dir = temporaryDirectory(t);
  chownSync(dir, NOBODY, NOBODY);
  const env = {
    ...engineEnvironment(engine),
    HOME: join(sealed, 'home'),
    BERTH_ROOT: join(sealed, 'root'),
    BERTH_STATE: join(sealed, 'state'),
    TMPDIR: dir,
    NODE_COMPILE_CACHE: join(dir, '.cache'),
  };
  return {
    dir,
    ctr: async (args, options = {}) => {
      const result = await run('setpriv', [...AS_NOBODY, join(root, 'bin/ctr'), ...args], {
        ...options,
        env: {...env, ...options.env},
        cwd: '/',
      });
      assert.deepEqual(readdirSync(sealed), []);
      return result;
    },
  };
}

forEachEngine('a user without root and without a store', (engine) => {
  it('looks at images, copies them and deletes them', async (t) => {
    const running = requirements(t) ? await registry(t) : undefined;
    if (running === undefined) return;
    const {ctr, dir} = nobody(t, engine);
    const ok = async (...args: string[]): Promise<string> => {
      const {status, stdout, stderr} = await ctr(args);
      assert.equal(status, 0, `${args.join(' ')}: ${stderr}`);
      return stdout;
    };
    const app = `${running.host}/${engine}/app`;
    await pushImage(running, `${engine}/app:v1`, layout);

    assert.equal(await ok('resolve', `${app}:v1`), `${target.digest}\n`);
    assert.equal(await ok('tags', app), 'v1\n');
    assert.deepEqual(JSON.parse(await ok('tags', '--json', app)), ['v1']);
    assert.ok((await ok('catalog', running.host)).split('\n').includes(`${engine}/app`));
    const manifest = readFileSync(join(layout, 'blobs', target.digest.replace(':', '/')), 'utf8');
    assert.equal(await ok('content', 'fetch-object', `${app}:v1`), manifest);
    assert.equal(await ok('content', 'fetch-blob', app, target.digest), manifest);
    assert.equal(await ok('inspect', '--raw', `${app}:v1`), manifest);
    assert.equal(JSON.parse(await ok('inspect', `${app}:v1`)).Digest, target.digest);

    const digestFile = join(dir, 'digest');
    for (const place of [`oci:${dir}/layout:v1`, `oci-archive:${dir}/a.tar:v1`, `dir:${dir}/dir`, `${app}:v2`]) {
      assert.equal(await ok('copy', '--digestfile', digestFile, `${app}:v1`, place), `${target.digest}\n`);
      assert.equal(readFileSync(digestFile, 'utf8'), target.digest);
      assert.equal(await ok('copy', '-q', place, `${app}:back`), `${target.digest}\n`);
    }
    const {status, stderr} = await ctr(['copy', `${app}:v1`, `docker-archive:${dir}/d.tar:app:v1`]);
    assert.equal(status, 0, stderr);
    assert.match(stderr, /^layer-sha256:\w+: \w+ .*\n/m);
    await ok('copy', `docker-archive:${dir}/d.tar`, `${app}:docker`);

    writeFileSync(join(dir, 'list.yaml'), `"${running.host}": {images: {${engine}/app: [v1, v2]}}`);
    const planned = await ok('sync', '--dry-run', join(dir, 'list.yaml'), `${running.host}/${engine}/mirror`);
    assert.match(planned, /^(planned docker:\S+ docker:\S+\n){2}$/);
    const report = JSON.parse(await ok('sync', '--json', join(dir, 'list.yaml'), `${running.host}/${engine}/mirror`));
    assert.equal(report.copied, 2);
    assert.match(await ok('sync', join(dir, 'list.yaml'), `${running.host}/${engine}/mirror`), /^(exists docker:\S+ docker:\S+\n){2}$/);

    writeFileSync(join(dir, 'sbom.json'), '{}');
    assert.match(
      await ok('content', 'push-object', app, join(dir, 'sbom.json'), 'text/plain'),
      /^Pushed sha256:44136fa3\w+ text\/plain\n$/,
    );
    const artifact = (await ok('attach', '--artifact-type', 'application/x', `${app}:v1`, `${dir}/sbom.json:application/spdx+json`)).trim();
    assert.equal(await ok('referrers', '-q', `${app}:v1`), `${artifact}\n`);
    assert.match(await ok('referrers', `${app}:v1`), new RegExp(`^DIGEST .*\n${artifact} application/x `));
    assert.equal(await ok('registry', 'delete', `${app}@${artifact}`), `${app}@${artifact}\n`);
    assert.equal(await ok('referrers', '-q', `${app}:v1`), '');
    // A file whose name looks as if it named a media type.
    mkdirSync(join(dir, 'sbom.json:text'));
    writeFileSync(join(dir, 'sbom.json:text/plain'), 'another');
    const named = (await ok('attach', '--artifact-type', 'application/x', `${app}:v1`, `${dir}/sbom.json:text/plain`)).trim();
    const {layers} = JSON.parse(await ok('inspect', '--raw', `${app}@${named}`));
    assert.deepEqual([layers[0].mediaType, layers[0].size], ['application/octet-stream', 7]);
  });

  it('gets an exit status for each failure', async (t) => {
    const running = requirements(t) ? await registry(t) : undefined;
    if (running === undefined) return;
    const {ctr, dir} = nobody(t, engine);
    await pushImage(running, 'app:v1', layout);
    const app = `${running.host}/app:v1`;
    writeFileSync(join(dir, 'bad.yaml'), 'a: [');
    writeFileSync(join(dir, 'partly.yaml'), `"${running.host}": {images: {app: [nope, v1]}}`);
    mkdirSync(join(dir, 'full'));
    writeFileSync(join(dir, 'full/mine'), 'x');
    for (const [args, expected, message] of [
      [['resolve', `${running.host}/app:nope`], 5, /answered 404/],
      [['copy', `${running.host}/app:nope`, `oci:${dir}/x`], 5, /^ctr: unable to copy docker:\/\/\S+ to oci:\S+: resolve /m],
      [['copy', app, `oci:${dir}/full`], 9, /is not empty, and is no OCI layout/],
      [['copy', app, `oci-archive:${dir}/full/mine`], 6, /already exists/],
      [['copy', app, 'oci:/proc/nowhere/x'], 5, /\/proc\/nowhere/],
      [['copy', app, 'http://x/y'], 3, /transport is not known/],
      [
        ['copy', '--src-tls-verify=false', app, `oci:${dir}/x`],
        3,
        /unknown flag --src-tls-verify: invalid argument\nhint: use --src-skip-verify/,
      ],
      [['copy', '--src-creds', 'me', '--src-password-stdin', app, `oci:${dir}/x`], 3, /no password for user "me"/],
      [['sync', join(dir, 'nope.yaml'), running.host], 5, /nope\.yaml/],
      [['sync', join(dir, 'bad.yaml'), running.host], 3, /not YAML/],
      [['sync', '--max-concurrent-images', '1', join(dir, 'partly.yaml'), `${running.host}/stopped`], 5, /nope: .*not found/],
      [['sync', '--keep-going', join(dir, 'partly.yaml'), `${running.host}/partly`], 5, /nope: .*not found/],
      [['registry', 'rm', app], 12, /registry rm --manifest \S+@sha256:/],
      [['attach', '--artifact-type', 'a/b', app, join(dir, 'nope')], 5, /nope/],
    ] as const) {
      const {status, stderr} = await ctr(args);
      assert.equal(status, expected, `${args.join(' ')}: ${stderr}`);
      assert.match(stderr, message, args.join(' '));
    }
    const stopped = await ctr(['sync', '--max-concurrent-images', '1', join(dir, 'partly.yaml'), `${running.host}/stopped`]);
    assert.match(stopped.stdout, /^failed \S+:nope \S+\npending \S+:v1 \S+\n$/);
    const {stdout} = await ctr(['resolve', `${running.host}/partly/app:v1`]);
    assert.equal(stdout, `${target.digest}\n`);
  });
});

describe('a copy that is killed', () => {
  for (const transport of ['oci', 'dir', 'oci-archive', 'docker-archive'])
    it(`leaves no image, and the next one succeeds and cleans up: ${transport}`, async (t) => {
      const fake = await startFakeRegistry(t);
      const layers = [BASE_LAYER, tar(file('a', 'b'.repeat(500_000)))];
      const {digestOf} = await import('../fakes/registry.ts');
      fake.addImage('app', 'v1', layers, {
        architecture: {x64: 'amd64'}[process.arch as string] ?? process.arch,
        os: 'linux',
        rootfs: {type: 'layers', diff_ids: layers.map((layer) => digestOf(layer))},
      });
      const heal = fake.fault({path: new RegExp(digestOf(layers[1]!)), stallAt: 200_000});
      const dir = temporaryDirectory(t);
      const place = `${transport}:${dir}/place${transport === 'dir' ? '' : ':app:v1'}`;
      const args = ['copy', '--progress', 'none', `${fake.host}/app:v1`, place];
      const child = spawn(join(root, 'bin/ctr'), args, {env: {...environment(), ...engineEnvironment('executable')}, stdio: 'ignore'});
      const ended = new Promise((resolve) => child.once('exit', resolve));
      const files = (): string[] => readdirSync(dir, {recursive: true, encoding: 'utf8'}).filter((path) => path.includes('.tmp.'));
      for (let waited = 0; files().length === 0 && waited < 60_000; waited += 10) await sleep(10);
      assert.notEqual(files().length, 0, 'it writes under a temporary name');
      child.kill('SIGKILL');
      await ended;
      for (const made of [`${dir}/place/index.json`, `${dir}/place/manifest.json`]) assert.equal(existsSync(made), false, made);
      if (!transport.startsWith('oci') || transport === 'oci-archive') assert.equal(existsSync(`${dir}/place`), false);
      heal();
      const {status, stderr} = await run(join(root, 'bin/ctr'), args, {env: engineEnvironment('executable')});
      assert.equal(status, 0, stderr);
      assert.deepEqual(files(), []);
    });
});
