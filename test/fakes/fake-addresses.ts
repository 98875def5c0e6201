/**
 * Names and addresses that need not exist: everything that is not on loopback leads to one port of it, and is noted. For tests of
 * addresses that must never be connected to.
 */
import {connect, type Socket} from 'node:net';
import type {Network} from '../../src/lib/remotes/types.ts';

export interface FakeNetwork extends Network {
  /** Addresses that were connected to, in order, without those of loopback. */
  readonly reached: string[];
}

/**
 * @param host where every address leads, such as `127.0.0.1:41817`
 * @param names what names resolve to; one of several answers for each look-up, the last for good
 */
export function fakeNetwork(host: string, names: Readonly<Record<string, readonly (readonly string[])[]>> = {}): FakeNetwork {
  const reached: string[] = [];
  const asked = new Map<string, number>();
  const port = Number(host.split(':').at(-1));
  return {
    reached,
    resolve: (hostname, _options, callback) => {
      const answers = names[hostname];
      const count = asked.get(hostname) ?? 0;
      asked.set(hostname, count + 1);
      const addresses = answers?.[Math.min(count, answers.length - 1)];
      if (addresses === undefined) callback(Object.assign(new Error(`getaddrinfo ${hostname}`), {code: 'ENOTFOUND'}), []);
      else
        callback(
          null,
          addresses.map((address) => ({address, family: address.includes(':') ? 6 : 4})),
        );
    },
    connect: ({hostname, port: asIs, lookup}, callback): Socket => {
      // As the system does it: an address is taken as it is, a name is looked up.
      const isAddress = hostname.startsWith('[') || hostname.includes(':') || /^\d+\.\d+\.\d+\.\d+$/.test(hostname);
      const socket = connect({
        host: 'fake.invalid',
        port: hostname.startsWith('127.') ? Number(asIs) : port,
        lookup: (_name, options, done) => {
          const lead = (address: string): void => {
            if (!address.startsWith('127.')) reached.push(address);
            if (options.all) done(null, [{address: '127.0.0.1', family: 4}]);
            else done(null, '127.0.0.1', 4);
          };
          if (isAddress) lead(hostname.replace(/^\[|\]$/g, ''));
          else
            lookup(hostname, {all: true}, (err, addresses) => {
              if (err !== null) done(err, []);
              else lead((addresses as {address: string}[])[0]!.address);
            });
        },
      });
      socket.once('connect', () => callback(null, socket)).once('error', (err) => callback(err, null));
      return socket;
    },
  };
}
