/** Every document that berth writes is what the OCI image specification wants: of exports, and of images made from images. */
import assert from 'node:assert/strict';
import {readFileSync, writeFileSync} from 'node:fs';
import {join} from 'node:path';
import {after, describe, it, type TestContext} from 'node:test';
import {parseDockerManifest} from '../../../src/lib/archive/archive-documents.ts';
import type {ExportOptions} from '../../../src/lib/client/types/index.ts';
import {DOCKER_MANIFEST, OCI_CONFIG, OCI_INDEX, OCI_MANIFEST} from '../../../src/lib/oci/mediatypes.ts';
import {newClient, temporaryDirectory} from '../../support/helpers.ts';
import {ARCHITECTURE, addImage, addIndex, setTarget} from '../../support/layouts.ts';
import {assertValidDocument, assertValidLayout, objections} from '../../support/oci-schemas.ts';
import {pushImage, sharedRegistry} from '../../support/registry.ts';
import {dir, file, tar} from '../../support/tartest.ts';

const LAYERS = [tar(dir('etc'), file('etc/a', 'lower')), tar(file('b', 'upper'))];
const PLATFORMS = [
  {os: 'linux', architecture: ARCHITECTURE},
  {os: 'linux', architecture: 's390x'},
];

const client = await newClient({after});
const {images} = client.namespace('default');
const sharedAtRegistry = sharedRegistry();

/** Imports an image of its own name. */
async function imported(t: TestContext, name: string, docker: boolean, isIndex: boolean): Promise<string> {
  const layout = temporaryDirectory(t);
  const made = PLATFORMS.slice(0, isIndex ? 2 : 1).map((platform) =>
    addImage(layout, {layers: LAYERS, docker, platform, config: {Cmd: ['<sh> & "more"'], Labels: {a: 'ü'}}}),
  );
  setTarget(layout, isIndex ? addIndex(layout, made, {docker}) : made[0]!);
  await images.import(layout, {baseName: `registry.example/${name}`, unpack: false, allPlatforms: true});
  return `registry.example/${name}:latest`;
}

async function validate(t: TestContext, names: readonly string[], options: ExportOptions = {}): Promise<number> {
  const layout = join(temporaryDirectory(t), 'layout');
  await images.export(`${layout}/`, names, options);
  return assertValidLayout(layout);
}

describe('a document that berth writes', () => {
  for (const docker of [false, true])
    for (const isIndex of [false, true]) {
      const name = `${docker ? 'docker' : 'oci'}-${isIndex ? 'index' : 'image'}`;
      it(`is valid in an export, and in what is made of it: ${name}`, async (t) => {
        const source = await imported(t, name, docker, isIndex);
        // oci-layout, index.json, manifests and configs, and an index of them.
        assert.equal(await validate(t, [source], {allPlatforms: true}), isIndex ? 7 : 4);
        await validate(t, [source]);
        await validate(t, [source], {platforms: [`linux/${ARCHITECTURE}`]});
        const layer = join(temporaryDirectory(t), 'layer.tar');
        writeFileSync(layer, tar(file('c', 'added')));
        const to = (verb: string): string => `registry.example/${name}:${verb}`;
        const all = {allPlatforms: true};
        const made = [
          await images.convert(source, to('oci'), {...all, format: 'oci', compression: 'zstd'}),
          await images.convert(source, to('docker'), {...all, format: 'docker', compression: 'none'}),
          await images.flatten(source, to('flattened'), {...all, created: '2024-01-01T00:00:00Z'}),
          await images.append(source, to('appended'), [layer], all),
          await images.mutate(source, to('mutated'), {
            ...all,
            env: ['A=b'],
            labels: ['c=d'],
            user: '1',
            expose: ['80'],
            comment: 'changed',
          }),
          await images.rebase(source, to('rebased'), {...all, oldBase: source, newBase: to('appended')}),
        ];
        for (const image of made) await validate(t, [image.name], all);
        assert.ok((await validate(t, [source, ...made.map((image) => image.name)], all)) > 10);
      });
    }

  it('is valid in a registry: an artifact, and the index of referrers that stands in for the API', async (t) => {
    const registry = await sharedAtRegistry(t);
    if (registry === undefined) return;
    const layout = temporaryDirectory(t);
    setTarget(layout, addImage(layout, {layers: LAYERS}));
    const target = await pushImage(registry, 'app:1', layout);
    const report = join(temporaryDirectory(t), 'report.txt');
    writeFileSync(report, 'nothing found');
    const ref = `${registry.host}/app:1`;
    const options = {plainHTTP: true};
    const made = await client.registry.attach(ref, 'application/vnd.example.report', [{path: report, mediaType: 'text/plain'}], {
      ...options,
      annotations: {a: 'b'},
    });
    for (const [kind, name] of [
      [OCI_MANIFEST, made.digest],
      [OCI_INDEX, target.digest.replace(':', '-')],
    ] as const) {
      const response = await fetch(`${registry.url}/v2/app/manifests/${name}`, {headers: {accept: kind}});
      assert.equal(response.headers.get('content-type'), kind);
      assertValidDocument(kind, await response.json(), name);
    }
  });

  it("is docker's list of images, with a tag for each name", async (t) => {
    const source = await imported(t, 'tagged', false, false);
    await images.tag(source, 'app:1');
    const out = join(temporaryDirectory(t), 'out.tar');
    await images.export(out, [source, 'app:1']);
    const bytes = readFileSync(out);
    const at = bytes.indexOf('[{"Config"');
    const [image] = parseDockerManifest(bytes.subarray(at, bytes.indexOf(']}]', at) + 3));
    assert.deepEqual(image!.repoTags, ['app:1', 'registry.example/tagged:latest']);
    assert.equal(image!.layers.length, LAYERS.length);
  });
});

