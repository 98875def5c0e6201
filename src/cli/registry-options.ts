/** Turns the registry flags into options of the library. */
import type {RegistryOptions} from '../lib/client/types/index.ts';
import {ErrdefsError} from '../lib/errdefs.ts';
import type {Context} from './command-context.ts';
import {omitUndefined} from './omit-undefined.ts';
import {formatJSON, lines, type Printable} from './printable.ts';
import type {GlobalFlags} from './shared-flags.ts';
import {askSecret, readSecret} from './stdin.ts';

interface ConnectionFlags extends Pick<GlobalFlags, 'connect-timeout' | 'debug' | 'json'> {
  readonly 'plain-http': boolean;
  readonly 'skip-verify': boolean;
  readonly 'stall-timeout': number;
  readonly 'limit-rate': number | undefined;
  readonly 'hosts-dir': string | undefined;
  readonly authfile: string | undefined;
  readonly tlscacert: string | undefined;
  readonly tlscert: string | undefined;
  readonly tlskey: string | undefined;
  readonly 'http-dump': boolean;
  readonly 'http-trace': boolean;
}

export interface RegistryFlags extends ConnectionFlags {
  readonly user: string | undefined;
  readonly 'password-stdin': boolean;
  readonly refresh: string | undefined;
}

/** @throws invalid_argument a rate of 0 */
export function connectionOptions(flags: ConnectionFlags, context: Context): RegistryOptions {
  if (flags['limit-rate'] === 0) throw new ErrdefsError('invalid_argument', '--limit-rate must be above 0');
  const tell =
    (kind: 'debug' | 'dump' | 'trace') =>
    (text: string): void =>
      context.stderr(
        flags.json ? (`${formatJSON({[kind]: text})}\n` as Printable) : lines(text.split('\n').map((line) => `${kind}: ${line}`)),
      );
  return {
    plainHTTP: flags['plain-http'],
    skipVerify: flags['skip-verify'],
    ...omitUndefined({
      limitRate: flags['limit-rate'],
      hostsDir: flags['hosts-dir'],
      authFile: flags.authfile,
      tlsCACert: flags.tlscacert,
      tlsCert: flags.tlscert,
      tlsKey: flags.tlskey,
      onDebug: flags.debug ? tell('debug') : undefined,
      onDump: flags['http-dump'] ? tell('dump') : undefined,
      onTrace: flags['http-trace'] ? tell('trace') : undefined,
    }),
    connectTimeoutMs: flags['connect-timeout'],
    stallTimeoutMs: flags['stall-timeout'],
  };
}

/**
 * @param ref names the registry in an error about its password
 * @throws invalid_argument no password and no terminal to ask for one, or two passwords
 */
export async function registryOptions(flags: RegistryFlags, ref: string, context: Context): Promise<RegistryOptions> {
  return {
    ...connectionOptions(flags, context),
    ...omitUndefined({
      credentials: flags.user === undefined ? undefined : await credentials(flags.user, flags['password-stdin'], ref),
      refreshToken: flags.refresh,
    }),
  };
}

async function credentials(user: string, onStdin: boolean, ref: string): Promise<{username: string; password: string}> {
  const colon = user.indexOf(':');
  if (colon !== -1 && onStdin) throw new ErrdefsError('invalid_argument', 'two passwords: one in --user and one on standard input');
  if (colon !== -1) return {username: user.slice(0, colon), password: user.slice(colon + 1)};
  const password = await (onStdin ? readSecret() : askSecret('Password: '));
  if (password === undefined)
    throw new ErrdefsError('invalid_argument', `no password for user ${JSON.stringify(user)} of ${ref}`, {
      hint: 'write it to standard input and add --password-stdin, or run the command on a terminal',
    });
  return {username: user, password};
}
