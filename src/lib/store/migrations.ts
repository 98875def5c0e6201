/**
 * From one format of the state directory to the next. A store of an older format is read as it will be, and made so by the
 * first change, in the same transaction: a stop leaves it old or new.
 */
import {ErrdefsError} from '../errdefs.ts';
import {type Reader, type Writer, WriteSet} from './metadata-backend.ts';

/**
 * Rewrites documents of a format as those of the next. It depends on nothing but them: it runs for each look at a store that
 * nobody has changed since.
 */
export type Migration = (documents: Pick<Writer, 'get' | 'list' | 'directories' | 'put'>) => void;

/** The first leads from format 1 to 2, and so on. */
export const MIGRATIONS: readonly Migration[] = [];

/** Below the root: the file, a JSON number, that says which format it has. */
const VERSION = 'version';

/** A store as of today's format, over what lies there. */
export class Formats {
  readonly #migrations: readonly Migration[];

  /** @param migrations from the first format on */
  constructor(migrations: readonly Migration[]) {
    this.#migrations = migrations;
  }

  get known(): number {
    return 1 + this.#migrations.length;
  }

  /** @throws failed_precondition this berth does not know that format */
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

  /** What a reader sees, as of today's format. */
  view(reader: Reader): Reader {
    if (this.#found(reader) === this.known) return reader;
    const writeSet = new WriteSet(reader);
    this.migrate(writeSet);
    return writeSet;
  }

  /** Brings a store to today's format, as part of a transaction. @throws failed_precondition somebody else has brought it further */
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
