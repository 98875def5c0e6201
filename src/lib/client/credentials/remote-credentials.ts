/** Connects a remote with the credentials and tokens of the user. */
import {ErrdefsError} from '../../errdefs.ts';
import type {CredentialSource, Credentials, RemoteSources} from '../../remotes/types.ts';
import type {CredentialsCallback, RegistryOptions} from '../types/index.ts';
import {CredentialLookup} from './lookup.ts';
import {tokenStore} from './token-store.ts';

interface Surroundings {
  warn(warning: ErrdefsError): void;
  /** Undefined where no directory is the user's alone. */
  readonly stateDir: (() => string) | undefined;
}

const isText = (value: unknown): value is string => typeof value === 'string';

/** @throws invalid_argument a callback returned something else than credentials */
function checked(value: unknown, registry: string): Credentials | undefined {
  if (value === undefined || value === null) return undefined;
  const {username, password, refreshToken, registryToken} = Object(value) as Record<string, unknown>;
  if (isText(username) && isText(password)) return {username, password};
  if (isText(refreshToken)) return {refreshToken};
  if (isText(registryToken)) return {registryToken};
  throw new ErrdefsError(
    'invalid_argument',
    `credentials of ${registry}: the callback returned neither a user name and password nor a token`,
  );
}

/** A callback comes first, then files and helpers. */
function source(callback: CredentialsCallback | undefined, authFile: string | undefined, warn: Surroundings['warn']): CredentialSource {
  const lookup = new CredentialLookup(authFile, warn);
  return async (target, signal) => {
    const given = callback && checked(await callback(target.domain, {...target, ...(signal === undefined ? {} : {signal})}), target.domain);
    return given ?? lookup.find(target, signal);
  };
}

export function remoteSources({credentials, authFile}: RegistryOptions, {warn, stateDir}: Surroundings): RemoteSources {
  const callback = typeof credentials === 'function' ? credentials : undefined;
  return {credentials: source(callback, authFile, warn), tokens: stateDir && tokenStore(stateDir)};
}
