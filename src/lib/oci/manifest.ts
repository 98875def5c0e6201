/**
 * Parses untrusted image documents: index, manifest and config.
 *
 * What is malformed is `invalid_argument` and names the field; bytes that are not the promised ones are
 * `failed_precondition`; docker's schema 1 is `not_implemented`. `null` for a list or an optional value means that it is
 * absent, as Go's writers have it. Keys that are not known are passed over.
 *
 * Shapes after the OCI image specification (image-index.md, manifest.md, config.md, descriptor.md) and docker's manifest
 * v2 schema 2; the checks that tell an index from a manifest after containerd, core/images/image.go (validateMediaType).
 */
import {ErrdefsError} from '../errdefs.ts';
import {type Descriptor, type Digest, isDigest, type Platform} from './descriptor.ts';
import {digestOf} from './hash.ts';
import {DOCKER_SCHEMA_1, type Kind, kindOf, OCI_INDEX, OCI_MANIFEST} from './mediatypes.ts';

/** The most bytes that a manifest or an index may have. */
export const MAX_MANIFEST_BYTES = 4 * 1024 * 1024;
/** The most bytes that an image's config may have. */
export const MAX_CONFIG_BYTES = 8 * 1024 * 1024;
/** A descriptor's size must be below this. */
export const MAX_BLOB_BYTES = 2 ** 40;
/** The most manifests of an index, and layers of a manifest: each becomes a label of its parent and a file in the store. */
export const MAX_CHILDREN = 1000;
/** The most bytes that one object's annotations, or a config's labels, may have: their keys and values together. */
export const MAX_ANNOTATIONS_BYTES = 1024 * 1024;

/** An image index, or docker's manifest list, after it has been checked. */
export interface Index {
  readonly mediaType: string;
  readonly manifests: readonly Descriptor[];
  readonly artifactType?: string;
  readonly subject?: Descriptor;
  readonly annotations?: Readonly<Record<string, string>>;
}

/** An image manifest of either kind, after it has been checked. */
export interface Manifest {
  readonly mediaType: string;
  readonly config: Descriptor;
  /** The lowest layer first. */
  readonly layers: readonly Descriptor[];
  readonly artifactType?: string;
  readonly subject?: Descriptor;
  readonly annotations?: Readonly<Record<string, string>>;
}

/** How a container of the image is started; the field names are the specification's. */
export interface ExecConfig {
  readonly User?: string;
  /** `KEY=value`; entries that are not are dropped on reading, so that none can take its value from this machine (CVE-2026-57231). */
  readonly Env?: readonly string[];
  readonly Entrypoint?: readonly string[];
  readonly Cmd?: readonly string[];
  readonly WorkingDir?: string;
  readonly Labels?: Readonly<Record<string, string>>;
  readonly StopSignal?: string;
  readonly Volumes?: Readonly<Record<string, object>>;
  readonly ExposedPorts?: Readonly<Record<string, object>>;
}

/** One step of the making of an image, from its config. */
export interface HistoryEntry {
  readonly created?: string;
  readonly createdBy?: string;
  readonly author?: string;
  readonly comment?: string;
  readonly emptyLayer?: boolean;
}

/** An image's config. Is itself the image's platform; `os` and `architecture` are empty where the document does not say. */
export interface ImageConfig extends Platform {
  /** The type is `layers`; it is empty, and there are no diff IDs, where the document has none: an artifact in an image's clothes. */
  readonly rootfs: {readonly type: string; readonly diffIDs: readonly Digest[]};
  readonly config: ExecConfig;
  /** RFC 3339, as written. */
  readonly created?: string;
  readonly history?: readonly HistoryEntry[];
}

type Target = Pick<Descriptor, 'mediaType' | 'digest' | 'size'>;

/** A value in a document and the way to it, for messages. */
interface Field {
  readonly document: string;
  readonly path: string;
  readonly value: unknown;
}

