/**
 * Checks a state directory for consistency. It reads the files itself, so that a bug in the store's reading cannot hide damage. After
 * Models 35: after an action, look at everything.
 */
import {createHash} from 'node:crypto';
import {lstatSync, readdirSync, readFileSync, statSync} from 'node:fs';
import {basename, dirname, join, relative} from 'node:path';
import {isDeepStrictEqual} from 'node:util';
import {bootId, liveness, parseIdentity} from '../../src/lib/fs/process.ts';
import {isDigest} from '../../src/lib/oci/descriptor.ts';
import {recordFile} from '../../src/lib/store/layout.ts';
import {parseContainer, parseContent, parseImage, parseLease, parseNamespace, parseSnapshot} from '../../src/lib/store/parse-records.ts';
import type {LeaseRecord, SnapshotRecord} from '../../src/lib/store/records.ts';

export interface CheckOptions {
  /** Whether each blob is hashed. Default true. */
  readonly deep?: boolean;
  /** Also report garbage: unreferenced blobs and layers, and leftovers of ended processes. */
  readonly litter?: boolean;
}

interface Found {
  readonly namespaces: Map<string, NamespaceFound>;
  /** Paths of documents, below the root → document. */
  readonly documents: ReadonlyMap<string, unknown>;
}

interface NamespaceFound {
  readonly images: Map<string, ReturnType<typeof parseImage>>;
  readonly containers: Map<string, ReturnType<typeof parseContainer>>;
  readonly content: Map<string, ReturnType<typeof parseContent>>;
  readonly leases: Map<string, LeaseRecord>;
  readonly snapshots: Map<string, SnapshotRecord>;
}

/** @returns a line for each problem, sorted; empty for a consistent store */
export function checkStore(root: string, {deep = true, litter = false}: CheckOptions = {}): string[] {
  const problems: string[] = [];
  const bad = (path: string, complaint: string): void => void problems.push(`${relative(root, path) || '.'}: ${complaint}`);
  // No store yet, or creating it was interrupted.
  if (list(root).every(isTemporary)) return [];

  const version = read(join(root, 'version'));
  if (version?.trim() !== '1') bad(join(root, 'version'), `is ${JSON.stringify(version)}`);
  const documents = committedDocuments(root, bad);
  const found = readRecords(documents, (path, complaint) => bad(join(root, path), complaint));

  checkReferences(root, found, bad);
  checkBlobs(root, deep, bad);
  checkPermissions(root, bad);
  if (litter) checkLitter(root, found, bad);
  return problems.sort();
}

type Bad = (path: string, complaint: string) => void;

function read(path: string): string | undefined {
  try {
    return readFileSync(path, 'utf8');
  } catch {
    return undefined;
  }
}

function list(path: string): string[] {
  try {
    return readdirSync(path).sort();
  } catch {
    return [];
  }
}

const isTemporary = (name: string): boolean => name.startsWith('.tmp.');

/** Every document as the newest committed generation has it: record files, and over them what the journal has beyond them. */
function committedDocuments(root: string, bad: Bad): Map<string, unknown> {
  const documents = new Map<string, unknown>();
  const visit = (directory: string): void => {
    for (const name of list(directory)) {
      const path = join(directory, name);
      if (isTemporary(name)) continue;
      if (lstatSync(path).isDirectory()) visit(path);
      else if (!name.endsWith('.json')) bad(path, 'is no record');
      else documents.set(relative(root, path), read(path));
    }
  };
  visit(join(root, 'namespaces'));
  visit(join(root, 'refs'));

  const journal = join(root, 'journal');
  const generations = list(journal).filter((name) => /^\d{16}$/.test(name));
  const changes = new Map<string, {generation: number; document: unknown}>();
  for (const [i, name] of generations.entries()) {
    if (i > 0 && Number(name) !== Number(generations[i - 1]) + 1) bad(join(journal, name), 'does not follow the one before');
    const record = parse(read(join(journal, name))) as {generation?: number; writes?: Record<string, unknown>} | undefined;
    if (record?.generation !== Number(name) || record.writes === undefined) {
      bad(join(journal, name), 'is no record of the journal');
      continue;
    }
    // Replaying all that is left gives the newest state: each document's last change is the last that is made.
    for (const [path, document] of Object.entries(record.writes)) changes.set(path, {generation: Number(name), document});
  }
  const newest = Number(generations.at(-1) ?? 0);
  const checkpoint = parse(read(join(journal, 'checkpoint')) ?? '{"generation":0,"bootId":""}') as
    | {generation?: number; bootId?: string}
    | undefined;
  if (!(Number(checkpoint?.generation) <= newest)) bad(join(journal, 'checkpoint'), 'is beyond the newest generation');
  // Written in place: one that is torn says nothing. What was applied in another boot says nothing either.
  const mark = /^(\d{16}) \1\n$/.exec(read(join(journal, 'applied')) ?? '')?.[1];
  if (Number(mark ?? 0) > newest) bad(join(journal, 'applied'), 'is beyond the newest generation');
  const applied = checkpoint?.bootId === bootId() ? Number(mark ?? 0) : 0;

  for (const [path, text] of documents) documents.set(path, parse(text as string | undefined));
  for (const [path, {generation, document}] of changes) {
    if (generation <= applied && !isDeepStrictEqual(documents.get(path) ?? null, document))
      bad(join(root, path), `is not what generation ${generation} made it, and that is said to be applied`);
    if (document === null) documents.delete(path);
    else documents.set(path, document);
  }
  return documents;
}

