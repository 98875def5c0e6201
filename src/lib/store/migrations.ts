/**
 * Migrations from one format of the state directory to the next. An older store is read as if migrated; the first change migrates it within
 * its transaction, so a crash leaves either format intact.
 */
import {ErrdefsError} from '../errdefs.ts';
import {type Reader, type Writer, WriteSet} from './metadata-contract.ts';

/**
 * Rewrites the documents of one format as those of the next. It depends only on them, since it runs for every view of a store that has not
 * been changed yet.
 */
export type Migration = (documents: Pick<Writer, 'get' | 'list' | 'directories' | 'put'>) => void;

/** The first migrates from format 1 to 2, and so on. */
export const MIGRATIONS: readonly Migration[] = [];

/** Path of the format's number, a JSON document below the root. */
const VERSION = 'version';

/** Reads a store of any known format as the current one. */
export class Formats {
  readonly #migrations: readonly Migration[];

  /** @param migrations the first one starts from format 1 */
  constructor(migrations: readonly Migration[]) {
    this.#migrations = migrations;
  }

  get known(): number {
    return 1 + this.#migrations.length;
  }

  /** @throws failed_precondition this version of berth does not know the format */
  check(root: string, found: number): void {
    if (found >= 1 && found <= this.known) return;
    throw new ErrdefsError(
      'failed_precondition',
      `state directory ${root} has format ${found}, this version of berth knows ${this.known}`,
      {
        hint:
          found > this.known
            ? 'use the version of berth that created it, or a newer one'
            : 'use the version of berth that created it, or another --root',
        details: {found, known: this.known},
      },
    );
  }

  /** The reader, migrated to the current format. */
  view(reader: Reader): Reader {
    if (this.#found(reader) === this.known) return reader;
    const writeSet = new WriteSet(reader);
    this.migrate(writeSet);
    return writeSet;
  }

  /** Migrates a store within a transaction. @throws failed_precondition another berth has migrated it further */
  migrate(writer: Writer): void {
    const found = this.#found(writer);
    if (found === this.known) return;
    this.check(writer.locate('.'), found);
    for (const migration of this.#migrations.slice(found - 1)) migration(writer);
    writer.put(VERSION, this.known);
  }

  #found(reader: Reader): number {
    const found = reader.get(VERSION);
    return typeof found === 'number' ? found : this.known;
  }
}
