// The two parts of undici that are used, by path: the package's main module loads fetch, caches and mocks besides (40 ms),
// and Bun replaces it with a shim.
declare module 'undici/lib/dispatcher/agent.js' {
  import {Agent} from 'undici';
  export default Agent;
}

declare module 'undici/lib/core/connect.js' {
  import type {Socket} from 'node:net';
  import type {buildConnector} from 'undici';
  export default function build(
    options: buildConnector.BuildOptions & {autoSelectFamily?: boolean},
  ): (options: buildConnector.Options, callback: buildConnector.Callback) => Socket;
}
