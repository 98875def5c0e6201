/**
 * Access to registries.
 *
 * `types.ts` is the contract. `remote.ts` requests manifests and blobs, `retrying-client.ts` brings each request to its final
 * response, `undici-exchange.ts` has the connections. `hosts.ts` decides which hosts to ask, from the configuration that
 * `hosts-dir.ts` reads; `auth.ts` has credentials and tokens.
 */
export {explainHosts} from './explain.ts';
export {hostsDirs} from './hosts-dir.ts';
export {openRemote} from './remote.ts';
export type * from './types.ts';
