/**
 * The wire: registries, and how to talk to them.
 *
 * `types.ts` says what is promised; `remote.ts` asks for manifests and blobs, `http-client.ts` brings a request to its final
 * answer, `transport.ts` has the connections. Where to ask is decided in `hosts.ts`, with what `hosts-dir.ts` finds configured; as
 * whom in `auth.ts`.
 */

export {hostsDirs} from './hosts-dir.ts';
export {openRemote} from './remote.ts';
export type * from './types.ts';
