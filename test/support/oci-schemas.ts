/**
 * Schemas of the documents that berth writes, and a check of whole layouts by them.
 *
 * The constraints are those of the OCI image specification: descriptor.md, image-index.md, manifest.md, config.md, image-layout.md, and its
 * schema directory (Apache-2.0), in words of our own, and as strict as the text where its schemas are laxer; docker's manifest v2 schema 2
 * has the same shapes under its own media types.
 */
import assert from 'node:assert/strict';
import {createHash} from 'node:crypto';
import {readdirSync, readFileSync} from 'node:fs';
import {join} from 'node:path';
import {Ajv} from 'ajv';
import type {Descriptor} from '../../src/lib/oci/descriptor.ts';
import {DOCKER_LIST, DOCKER_MANIFEST, kindOf, OCI_INDEX, OCI_MANIFEST} from '../../src/lib/oci/mediatypes.ts';

const texts = {type: 'array', items: {type: 'string'}};
const optionalTexts = {anyOf: [texts, {type: 'null'}]};
const textMap = {type: 'object', additionalProperties: {type: 'string'}};
const objectMap = {type: 'object', additionalProperties: {type: 'object'}};
const orNull = (schema: object): object => ({anyOf: [schema, {type: 'null'}]});
const name = '[A-Za-z0-9][A-Za-z0-9!#$&^_.+-]{0,126}';
const mediaType = {type: 'string', pattern: `^${name}/${name}$`};
const digest = {
  type: 'string',
  anyOf: [{pattern: '^sha256:[0-9a-f]{64}$'}, {pattern: '^sha384:[0-9a-f]{96}$'}, {pattern: '^sha512:[0-9a-f]{128}$'}],
};
const time = {type: 'string', pattern: '^\\d{4}-\\d\\d-\\d\\d[Tt]\\d\\d:\\d\\d:\\d\\d(\\.\\d+)?([Zz]|[+-]\\d\\d:\\d\\d)$'};
const platform = {
  type: 'object',
  properties: {
    architecture: {type: 'string', minLength: 1},
    os: {type: 'string', minLength: 1},
    'os.version': {type: 'string'},
    'os.features': texts,
    variant: {type: 'string'},
  },
  required: ['architecture', 'os'],
};
const descriptor = {
  type: 'object',
  properties: {
    mediaType,
    digest,
    size: {type: 'integer', minimum: 0},
    urls: {type: 'array', items: {type: 'string', pattern: '^[A-Za-z][A-Za-z0-9+.-]*:'}},
    annotations: textMap,
    data: {type: 'string', pattern: '^[A-Za-z0-9+/]*={0,2}$'},
    platform,
    artifactType: mediaType,
  },
  required: ['mediaType', 'digest', 'size'],
};

const index = (type: string): object => ({
  type: 'object',
  properties: {
    schemaVersion: {const: 2},
    mediaType: {const: type},
    artifactType: mediaType,
    manifests: {type: 'array', items: descriptor},
    subject: descriptor,
    annotations: textMap,
  },
  required: ['schemaVersion', 'manifests'],
  not: {anyOf: [{required: ['config']}, {required: ['layers']}]},
});

const manifest = (type: string): object => ({
  type: 'object',
  properties: {
    schemaVersion: {const: 2},
    mediaType: {const: type},
    artifactType: mediaType,
    config: descriptor,
    layers: {type: 'array', items: descriptor},
    subject: descriptor,
    annotations: textMap,
  },
  required: ['schemaVersion', 'config', 'layers'],
  not: {required: ['manifests']},
  // An artifact says what it is where its config does not.
  if: {properties: {config: {properties: {mediaType: {const: 'application/vnd.oci.empty.v1+json'}}}}},
  // biome-ignore lint/suspicious/noThenProperty: a keyword of JSON Schema
  then: {required: ['artifactType']},
});

