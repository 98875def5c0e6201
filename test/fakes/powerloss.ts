/**
 * What a disk may hold after the power went: a recorder of every change below a directory, and a replay that makes of a
 * prefix of its log the states that a filesystem allows, given the syncs that were made.
 *
 * *Recording.* As a preload (`node --import`, see `recorderOptions`) this patches the functions of node:fs that change
 * something, as failpoints.ts does, and writes each call with its bytes to a log, in the order of execution: worker threads
 * load it too, and one lock orders all. What a program writes to a path or a descriptor that it is given is one
 * write, at its end; `sync --file-system` is a sync of everything. The process is told another boot id, so that whoever
 * looks at a state afterwards is after the reboot.
 *
 * *Replay.* A model of ext4 and its like, on the weak side. What a file holds is what it held at its last sync, or more: an
 * unsynced write may be there, be missing, be cut, or have left zeroes. Changes of one directory reach the disk in order,
 * changes of two in any; a rename is one change, of both. fsync of a file brings its bytes and its first name, fsync of a
 * directory its entries; the name of a directory is an entry of the one above, and nobody's else.
 *
 * After ALICE (Pillai and others, OSDI 2014) and CrashMonkey (Mohan and others, OSDI 2018).
 */
import childProcess, {type ChildProcess} from 'node:child_process';
import {createHash} from 'node:crypto';
import fs, {type Stats} from 'node:fs';
import {syncBuiltinESMExports} from 'node:module';
import {basename, dirname, join, resolve} from 'node:path';
import {getEnvironmentData, isMainThread, setEnvironmentData} from 'node:worker_threads';

interface Meta {
  readonly mode: number;
  readonly uid: number;
  readonly gid: number;
  /** Milliseconds since the epoch, where it was set. */
  readonly mtime?: number;
}

/** Something that a program left: a path below the one it was given, and what is there. */
interface Found extends Meta {
  readonly path: string;
  readonly kind: 'file' | 'dir' | 'link';
  /** Names of one inode have one number. */
  readonly inode: number;
  /** Base64 of a file's bytes, or a link's target. */
  readonly data?: string;
}

/** One change. Paths are below the directory; `handle` is an open descriptor's number in this log; bytes are base64. */
export type Change =
  | {readonly op: 'open'; readonly handle: number; readonly path: string; readonly made?: Meta; readonly emptied?: true}
  | {readonly op: 'write'; readonly handle: number; readonly at: number; readonly data: string}
  | {readonly op: 'cut'; readonly handle: number; readonly size: number}
  | {readonly op: 'replace'; readonly handle: number; readonly data: string}
  | {readonly op: 'sync'; readonly handle: number}
  | {readonly op: 'syncfs'}
  | {readonly op: 'mkdir'; readonly path: string; readonly made: Meta}
  | {readonly op: 'unlink' | 'rmdir' | 'rm'; readonly path: string}
  | {readonly op: 'rename' | 'link'; readonly from: string; readonly path: string}
  | {readonly op: 'symlink'; readonly path: string; readonly target: string; readonly made: Meta}
  | {readonly op: 'meta'; readonly path?: string; readonly handle?: number; readonly to: Partial<Meta>}
  | {readonly op: 'tree'; readonly path: string; readonly found: readonly Found[]}
  | {readonly op: 'mark'; readonly name: string};

// Recording

type Any = (...args: unknown[]) => unknown;

interface Open {
  readonly handle: number;
  readonly path: string;
  readonly appends: boolean;
  /** Where the next write goes that names no place. */
  at: number;
}

interface Recorder {
  readonly below: string;
  readonly log: number;
  readonly open: Map<number, Open>;
  /** `[0]` is the lock, `[1]` counts handles. */
  readonly shared: Int32Array;
}

let recorder: Recorder | undefined;
/** Not zero while a patched function runs another one: it is one change. */
let depth = 0;
const real = new Map<string, Any>();
const call = <T>(name: string, ...args: unknown[]): T => real.get(name)!(...args) as T;

