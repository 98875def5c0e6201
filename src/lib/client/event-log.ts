/**
 * The log of events: what commands changed, a line of JSON each, in the state that ends with the boot.
 *
 *     <state>/events/<n>     appended to; the highest number is the newest
 *
 * Each line is one write to a file opened for appending, so that writers need no lock. It begins with a newline of its own: what a kill or a full
 * disk has cut damages no other event, whoever writes next. A full file is followed by the next number, and all but the two newest are removed:
 * several processes that do this at once, or are killed in between, do no harm. The log tells what happened, and nothing is decided by it: an
 * event that cannot be written is lost, and a damaged line is passed over. Where a disk was full, the next event that can be written is preceded
 * by `/events/lost`; of a writer that was killed between a change and its event nobody knows.
 */
import {closeSync, constants, fstatSync, mkdirSync, openSync, readSync, writeSync} from 'node:fs';
import {join} from 'node:path';
import {listIfPresent, unlinkIfPresent} from '../fs/durable.ts';
import type {RecordChange} from '../store/changed-records.ts';
import {runtimeStatePath} from '../store/layout.ts';
import type {ContainerRecord, ContentRecord, ImageRecord, SnapshotRecord} from '../store/records.ts';
import type {BerthEvent} from './types/index.ts';

/** Bytes of a file from which on the next one is begun. */
export const FULL_BYTES = 1 << 20;
const READ_BYTES = 1 << 16;

/** What `emit` takes: the time is that of the call. */
export type NewEvent = Omit<BerthEvent, 'timestamp'>;

/** Name of an empty file: an event could not be written. */
const LOST = 'lost';

const numbersOf = (names: readonly string[]): readonly number[] =>
  names
    .filter((name) => /^[1-9]\d{0,14}$/.test(name))
    .map(Number)
    .sort((a, b) => a - b);
const numbersIn = (directory: string): readonly number[] => numbersOf(listIfPresent(directory));

/**
 * Appends events to the log. Never fails: what was done is done, whether or not it is told.
 *
 * @param stateDir `context.stateDir`; a function, because finding it may fail as well. `undefined` tells nobody.
 */
export function emit(stateDir: () => string | undefined, events: readonly NewEvent[]): void {
  if (events.length === 0) return;
  let directory: string | undefined;
  try {
    const state = stateDir();
    if (state === undefined) return;
    directory = runtimeStatePath.events(state);
    append(directory, events);
  } catch {
    if (directory !== undefined) noteLoss(directory);
  }
}

const {O_WRONLY, O_APPEND, O_CREAT, O_NOFOLLOW} = constants;

function append(directory: string, events: readonly NewEvent[]): void {
  const names = listIfPresent(directory);
  const newest = numbersOf(names).at(-1);
  if (newest === undefined) mkdirSync(directory, {recursive: true, mode: 0o700});
  const number = newest ?? 1;
  const hasLost = names.includes(LOST);
  const lost: readonly NewEvent[] = hasLost ? [{namespace: '', topic: '/events/lost', event: {}}] : [];
  const timestamp = new Date().toISOString();
  const lines = [...lost, ...events].map(({namespace, topic, event}) => `\n${JSON.stringify({timestamp, namespace, topic, event})}\n`);
  const bytes = Buffer.from(lines.join(''));
  const fd = openSync(join(directory, String(number)), O_WRONLY | O_APPEND | O_CREAT | O_NOFOLLOW, 0o600);
  try {
    if (writeSync(fd, bytes) < bytes.length) throw new Error('the disk is full');
    if (hasLost) unlinkIfPresent(join(directory, LOST));
    if (fstatSync(fd).size < FULL_BYTES) return;
  } finally {
    closeSync(fd);
  }
  closeSync(openSync(join(directory, String(number + 1)), O_WRONLY | O_APPEND | O_CREAT | O_NOFOLLOW, 0o600));
  for (const old of numbersIn(directory)) if (old < number) unlinkIfPresent(join(directory, String(old)));
}

/** An empty file mostly finds room on a full disk, too. */
function noteLoss(directory: string): void {
  try {
    closeSync(openSync(join(directory, LOST), O_WRONLY | O_CREAT | O_NOFOLLOW, 0o600));
  } catch {
    // Then nobody is told.
  }
}

