/** `client.registry`: each method loads its use case when it is called. */
import type {Context} from '../context.ts';
import type {RegistryClient} from '../types/index.ts';

export function registryClient(context: Context): RegistryClient {
  const reading = () => import('../registry/read.ts');
  const referring = () => import('../registry/referrers.ts');
  return {
    resolve: async (ref, options = {}) => (await reading()).resolve(context, ref, options),
    tags: async (repository, options = {}) => (await reading()).tags(context, repository, options),
    catalog: async (registry, options = {}) => (await reading()).catalog(context, registry, options),
    inspect: async (ref, options = {}) => (await reading()).inspect(context, ref, options),
    config: async (ref, options = {}) => (await reading()).config(context, ref, options),
    fetchObject: async (ref, options = {}) => (await reading()).fetchObject(context, ref, options),
    fetchBlob: async (ref, digest, options = {}) => (await reading()).fetchBlob(context, ref, digest, options),
    referrers: async (ref, options = {}) => (await referring()).referrers(context, ref, options),
    login: async (registry, username, password, options = {}) =>
      (await import('../credentials/login.ts')).login(context, registry, {username, password}, options),
    logout: async (registry, options = {}) => (await import('../credentials/login.ts')).logout(context, registry, options),
    loggedIn: async (registry, options = {}) => (await import('../credentials/login.ts')).loggedIn(context, registry, options),
    ping: async (target, options = {}) => (await import('../registry/ping-and-explain.ts')).ping(context, target, options),
    explain: async (target, options = {}) => {
      const [{explain}, remote] = await Promise.all([import('../registry/ping-and-explain.ts'), context.remoteOptions(options)]);
      return explain(context, target, options, remote);
    },
    pushObject: async (ref, source, options = {}) => (await import('../registry/push-object.ts')).pushObject(context, ref, source, options),
    attach: async (ref, artifactType, files, options = {}) =>
      (await import('../registry/attach.ts')).attach(context, ref, artifactType, files, options),
    delete: async (ref, options = {}) => (await import('../registry/delete.ts')).deleteFrom(context, ref, options),
    copy: async (source, destination, options = {}) => (await import('../copy/copy.ts')).copy(context, source, destination, options),
    sync: async (list, destination, options = {}) => (await import('../copy/sync.ts')).sync(context, list, destination, options),
  };
}