const quote = (text: string): string => JSON.stringify(text.length > 128 ? `${text.slice(0, 128)}…` : text);

const malformed = ({document, path}: Field, reason: string, hint?: string): ErrdefsError =>
  new ErrdefsError('invalid_argument', `${document}: ${path === '' ? 'the document' : path} ${reason}`, hint === undefined ? {} : {hint});

/** Well-formed, and more than is read. */
const tooMuch = (field: Field, reason: string): ErrdefsError =>
  malformed(field, reason, 'it is larger than any image needs: ask the publisher for a smaller one');

const isAbsent = ({value}: Field): boolean => value === undefined || value === null;

function object(field: Field): Readonly<Record<string, unknown>> {
  if (typeof field.value !== 'object' || field.value === null || Array.isArray(field.value)) throw malformed(field, 'must be an object');
  return field.value as Readonly<Record<string, unknown>>;
}

/** A member of an object; only its own, whatever its prototype has. */
function member(field: Field, key: string): Field {
  const own = object(field);
  const path = field.path === '' ? key : `${field.path}.${key}`;
  return {document: field.document, path, value: Object.hasOwn(own, key) ? own[key] : undefined};
}

function text(field: Field): string {
  if (typeof field.value !== 'string') throw malformed(field, 'must be a string');
  return field.value;
}

/** A string that reaches the kernel, where a NUL would end it. */
function word(field: Field): string {
  if (text(field).includes('\0')) throw malformed(field, 'must not contain a NUL');
  return text(field);
}

function flag(field: Field): boolean {
  if (typeof field.value !== 'boolean') throw malformed(field, 'must be true or false');
  return field.value;
}

function digest(field: Field): Digest {
  if (!isDigest(field.value)) throw malformed(field, `must be a digest of a known algorithm, not ${quote(String(field.value))}`);
  return field.value;
}

function list<T>(field: Field, item: (field: Field) => T): readonly T[] {
  if (field.value === null) return [];
  if (!Array.isArray(field.value)) throw malformed(field, 'must be a list');
  return field.value.map((value, i) => item({document: field.document, path: `${field.path}[${i}]`, value}));
}

function map<T>(field: Field, item: (field: Field) => T): Readonly<Record<string, T>> {
  return Object.fromEntries(Object.keys(object(field)).map((key) => [key, item(member(field, key))]));
}

const optional = <T>(field: Field, read: (field: Field) => T): T | undefined => (isAbsent(field) ? undefined : read(field));

/** The object without the keys that have no value. */
const defined = <T extends object>(value: {readonly [K in keyof T]: T[K] | undefined}): T =>
  Object.fromEntries(Object.entries(value).filter(([, v]) => v !== undefined)) as T;

const texts = (field: Field): readonly string[] => list(field, text);
const words = (field: Field): readonly string[] => list(field, word);

function annotations(field: Field): Readonly<Record<string, string>> {
  const entries = map(field, text);
  const size = Object.entries(entries).reduce((sum, [key, value]) => sum + Buffer.byteLength(key) + Buffer.byteLength(value), 0);
  if (size > MAX_ANNOTATIONS_BYTES) throw tooMuch(field, `has ${size} bytes, and must not have more than ${MAX_ANNOTATIONS_BYTES}`);
  return entries;
}

/** What a document points to. */
function pointers(field: Field): readonly Descriptor[] {
  if (Array.isArray(field.value) && field.value.length > MAX_CHILDREN)
    throw tooMuch(field, `has ${field.value.length} entries, and must not have more than ${MAX_CHILDREN}`);
  return list(field, descriptor);
}

const platformFields = (field: Field) => ({
  os: optional(member(field, 'os'), text) ?? '',
  architecture: optional(member(field, 'architecture'), text) ?? '',
  variant: optional(member(field, 'variant'), text),
  'os.version': optional(member(field, 'os.version'), text),
  'os.features': optional(member(field, 'os.features'), texts),
});

