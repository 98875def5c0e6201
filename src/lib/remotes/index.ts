/**
 * The wire: registries, and how to talk to them.
 *
 * `contract.ts` says what is promised; `remote.ts` asks for manifests and blobs, `session.ts` brings a request to its final
 * answer, `transport.ts` has the connections. Where to ask is decided in `hosts.ts`, with what `hosts-dir.ts` finds configured; as
 * whom in `auth.ts`.
 */
export type * from './contract.ts';
export {hostsDirs} from './hosts-dir.ts';
export {openRemote} from './remote.ts';