const {O_CREAT, O_TRUNC, O_APPEND} = fs.constants;
const FLAGS: Readonly<Record<string, number>> = {
  r: 0,
  'r+': 0,
  w: O_CREAT | O_TRUNC,
  'w+': O_CREAT | O_TRUNC,
  wx: O_CREAT,
  'wx+': O_CREAT,
  a: O_CREAT | O_APPEND,
  'a+': O_CREAT | O_APPEND,
  ax: O_CREAT | O_APPEND,
};

/** Runs `action` while no other thread changes anything, and what it calls uncounted. */
function alone<T>(action: () => T): T {
  const {shared} = recorder!;
  while (Atomics.compareExchange(shared, 0, 0, 1) !== 0) Atomics.wait(shared, 0, 1);
  depth++;
  try {
    return action();
  } finally {
    depth--;
    Atomics.store(shared, 0, 0);
    Atomics.notify(shared, 0, 1);
  }
}

/** Path below the directory; `undefined` for others. */
function relative(path: unknown): string | undefined {
  if (typeof path !== 'string' && !Buffer.isBuffer(path)) return undefined;
  const absolute = resolve(String(path));
  if (absolute === recorder!.below) return '';
  return absolute.startsWith(`${recorder!.below}/`) ? absolute.slice(recorder!.below.length + 1) : undefined;
}

const note = (change: Change): void => void call('writeSync', recorder!.log, `${JSON.stringify(change)}\n`);

const metaOf = ({mode, uid, gid}: Stats): Meta => ({mode: mode & 0o7777, uid, gid});
const madeAt = (path: unknown): Meta => metaOf(fs.lstatSync(path as string));
const base64 = (bytes: Uint8Array): string => Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength).toString('base64');

/** What lies at a path and below it. */
function look(top: string): readonly Found[] {
  const found: Found[] = [];
  const visit = (path: string, below: string): void => {
    const stat = fs.lstatSync(path, {throwIfNoEntry: false});
    if (stat === undefined) return;
    const meta = {...metaOf(stat), mtime: stat.mtimeMs, inode: stat.ino, path: below};
    if (stat.isDirectory()) {
      found.push({...meta, kind: 'dir'});
      for (const name of fs.readdirSync(path).sort()) visit(join(path, name), below === '' ? name : `${below}/${name}`);
    } else if (stat.isFile()) found.push({...meta, kind: 'file', data: fs.readFileSync(path, 'base64')});
    else if (stat.isSymbolicLink()) found.push({...meta, kind: 'link', data: fs.readlinkSync(path)});
    else throw new Error(`${path} is of a kind that cannot be recorded`);
  };
  visit(top, '');
  return found;
}

