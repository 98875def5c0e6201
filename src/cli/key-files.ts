/** Reads the files of public keys that flags name. */
import {readFileSync} from 'node:fs';
import {fromErrno} from '../lib/errdefs.ts';

/** @throws not_found, permission_denied, … naming the file */
export const readKeyFiles = (paths: readonly string[]): readonly string[] =>
  paths.map((path) => {
    try {
      return readFileSync(path, 'utf8');
    } catch (err) {
      throw fromErrno(err, `key ${JSON.stringify(path)}`);
    }
  });
