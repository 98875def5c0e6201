/** Lets a person change a document in an editor. */
import {mkdtempSync, readFileSync, statSync, writeFileSync} from 'node:fs';
import {tmpdir} from 'node:os';
import {join} from 'node:path';
import {ErrdefsError, fromErrno, isErrdefs} from '../../errdefs.ts';
import {removeTree} from '../../fs/durable.ts';
import {runInShell} from '../../fs/spawn.ts';
import {type Digest, digestParts} from '../../oci/descriptor.ts';
import {MAX_CONFIG_BYTES} from '../../oci/manifest.ts';

/**
 * @param bytes the document; `undefined` when it is missing on disk
 * @param editor a command for a shell
 * @param store keeps the changed document; until it has, the edited file stays, whatever fails
 * @returns what `store` returned; `undefined` when nothing was changed
 * @throws data_loss the document is missing @throws aborted the editor failed
 */
export async function editDocument<T>(
  bytes: Buffer | undefined,
  digest: Digest,
  editor: string,
  store: (changed: Buffer) => Promise<T>,
): Promise<T | undefined> {
  if (bytes === undefined) throw new ErrdefsError('data_loss', `content ${digest} is not on disk`, {hint: 'pull the image again'});
  let directory: string | undefined;
  let file = '';
  try {
    directory = mkdtempSync(join(tmpdir(), 'berth-edit-'));
    file = join(directory, `${digestParts(digest)[1].slice(0, 12)}.json`);
    writeFileSync(file, bytes, {mode: 0o600});
    const status = await runInShell(editor, [file]);
    if (status !== 0)
      throw new ErrdefsError('aborted', `editor ${JSON.stringify(editor)} ended with status ${status}, and nothing is stored`, {
        hint: 'name another one with --editor or EDITOR',
      });
    const {size} = statSync(file);
    if (size > MAX_CONFIG_BYTES)
      throw new ErrdefsError('invalid_argument', `the changed document has ${size} B, at most ${MAX_CONFIG_BYTES} are read`);
    const changed = readFileSync(file);
    const stored = changed.equals(bytes) ? undefined : await store(changed);
    removeTree(directory);
    return stored;
  } catch (err) {
    const failure = fromErrno(err, `editing of ${digest}`);
    if (directory === undefined) throw failure;
    if (!isChanged(file, bytes)) {
      removeTree(directory);
      throw failure;
    }
    const {code = 'unknown', message = String(failure), hint, details = {}} = isErrdefs(failure) ? failure : {};
    const kept = `the edited document is in ${file}`;
    throw new ErrdefsError(code, message, {
      cause: failure,
      hint: hint === undefined ? kept : `${kept}; ${hint}`,
      details: {...details, file},
    });
  }
}

/** Whether a file may have work in it that is nowhere else. */
function isChanged(file: string, bytes: Buffer): boolean {
  try {
    return statSync(file).size > MAX_CONFIG_BYTES || !readFileSync(file).equals(bytes);
  } catch (err) {
    return (err as NodeJS.ErrnoException).code !== 'ENOENT';
  }
}
