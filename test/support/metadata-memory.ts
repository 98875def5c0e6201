/** Metadata in memory. */
import {type Backend, type Damage, type Reader, type Writer, WriteSet} from '../../src/lib/store/metadata-contract.ts';

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
    list: (directory) => this.#below(directory).flatMap(([name, isDocument]) => (isDocument ? [name] : [])),
    directories: (directory) => this.#below(directory).flatMap(([name, isDocument]) => (isDocument ? [] : [name])),
    locate: (path) => path,
    lost: () => [],
  };

  /** Names in a directory, sorted, and whether they are documents. */
  #below(directory: string): readonly (readonly [name: string, isDocument: boolean])[] {
    const prefix = `${directory}/`;
    const found = new Map<string, boolean>();
    for (const path of this.#documents.keys()) {
      const [name, ...rest] = path.startsWith(prefix) ? path.slice(prefix.length).split('/', 2) : [];
      if (name !== undefined) found.set(name, rest.length === 0);
    }
    return [...found].sort(([a], [b]) => (a < b ? -1 : 1));
  }

  view<T>(fn: (reader: Reader) => T): T {
    return fn({...this.#reader, generation: this.#history.length});
  }

  lastWritten(path: string): unknown {
    return this.#reader.get(path);
  }

  pending(): number {
    return 0;
  }

  async applyPending(): Promise<void> {}

  withLock<T>(_purpose: string, fn: () => Promise<T>): Promise<T> {
    return fn();
  }

  findDamage(): readonly Damage[] {
    return [];
  }

  async repair(): Promise<ReadonlyMap<string, string>> {
    return new Map();
  }

  async update<T>(_purpose: string, fn: (writer: Writer) => T): Promise<T> {
    const writeSet = new WriteSet({...this.#reader, generation: this.#history.length});
    const result = fn(writeSet);
    for (const [path, document] of writeSet.writes) {
      if (document === undefined) this.#documents.delete(path);
      else this.#documents.set(path, JSON.stringify(document));
    }
    if (writeSet.writes.size > 0) this.#history.push([...writeSet.writes.keys()]);
    for (const action of writeSet.actions) action(() => false);
    return result;
  }
}