/** What to do around each function: it runs the call and notes what it did. */
const AROUND: Readonly<Record<string, (run: Any, args: unknown[]) => unknown>> = {
  openSync: (run, args) => {
    const [path, flags = 'r'] = args;
    const below = relative(path);
    const bits = typeof flags === 'number' ? flags : FLAGS[flags as string];
    if (below !== undefined && bits === undefined) throw new Error(`flags ${String(flags)} cannot be recorded`);
    const wasThere = below !== undefined && fs.lstatSync(path as string, {throwIfNoEntry: false}) !== undefined;
    const fd = run(...args) as number;
    const {open, shared} = recorder!;
    open.delete(fd);
    if (below === undefined) return fd;
    const handle = Atomics.add(shared, 1, 1);
    open.set(fd, {handle, path: String(path), appends: (bits! & O_APPEND) !== 0, at: 0});
    note({
      op: 'open',
      handle,
      path: below,
      ...(wasThere ? {} : {made: madeAt(path)}),
      ...(wasThere && (bits! & O_TRUNC) !== 0 ? {emptied: true} : {}),
    });
    return fd;
  },
  closeSync: (run, args) => {
    recorder!.open.delete(args[0] as number);
    return run(...args);
  },
  writeSync: (run, args) => {
    const file = recorder!.open.get(args[0] as number);
    if (file === undefined) return run(...args);
    const [fd, data, third, length, fourth] = args;
    const isText = typeof data === 'string';
    const given = (isText ? third : fourth) as number | null | undefined;
    const at = given ?? (file.appends ? fs.fstatSync(fd as number).size : file.at);
    const done = run(...args) as number;
    if (given === undefined || given === null) file.at = at + done;
    const bytes = isText ? Buffer.from(data) : Buffer.from((data as Uint8Array).buffer, (data as Uint8Array).byteOffset);
    const from = isText ? 0 : ((third as number | undefined) ?? 0);
    if (!isText && length !== undefined && done > (length as number)) throw new Error('more was written than given');
    note({op: 'write', handle: file.handle, at, data: base64(bytes.subarray(from, from + done))});
    return done;
  },
  writeFileSync: (run, [file, data, options, ...rest]) => {
    const bytes = typeof data === 'string' ? Buffer.from(data) : Buffer.from(data as Uint8Array);
    if (typeof file === 'number') {
      const opened = recorder!.open.get(file);
      run(file, data, options, ...rest);
      if (opened === undefined) return undefined;
      note({op: 'write', handle: opened.handle, at: opened.at, data: base64(bytes)});
      opened.at += bytes.length;
      return undefined;
    }
    const below = relative(file);
    if (below === undefined) return run(file, data, options, ...rest);
    const wasThere = fs.lstatSync(file as string, {throwIfNoEntry: false}) !== undefined;
    run(file, data, options, ...rest);
    const handle = Atomics.add(recorder!.shared, 1, 1);
    note({op: 'open', handle, path: below, ...(wasThere ? {emptied: true} : {made: madeAt(file)})});
    if (bytes.length > 0) note({op: 'write', handle, at: 0, data: base64(bytes)});
    return undefined;
  },
  ftruncateSync: (run, args) => {
    run(...args);
    const file = recorder!.open.get(args[0] as number);
    if (file !== undefined) note({op: 'cut', handle: file.handle, size: (args[1] as number | undefined) ?? 0});
  },
  fsyncSync: (run, args) => {
    run(...args);
    const file = recorder!.open.get(args[0] as number);
    if (file !== undefined) note({op: 'sync', handle: file.handle});
  },
  mkdirSync: (run, args) => {
    const below = relative(args[0]);
    const recursive = (args[1] as {recursive?: boolean} | undefined)?.recursive === true;
    if (below !== undefined && recursive) throw new Error('a recursive mkdir cannot be recorded');
    run(...args);
    if (below !== undefined) note({op: 'mkdir', path: below, made: madeAt(args[0])});
  },
  unlinkSync: (run, args) => {
    run(...args);
    const below = relative(args[0]);
    if (below !== undefined) note({op: 'unlink', path: below});
  },
  rmdirSync: (run, args) => {
    run(...args);
    const below = relative(args[0]);
    if (below !== undefined) note({op: 'rmdir', path: below});
  },
  rmSync: (run, args) => {
    run(...args);
    const below = relative(args[0]);
    if (below !== undefined) note({op: 'rm', path: below});
  },
  renameSync: (run, args) => {
    run(...args);
    const [from, path] = args.map(relative);
    if (from !== undefined && path !== undefined) note({op: 'rename', from, path});
    else if (from !== undefined || path !== undefined) throw new Error('a rename to or from elsewhere cannot be recorded');
  },
  linkSync: (run, args) => {
    run(...args);
    const [from, path] = args.map(relative);
    if (from !== undefined && path !== undefined) note({op: 'link', from, path});
    else if (path !== undefined) throw new Error('a link from elsewhere cannot be recorded');
  },
  symlinkSync: (run, args) => {
    run(...args);
    const path = relative(args[1]);
    if (path !== undefined) note({op: 'symlink', path, target: String(args[0]), made: madeAt(args[1])});
  },
  ...Object.fromEntries(
    [
      ['chmodSync', 'path', (mode: unknown) => ({mode: Number(mode)})],
      ['fchmodSync', 'handle', (mode: unknown) => ({mode: Number(mode)})],
      ...['chownSync', 'lchownSync'].map((name) => [name, 'path', (uid: unknown, gid: unknown) => ({uid, gid})]),
      ['fchownSync', 'handle', (uid: unknown, gid: unknown) => ({uid, gid})],
      ...['utimesSync', 'lutimesSync'].map((name) => [name, 'path', (_atime: unknown, mtime: unknown) => ({mtime: milliseconds(mtime)})]),
      ['futimesSync', 'handle', (_atime: unknown, mtime: unknown) => ({mtime: milliseconds(mtime)})],
    ].map(([name, by, to]) => [
      name,
      (run: Any, args: unknown[]) => {
        run(...args);
        const change = (to as (...args: unknown[]) => Partial<Meta>)(...args.slice(1));
        const path = by === 'path' ? relative(args[0]) : undefined;
        const handle = by === 'handle' ? recorder!.open.get(args[0] as number)?.handle : undefined;
        if (path !== undefined) note({op: 'meta', path, to: change});
        if (handle !== undefined) note({op: 'meta', handle, to: change});
      },
    ]),
  ),
};

