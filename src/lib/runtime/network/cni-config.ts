/**
 * Configurations of CNI networks: a directory of files, as libcni reads it.
 *
 * Order and fields after containernetworking/cni, libcni/conf.go and SPEC.md.
 */
import {readdirSync, readFileSync} from 'node:fs';
import {join} from 'node:path';
import {ErrdefsError, fromErrno, isErrdefs} from '../../errdefs.ts';

export interface PluginConfig {
  /** Name of the plugin's program. */
  readonly type: string;
  /** What it takes from `runtimeConfig`. */
  readonly capabilities?: Readonly<Record<string, boolean>>;
  readonly [field: string]: unknown;
}

export interface NetworkConfig {
  readonly name: string;
  readonly cniVersion: string;
  /** In the order of ADD; DEL is in reverse. */
  readonly plugins: readonly PluginConfig[];
}

/** What a file that names no version means. */
const FIRST_VERSION = '0.1.0';

const isObject = (value: unknown): value is Readonly<Record<string, unknown>> =>
  typeof value === 'object' && value !== null && !Array.isArray(value);

/**
 * Parses the text of a `.conflist`, or of a `.conf` with one plugin.
 *
 * @param what names the file in errors
 * @throws invalid_argument it is not a configuration of a network
 */
export function parseNetworkConfig(text: string, what: string): NetworkConfig {
  const fail = (reason: string, cause?: unknown): never => {
    throw new ErrdefsError('invalid_argument', `${what} ${reason}`, {cause});
  };
  let parsed: unknown;
  try {
    parsed = JSON.parse(text);
  } catch (err) {
    fail('is not JSON', err);
  }
  if (!isObject(parsed)) return fail('is not an object');
  const {name, cniVersion = FIRST_VERSION, plugins = [parsed]} = parsed;
  // libcni's rule; the name is a component of paths that plugins make.
  if (typeof name !== 'string' || !/^[a-zA-Z0-9][\w.-]*$/.test(name)) return fail('has no valid "name"');
  if (typeof cniVersion !== 'string') return fail('has a "cniVersion" that is not a string');
  if (!Array.isArray(plugins) || plugins.length === 0) return fail('has no "plugins"');
  for (const plugin of plugins as readonly unknown[])
    if (!isObject(plugin) || typeof plugin.type !== 'string' || !/^[\w.-]+$/.test(plugin.type))
      return fail('has a plugin without a valid "type"');
  return {name, cniVersion, plugins: plugins as readonly PluginConfig[]};
}

/**
 * Networks of a directory, in the order of their files' names. Several may have one name: the first counts.
 *
 * @param onBad gets the error of a file that cannot be read or is not a configuration; it is passed over
 */
export function loadNetworks(directory: string, onBad: (err: ErrdefsError) => void): readonly NetworkConfig[] {
  let names: string[];
  try {
    names = readdirSync(directory);
  } catch (err) {
    if (['ENOENT', 'ENOTDIR'].includes((err as NodeJS.ErrnoException).code ?? '')) return [];
    throw fromErrno(err, `network configurations in ${directory}`);
  }
  return names
    .filter((name) => /\.(?:conf|conflist|json)$/.test(name))
    .sort()
    .flatMap((name) => {
      const what = `network configuration ${join(directory, name)}`;
      try {
        return parseNetworkConfig(readFileSync(join(directory, name), 'utf8'), what);
      } catch (err) {
        onBad(isErrdefs(err) ? err : (fromErrno(err, what) as ErrdefsError));
        return [];
      }
    });
}

/** Whether a plugin of the network publishes ports. */
export const publishesPorts = ({plugins}: NetworkConfig): boolean => plugins.some(({capabilities}) => capabilities?.portMappings === true);
