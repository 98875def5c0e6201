/**
 * The contract of a metadata backend: JSON documents under slash-separated paths, read as of one moment, changed in
 * transactions. `journal.ts` keeps them on disk, `MemoryBackend` in memory; test/suites/metadata.ts runs over both.
 */

export interface Reader {
  /** The document at `path`, or `undefined`. @throws data_loss it is there and cannot be read */
  get(path: string): unknown;
  /** Names of the entries of `directory`, sorted; documents end in `.json`. */
  list(directory: string): readonly string[];
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
   * @param action `passed` tells whether another transaction was committed after all, by one who took the lock from a
   *   process that showed no life for long: then what the action knows is old
   */
  afterCommit(action: AfterCommit): void;
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
  /** The document that was last written at `path`, whatever is there now; `undefined` when that is not known, or it was removed. */
  recall(path: string): unknown;
}

/** What one transaction has written so far, over what it reads from. */
export class Overlay implements Writer {
  readonly writes = new Map<string, unknown>();
  readonly actions: AfterCommit[] = [];
  readonly #below: Reader;

  constructor(below: Reader) {
    this.#below = below;
  }

  get generation(): number {
    return this.#below.generation;
  }

  changesSince(generation: number): ReadonlySet<string> | undefined {
    return this.#below.changesSince(generation);
  }

  get(path: string): unknown {
    return this.writes.has(path) ? this.writes.get(path) : this.#below.get(path);
  }

  list(directory: string): readonly string[] {
    const prefix = `${directory}/`;
    const names = new Set(this.#below.list(directory));
    for (const [path, document] of this.writes) {
      if (!path.startsWith(prefix)) continue;
      const name = path.slice(prefix.length).split('/', 1)[0]!;
      const isDocument = path.length === prefix.length + name.length;
      if (document !== undefined) names.add(name);
      else if (isDocument) names.delete(name);
    }
    return [...names].sort();
  }

  put(path: string, document: unknown): void {
    this.writes.set(path, document);
  }

  afterCommit(action: AfterCommit): void {
    this.actions.push(action);
  }
}

/** A backend without a disk, for tests and for scratch stores. */
export class MemoryBackend implements Backend {
  readonly #documents = new Map<string, string>();
  /** Paths that each transaction changed. */
  readonly #history: (readonly string[])[] = [];
  readonly #reader: Reader = {
    generation: 0,
    changesSince: (generation) => (generation > this.#history.length ? undefined : new Set(this.#history.slice(generation).flat())),
    get: (path) => {
      const text = this.#documents.get(path);
      return text === undefined ? undefined : JSON.parse(text);
    },
    list: (directory) => {
      const prefix = `${directory}/`;
      const below = [...this.#documents.keys()].filter((path) => path.startsWith(prefix));
      return [...new Set(below.map((path) => path.slice(prefix.length).split('/', 1)[0]!))].sort();
    },
  };

  view<T>(fn: (reader: Reader) => T): T {
    return fn({...this.#reader, generation: this.#history.length});
  }

  recall(path: string): unknown {
    return this.#reader.get(path);
  }

  async update<T>(_purpose: string, fn: (writer: Writer) => T): Promise<T> {
    const overlay = new Overlay({...this.#reader, generation: this.#history.length});
    const result = fn(overlay);
    for (const [path, document] of overlay.writes) {
      if (document === undefined) this.#documents.delete(path);
      else this.#documents.set(path, JSON.stringify(document));
    }
    if (overlay.writes.size > 0) this.#history.push([...overlay.writes.keys()]);
    for (const action of overlay.actions) action(() => false);
    return result;
  }
}