function parse(text: string | undefined): unknown {
  try {
    return JSON.parse(text ?? '');
  } catch {
    return undefined;
  }
}

function readRecords(documents: ReadonlyMap<string, unknown>, bad: Bad): Found {
  const namespaces = new Map<string, NamespaceFound>();
  const named = new Set<string>();
  const of = (name: string): NamespaceFound => {
    const known = namespaces.get(name) ?? {
      images: new Map(),
      containers: new Map(),
      content: new Map(),
      leases: new Map(),
      snapshots: new Map(),
    };
    namespaces.set(name, known);
    return known;
  };
  for (const [path, document] of documents) {
    const [top, ns, kind, ...rest] = path.split('/') as [string, string, string, ...string[]];
    if (top !== 'namespaces' || kind === 'refs') continue;
    const keep = <T>(
      into: Map<string, T>,
      prefix: string,
      parseRecord: (value: unknown, what: string) => T,
      key: (record: T) => string,
    ): void => {
      let record: T;
      try {
        record = parseRecord(document, path);
      } catch (err) {
        bad(path, (err as Error).message);
        return;
      }
      if (basename(path) !== recordFile(key(record))) bad(path, `is the record of ${JSON.stringify(key(record))}`);
      if (into.has(prefix + key(record))) bad(path, `is there twice`);
      into.set(prefix + key(record), record);
    };
    const {images, containers, content, leases, snapshots} = of(ns);
    if (kind === 'namespace.json') {
      named.add(ns);
      const record = parseNamespace(document, path);
      if (record.name !== ns) bad(path, `is the record of ${JSON.stringify(record.name)}`);
    } else if (kind === 'images') keep(images, '', parseImage, (r) => r.name);
    else if (kind === 'containers') keep(containers, '', parseContainer, (r) => r.id);
    else if (kind === 'content') keep(content, '', parseContent, (r) => r.digest);
    else if (kind === 'leases') keep(leases, '', parseLease, (r) => r.id);
    else if (kind === 'snapshots') {
      keep(snapshots, `${rest[0]}/`, parseSnapshot, (r) => r.key);
      const record = parse(JSON.stringify(document)) as {snapshotter?: string} | undefined;
      if (record?.snapshotter !== rest[0]) bad(path, `is of snapshotter ${JSON.stringify(record?.snapshotter)}`);
    } else bad(path, 'is of no kind');
  }
  for (const name of namespaces.keys()) if (!named.has(name)) bad(`namespaces/${name}`, 'has records, but no namespace.json');
  return {namespaces, documents};
}