describe('the schemas', () => {
  const digest = `sha256:${'0'.repeat(64)}`;
  const config = {mediaType: OCI_CONFIG, digest, size: 2};
  const manifest = {schemaVersion: 2, mediaType: OCI_MANIFEST, config, layers: [{...config, mediaType: 'application/x'}]};
  const index = {schemaVersion: 2, mediaType: OCI_INDEX, manifests: [{...config, mediaType: OCI_MANIFEST, platform: PLATFORMS[0]}]};
  const image = {
    architecture: 'amd64',
    os: 'linux',
    rootfs: {type: 'layers', diff_ids: [digest]},
    config: {Env: ['A=b']},
    history: [{created: '2024-01-01T00:00:00Z'}],
  };

  it('refuse what the specification does', () => {
    assert.deepEqual([objections(OCI_MANIFEST, manifest), objections(OCI_INDEX, index), objections('config', image)], [[], [], []]);
    const wrong: readonly (readonly [Parameters<typeof objections>[0], unknown])[] = [
      ['layout', {imageLayoutVersion: '1.0.1'}],
      [OCI_MANIFEST, {...manifest, schemaVersion: 1}],
      [OCI_MANIFEST, {...manifest, mediaType: DOCKER_MANIFEST}],
      [OCI_MANIFEST, {...manifest, config: {...config, digest: 'sha256:00'}}],
      [OCI_MANIFEST, {...manifest, config: {...config, size: -1}}],
      [OCI_MANIFEST, {...manifest, config: {...config, mediaType: 'none'}}],
      [OCI_MANIFEST, {...manifest, config: {...config, mediaType: 'application/vnd.oci.empty.v1+json'}}],
      [OCI_MANIFEST, {...manifest, annotations: {a: 1}}],
      [OCI_MANIFEST, {...manifest, layers: undefined}],
      [OCI_INDEX, {...index, layers: []}],
      [OCI_INDEX, {...index, manifests: [{...index.manifests[0], platform: {os: 'linux'}}]}],
      ['config', {...image, rootfs: {type: 'layers'}}],
      ['config', {...image, created: 'yesterday'}],
      ['config', {...image, config: {Env: 'A=b'}}],
      ['config', {...image, history: [{empty_layer: 'true'}]}],
    ];
    for (const [kind, value] of wrong) assert.notDeepEqual(objections(kind, JSON.parse(JSON.stringify(value))), [], JSON.stringify(value));
  });
});