const LIMITS: Readonly<Record<Kind, number>> = {
  index: MAX_MANIFEST_BYTES,
  manifest: MAX_MANIFEST_BYTES,
  config: MAX_CONFIG_BYTES,
  layer: MAX_BLOB_BYTES - 1,
  unknown: MAX_BLOB_BYTES - 1,
};

function descriptor(field: Field): Descriptor {
  const mediaType = text(member(field, 'mediaType'));
  if (mediaType === '') throw malformed(member(field, 'mediaType'), 'must not be empty');
  const size = member(field, 'size');
  if (!Number.isSafeInteger(size.value) || (size.value as number) < 0) throw malformed(size, 'must be a whole number of bytes');
  const limit = LIMITS[kindOf(mediaType)];
  if ((size.value as number) > limit) throw tooMuch(size, `must not be more than ${limit} bytes`);
  return defined<Descriptor>({
    mediaType,
    digest: digest(member(field, 'digest')),
    size: size.value as number,
    platform: optional(member(field, 'platform'), (p) => defined<Platform>(platformFields(p))),
    annotations: optional(member(field, 'annotations'), annotations),
    urls: optional(member(field, 'urls'), texts),
    artifactType: optional(member(field, 'artifactType'), text),
    data: optional(member(field, 'data'), text),
  });
}

/** Keys of all objects in a valid JSON text, each as often as it is written. */
function writtenKeys(json: string): number {
  let keys = 0;
  for (let open = json.indexOf('"'); open >= 0; ) {
    let close = open;
    let escapes: number;
    do {
      close = json.indexOf('"', close + 1);
      for (escapes = 0; json[close - 1 - escapes] === '\\'; ) escapes++;
    } while (escapes % 2 === 1);
    let after = close + 1;
    while (/\s/.test(json[after] ?? '')) after++;
    if (json[after] === ':') keys++;
    open = json.indexOf('"', after);
  }
  return keys;
}

/** Keys of all objects in a parsed value, without recursion: the nesting is a stranger's. */
function parsedKeys(value: unknown): number {
  let keys = 0;
  for (const rest = [value]; rest.length > 0; ) {
    const next = rest.pop();
    if (typeof next !== 'object' || next === null) continue;
    const values = Object.values(next);
    if (!Array.isArray(next)) keys += values.length;
    for (const inner of values) if (typeof inner === 'object') rest.push(inner);
  }
  return keys;
}

/** The document's root, from its bytes or from a value that was parsed already. */
function open(document: string, source: unknown, desc: Target, kind: Exclude<Kind, 'layer' | 'unknown'>): Field {
  if (kindOf(desc.mediaType) !== kind)
    throw new ErrdefsError(
      'invalid_argument',
      `${document}: the media type ${quote(desc.mediaType)} is not ${kind === 'index' ? 'an index' : `a ${kind}`}`,
    );
  if (!(source instanceof Uint8Array)) return {document, path: '', value: source};
  if (source.length > LIMITS[kind]) throw new ErrdefsError('invalid_argument', `${document}: rejecting ${source.length} byte ${kind}`);
  if (source.length !== desc.size)
    throw new ErrdefsError('failed_precondition', `${document}: unexpected size ${source.length}, expected ${desc.size}`);
  let value: unknown;
  let twice: boolean;
  try {
    const json = new TextDecoder('utf-8', {fatal: true, ignoreBOM: true}).decode(source);
    value = JSON.parse(json);
    twice = writtenKeys(json) !== parsedKeys(value);
  } catch (cause) {
    throw new ErrdefsError('invalid_argument', `${document}: not JSON`, {cause});
  }
  if (twice) throw new ErrdefsError('invalid_argument', `${document}: a key of one object occurs twice`);
  return {document, path: '', value};
}

/**
 * Refuses what another reader could take for something else: both an index and a manifest, or not what the descriptor
 * says (CVE-2021-41190).
 */
