/** Finds out whether a port speaks TLS, for a millisecond instead of a handshake. */
import {fromTransport} from './failure.ts';

const u16 = (n: number): number[] => [n >> 8, n & 255];
const sized = (bytes: readonly number[]): number[] => [...u16(bytes.length), ...bytes];
const extension = (type: number, body: readonly number[]): number[] => [...u16(type), ...sized(body)];

/**
 * A TLS ClientHello that a server of any version since 1.2 answers with a handshake or an alert: without randomness and
 * without a key share, since nobody means to go on. Its 0x0a (supported_groups) ends the "line" that a HTTP server reads
 * here, so that it answers as well.
 */
export function clientHello(): Buffer {
  const suites = [0x1301, 0x1302, 0x1303, 0xc02b, 0xc02f, 0xc02c, 0xc030, 0xcca9, 0xcca8, 0x009c, 0x009d, 0x002f, 0x0035];
  const groups = [0x001d, 0x0017, 0x0018];
  const signatures = [0x0403, 0x0804, 0x0401, 0x0503, 0x0805, 0x0501, 0x0807, 0x0806, 0x0601, 0x0201];
  const extensions = [
    ...extension(0x000a, sized(groups.flatMap(u16))),
    ...extension(0x000b, [1, 0]),
    ...extension(0x000d, sized(signatures.flatMap(u16))),
    ...extension(0x002b, [4, 3, 4, 3, 3]),
    ...extension(0x0033, sized([])),
  ];
  const hello = [3, 3, ...new Array<number>(32).fill(0x5a), 0, ...sized(suites.flatMap(u16)), 1, 0, ...sized(extensions)];
  const handshake = [1, 0, ...sized(hello)];
  return Buffer.from([0x16, 3, 1, ...sized(handshake)]);
}

const ALERT = 0x15;
const HANDSHAKE = 0x16;

/**
 * True unless what answers on the port is something else than TLS; a port that says nothing counts as TLS, the safe side.
 *
 * @throws WireError nobody answers there
 */
export async function speaksTLS(host: string, port: number, timeoutMs: number): Promise<boolean> {
  const {connect} = await import('node:net');
  const socket = connect({host, port, autoSelectFamily: true});
  try {
    return await new Promise<boolean>((resolve, reject) => {
      let connected = false;
      socket
        .setTimeout(timeoutMs, () => resolve(true))
        .on('connect', () => {
          connected = true;
          socket.write(clientHello());
        })
        .on('data', ([first]) => resolve(first === HANDSHAKE || first === ALERT))
        .on('error', (err) => (connected ? resolve(true) : reject(fromTransport(err))))
        .on('close', () => resolve(true));
    });
  } finally {
    socket.destroy();
  }
}
