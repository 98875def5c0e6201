/** A specification that the caller gives as a file, instead of options: `--config` of ctr. */

import {readFileSync} from 'node:fs';
import {dirname, isAbsolute, resolve} from 'node:path';
import {ErrdefsError, fromErrno} from '../errdefs.ts';
import {checkCommand, mountPoints} from './check-executable.ts';
import {type IdMappings, idMappings} from './id-mappings.ts';
import {checkHostName} from './network/network-files.ts';
import type {RootReader} from './path-in-root.ts';
import {checkWorkingDirectory, isBind, type Spec} from './spec.ts';

export interface GivenSpec {
  /** Absolute path of the root on the host. */
  readonly root: string;
  readonly terminal: boolean;
  readonly mappings: IdMappings | undefined;
  /** @throws not_found the command is missing; `details.runExit` 127 @throws permission_denied it cannot be executed; 126 */
  makeSpec(rootfs: RootReader): Spec;
}

const isObject = (value: unknown): value is Record<string, unknown> => typeof value === 'object' && value !== null && !Array.isArray(value);
const isStrings = (value: unknown): value is readonly string[] => Array.isArray(value) && value.every((one) => typeof one === 'string');

/**
 * Reads a specification. It stays as it is, but for what berth needs to find the container again: its control group, where it names
 * none, and absolute paths, which else would count from a directory that berth makes.
 *
 * @param cgroupsPath if the specification has none
 * @throws not_found, permission_denied the file
 * @throws invalid_argument it is no specification that can run, naming the field
 */
export function readGivenSpec(file: string, cgroupsPath: string): GivenSpec {
  const what = `specification ${JSON.stringify(file)}`;
  const wrong = (field: string, hint?: string): ErrdefsError =>
    new ErrdefsError('invalid_argument', `${what}: ${field}`, hint === undefined ? {} : {hint});
  let text: string;
  try {
    text = readFileSync(file, 'utf8');
  } catch (err) {
    throw fromErrno(err, what);
  }
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch (err) {
    throw new ErrdefsError('invalid_argument', `${what} is no JSON`, {cause: err});
  }
  if (!isObject(value)) throw wrong('it is no object');
  const {process, root, mounts = [], linux} = value;
  if (!isObject(process) || !isStrings(process.args) || process.args.length === 0) throw wrong('"process.args" names no command');
  if (typeof process.cwd !== 'string' || !isAbsolute(process.cwd)) throw wrong('"process.cwd" is no absolute path');
  if (process.env !== undefined && !isStrings(process.env)) throw wrong('"process.env" is no list of strings');
  if (!isObject(root) || typeof root.path !== 'string' || root.path === '') throw wrong('"root.path" is missing');
  if (value.hostname !== undefined) {
    if (typeof value.hostname !== 'string') throw wrong('"hostname" is no string');
    if (value.hostname !== '') checkHostName(value.hostname);
  }
  if (!isObject(linux)) throw wrong('"linux" is missing', 'it is a specification of a Linux container that berth runs');
  if (linux.cgroupsPath !== undefined && typeof linux.cgroupsPath !== 'string') throw wrong('"linux.cgroupsPath" is no string');
  if (!Array.isArray(mounts) || !mounts.every((mount) => isObject(mount) && typeof mount.destination === 'string'))
    throw wrong('"mounts" is no list of mounts');
  checkWorkingDirectory(process.cwd);
  const directory = dirname(resolve(file));
  const path = resolve(directory, root.path);
  const spec = {
    ...value,
    process: {user: {uid: 0, gid: 0}, env: [], ...process},
    root: {...root, path},
    mounts: mounts.map(({options = [], type = '', source = '', ...mount}) => {
      const full = {...mount, type, source, options};
      return isBind(full) ? {...full, source: resolve(directory, source)} : full;
    }),
    linux: {namespaces: [], ...linux, cgroupsPath: linux.cgroupsPath ?? cgroupsPath},
  } as unknown as Spec;
  return {
    root: path,
    terminal: spec.process.terminal === true,
    mappings: idMappings(spec.linux),
    makeSpec: (rootfs) => {
      const {user, capabilities} = spec.process;
      const effective = capabilities?.effective ?? [];
      const checked = {...user, additionalGids: user.additionalGids ?? []};
      const process = {...spec.process, user: checked, capabilities: {bounding: effective, permitted: effective, effective}};
      checkCommand(rootfs, {process}, mountPoints(rootfs, spec));
      return spec;
    },
  };
}
