/** The state directory as a whole: whether it is one, its format, and its creation. */
import {chmodSync, existsSync, readdirSync} from 'node:fs';
import {join} from 'node:path';
import {ErrdefsError, fromErrno, hasCode} from '../errdefs.ts';
import {isTemporary, makeDirectories, readIfPresent, writeAtomic} from '../fs/durable.ts';
import type {Layout} from './layout.ts';
import type {Formats} from './migrations.ts';
import {quarantine} from './quarantine.ts';
import {assertDirectory, REPAIR_HINT} from './read-record-files.ts';

export class StateDirectory {
  readonly #layout: Layout;
  readonly #formats: Formats;
  /** Format of the directory, once it was read. */
  #format: number | undefined;

  constructor(layout: Layout, formats: Formats) {
    this.#layout = layout;
    this.#formats = formats;
  }

  get isOld(): boolean {
    return this.#format !== undefined && this.#format < this.#formats.known;
  }

  /**
   * @throws failed_precondition an unknown format, or not a state directory
   * @throws data_loss the file `version` is damaged, or something else is in the place of a directory
   */
  check(): 'missing' | 'usable' {
    const {root, version} = this.#layout;
    // Another process may have removed the directory since.
    if (this.#format !== undefined && existsSync(version)) return 'usable';
    this.#format = undefined;
    let text: string | undefined;
    try {
      text = readIfPresent(version);
    } catch (err) {
      if ((err as NodeJS.ErrnoException).code !== 'EISDIR' && !hasCode(err, 'data_loss')) throw fromErrno(err, `state directory ${root}`);
      text = '';
    }
    if (text === undefined) {
      const foreign = foreignName(root);
      if (foreign === undefined) return 'missing';
      if (existsSync(version)) return this.check(); // another process has just created it
      if (this.#isOurs()) throw this.#versionDamaged('is missing');
      throw new ErrdefsError(
        'failed_precondition',
        `directory ${root} has files, such as ${JSON.stringify(foreign)}, but no "version": not a state directory`,
        {hint: 'choose an empty or a new directory with --root'},
      );
    }
    if (!/^\d+\s*$/.test(text)) throw this.#versionDamaged('is damaged');
    this.#formats.check(root, Number(text));
    // A directory on a disk that is not mounted would look empty, and its content like garbage.
    for (const directory of this.#layout.requiredDirectories) assertDirectory(directory);
    this.#format = Number(text);
    return 'usable';
  }

  #versionDamaged(what: string): ErrdefsError {
    const {root, version} = this.#layout;
    return new ErrdefsError('data_loss', `state directory ${root}: file "version" ${what}`, {
      hint: REPAIR_HINT,
      details: {wrongTypePath: version},
    });
  }

  /** Whether a directory without `version` is a state directory: no other directory has such a journal file. */
  #isOurs(): boolean {
    return /^(\d{16}) \1\n$/.test(readQuietly(join(this.#layout.journal, 'applied')) ?? '');
  }

  /** Creates the state directory if it is missing. */
  ensureCreated(): void {
    if (this.check() === 'usable') return;
    const {root} = this.#layout;
    try {
      // Other users may pass through it to a container's mounts, but not list it.
      if (makeDirectories(root, {sync: true, mode: 0o711})) chmodSync(root, 0o711);
      this.#writeVersion();
    } catch (err) {
      throw fromErrno(err, `state directory ${root}`);
    }
  }

  /** Call after a transaction, which has migrated the format. If the directory was removed meanwhile, the transaction created it again. */
  noteMigrated(): void {
    if (existsSync(this.#layout.version)) this.#format = this.#formats.known;
    else this.#writeVersion();
  }

  #writeVersion(): void {
    try {
      writeAtomic(this.#layout.version, `${this.#formats.known}\n`, {sync: true, mode: 0o644});
    } catch (err) {
      throw fromErrno(err, `state directory ${this.#layout.root}`);
    }
    this.#format = this.#formats.known;
  }

  /**
   * Writes a damaged `version` again.
   *
   * @param written its document according to the journal
   * @returns false when the format is unknown: several are possible
   */
  restoreVersion(written: unknown): boolean {
    const {root, version} = this.#layout;
    const format = typeof written === 'number' ? written : this.#formats.known === 1 ? 1 : undefined;
    if (format === undefined || !this.#isOurs()) return false;
    try {
      quarantine(this.#layout, version);
      writeAtomic(version, `${format}\n`, {sync: true, mode: 0o644});
      return true;
    } catch (err) {
      throw fromErrno(err, `state directory ${root}`);
    }
  }
}

function readQuietly(path: string): string | undefined {
  try {
    return readIfPresent(path);
  } catch {
    return undefined;
  }
}

/** A name that is in the directory; with any name but no `version`, it is not ours to write to. */
function foreignName(root: string): string | undefined {
  try {
    return readdirSync(root).find((name) => name !== 'lost+found' && !isTemporary(name));
  } catch (err) {
    if ((err as NodeJS.ErrnoException).code === 'ENOENT') return undefined;
    throw fromErrno(err, `state directory ${root}`);
  }
}