/** Reads the log from its beginning, and on each further call what has been added since. */
export class EventReader {
  readonly #directory: string;
  #number = 0;
  #offset = 0;
  /** The beginning of a line that is not whole yet. */
  #rest: Buffer = Buffer.alloc(0);

  constructor(stateDir: string) {
    this.#directory = runtimeStatePath.events(stateDir);
  }

  read(): readonly BerthEvent[] {
    const events: BerthEvent[] = [];
    for (const number of numbersIn(this.#directory)) {
      if (number < this.#number) continue;
      if (number > this.#number) {
        this.#offset = 0;
        this.#rest = Buffer.alloc(0);
        this.#number = number;
      }
      this.#readFile(join(this.#directory, String(number)), events);
    }
    return events;
  }

  #readFile(path: string, events: BerthEvent[]): void {
    let fd: number;
    try {
      fd = openSync(path, constants.O_RDONLY | constants.O_NOFOLLOW);
    } catch (err) {
      if ((err as NodeJS.ErrnoException).code === 'ENOENT') return; // two newer ones have been begun
      throw err;
    }
    try {
      const buffer = Buffer.alloc(READ_BYTES);
      for (let n = readSync(fd, buffer, 0, READ_BYTES, this.#offset); n > 0; n = readSync(fd, buffer, 0, READ_BYTES, this.#offset)) {
        this.#offset += n;
        const text = Buffer.concat([this.#rest, buffer.subarray(0, n)]);
        const end = text.lastIndexOf(0x0a) + 1;
        this.#rest = Buffer.from(text.subarray(end));
        for (const line of text.subarray(0, end).toString().split('\n')) {
          const event = parse(line);
          if (event !== undefined) events.push(event);
        }
      }
    } finally {
      closeSync(fd);
    }
  }
}

function parse(line: string): BerthEvent | undefined {
  if (line === '') return undefined;
  let value: Partial<Record<keyof BerthEvent, unknown>> | null;
  try {
    value = JSON.parse(line) as typeof value;
  } catch {
    return undefined;
  }
  if (typeof value !== 'object' || value === null) return undefined;
  const {timestamp, namespace, topic, event} = value;
  if (typeof timestamp !== 'string' || Number.isNaN(Date.parse(timestamp))) return undefined;
  if (typeof namespace !== 'string' || typeof topic !== 'string' || typeof event !== 'object' || event === null) return undefined;
  return {timestamp, namespace, topic, event: event as BerthEvent['event']};
}

/**
 * Events of a transaction, with the topics and fields of containerd's. Those of leases are left out, as there.
 *
 * After containerd, core/metadata (publishing) and api/events.
 */
export function eventsOf(changes: readonly RecordChange[]): readonly NewEvent[] {
  return changes.flatMap(eventOf);
}

function eventOf({namespace, kind, snapshotter, key, action, record}: RecordChange): readonly NewEvent[] {
  const make = (topic: string, event: BerthEvent['event']): readonly NewEvent[] => [{namespace, topic, event}];
  switch (kind) {
    case 'namespace':
      return make(`/namespaces/${action}`, {name: key, ...(record === undefined ? {} : {labels: record.labels})});
    case 'image':
      return make(`/images/${action}`, {name: key, ...(record === undefined ? {} : labelled(record as ImageRecord))});
    case 'content':
      if (action === 'update') return [];
      return make(`/content/${action}`, {digest: key, ...(record === undefined ? {} : {size: (record as ContentRecord).size})});
    case 'container': {
      const {image = '', runtime} = (record ?? {}) as Partial<ContainerRecord>;
      const known = action === 'create' ? {image, runtime: {name: runtime?.name ?? ''}} : {image};
      return make(`/containers/${action}`, {id: key, ...(record === undefined ? {} : known)});
    }
    case 'snapshot': {
      if (action === 'update') return [];
      if (record === undefined) return make('/snapshot/remove', {key, snapshotter});
      const {kind: made, parent = ''} = record as SnapshotRecord;
      return made === 'committed'
        ? make('/snapshot/commit', {key, name: key, parent, snapshotter})
        : make('/snapshot/prepare', {key, parent, snapshotter});
    }
    case 'lease':
      return [];
  }
}

const labelled = ({labels, target}: ImageRecord): BerthEvent['event'] => ({labels, target: target.digest});
