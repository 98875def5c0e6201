/**
 * The contract of a metadata backend: JSON documents under slash-separated paths, read as of one moment, changed in
 * transactions. `journal.ts` keeps them on disk; test/suites/metadata.ts holds the contract.
 */

export interface Reader {
  /**
   * The document at `path`, or `undefined`.
   *
   * @param asStored do not make up for a file that a lost disk has left empty
   * @throws data_loss it is there and cannot be read
   */
  get(path: string, asStored?: boolean): unknown;
  /** Names of the documents in `directory`, sorted; they end in `.json`. @throws data_loss it cannot be read */
  list(directory: string): readonly string[];
  /** Names of the directories in it, sorted. @throws data_loss it cannot be read */
  directories(directory: string): readonly string[];
  /** What the document at `path` is called in messages. */
  locate(path: string): string;
  /** Paths whose documents are gone although nobody removed them, as far as that is known. */
  lost(): readonly string[];
  /** Number of the newest transaction that this reader sees. */
  readonly generation: number;
  /** Paths that the transactions after `generation` changed; `undefined` when that is not known any more. */
  changesSince(generation: number): ReadonlySet<string> | undefined;
}

export type AfterCommit = (passed: () => boolean) => void;

export interface Writer extends Reader {
  /** `undefined` removes. Seen at once by this transaction, by others when it has committed. */
  put(path: string, document: unknown): void;
  /**
   * Runs after the commit and before anybody else can change anything: the place to rename away what the committed
   * records no longer name. Not run when the transaction fails; must be safe to lose.
   *
   * @param action `isOvertaken` tells whether another transaction was committed after all, by one who took the lock from a
   *   process that showed no life for long: then what the action knows is old
   */
  afterCommit(action: AfterCommit): void;
}

export interface Damage {
  /** Absolute. */
  readonly path: string;
  /** In a few words. */
  readonly problem: string;
}

export interface Backend {
  /** Reads without waiting for anybody. `fn` may run more than once. */
  view<T>(fn: (reader: Reader) => T): T;
  /**
   * Runs `fn` alone and makes all its changes visible at once, durably. `fn` is synchronous and touches nothing else:
   * it may run again when another writer was faster.
   *
   * @throws unavailable the lock was not given within its timeout
   * @throws aborted other writers were faster too often
   */
  update<T>(purpose: string, fn: (writer: Writer) => T): Promise<T>;
  /** Runs `fn`, which changes nothing, while nobody changes anything. */
  withLock<T>(purpose: string, fn: () => Promise<T>): Promise<T>;
  /** Committed transactions that are not applied: a few for a moment, or until there is room for them. */
  pending(): number;
  /** Sets the reserve aside anew, and then applies what is pending, as far as there is room for both. */
  applyPending(): Promise<void>;
  /** The document that was last written at `path`, whatever is there now; `undefined` when that is not known, or it was removed. */
  lastWritten(path: string): unknown;
  /** What keeps committed changes from being read, or from being applied. */
  findDamage(): readonly Damage[];
  /**
   * Takes its faults out of the way, and goes on with what is left.
   *
   * @param moveAway returns where something is now
   * @returns what was done about each, by path
   */
  repair(moveAway: (path: string) => string | undefined): Promise<ReadonlyMap<string, string>>;
}

/** What one transaction has written so far, over what it reads from. */
export class WriteSet implements Writer {
  readonly writes = new Map<string, unknown>();
  readonly actions: AfterCommit[] = [];
  readonly #below: Reader;
  /** What was read of it: it does not change meanwhile. */
  readonly #read = new Map<string, unknown>();

  constructor(below: Reader) {
    this.#below = below;
  }

  get generation(): number {
    return this.#below.generation;
  }

  changesSince(generation: number): ReadonlySet<string> | undefined {
    return this.#below.changesSince(generation);
  }

  get(path: string, asStored = false): unknown {
    if (this.writes.has(path)) return this.writes.get(path);
    return asStored ? this.#below.get(path, true) : this.before(path);
  }

  /** What is there without what was written. */
  before(path: string): unknown {
    if (!this.#read.has(path)) this.#read.set(path, this.#below.get(path));
    return this.#read.get(path);
  }

  list(directory: string): readonly string[] {
    const prefix = `${directory}/`;
    const names = new Set(this.#below.list(directory));
    for (const [path, document] of this.writes) {
      const name = path.slice(prefix.length);
      if (!path.startsWith(prefix) || name.includes('/')) continue;
      if (document === undefined) names.delete(name);
      else names.add(name);
    }
    return [...names].sort();
  }

  directories(directory: string): readonly string[] {
    const prefix = `${directory}/`;
    const names = new Set(this.#below.directories(directory));
    for (const [path, document] of this.writes) {
      const [name, ...rest] = path.startsWith(prefix) ? path.slice(prefix.length).split('/', 2) : [];
      if (name !== undefined && rest.length > 0 && document !== undefined) names.add(name);
    }
    return [...names].sort();
  }

  locate(path: string): string {
    return this.#below.locate(path);
  }

  lost(): readonly string[] {
    return this.#below.lost().filter((path) => !this.writes.has(path));
  }

  put(path: string, document: unknown): void {
    this.writes.set(path, document);
  }

  afterCommit(action: AfterCommit): void {
    this.actions.push(action);
  }
}