const milliseconds = (time: unknown): number => (time instanceof Date ? time.getTime() : Number(time) * 1000);

/** Changes that no code of ours makes: whoever begins to has to teach them to the recorder. */
const UNKNOWN = ['appendFileSync', 'truncateSync', 'mkdtempSync', 'copyFileSync', 'cpSync', 'writevSync', 'fdatasyncSync'];

/** What a program is given to write to: @returns what notes, at its end, what it has written */
function watchProgram([program, given, ...rest]: unknown[]): () => void {
  const words = Array.isArray(given) ? (given as unknown[]) : [];
  const {cwd, stdio} = ((Array.isArray(given) ? rest[0] : given) ?? {}) as {readonly cwd?: string; readonly stdio?: unknown};
  const paths = [...words, cwd].filter((word) => relative(word) !== undefined) as string[];
  const files = (Array.isArray(stdio) ? stdio : []).flatMap((fd) => recorder!.open.get(fd as number) ?? []);
  return () => {
    if (basename(String(program)) === 'sync') {
      if (paths.length > 0) note({op: 'syncfs'});
      return;
    }
    for (const path of paths) note({op: 'tree', path: relative(path)!, found: look(path)});
    for (const {handle, path} of files) note({op: 'replace', handle, data: fs.readFileSync(path, 'base64')});
  };
}

function aroundSpawnSync(run: Any, args: unknown[]): unknown {
  const finish = watchProgram(args);
  const done = run(...args);
  finish();
  return done;
}

function aroundSpawn(run: Any, args: unknown[]): unknown {
  const finish = watchProgram(args);
  const child = run(...args) as ChildProcess;
  child.on('exit', () => alone(finish));
  return child;
}

const BOOT_ID = '/proc/sys/kernel/random/boot_id';

function install(options: {readonly below: string; readonly log: string; readonly boot: string; readonly shared: Int32Array}): void {
  const patch = (module: object, name: string, around: (run: Any, args: unknown[]) => unknown): void => {
    const functions = module as Record<string, Any>;
    const original = functions[name]!;
    real.set(name, original);
    functions[name] = function (this: unknown, ...args: unknown[]) {
      if (recorder === undefined || depth > 0) return original.apply(this, args);
      return alone(() => around((...given) => original.apply(this, given), args));
    };
  };
  const log = fs.openSync(options.log, 'a', 0o600);
  for (const [name, around] of Object.entries(AROUND)) patch(fs, name, around);
  for (const name of UNKNOWN)
    patch(fs, name, (run, args) => {
      if (args.some((arg) => relative(arg) !== undefined || (typeof arg === 'number' && recorder!.open.has(arg))))
        throw new Error(`${name} cannot be recorded`);
      return run(...args);
    });
  for (const name of ['spawnSync', 'execFileSync']) patch(childProcess, name, aroundSpawnSync);
  patch(childProcess, 'spawn', aroundSpawn);
  const {readFileSync} = fs;
  const told = ((path: unknown, ...rest: []) => (path === BOOT_ID ? options.boot : readFileSync(path as string, ...rest))) as Any;
  (fs as unknown as Record<string, Any>).readFileSync = told;
  syncBuiltinESMExports();
  recorder = {below: options.below, log, open: new Map(), shared: options.shared};
}