const config = {
  type: 'object',
  properties: {
    created: time,
    author: {type: 'string'},
    architecture: {type: 'string'},
    variant: {type: 'string'},
    os: {type: 'string'},
    'os.version': {type: 'string'},
    'os.features': texts,
    config: orNull({
      type: 'object',
      properties: {
        User: {type: 'string'},
        ExposedPorts: orNull(objectMap),
        Env: optionalTexts,
        Entrypoint: optionalTexts,
        Cmd: optionalTexts,
        Volumes: orNull(objectMap),
        WorkingDir: {type: 'string'},
        Labels: orNull(textMap),
        StopSignal: {type: 'string'},
      },
    }),
    rootfs: {
      type: 'object',
      properties: {type: {const: 'layers'}, diff_ids: {type: 'array', items: digest}},
      required: ['type', 'diff_ids'],
    },
    history: orNull({
      type: 'array',
      items: {
        type: 'object',
        properties: {
          created: time,
          author: {type: 'string'},
          created_by: {type: 'string'},
          comment: {type: 'string'},
          empty_layer: {type: 'boolean'},
        },
      },
    }),
  },
  required: ['architecture', 'os', 'rootfs'],
};

const ajv = new Ajv({allErrors: true, strict: true, strictTypes: false, strictRequired: false});

/** A validator for each kind of document. */
const VALIDATORS = {
  layout: ajv.compile({type: 'object', properties: {imageLayoutVersion: {const: '1.0.0'}}, required: ['imageLayoutVersion']}),
  config: ajv.compile(config),
  [OCI_INDEX]: ajv.compile(index(OCI_INDEX)),
  [DOCKER_LIST]: ajv.compile(index(DOCKER_LIST)),
  [OCI_MANIFEST]: ajv.compile(manifest(OCI_MANIFEST)),
  [DOCKER_MANIFEST]: ajv.compile(manifest(DOCKER_MANIFEST)),
} as const;

/** What the schema of a document says against it. @param kind a media type, `config` or `layout` */
export function objections(kind: keyof typeof VALIDATORS, value: unknown): readonly string[] {
  const validate = VALIDATORS[kind];
  return validate(value) ? [] : validate.errors!.map(({instancePath, message}) => `${instancePath} ${message}`);
}

/** Asserts that a document is what the specification wants. @param what for messages */
export const assertValidDocument = (kind: keyof typeof VALIDATORS, value: unknown, what: string): void =>
  assert.deepEqual(objections(kind, value), [], `${what}: ${JSON.stringify(value)}`);

/**
 * Asserts that a directory is an OCI layout: its documents are valid, and all blobs that are there have the digests and sizes that their
 * descriptors say.
 *
 * @returns the number of documents that were validated, `oci-layout` and `index.json` included
 */
export function assertValidLayout(layout: string): number {
  const read = (file: string): unknown => JSON.parse(readFileSync(join(layout, file), 'utf8'));
  assertValidDocument('layout', read('oci-layout'), 'oci-layout');
  assertValidDocument(OCI_INDEX, read('index.json'), 'index.json');
  let documents = 2;
  const present = new Set(readdirSync(join(layout, 'blobs/sha256')).map((hex) => `sha256:${hex}`));
  const seen = new Set<string>();
  const visit = ({mediaType: type, digest: id, size}: Descriptor): void => {
    if (!present.has(id) || seen.has(id)) return;
    seen.add(id);
    const bytes = readFileSync(join(layout, 'blobs', ...id.split(':')));
    assert.deepEqual([`sha256:${createHash('sha256').update(bytes).digest('hex')}`, bytes.length], [id, size], type);
    const kind = kindOf(type);
    if (kind === 'layer' || kind === 'unknown') return;
    const value = JSON.parse(bytes.toString()) as {manifests?: Descriptor[]; config?: Descriptor; layers?: Descriptor[]};
    assertValidDocument(kind === 'config' ? 'config' : (type as keyof typeof VALIDATORS), value, id);
    documents++;
    if (kind === 'config') return;
    for (const child of value.manifests ?? [value.config!, ...value.layers!]) visit(child);
  };
  for (const image of (read('index.json') as {manifests: Descriptor[]}).manifests) visit(image);
  assert.deepEqual([...present].sort(), [...seen].sort(), 'no blob that nothing refers to');
  return documents;
}
