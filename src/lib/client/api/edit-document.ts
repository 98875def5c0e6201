/** Lets a person change a document in an editor. */
import {mkdtempSync, readFileSync, writeFileSync} from 'node:fs';
import {tmpdir} from 'node:os';
import {join} from 'node:path';
import {ErrdefsError, fromErrno} from '../../errdefs.ts';
import {removeTree} from '../../fs/durable.ts';
import {runInShell} from '../../fs/spawn.ts';
import {type Digest, digestParts} from '../../oci/descriptor.ts';
import {MAX_CONFIG_BYTES} from '../../oci/manifest.ts';

/**
 * @param bytes the document; `undefined` when it is missing on disk
 * @param editor a command for a shell
 * @returns the changed document; `undefined` when nothing was changed
 * @throws data_loss the document is missing @throws aborted the editor failed
 */
export async function editDocument(bytes: Buffer | undefined, digest: Digest, editor: string): Promise<Buffer | undefined> {
  if (bytes === undefined) throw new ErrdefsError('data_loss', `content ${digest} is not on disk`, {hint: 'pull the image again'});
  let directory: string | undefined;
  try {
    directory = mkdtempSync(join(tmpdir(), 'berth-edit-'));
    const file = join(directory, `${digestParts(digest)[1].slice(0, 12)}.json`);
    writeFileSync(file, bytes, {mode: 0o600});
    const status = await runInShell(editor, [file]);
    if (status !== 0)
      throw new ErrdefsError('aborted', `editor ${JSON.stringify(editor)} ended with status ${status}, and nothing is stored`, {
        hint: 'name another one with --editor or EDITOR',
      });
    const changed = readFileSync(file);
    if (changed.length > MAX_CONFIG_BYTES)
      throw new ErrdefsError('invalid_argument', `the changed document has ${changed.length} B, at most ${MAX_CONFIG_BYTES} are read`);
    return changed.equals(bytes) ? undefined : changed;
  } catch (err) {
    throw fromErrno(err, `editing of ${digest}`);
  } finally {
    if (directory !== undefined) removeTree(directory);
  }
}
