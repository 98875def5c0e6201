/**
 * The contract of a metadata backend: JSON documents under slash-separated paths, with consistent reads and transactions. `journal.ts`
 * keeps them on disk; test/suites/metadata.ts tests the contract.
 */

export interface Reader {
  /**
   * @param asStored read the file only, even where the journal could replace an empty one
   * @throws data_loss the document exists and cannot be read
   */
  get(path: string, asStored?: boolean): unknown;
  /** Names of the documents in `directory`, sorted, with `.json`. @throws data_loss the directory cannot be read */
  list(directory: string): readonly string[];
  /** Names of the subdirectories, sorted. @throws data_loss the directory cannot be read */
  directories(directory: string): readonly string[];
  /** Name of the document at `path` for messages. */
  locate(path: string): string;
  /** Paths of documents that are missing although the journal has written them. */
  lost(): readonly string[];
  /** Newest transaction that this reader sees. */
  readonly generation: number;
  /** Paths changed after `generation`; `undefined` when the journal does not reach back so far. */
  changesSince(generation: number): ReadonlySet<string> | undefined;
}

export type AfterCommit = (passed: () => boolean) => void;

export interface Writer extends Reader {
  /** `undefined` removes. This transaction sees the change at once, others after the commit. */
  put(path: string, document: unknown): void;
  /**
   * Runs `action` after the commit, still under the lock: the place to move away files that records no longer refer to. It does not run
   * when the transaction fails, and it must be safe to lose.
   *
   * @param action `isOvertaken` tells whether another writer has committed since, one that took the lock from a holder it considered dead;
   * then the action must not rely on what it knows
   */
  afterCommit(action: AfterCommit): void;
}

export interface Damage {
  /** Absolute path. */
  readonly path: string;
  /** Message fragment. */
  readonly problem: string;
}

export interface Backend {
  /** A consistent read without a lock. `fn` may run more than once. */
  view<T>(fn: (reader: Reader) => T): T;
  /**
   * Runs `fn` under the lock and commits all its changes durably at once. `fn` is synchronous and has no other side effects: it runs again
   * when another writer was faster.
   *
   * @throws unavailable the lock was not free within its timeout
   * @throws aborted other writers were faster too often
   */
  update<T>(purpose: string, fn: (writer: Writer) => T): Promise<T>;
  /** Runs `fn`, which changes nothing, under the lock. */
  withLock<T>(purpose: string, fn: () => Promise<T>): Promise<T>;
  /** Number of committed transactions that are not applied: a few for a moment, or until the disk has space. */
  pending(): number;
  /** Refills the ballast, then applies pending transactions, as far as there is space. */
  applyPending(): Promise<void>;
  /** The document last written at `path`, according to the journal; `undefined` when it was removed or the journal does not know. */
  lastWritten(path: string): unknown;
  /** Damage of the journal that keeps committed changes from being read or applied. */
  findDamage(): readonly Damage[];
  /**
   * Moves damage away, and continues with what is left.
   *
   * @param moveAway returns the new path
   * @returns the action for each damaged path
   */
  repair(moveAway: (path: string) => string | undefined): Promise<ReadonlyMap<string, string>>;
}

/** Uncommitted writes of one transaction over its reader. */
export class WriteSet implements Writer {
  readonly writes = new Map<string, unknown>();
  readonly actions: AfterCommit[] = [];
  readonly #below: Reader;
  /** Documents read so far. They do not change during the transaction. */
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

  /** The document without this transaction's writes. */
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
