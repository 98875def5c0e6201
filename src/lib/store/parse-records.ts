/** Parses records; no other module knows their fields. An invalid one is `data_loss`, and the message names file and field. */
import {ErrdefsError} from '../errdefs.ts';
import {type Descriptor, type Digest, isDigest} from '../oci/descriptor.ts';
import {REPAIR_HINT} from './read-record-files.ts';
import type {
  ContainerRecord,
  ContentRecord,
  ImageRecord,
  IngestInfo,
  Labels,
  LeaseRecord,
  NamespaceRecord,
  SnapshotKind,
  SnapshotRecord,
} from './records.ts';

/** Version in every record. A higher one comes from a newer berth. */
export const RECORD_VERSION = 1;

type Fields = Readonly<Record<string, unknown>>;

/** Reads the fields of one record; every error names the file. */
class RecordReader {
  readonly #what: string;
  readonly #fields: Fields;

  constructor(value: unknown, what: string) {
    this.#what = what;
    if (typeof value !== 'object' || value === null || Array.isArray(value)) throw this.#invalid('is not an object');
    this.#fields = value as Fields;
  }

  /** Starts a record, whose version must be known. @throws failed_precondition the version is newer */
  static document(value: unknown, what: string): RecordReader {
    const reader = new RecordReader(value, what);
    const {version} = reader.#fields;
    if (version === RECORD_VERSION) return reader;
    if (Number.isSafeInteger(version) && (version as number) > RECORD_VERSION)
      throw new ErrdefsError('failed_precondition', `${what} has version ${version}, this version of berth knows ${RECORD_VERSION}`, {
        hint: 'use the version of berth that wrote it, or a newer one',
      });
    throw reader.#invalid('has no valid "version"');
  }

  #invalid(complaint: string): ErrdefsError {
    return new ErrdefsError('data_loss', `${this.#what} ${complaint}`, {hint: REPAIR_HINT});
  }

  string(field: string): string {
    const value = this.#fields[field];
    if (typeof value !== 'string') throw this.#invalid(`has no valid "${field}"`);
    return value;
  }

  optionalString(field: string): string | undefined {
    return this.#fields[field] === undefined ? undefined : this.string(field);
  }

  oneOf<T extends string>(field: string, values: readonly T[]): T {
    const value = this.string(field);
    if (!values.includes(value as T)) throw this.#invalid(`has no valid "${field}"`);
    return value as T;
  }

  size(field: string): number {
    const value = this.#fields[field];
    if (typeof value !== 'number' || !Number.isSafeInteger(value) || value < 0) throw this.#invalid(`has no valid "${field}"`);
    return value;
  }

  digest(field: string): Digest {
    const value = this.#fields[field];
    if (!isDigest(value)) throw this.#invalid(`has no valid "${field}"`);
    return value;
  }

  date(field: string): string {
    const value = this.string(field);
    if (Number.isNaN(Date.parse(value))) throw this.#invalid(`has no valid "${field}"`);
    return value;
  }

  strings(field: string): readonly string[] {
    const value = this.#fields[field];
    if (!Array.isArray(value) || !value.every((v) => typeof v === 'string')) throw this.#invalid(`has no valid "${field}"`);
    return value;
  }

  digests(field: string): readonly Digest[] {
    const value = this.strings(field);
    if (!value.every(isDigest)) throw this.#invalid(`has no valid "${field}"`);
    return value;
  }

  /** Skips values that are not strings: an earlier berth accepted them from callers. */
  labels(field = 'labels'): Labels {
    const value = this.#fields[field];
    if (typeof value !== 'object' || value === null || Array.isArray(value)) throw this.#invalid(`has no valid "${field}"`);
    const entries = Object.entries(value);
    const whole = entries.filter(([, v]) => typeof v === 'string');
    return (whole.length === entries.length ? value : Object.fromEntries(whole)) as Labels;
  }

  object(field: string): RecordReader {
    return new RecordReader(this.#fields[field], `${this.#what} field "${field}"`);
  }

  raw(field: string): unknown {
    return this.#fields[field];
  }

  objectOrNull(field: string): unknown {
    if (this.raw(field) !== null) this.object(field);
    return this.raw(field);
  }
}

const dated = (r: RecordReader) => ({createdAt: r.date('createdAt'), updatedAt: r.date('updatedAt')});

const optional = <K extends string, V>(key: K, value: V | undefined): {readonly [P in K]?: V} =>
  (value === undefined ? {} : {[key]: value}) as {readonly [P in K]?: V};

function descriptor(r: RecordReader): Descriptor {
  return {
    mediaType: r.string('mediaType'),
    digest: r.digest('digest'),
    size: r.size('size'),
    ...optional('annotations', r.raw('annotations') === undefined ? undefined : r.labels('annotations')),
  };
}

export function parseNamespace(value: unknown, what: string): NamespaceRecord {
  const r = RecordReader.document(value, what);
  return {name: r.string('name'), labels: r.labels(), ...dated(r)};
}

export function parseImage(value: unknown, what: string): ImageRecord {
  const r = RecordReader.document(value, what);
  return {name: r.string('name'), target: descriptor(r.object('target')), labels: r.labels(), ...dated(r)};
}

export function parseContent(value: unknown, what: string): ContentRecord {
  const r = RecordReader.document(value, what);
  return {digest: r.digest('digest'), size: r.size('size'), labels: r.labels(), ...dated(r)};
}

const SNAPSHOT_KINDS: readonly SnapshotKind[] = ['active', 'view', 'committed'];

export function parseSnapshot(value: unknown, what: string): SnapshotRecord {
  const r = RecordReader.document(value, what);
  const kind = r.oneOf('kind', SNAPSHOT_KINDS);
  return {
    snapshotter: r.string('snapshotter'),
    key: r.string('key'),
    kind,
    ...optional('parent', r.optionalString('parent')),
    ...optional('layer', kind === 'view' ? r.optionalString('layer') : r.string('layer')),
    labels: r.labels(),
    ...dated(r),
  };
}

export function parseLease(value: unknown, what: string): LeaseRecord {
  const r = RecordReader.document(value, what);
  return {
    id: r.string('id'),
    labels: r.labels(),
    ...optional('expiresAt', r.raw('expiresAt') === undefined ? undefined : r.date('expiresAt')),
    content: r.digests('content'),
    layers: r.strings('layers'),
    snapshots: r.strings('snapshots'),
    ...dated(r),
  };
}

/** Parses an ingest's info.json, which is not synced and may be torn by a power loss. */
export function parseIngest(value: unknown, what: string): IngestInfo {
  const r = RecordReader.document(value, what);
  return {ref: r.string('ref'), namespace: r.string('namespace'), total: r.size('total'), startedAt: r.date('startedAt')};
}

export function parseContainer(value: unknown, what: string): ContainerRecord {
  const r = RecordReader.document(value, what);
  return {
    id: r.string('id'),
    image: r.string('image'),
    labels: r.labels(),
    runtime: {name: r.object('runtime').string('name')},
    snapshotter: r.string('snapshotter'),
    snapshotKey: r.string('snapshotKey'),
    spec: r.objectOrNull('spec'),
    ...dated(r),
  };
}