function openTyped(source: unknown, desc: Target, kind: 'index' | 'manifest'): Field {
  const document = `${kind} ${desc.digest}`;
  const root = open(document, source, desc, kind);
  const has = (key: string): boolean => member(root, key).value !== undefined;
  const version = member(root, 'schemaVersion');
  if (has('fsLayers') || version.value === 1) throw new ErrdefsError('not_implemented', `${document}: docker's schema 1`);
  const foreign = (kind === 'index' ? ['config', 'layers'] : ['manifests']).find(has);
  if (foreign !== undefined)
    throw malformed(
      member(root, foreign),
      kind === 'index' ? 'does not belong: expected index but found manifest' : 'does not belong: expected manifest but found index',
    );
  const mediaType = member(root, 'mediaType');
  if (!isAbsent(mediaType) && text(mediaType) !== desc.mediaType)
    throw malformed(mediaType, `is ${quote(text(mediaType))}, the descriptor says ${quote(desc.mediaType)}`);
  if (!isAbsent(version) && version.value !== 2) throw malformed(version, 'must be 2');
  return root;
}

/**
 * Reads an index, or docker's manifest list.
 *
 * @param source the blob's bytes, or its JSON value
 * @param desc what was promised: its media type decides, its size is compared
 * @throws invalid_argument, failed_precondition, not_implemented as said at the top
 */
export function parseIndex(source: unknown, desc: Target): Index {
  const root = openTyped(source, desc, 'index');
  return defined<Index>({
    mediaType: desc.mediaType,
    manifests: pointers(member(root, 'manifests')),
    artifactType: optional(member(root, 'artifactType'), text),
    subject: optional(member(root, 'subject'), descriptor),
    annotations: optional(member(root, 'annotations'), annotations),
  });
}

/** Reads a manifest. Parameters and errors as `parseIndex`. */
export function parseManifest(source: unknown, desc: Target): Manifest {
  const root = openTyped(source, desc, 'manifest');
  return defined<Manifest>({
    mediaType: desc.mediaType,
    config: descriptor(member(root, 'config')),
    layers: pointers(member(root, 'layers')),
    artifactType: optional(member(root, 'artifactType'), text),
    subject: optional(member(root, 'subject'), descriptor),
    annotations: optional(member(root, 'annotations'), annotations),
  });
}

const execConfig = (field: Field): ExecConfig =>
  defined<ExecConfig>({
    User: optional(member(field, 'User'), word),
    Env: optional(member(field, 'Env'), words)?.filter((entry) => entry.indexOf('=') > 0),
    Entrypoint: optional(member(field, 'Entrypoint'), words),
    Cmd: optional(member(field, 'Cmd'), words),
    WorkingDir: optional(member(field, 'WorkingDir'), word),
    Labels: optional(member(field, 'Labels'), annotations),
    StopSignal: optional(member(field, 'StopSignal'), word),
    Volumes: optional(member(field, 'Volumes'), (volumes) => map(volumes, object)),
    ExposedPorts: optional(member(field, 'ExposedPorts'), (ports) => map(ports, object)),
  });

const rootFS = (field: Field): ImageConfig['rootfs'] => ({
  type: text(member(field, 'type')),
  diffIDs: list(member(field, 'diff_ids'), digest),
});

const historyEntry = (field: Field): HistoryEntry =>
  defined<HistoryEntry>({
    created: optional(member(field, 'created'), text),
    createdBy: optional(member(field, 'created_by'), text),
    author: optional(member(field, 'author'), text),
    comment: optional(member(field, 'comment'), text),
    emptyLayer: optional(member(field, 'empty_layer'), flag),
  });

/** Reads the config of an image. Parameters and errors as `parseIndex`. */
export function parseImageConfig(source: unknown, desc: Target): ImageConfig {
  const root = open(`config ${desc.digest}`, source, desc, 'config');
  return defined<ImageConfig>({
    ...platformFields(root),
    rootfs: optional(member(root, 'rootfs'), rootFS) ?? {type: '', diffIDs: []},
    config: optional(member(root, 'config'), execConfig) ?? {},
    created: optional(member(root, 'created'), text),
    history: optional(member(root, 'history'), (history) => list(history, historyEntry)),
  });
}

