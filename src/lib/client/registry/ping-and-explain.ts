/** `ping` and `config explain`: which hosts a reference leads to, and with what. */
import {parseReference} from '../../oci/reference.ts';
import type {RemoteOptions} from '../../remotes/types.ts';
import type {Context} from '../context.ts';
import {authFiles} from '../credentials/auth-files.ts';
import {type Candidate, candidatesFor, credentialsOf} from '../credentials/lookup.ts';
import type {ExplainedHost, HostAnswer, RegistryCallOptions, RegistryExplanation, RegistryOptions} from '../types/index.ts';

/**
 * A registry, or a repository in one. Without a "/" it is a registry if it could not be an image: `registry.example`, `localhost:5000`.
 *
 * @throws invalid_argument
 */
export function parseTarget(text: string): {readonly domain: string; readonly repository: string | undefined} {
  const isHost = /^[^/@]*\/$/.test(text) || /^(?:localhost(?::\d+)?|\[.*\](?::\d+)?|[^/@:]*\.[^/@:]*(?::\d+)?)$/.test(text);
  if (!isHost) {
    const {domain, path} = parseReference(text);
    return {domain, repository: path};
  }
  const {domain} = parseReference(`${text.replace(/\/$/, '')}/x`);
  return {domain, repository: undefined};
}

export async function ping(context: Context, text: string, options: RegistryCallOptions): Promise<readonly HostAnswer[]> {
  const target = parseTarget(text);
  const remote = await context.openRemote(options);
  try {
    const answers = await remote.ping(target, {signal: options.signal});
    return answers.map(({host, ms, status, usedCredentials, error}) => ({
      url: host.origin + host.path,
      ms: Math.round(ms),
      code: error?.code ?? 'ok',
      ...(status === undefined ? {} : {status}),
      credentials: usedCredentials,
      ...(error === undefined ? {} : {message: error.message, ...(error.hint === undefined ? {} : {hint: error.hint})}),
    }));
  } finally {
    await remote.close();
  }
}

/** Where the credentials of a host would come from; helpers are not asked. */
function credentialsFor(candidates: readonly Candidate[]): ExplainedHost['credentials'] {
  return candidates.flatMap((candidate): ExplainedHost['credentials'] => {
    if (candidate.kind === 'helper') return [{source: candidate.file.path, helper: `docker-credential-${candidate.helper}`}];
    const {file, key, entry} = candidate;
    try {
      const found = credentialsOf(entry, key);
      if (found === undefined) return [];
      return [{source: file.path, key, ...('username' in found ? {user: found.username} : {})}];
    } catch {
      return []; // the warning of a look-up names it
    }
  });
}

/** @param remote what `openRemote` would be given */
export async function explain(
  context: Context,
  text: string,
  options: RegistryOptions,
  remote: RemoteOptions,
): Promise<RegistryExplanation> {
  const {domain, repository} = parseTarget(text);
  const {explainHosts} = await import('../../remotes/index.ts');
  const files = authFiles(options.authFile);
  const plans = await explainHosts(domain, remote);
  const hosts = plans.map(
    ({domain: name, ...plan}): ExplainedHost => ({
      ...plan,
      credentials: [
        ...(plan.isMirror || (remote.credentials === undefined && remote.refreshToken === undefined)
          ? []
          : [{source: 'the call', ...(remote.credentials === undefined ? {} : {user: remote.credentials.username})}]),
        ...credentialsFor(candidatesFor({domain: name, repository}, files, context.warn)),
      ],
    }),
  );
  const able = (...needed: readonly ('pull' | 'resolve' | 'push')[]): string[] =>
    hosts.filter(({capabilities}) => needed.every((one) => capabilities.includes(one))).map(({url}) => url);
  return {
    registry: domain,
    ...(repository === undefined ? {} : {repository}),
    hosts,
    order: {tags: able('pull', 'resolve'), content: able('pull'), push: able('push').slice(0, 1)},
    hostsDirs: remote.hostsDirs ?? [],
    credentialFiles: files.map(({path}) => path),
  };
}