/** No record refers to a missing object, and reference counts match the records. */
function checkReferences(root: string, {namespaces, documents}: Found, bad: Bad): void {
  const counts = new Map<string, number>();
  const uncounted = new Map<string, {expiring: number; indirect: number; due: number}>();
  const add = (path: string): void => void counts.set(path, (counts.get(path) ?? 0) + 1);
  const blob = (digest: string): string => join(root, 'content', 'blobs', ...digest.split(':'));
  for (const [name, ns] of namespaces) {
    const at = (...path: string[]): string => join(root, 'namespaces', name, ...path);
    /** Each record counts each of its references once. */
    const refs = (nodes: readonly string[], shared: readonly string[]): void => {
      for (const node of new Set(nodes)) add(`namespaces/${name}/refs/${recordFile(node)}`);
      for (const key of new Set(shared)) add(`refs/${recordFile(key)}`);
    };
    const labelled = (labels: Readonly<Record<string, string>>): string[] =>
      Object.entries(labels).flatMap(([key, value]) => {
        const [, kind, snapshotter] = /^containerd\.io\/gc\.ref\.(content|image|snapshot\.([^/]+))(?:$|[./])/.exec(key) ?? [];
        if (kind === undefined) return [];
        return snapshotter === undefined ? `${kind}/${value}` : `snapshot/${snapshotter}/${value}`;
      });
    const aside = {expiring: 0, indirect: 0, due: Number.POSITIVE_INFINITY};
    const expires = (time: string | undefined): void => {
      if (!/^\d{4}-.*T.*(Z|[+-]\d\d:\d\d)$/.test(time ?? '') || Number.isNaN(Date.parse(time!))) return;
      aside.expiring++;
      aside.due = Math.min(aside.due, Date.parse(time!));
    };
    const isHeldBack = (labels: Readonly<Record<string, string>>): boolean =>
      Object.keys(labels).some((key) => /^containerd\.io\/gc\.bref\.((container|content|image)($|[./])|snapshot\.)/.test(key));
    for (const {labels} of ns.images.values()) expires(labels['containerd.io/gc.expire']);
    for (const {labels, expiresAt} of ns.leases.values()) expires(expiresAt ?? labels['containerd.io/gc.expire']);
    for (const records of [ns.images, ns.containers, ns.content, ns.snapshots])
      for (const {labels} of records.values()) if (isHeldBack(labels)) aside.indirect++;
    for (const {labels} of ns.leases.values()) if ('containerd.io/gc.flat' in labels) aside.indirect++;
    if (aside.expiring + aside.indirect > 0) uncounted.set(name, aside);
    for (const image of ns.images.values()) {
      const {digest, size} = image.target;
      const content = ns.content.get(digest);
      if (content === undefined) bad(at('images', recordFile(image.name)), `points to content ${digest}, which is missing`);
      else if (content.size !== size) bad(at('images', recordFile(image.name)), `has ${size} B, its content ${content.size} B`);
      refs([`content/${digest}`, ...labelled(image.labels)], []);
    }
    for (const {digest, size, labels} of ns.content.values()) {
      const stat = statSync(blob(digest), {throwIfNoEntry: false});
      if (stat?.size !== size) bad(at('content', recordFile(digest)), `has ${size} B, the blob ${stat?.size ?? 'is missing'}`);
      refs(labelled(labels), [`blob/${digest}`]);
    }
    for (const snapshot of ns.snapshots.values()) {
      const {snapshotter, key, kind, parent, layer, labels} = snapshot;
      const path = at('snapshots', snapshotter, recordFile(key));
      const below = parent === undefined ? undefined : ns.snapshots.get(`${snapshotter}/${parent}`);
      if (parent !== undefined && below?.kind !== 'committed') bad(path, `has parent ${parent}, which is ${below?.kind ?? 'missing'}`);
      if (layer === undefined && (kind !== 'view' || parent === undefined)) bad(path, 'has no layer');
      if (layer !== undefined && parse(read(join(root, 'layers', layer, 'layer.json'))) === undefined)
        bad(path, `has layer ${layer}, which is missing`);
      for (let next = below, n = 0; next !== undefined; next = ns.snapshots.get(`${snapshotter}/${next.parent}`))
        if (++n > ns.snapshots.size) {
          bad(path, 'is below itself');
          break;
        }
      refs(
        [...(parent === undefined ? [] : [`snapshot/${snapshotter}/${parent}`]), ...labelled(labels)],
        layer === undefined ? [] : [`layer/${layer}`],
      );
    }
    for (const {id, snapshotter, snapshotKey, labels} of ns.containers.values()) {
      const snapshot = ns.snapshots.get(`${snapshotter}/${snapshotKey}`);
      if (snapshotKey !== '' && snapshot === undefined)
        bad(at('containers', recordFile(id)), `has snapshot ${snapshotKey}, which is missing`);
      refs([...(snapshotKey === '' ? [] : [`snapshot/${snapshotter}/${snapshotKey}`]), ...labelled(labels)], []);
    }
    for (const {content, snapshots, layers, labels} of ns.leases.values())
      refs(
        [
          ...content.map((digest) => `content/${digest}`),
          ...snapshots.map((s) => `snapshot/${s}`),
          ...('containerd.io/gc.flat' in labels ? [] : labelled(labels)),
        ],
        [...content.map((digest) => `blob/${digest}`), ...layers.map((layer) => `layer/${layer}`)],
      );
  }
  const counted = [...documents].filter(([path]) => /(?:^|\/)refs\/[^/]+\.json$/.test(path));
  const complete = (directory: string): boolean =>
    (documents.get(`${directory}/complete.json`) as {rules?: unknown} | undefined)?.rules === 2;
  const UNCOUNTED = 'refs/uncounted.json';
  if (complete('refs') && [...namespaces.keys()].every((name) => complete(`namespaces/${name}/refs`))) {
    const {namespaces: found = {}} = (documents.get(UNCOUNTED) ?? {}) as {
      namespaces?: Record<string, {expiring: number; indirect: number; due?: string}>;
    };
    for (const name of new Set([...Object.keys(found), ...uncounted.keys()])) {
      const {expiring = 0, indirect = 0, due} = found[name] ?? {};
      const right = uncounted.get(name) ?? {expiring: 0, indirect: 0, due: Number.POSITIVE_INFINITY};
      const isLate = (due === undefined ? Number.POSITIVE_INFINITY : Date.parse(due)) > right.due;
      if (expiring !== right.expiring || indirect !== right.indirect || isLate)
        bad(join(root, UNCOUNTED), `has ${JSON.stringify(found[name])} for ${name}, and there is ${JSON.stringify(right)}`);
    }
  }
  for (const [path, document] of counted) {
    if (basename(path) === 'complete.json' || path === UNCOUNTED || !complete(dirname(path))) continue;
    const n = (document as {n?: unknown} | undefined)?.n;
    if (n !== counts.get(path)) bad(join(root, path), `counts ${String(n)}, and there are ${counts.get(path) ?? 0}`);
  }
  for (const [path, n] of counts)
    if (complete(dirname(path)) && !documents.has(path)) bad(join(root, path), `is missing, and there are ${n}`);
}