/**
 * The media type of a manifest or index, for places that do not say: its own member, else by its lists. A parser checks it afterwards.
 *
 * @returns undefined when it is neither
 */
export function mediaTypeOfDocument(bytes: Buffer): string | undefined {
  let document: {mediaType?: unknown; schemaVersion?: unknown; manifests?: unknown; layers?: unknown} = {};
  try {
    document = Object(JSON.parse(bytes.toString()));
  } catch {
    // Not JSON, so no manifest.
  }
  const {mediaType, schemaVersion, manifests, layers} = document;
  if (schemaVersion === 1) return DOCKER_SCHEMA_1;
  if (typeof mediaType === 'string') return mediaType;
  if (Array.isArray(manifests)) return OCI_INDEX;
  return Array.isArray(layers) ? OCI_MANIFEST : undefined;
}

/** What a blob of this kind points to: an index to its manifests, a manifest to its config and then its layers, all else to nothing. */
export function children(kind: Kind, source: unknown, desc: Target): readonly Descriptor[] {
  if (kind === 'index') return parseIndex(source, desc).manifests;
  if (kind !== 'manifest') return [];
  const {config, layers} = parseManifest(source, desc);
  return [config, ...layers];
}

/**
 * The labels by which the blob `desc` keeps what it points to from being collected, `containerd.io/gc.ref.content.` and
 * then `config`, `m.N` for manifests, `l.N` for layers, `N` for the rest, each counted from 0. Only documents have any.
 *
 * After containerd, core/images/mediatypes.go (ChildGCLabels) and handlers.go (SetChildrenMappedLabels).
 */
export function gcLabels(desc: Pick<Descriptor, 'mediaType'>, pointedTo: readonly Descriptor[]): Readonly<Record<string, string>> {
  const parent = kindOf(desc.mediaType);
  if (parent !== 'index' && parent !== 'manifest') return {};
  const suffixes: Readonly<Partial<Record<Kind, string>>> = {config: 'config', manifest: 'm.', layer: 'l.'};
  const seen = new Map<string, number>();
  return Object.fromEntries(
    pointedTo.map(({mediaType, digest}) => {
      const suffix = suffixes[kindOf(mediaType)] ?? '';
      const n = seen.get(suffix) ?? 0;
      seen.set(suffix, n + 1);
      return [`containerd.io/gc.ref.content.${suffix}${suffix === 'config' && n === 0 ? '' : n}`, digest] as const;
    }),
  );
}

/**
 * Each layer of a manifest with the digest that its tar has once it is inflated, the lowest first.
 *
 * @throws invalid_argument the config has not one diff ID for each layer
 *
 * Message after containerd, core/unpack/unpacker.go.
 */
export function pairLayers(
  {layers}: Pick<Manifest, 'layers'>,
  {rootfs: {diffIDs}}: Pick<ImageConfig, 'rootfs'>,
): readonly {readonly layer: Descriptor; readonly diffID: Digest}[] {
  if (layers.length !== diffIDs.length)
    throw new ErrdefsError('invalid_argument', `number of layers and diffIDs don't match: ${layers.length} != ${diffIDs.length}`);
  return layers.map((layer, i) => ({layer, diffID: diffIDs[i]!}));
}

/**
 * Names of the trees that layers make when they are stacked: the n-th stands for the first n+1 layers.
 *
 * After the OCI image specification, config.md (Layer ChainID).
 */
export function chainIDs(diffIDs: readonly Digest[]): readonly Digest[] {
  const chain: Digest[] = [];
  for (const diffID of diffIDs) {
    const below = chain.at(-1);
    chain.push(below === undefined ? diffID : digestOf(`${below} ${diffID}`));
  }
  return chain;
}
