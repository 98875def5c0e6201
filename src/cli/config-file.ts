/**
 * Defaults of flags from config.toml: /etc/berth/config.toml, and for other users than root the one in their XDG configuration directory,
 * which has the last word. Flags and environment variables override both. The library reads neither.
 */
import {readFileSync} from 'node:fs';
import {join} from 'node:path';
import {baseDirectory} from '../lib/base-directories.ts';
import {ErrdefsError, fromErrno} from '../lib/errdefs.ts';
import {userID} from '../lib/user-namespace-identity.ts';
import {nearest} from './did-you-mean.ts';

/** The flags that a file may give a default. */
export const SETTINGS = [
  'root',
  'state',
  'namespace',
  'snapshotter',
  'progress',
  'lock-timeout',
  'connect-timeout',
  'stall-timeout',
  'hosts-dir',
] as const;

export interface Setting {
  readonly value: string;
  /** The file that has it. */
  readonly file: string;
}

export type Settings = ReadonlyMap<string, Setting>;

/** Bytes. A real file has a few hundred. */
const MAX_FILE = 64 * 1024;

/** Files that are read where they exist; a later one overrides an earlier one. `BERTH_CONFIG` names the only one. */
export function configFiles(env: NodeJS.ProcessEnv = process.env, uid = userID(env)): readonly string[] {
  if (env.BERTH_CONFIG) return [env.BERTH_CONFIG];
  const own = uid === 0 ? undefined : baseDirectory('config', env, uid);
  return ['/etc', ...(own === undefined ? [] : [own])].map((directory) => join(directory, 'berth/config.toml'));
}

/**
 * Settings by the names of flags.
 *
 * @throws invalid_argument a file is no TOML, or has an unknown key or a value that is no text
 * @throws permission_denied a file may not be read
 */
export async function readSettings(files: readonly string[] = configFiles()): Promise<Settings> {
  const settings = new Map<string, Setting>();
  for (const file of files) {
    let text: string;
    try {
      text = readFileSync(file, 'utf8');
    } catch (err) {
      // A path through a file is no configuration, and neither is one that is not there; but the one that is named is wanted.
      if (file !== process.env.BERTH_CONFIG && ['ENOENT', 'ENOTDIR'].includes((err as NodeJS.ErrnoException).code ?? '')) continue;
      throw fromErrno(err, `configuration ${file}`);
    }
    for (const [name, value] of Object.entries(await parseConfig(text, file))) settings.set(name, {value, file});
  }
  return settings;
}

async function parseConfig(text: string, file: string): Promise<Record<string, string>> {
  const wrong = (what: string, hint?: string): ErrdefsError =>
    new ErrdefsError('invalid_argument', `configuration ${file}: ${what}`, hint === undefined ? {} : {hint});
  if (text.trim() === '') return {};
  if (text.length > MAX_FILE) throw wrong(`${text.length} characters, more than ${MAX_FILE}`);
  // Loaded only where there is a file.
  const {parse, TomlError} = await import('smol-toml');
  let found: Record<string, unknown>;
  try {
    found = parse(text, {maxDepth: 4});
  } catch (err) {
    if (!(err instanceof TomlError)) throw err;
    throw wrong(`line ${err.line}, column ${err.column}: ${err.message.split('\n', 1)[0]!.replace(/^Invalid TOML document: /, '')}`);
  }
  for (const [name, value] of Object.entries(found)) {
    if (!(SETTINGS as readonly string[]).includes(name)) {
      const near = nearest(name, SETTINGS);
      throw wrong(
        `unknown key ${JSON.stringify(name)}`,
        near === undefined ? `known are ${SETTINGS.join(', ')}` : `did you mean ${JSON.stringify(near)}?`,
      );
    }
    if (typeof value !== 'string') throw wrong(`${name} must be a text, such as ${name} = "${name.endsWith('timeout') ? '30s' : 'value'}"`);
  }
  return found as Record<string, string>;
}
