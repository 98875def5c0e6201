/**
 * The contract of a metadata backend: JSON documents under slash-separated paths, read as of one moment, changed in
 * transactions. `journal.ts` keeps them on disk, `MemoryBackend` in memory; test/suites/metadata.ts runs over both.
 */

export interface Reader {
  /** The document at `path`, or `undefined`. @throws data_loss it is there and cannot be read */
  get(path: string): unknown;
  /** Names of the entries of `directory`, sorted; documents end in `.json`. */
  list(directory: string): readonly string[];
}

export interface Writer extends Reader {
  /** `undefined` removes. Seen at once by this transaction, by others when it has committed. */
  put(path: string, document: unknown): void;
  /**
   * Runs after the commit and before anybody else can change anything: the place to rename away what the committed
   * records no longer name. Not run when the transaction fails; must be safe to lose.
   */
  afterCommit(action: () => void): void;
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
}

/** What one transaction has written so far, over what it reads from. */
export class Overlay implements Writer {
  readonly writes = new Map<string, unknown>();
  readonly actions: (() => void)[] = [];
  readonly #below: Reader;

  constructor(below: Reader) {
    this.#below = below;
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

  afterCommit(action: () => void): void {
    this.actions.push(action);
  }
}

/** A backend without a disk, for tests and for scratch stores. */
export class MemoryBackend implements Backend {
  readonly #documents = new Map<string, string>();
  readonly #reader: Reader = {
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
    return fn(this.#reader);
  }

  async update<T>(_purpose: string, fn: (writer: Writer) => T): Promise<T> {
    const overlay = new Overlay(this.#reader);
    const result = fn(overlay);
    for (const [path, document] of overlay.writes) {
      if (document === undefined) this.#documents.delete(path);
      else this.#documents.set(path, JSON.stringify(document));
    }
    for (const action of overlay.actions) action();
    return result;
  }
}