function checkBlobs(root: string, deep: boolean, bad: Bad): void {
  for (const algorithm of list(join(root, 'content', 'blobs')))
    for (const hex of list(join(root, 'content', 'blobs', algorithm))) {
      const path = join(root, 'content', 'blobs', algorithm, hex);
      if (isTemporary(hex)) continue;
      if (!isDigest(`${algorithm}:${hex}`)) bad(path, 'is no blob');
      else if (deep && createHash(algorithm).update(readFileSync(path)).digest('hex') !== hex) bad(path, 'is not what its name says');
    }
}

/** Other users of the machine read nothing, and list nothing. */
function checkPermissions(root: string, bad: Bad): void {
  const visit = (path: string): void => {
    // A directory may be a link to one.
    const stat = statSync(path, {throwIfNoEntry: false}) ?? lstatSync(path);
    const mode = stat.mode & 0o7777;
    if (stat.isDirectory()) {
      if ((mode & 0o077) !== 0) bad(path, `is open to others: mode ${mode.toString(8)}`);
      // What is in a layer's tree is the image's business; nobody else gets so far.
      if (dirname(path) !== join(root, 'layers') && dirname(path) !== join(root, 'trash') && dirname(path) !== join(root, 'work'))
        for (const name of list(path)) visit(join(path, name));
    } else if ((mode & 0o022) !== 0) bad(path, `is written by others: mode ${mode.toString(8)}`);
    else if ((mode & 0o044) !== 0 && (mode & 0o222) !== 0) bad(path, `is open to others: mode ${mode.toString(8)}`);
  };
  if ((lstatSync(root).mode & 0o077 & ~0o011) !== 0) bad(root, `is open to others: mode ${(lstatSync(root).mode & 0o7777).toString(8)}`);
  for (const name of list(root)) if (name !== 'version' && !isTemporary(name)) visit(join(root, name));
}

/** Leftovers of ended processes, and unreferenced objects. Call it only when no collection is pending. */
function checkLitter(root: string, {namespaces}: Found, bad: Bad): void {
  const blobs = new Set<string>();
  const layers = new Set<string>();
  for (const ns of namespaces.values()) {
    for (const digest of ns.content.keys()) blobs.add(digest);
    for (const {layer} of ns.snapshots.values()) if (layer !== undefined) layers.add(layer);
    for (const lease of ns.leases.values()) {
      for (const digest of lease.content) blobs.add(digest);
      for (const layer of lease.layers) layers.add(layer);
    }
  }
  for (const algorithm of list(join(root, 'content', 'blobs')))
    for (const hex of list(join(root, 'content', 'blobs', algorithm)))
      if (!blobs.has(`${algorithm}:${hex}`)) bad(join(root, 'content', 'blobs', algorithm, hex), 'is named by nothing');
  for (const layer of list(join(root, 'layers'))) if (!layers.has(layer)) bad(join(root, 'layers', layer), 'is named by nothing');
  for (const name of list(join(root, 'trash'))) bad(join(root, 'trash', name), 'was not given back');
  for (const directory of ['work', 'locks'])
    for (const name of list(join(root, directory))) {
      const owner =
        parseIdentity(name) ??
        parseIdentity(name.slice(name.indexOf('.') + 1)) ??
        parseIdentity(list(join(root, directory, name))[0] ?? '');
      if (owner === undefined || liveness(owner) === 'dead') bad(join(root, directory, name), 'was left by a process that ended');
    }
  const visit = (directory: string): void => {
    for (const name of list(directory)) {
      const path = join(directory, name);
      if (isTemporary(name)) bad(path, 'was left half written');
      else if (lstatSync(path).isDirectory() && directory !== join(root, 'layers')) visit(path);
    }
  };
  for (const directory of ['content', 'namespaces', 'refs']) visit(join(root, directory));
  if (read(join(root, 'journal', 'unswept')) !== undefined) bad(join(root, 'journal', 'unswept'), 'says that a collection is owed');
}