/** In a process that is recorded: notes that something has been done, and its caller told so. */
export function mark(name: string): void {
  alone(() => note({op: 'mark', name}));
}

/** Environment and options for a child of Node whose changes below a directory go to the end of a log. @param options.boot its boot id, 32 hex digits */
export function recorderOptions(options: {readonly below: string; readonly log: string; readonly boot: string}): {
  readonly env: Record<string, string>;
  readonly execArgv: string[];
} {
  return {
    execArgv: ['--import', import.meta.url],
    env: {POWERLOSS_BELOW: options.below, POWERLOSS_LOG: options.log, POWERLOSS_BOOT: options.boot},
  };
}

const {POWERLOSS_BELOW, POWERLOSS_LOG, POWERLOSS_BOOT} = process.env;
if (POWERLOSS_BELOW !== undefined && POWERLOSS_LOG !== undefined && POWERLOSS_BOOT !== undefined) {
  const counters = new Int32Array(new SharedArrayBuffer(8));
  if (isMainThread) setEnvironmentData('powerloss counters', counters.buffer);
  const shared = isMainThread ? counters : new Int32Array(getEnvironmentData('powerloss counters') as SharedArrayBuffer);
  install({below: resolve(POWERLOSS_BELOW), log: POWERLOSS_LOG, boot: POWERLOSS_BOOT, shared});
}

export const readLog = (file: string): readonly Change[] =>
  fs
    .readFileSync(file, 'utf8')
    .split('\n')
    .filter((line) => line !== '')
    .map((line) => JSON.parse(line) as Change);

// Replay

/** A file, a directory or a symbolic link, whatever it is called. */
interface Inode {
  readonly kind: Found['kind'];
  /** As the system sees it: bytes, or a link's target. */
  data: Buffer;
  meta: Meta;
  /** As of the last sync. */
  synced: {readonly data: Buffer; readonly meta: Meta};
  /** Of a directory, as the system sees it. */
  readonly entries: Map<string, Inode>;
  /** What gave it its first name. */
  birth?: Step;
}

/** One change of names: of one directory, or of the two of a rename. */
interface Step {
  readonly op: Change['op'];
  readonly sets: readonly (readonly [directory: Inode, name: string, inode: Inode | undefined])[];
  /** Whether a sync has brought it to the disk. */
  durable: boolean;
}

export type Tree = ReadonlyMap<string, {readonly kind: Found['kind']; readonly data: Buffer; readonly meta: Meta; readonly inode: object}>;

export interface DiskState {
  /** How it came about, in a few words. */
  readonly name: string;
  readonly tree: Tree;
}

const EMPTY = Buffer.alloc(0);

function makeInode(kind: Found['kind'], meta: Meta, data = EMPTY): Inode {
  // A link's target is part of its name's being there.
  return {kind, data, meta, synced: {data: kind === 'link' ? data : EMPTY, meta}, entries: new Map()};
}

/** What became of what was done to an inode since its last sync. */
type Fate = (inode: Inode) => {readonly data: Buffer; readonly meta: Meta};

const lost: Fate = ({synced}) => synced;
const kept: Fate = ({data, meta}) => ({data, meta});
const zeroed: Fate = ({data, meta, synced}) => ({
  data: Buffer.concat([synced.data.subarray(0, data.length), Buffer.alloc(Math.max(data.length - synced.data.length, 0))]),
  meta,
});

export class Disk {
  readonly #root: Inode;
  readonly #steps: Step[] = [];
  readonly #handles = new Map<number, Inode>();

  /** @param meta of the directory itself, which is empty and on the disk */
  constructor(meta: Meta = {mode: 0o700, uid: process.getuid?.() ?? 0, gid: process.getgid?.() ?? 0}) {
    this.#root = makeInode('dir', meta);
  }

