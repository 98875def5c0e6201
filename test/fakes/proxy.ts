/** An HTTP proxy on loopback: tunnels by CONNECT, requests in absolute form, and refusals. Every name leads to one server. */
import {once} from 'node:events';
import {createServer, type IncomingMessage, request, type Server} from 'node:http';
import {createServer as createSecureServer} from 'node:https';
import {type AddressInfo, connect, type Socket} from 'node:net';
import type {Duplex} from 'node:stream';
import {onEnd, type Scope} from '../support/helpers.ts';
import type {Certificate} from './certificate.ts';

export interface ProxyRequest {
  readonly method: string;
  /** Authority of a tunnel, else the whole URL. */
  readonly target: string;
  readonly authorization: string | undefined;
  readonly proxyAuthorization: string | undefined;
}

export interface FakeProxyOptions {
  /** `user:password` that it wants to see. */
  readonly login?: string;
  /** Answers all with this status. */
  readonly status?: number;
  readonly tls?: Certificate;
}

export interface FakeProxy {
  readonly requests: ProxyRequest[];
  /** Such as `127.0.0.1:41817`. */
  readonly host: string;
  readonly url: string;
}

/** @param server where every name leads, such as `127.0.0.1:41818` */
export async function startFakeProxy(scope: Scope, server: string, options: FakeProxyOptions = {}): Promise<FakeProxy> {
  const {login, status, tls} = options;
  const [hostname, port] = server.split(':') as [string, string];
  const requests: ProxyRequest[] = [];
  const sockets = new Set<Duplex>();
  const refusal = (message: IncomingMessage): number | undefined => {
    const proxyAuthorization = message.headers['proxy-authorization'];
    requests.push({method: message.method!, target: message.url!, authorization: message.headers.authorization, proxyAuthorization});
    if (status !== undefined) return status;
    return login !== undefined && proxyAuthorization !== `Basic ${Buffer.from(login).toString('base64')}` ? 407 : undefined;
  };
  const proxy: Server = tls === undefined ? createServer() : createSecureServer(tls);
  proxy.on('connection', (socket: Socket) => {
    sockets.add(socket);
    socket.on('error', () => undefined);
  });
  proxy.on('connect', (message: IncomingMessage, client: Duplex) => {
    const refused = refusal(message);
    if (refused !== undefined) {
      client.end(`HTTP/1.1 ${refused} No\r\nContent-Length: 0\r\n\r\n`);
      return;
    }
    const upstream = connect({host: hostname, port: Number(port)}, () => {
      client.write('HTTP/1.1 200 Connection established\r\n\r\n');
      client.pipe(upstream).pipe(client);
    });
    sockets.add(upstream);
    for (const socket of [client, upstream]) socket.on('error', () => [client, upstream].map((one) => one.destroy()));
  });
  proxy.on('request', (message, response) => {
    const refused = refusal(message);
    if (refused !== undefined) {
      response.writeHead(refused, {'content-length': 0}).end();
      return;
    }
    const {pathname, search} = new URL(message.url!);
    const {'proxy-authorization': _, ...headers} = message.headers;
    const upstream = request({host: hostname, port, method: message.method, path: pathname + search, headers}, (answer) => {
      response.writeHead(answer.statusCode!, answer.headers);
      answer.pipe(response);
    });
    upstream.on('error', () => response.destroy());
    message.pipe(upstream);
  });
  proxy.listen(0, '127.0.0.1');
  await once(proxy, 'listening');
  onEnd(scope, async () => {
    const closed = once(proxy, 'close');
    proxy.close();
    for (const socket of sockets) socket.destroy();
    await closed;
  });
  const host = `127.0.0.1:${(proxy.address() as AddressInfo).port}`;
  return {requests, host, url: `${tls === undefined ? 'http' : 'https'}://${host}`};
}
