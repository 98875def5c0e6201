/** Finds out whether a port speaks TLS, in a millisecond and without a handshake. */
import type {Socket} from 'node:net';
import {fromTransport} from './errors.ts';

const u16 = (n: number): number[] => [n >> 8, n & 255];
const sized = (bytes: readonly number[]): number[] => [...u16(bytes.length), ...bytes];
const extension = (type: number, body: readonly number[]): number[] => [...u16(type), ...sized(body)];

/**
 * A TLS ClientHello that servers since TLS 1.2 answer with a handshake or an alert. It has no randomness and no key share,
 * since no handshake follows. Its 0x0a (supported_groups) ends the line for an HTTP server, which then answers too.
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

/** Milliseconds of silence until the port gets an HTTP request too. */
const PATIENCE_MS = 1000;

const NOTHING = Buffer.alloc(0);

/** @param first the reply to the ClientHello; empty if the connection closed without one */
export const protocolOf = ([first]: Buffer): 'tls' | 'http' | undefined =>
  first === undefined ? undefined : first === HANDSHAKE || first === ALERT ? 'tls' : 'http';

/** The same for the reply to an HTTP request. TLS servers answer that with 400. */
const httpOf = (first: Buffer): 'http' | undefined => (/^HTTP\/1\.\d (?!400)\d{3}/.test(first.toString('latin1')) ? 'http' : undefined);

/**
 * True unless the port answers with something other than TLS. A silent port counts as TLS, the safe choice.
 *
 * A port that is silent for a while also gets an HTTP request, on a second connection and without details; the first reply to
 * either decides. So slow registries get more time, and those that wait for a complete request get one.
 *
 * @param timeoutMs limit for everything
 * @throws WireError the connection failed
 *
 * containerd falls back to HTTP when the reply is HTTP, containers/image and docker after any failure of TLS.
 */
export async function speaksTLS(host: string, port: number, timeoutMs: number): Promise<boolean> {
  const {connect} = process.getBuiltinModule('node:net');
  const sockets: Socket[] = [];
  const timers: NodeJS.Timeout[] = [];
  const after = (ms: number): Promise<undefined> =>
    new Promise((resolve) => {
      timers.push(setTimeout(() => resolve(undefined), ms));
    });
  /** Sends bytes. @returns the first reply; empty if the connection ends before */
  const send = (bytes: Uint8Array | string): Promise<Buffer> =>
    new Promise((resolve, reject) => {
      const socket = connect({host, port, autoSelectFamily: true});
      sockets.push(socket);
      let connected = false;
      socket
        .on('connect', () => {
          connected = true;
          socket.write(bytes);
        })
        .on('data', resolve)
        .on('error', (err) => (connected ? resolve(NOTHING) : reject(fromTransport(err))))
        .on('close', () => resolve(NOTHING));
    });
  try {
    const hello = send(clientHello()).then(protocolOf);
    const soon = await Promise.race([hello.then((verdict) => verdict ?? 'tls'), after(Math.min(PATIENCE_MS, timeoutMs))]);
    if (soon !== undefined) return soon === 'tls';
    if (timeoutMs <= PATIENCE_MS) return true;
    const request = send(`GET /v2/ HTTP/1.1\r\nHost: ${host.includes(':') ? `[${host}]` : host}:${port}\r\nConnection: close\r\n\r\n`);
    const verdicts = [hello, request.then(httpOf)].map(async (verdict) => (await verdict) ?? Promise.reject(new Error('no reply')));
    const first = Promise.any(verdicts).catch(() => 'tls' as const);
    return ((await Promise.race([first, after(timeoutMs - PATIENCE_MS)])) ?? 'tls') === 'tls';
  } finally {
    for (const timer of timers) clearTimeout(timer);
    for (const socket of sockets) socket.destroy();
  }
}