  #find(path: string): Inode {
    let at = this.#root;
    for (const name of path === '' ? [] : path.split('/')) {
      const next = at.entries.get(name);
      if (next === undefined) throw new Error(`${path} is not in the log`);
      at = next;
    }
    return at;
  }

  #place(path: string): readonly [Inode, string] {
    const directory = dirname(path);
    return [this.#find(directory === '.' ? '' : directory), path.slice(path.lastIndexOf('/') + 1)];
  }

  #step(op: Change['op'], ...sets: Step['sets']): Step {
    const step: Step = {op, sets, durable: false};
    this.#steps.push(step);
    for (const [directory, name, inode] of sets) {
      if (inode === undefined) directory.entries.delete(name);
      else directory.entries.set(name, inode);
    }
    return step;
  }

  #make(op: Change['op'], path: string, inode: Inode): Inode {
    inode.birth = this.#step(op, [...this.#place(path), inode]);
    return inode;
  }

  #remove(path: string): void {
    const [directory, name] = this.#place(path);
    const inode = directory.entries.get(name);
    for (const child of [...(inode?.entries.keys() ?? [])]) this.#remove(`${path}/${child}`);
    if (inode !== undefined) this.#step(inode.kind === 'dir' ? 'rmdir' : 'unlink', [directory, name, undefined]);
  }

  #write(inode: Inode, at: number, bytes: Buffer): void {
    const data = Buffer.alloc(Math.max(inode.data.length, at + bytes.length));
    inode.data.copy(data);
    bytes.copy(data, at);
    inode.data = data;
  }

  #sync(inode: Inode): void {
    inode.synced = {data: inode.data, meta: inode.meta};
    if (inode.birth !== undefined) inode.birth.durable = true;
    if (inode.kind === 'dir') for (const step of this.#steps) if (step.sets.some(([directory]) => directory === inode)) step.durable = true;
  }

  #handle(handle: number): Inode {
    const inode = this.#handles.get(handle);
    if (inode === undefined) throw new Error(`descriptor ${handle} is not in the log`);
    return inode;
  }

  apply(change: Change): void {
    switch (change.op) {
      case 'open': {
        const inode = change.made === undefined ? this.#find(change.path) : this.#make('open', change.path, makeInode('file', change.made));
        if (change.emptied) inode.data = EMPTY;
        this.#handles.set(change.handle, inode);
        break;
      }
      case 'write':
        this.#write(this.#handle(change.handle), change.at, Buffer.from(change.data, 'base64'));
        break;
      case 'cut': {
        const inode = this.#handle(change.handle);
        const {data} = inode;
        inode.data = Buffer.concat([data.subarray(0, change.size), Buffer.alloc(Math.max(change.size - data.length, 0))]);
        break;
      }
      case 'replace':
        this.#replace(this.#handle(change.handle), Buffer.from(change.data, 'base64'));
        break;
      case 'sync':
        this.#sync(this.#handle(change.handle));
        break;
      case 'syncfs':
        for (const step of this.#steps) {
          step.durable = true;
          for (const [, , inode] of step.sets) if (inode !== undefined) inode.synced = {data: inode.data, meta: inode.meta};
        }
        break;
      case 'mkdir':
        this.#make('mkdir', change.path, makeInode('dir', change.made));
        break;
      case 'symlink':
        this.#make('symlink', change.path, makeInode('link', change.made, Buffer.from(change.target)));
        break;
      case 'unlink':
      case 'rmdir':
      case 'rm':
        this.#remove(change.path);
        break;
      case 'rename': {
        const inode = this.#find(change.from);
        this.#step('rename', [...this.#place(change.from), undefined], [...this.#place(change.path), inode]);
        break;
      }
      case 'link':
        this.#step('link', [...this.#place(change.path), this.#find(change.from)]);
        break;
      case 'meta': {
        const inode = change.path === undefined ? this.#handle(change.handle!) : this.#find(change.path);
        inode.meta = {...inode.meta, ...change.to};
        break;
      }
      case 'tree':
        this.#merge(change.path, change.found);
        break;
      case 'mark':
        break;
    }
  }

  #replace(inode: Inode, bytes: Buffer): void {
    if (!inode.data.equals(bytes)) inode.data = bytes;
  }

  /** What a program made, changed or removed. */
  #merge(top: string, found: readonly Found[]): void {
    const byNumber = new Map<number, Inode>();
    const present = new Set(found.map(({path}) => path));
    const forget = (path: string, below: string): void => {
      for (const name of [...this.#find(path).entries.keys()]) {
        const child = below === '' ? name : `${below}/${name}`;
        if (present.has(child)) forget(`${path}/${name}`, child);
        else this.#remove(`${path}/${name}`);
      }
    };
    const isThere = (path: string): boolean => {
      const [directory, name] = this.#place(path);
      return directory.entries.has(name);
    };
    for (const {path: below, kind, inode: number, data = '', mode, uid, gid, mtime} of found) {
      const path = below === '' ? top : `${top}/${below}`;
      const bytes = Buffer.from(data, kind === 'file' ? 'base64' : 'utf8');
      const meta: Meta = {mode, uid, gid, ...(mtime === undefined ? {} : {mtime})};
      const other = byNumber.get(number);
      if (!isThere(path)) {
        if (other === undefined)
          this.#make(kind === 'dir' ? 'mkdir' : 'open', path, makeInode(kind, meta, kind === 'link' ? bytes : EMPTY));
        else this.#step('link', [...this.#place(path), other]);
      }
      const inode = this.#find(path);
      byNumber.set(number, inode);
      if (kind === 'file') this.#replace(inode, bytes);
      inode.meta = meta;
    }
    if (found.length > 0 && found[0]!.kind === 'dir') forget(top, '');
  }

  /** Those steps that must be on the disk where `chosen` are: of each directory all before. */
  #closure(chosen: (step: Step, index: number) => boolean): readonly Step[] {
    const reached = new Set<Inode>();
    const all: Step[] = [];
    for (let i = this.#steps.length - 1; i >= 0; i--) {
      const step = this.#steps[i]!;
      if (!step.durable && !chosen(step, i) && !step.sets.some(([directory]) => reached.has(directory))) continue;
      for (const [directory] of step.sets) reached.add(directory);
      all.push(step);
    }
    return all.reverse();
  }

  #build(steps: readonly Step[], fate: Fate): Tree {
    const directories = new Map<Inode, Map<string, Inode>>();
    for (const {sets} of steps)
      for (const [directory, name, inode] of sets) {
        const entries = directories.get(directory) ?? new Map<string, Inode>();
        directories.set(directory, entries);
        if (inode === undefined) entries.delete(name);
        else entries.set(name, inode);
      }
    const tree = new Map<string, {kind: Found['kind']; data: Buffer; meta: Meta; inode: object}>();
    const fates = new Map<Inode, ReturnType<Fate>>();
    const visit = (inode: Inode, path: string): void => {
      for (const [name, child] of [...(directories.get(inode) ?? [])].sort(([a], [b]) => (a < b ? -1 : 1))) {
        const below = path === '' ? name : `${path}/${name}`;
        const became = fates.get(child) ?? (child.data === child.synced.data && child.meta === child.synced.meta ? child : fate(child));
        fates.set(child, became);
        const {data, meta} = became;
        tree.set(below, {kind: child.kind, data, meta, inode: child});
        visit(child, below);
      }
    };
    visit(this.#root, '');
    return tree;
  }

  /** What the system sees now. */
  now(): Tree {
    return this.#build(this.#steps, kept);
  }

  /**
   * What the disk may hold if the power goes now: the extremes, and `samples` more at random.
   *
   * @param random numbers from 0 up to 1
   */
  *states(random: () => number, samples: number): Generator<DiskState> {
    const nothing = this.#closure(() => false);
    yield {name: 'everything unsynced lost', tree: this.#build(nothing, lost)};
    yield {name: 'all names kept, unsynced bytes lost', tree: this.#build(this.#steps, lost)};
    const renamed = ({op}: Step): boolean => op === 'rename' || op === 'link';
    yield {name: 'renames kept, unsynced bytes lost', tree: this.#build(this.#closure(renamed), lost)};
    yield {name: 'all names kept, zeroes for unsynced bytes', tree: this.#build(this.#steps, zeroed)};
    yield {name: 'everything kept', tree: this.now()};
    for (let sample = 1; sample <= samples; sample++) {
      // Of some directories nothing, of some all, of the others a part.
      const until = new Map<Inode, number>();
      const limit = (directory: Inode): number => {
        const known = until.get(directory);
        if (known !== undefined) return known;
        const dice = random();
        const at = dice < 0.3 ? 0 : dice < 0.6 ? this.#steps.length : Math.floor(random() * (this.#steps.length + 1));
        until.set(directory, at);
        return at;
      };
      const chosen = (step: Step, index: number): boolean => step.sets.every(([directory]) => index < limit(directory));
      const fate: Fate = (inode) => {
        const dice = random();
        if (dice < 0.3) return lost(inode);
        if (dice < 0.5) return kept(inode);
        if (dice < 0.7) return zeroed(inode);
        const {data, meta, synced} = inode;
        if (data === synced.data) return kept(inode);
        const cut = Math.floor(random() * (data.length + 1));
        const head = inode.kind === 'file' ? data.subarray(0, cut) : data;
        return {data: dice < 0.85 ? head : Buffer.concat([head, synced.data.subarray(head.length)]), meta};
      };
      yield {name: `sample ${sample}`, tree: this.#build(this.#closure(chosen), fate)};
    }
  }
}

const hashes = new WeakMap<Buffer, string>();

function hashOf(bytes: Buffer): string {
  const known = hashes.get(bytes);
  if (known !== undefined) return known;
  const hash = createHash('sha1').update(bytes).digest('base64');
  hashes.set(bytes, hash);
  return hash;
}

/** The same for two trees that nobody can tell apart, but for times. */
export function fingerprint(tree: Tree): string {
  const hash = createHash('sha1');
  for (const [path, {kind, data, meta}] of tree) hash.update(`${path}\0${kind} ${meta.mode} ${meta.uid} ${meta.gid} ${hashOf(data)}\n`);
  return hash.digest('hex');
}

/** Makes a tree in an empty directory. */
export function materialise(tree: Tree, directory: string): void {
  const first = new Map<object, string>();
  const owner = process.getuid?.() === 0;
  for (const [path, {kind, data, inode}] of tree) {
    const at = join(directory, path);
    const other = first.get(inode);
    if (other !== undefined) fs.linkSync(other, at);
    else if (kind === 'dir') fs.mkdirSync(at);
    else if (kind === 'link') fs.symlinkSync(data, at);
    else fs.writeFileSync(at, data);
    first.set(inode, other ?? at);
  }
  for (const [path, {kind, meta}] of [...tree].reverse()) {
    const at = join(directory, path);
    if (owner) fs.lchownSync(at, meta.uid, meta.gid);
    if (kind !== 'link') fs.chmodSync(at, meta.mode);
    if (meta.mtime !== undefined) fs.lutimesSync(at, meta.mtime / 1000, meta.mtime / 1000);
  }
}

/** A line for each thing in which a directory is not the tree. */
export function compareTree(tree: Tree, directory: string): readonly string[] {
  const describe = (kind: string, {mode, uid, gid}: Meta, data: Buffer): string =>
    `${kind} ${kind === 'link' ? '' : mode.toString(8)} ${uid}:${gid} ${data.length} B ${hashOf(data)}`;
  const expected = new Map([...tree].map(([path, {kind, meta, data}]) => [path, describe(kind, meta, data)]));
  const actual = new Map(
    look(directory)
      .slice(1)
      .map((found) => [found.path, describe(found.kind, found, Buffer.from(found.data ?? '', found.kind === 'file' ? 'base64' : 'utf8'))]),
  );
  return [...new Set([...expected.keys(), ...actual.keys()])]
    .sort()
    .filter((path) => expected.get(path) !== actual.get(path))
    .map((path) => `${path}: ${expected.get(path) ?? 'nothing'} in the log, ${actual.get(path) ?? 'nothing'} on the disk`);
}
