/** Flags about a registry, as the library wants them. */
import type {RegistryOptions} from '../lib/client/types/index.ts';
import {ErrdefsError} from '../lib/errdefs.ts';
import type {GlobalFlags} from './base.ts';
import type {Context} from './context.ts';
import {formatJSON, lines, type Printable} from './output.ts';
import {askSecret, readSecret} from './stdin.ts';
import {defined} from './values.ts';

interface RegistryFlags extends Pick<GlobalFlags, 'connect-timeout' | 'debug' | 'json'> {
  readonly 'plain-http': boolean;
  readonly 'skip-verify': boolean;
  readonly user: string | undefined;
  readonly 'password-stdin': boolean;
  readonly refresh: string | undefined;
  readonly 'stall-timeout': number;
  readonly 'hosts-dir': string | undefined;
}

/**
 * @param ref for whose registry a password is asked for
 * @throws invalid_argument a user without a password, and no terminal to ask at, or with two
 */
export async function registryOptions(flags: RegistryFlags, ref: string, context: Context): Promise<RegistryOptions> {
  const onDebug = (line: string): void =>
    context.stderr(flags.json ? (`${formatJSON({debug: line})}\n` as Printable) : lines([`debug: ${line}`]));
  return {
    plainHTTP: flags['plain-http'],
    skipVerify: flags['skip-verify'],
    ...defined({
      credentials: flags.user === undefined ? undefined : await credentials(flags.user, flags['password-stdin'], ref),
      refreshToken: flags.refresh,
      hostsDir: flags['hosts-dir'],
      onDebug: flags.debug ? onDebug : undefined,
    }),
    connectTimeoutMs: flags['connect-timeout'],
    stallTimeoutMs: flags['stall-timeout'],
  };
}

async function credentials(user: string, isOnStdin: boolean, ref: string): Promise<{username: string; password: string}> {
  const colon = user.indexOf(':');
  if (colon !== -1 && isOnStdin) throw new ErrdefsError('invalid_argument', 'a password both in --user and on standard input');
  if (colon !== -1) return {username: user.slice(0, colon), password: user.slice(colon + 1)};
  const password = await (isOnStdin ? readSecret() : askSecret('Password: '));
  if (password === undefined)
    throw new ErrdefsError('invalid_argument', `no password for user ${JSON.stringify(user)} of ${ref}`, {
      hint: 'give --password-stdin and write it to standard input, or a terminal to ask at',
    });
  return {username: user, password};
}
