/**
 * A real registry on loopback: Debian's docker-registry with its own storage directory and an access log. Tests put images into it byte
 * for byte.
 */
import assert from 'node:assert/strict';
import {type ChildProcess, spawn} from 'node:child_process';
import {once} from 'node:events';
import {closeSync, mkdirSync, mkdtempSync, openAsBlob, openSync, readFileSync, rmSync, writeFileSync} from 'node:fs';
import {tmpdir} from 'node:os';
import {join} from 'node:path';
import {after} from 'node:test';
import {setTimeout as sleep} from 'node:timers/promises';
import {type Descriptor, digestParts} from '../../src/lib/oci/descriptor.ts';
import {kindOf} from '../../src/lib/oci/mediatypes.ts';
import type {Certificate} from '../fakes/certificate.ts';
import {findProgram, onEnd, requiresProgram, type Scope, type Skippable} from './helpers.ts';
import {getTarget} from './layouts.ts';

/** One line of the access log. */
export interface AccessLogEntry {
  readonly method: string;
  /** Path and query. */
  readonly path: string;
  readonly status: number;
  /** Bytes of the response's body. */
  readonly size: number;
}

export interface RegistryOptions {
  /** Storage directory; by default a temporary one. */
  readonly storage?: string;
  /** `user:password` pairs that basic authentication accepts, each `user:<bcrypt hash>` as in an htpasswd file. */
  readonly htpasswd?: string;
  /** Whether manifests can be deleted. Default true. */
  readonly deletes?: boolean;
  /** Serves TLS with it; to clients that show a certificate which `clientCA` (PEM) has signed, where that is given. */
  readonly tls?: Certificate & {readonly clientCA?: string};
  /** Makes it a pull-through cache of the registry at this URL. */
  readonly proxyOf?: string;
}

export interface Registry {
  /** Such as `127.0.0.1:41817`. */
  readonly host: string;
  readonly url: string;
  /** Configuration, log and (unless it was given) storage. */
  readonly dir: string;
  /** Everything that the registry has printed so far. */
  log(): string;
  /** The access log so far, oldest first. */
  requests(): readonly AccessLogEntry[];
  /** Clears `log` and `requests`. */
  clearLog(): void;
  /** Ends the process and removes its directory; a second call does nothing. */
  stop(): Promise<void>;
}

const READY_TIMEOUT_MS = 20_000;

/** Apache's combined format, as docker-registry writes it. */
const ACCESS = /^\S+ - \S* ?\S* \[[^\]]+\] "([A-Z]+) (\S+) HTTP\/[\d.]+" (\d{3}) (\d+) /;

const config = (
  storage: string,
  htpasswd: string | undefined,
  tls: object | undefined,
  deletes: boolean,
  proxyOf: string | undefined,
): string =>
  JSON.stringify({
    version: '0.1',
    log: {level: 'info', formatter: 'json', accesslog: {disabled: false}},
    storage: {filesystem: {rootdirectory: storage}, delete: {enabled: deletes}},
    // The kernel picks the port, so that two registries never want the same one.
    http: {addr: '127.0.0.1:0', ...(tls && {tls})},
    ...(proxyOf === undefined ? {} : {proxy: {remoteurl: proxyOf}}),
    ...(htpasswd === undefined ? {} : {auth: {htpasswd: {realm: 'test', path: htpasswd}}}),
  });

/** Address in the log line that announces it. */
function listeningAddress(log: string): string | undefined {
  for (const line of log.split('\n')) {
    const match = /^\{.*"msg":"listening on (127\.0\.0\.1:\d+)(?:, tls)?"/.exec(line);
    if (match !== null) return match[1];
  }
  return undefined;
}

async function waitUntilReady(child: ChildProcess, log: () => string, isTLS: boolean): Promise<string> {
  const deadline = Date.now() + READY_TIMEOUT_MS;
  while (Date.now() < deadline) {
    if (child.exitCode !== null || child.signalCode !== null) break;
    const host = listeningAddress(log());
    if (host !== undefined) {
      if (isTLS) return host;
      // 401 is a response, too.
      const answer = await fetch(`http://${host}/v2/`).catch(() => undefined);
      await answer?.body?.cancel();
      if (answer !== undefined) return host;
    }
    await sleep(10);
  }
  throw new Error(`docker-registry did not become ready:\n${log()}`);
}

/** Starts a registry that ends with the scope, or with this process if that is killed. */
export async function startRegistry(scope: Scope, options: RegistryOptions = {}): Promise<Registry> {
  const program = findProgram('docker-registry');
  if (program === undefined) throw new Error('docker-registry is not installed (apt-get install docker-registry)');
  const dir = mkdtempSync(join(tmpdir(), 'berth-registry-'));
  const storage = options.storage ?? join(dir, 'storage');
  mkdirSync(storage, {recursive: true});
  const htpasswd = options.htpasswd === undefined ? undefined : join(dir, 'htpasswd');
  if (htpasswd !== undefined) writeFileSync(htpasswd, `${options.htpasswd}\n`);
  const tlsFile = (name: string, text: string): string => {
    writeFileSync(join(dir, name), text);
    return join(dir, name);
  };
  const tls = options.tls && {
    certificate: tlsFile('tls.crt', options.tls.cert),
    key: tlsFile('tls.key', options.tls.key),
    ...(options.tls.clientCA === undefined ? {} : {clientcas: [tlsFile('clients.crt', options.tls.clientCA)]}),
  };
  writeFileSync(join(dir, 'config.yml'), config(storage, htpasswd, tls, options.deletes ?? true, options.proxyOf));
  const logFile = join(dir, 'log');
  const fd = openSync(logFile, 'a');
  const child = spawn('setpriv', ['--pdeathsig', 'KILL', program, 'serve', join(dir, 'config.yml')], {
    stdio: ['ignore', fd, fd],
    // Nothing of the caller's: REGISTRY_… would change its configuration. The runner looks for its own mark in what is left.
    env: {OTEL_TRACES_EXPORTER: 'none', BERTH_TEST_RUN: process.env.BERTH_TEST_RUN ?? ''},
  });
  closeSync(fd);
  let forgotten = 0;
  const log = (): string => readFileSync(logFile).subarray(forgotten).toString();
  let stopped = false;
  const stop = async (): Promise<void> => {
    if (stopped) return;
    stopped = true;
    if (child.exitCode === null && child.signalCode === null) {
      child.ref();
      const exit = once(child, 'exit');
      child.kill('SIGKILL');
      await exit;
    }
    rmSync(dir, {recursive: true, force: true});
  };
  onEnd(scope, stop);
  await once(child, 'spawn');
  const host = await waitUntilReady(child, log, tls !== undefined);
  // The child must not keep a failing test process alive.
  child.unref();
  return {
    host,
    url: `${tls === undefined ? 'http' : 'https'}://${host}`,
    dir,
    log,
    requests: () =>
      log()
        .split('\n')
        .flatMap((line) => {
          const match = ACCESS.exec(line);
          return match === null ? [] : [{method: match[1]!, path: match[2]!, status: Number(match[3]), size: Number(match[4])}];
        }),
    clearLog: () => {
      forgotten = readFileSync(logFile).length;
    },
    stop,
  };
}

/**
 * One registry for a test file, started by the first test that asks and ended after the last:
 * `const registry = sharedRegistry();` at the top, `const r = await registry(t); if (r === undefined) return;` in tests.
 */
export function sharedRegistry(options: RegistryOptions = {}): (t: Skippable) => Promise<Registry | undefined> {
  let running: Promise<Registry> | undefined;
  after(async () => (await running?.catch(() => undefined))?.stop());
  return async (t) => {
    if (!requiresProgram(t, 'docker-registry')) return undefined;
    running ??= startRegistry({after: () => undefined}, options);
    return running;
  };
}

/** Bytes of blobs that clients have fetched, by digest, as `[requests, bytes]`. */
export function blobGets(registry: Registry): Map<string, readonly [requests: number, bytes: number]> {
  const gets = new Map<string, readonly [number, number]>();
  for (const {method, path, status, size} of registry.requests()) {
    const digest = /\/blobs\/([a-z0-9]+:[0-9a-f]+)/.exec(path)?.[1];
    if (method !== 'GET' || digest === undefined || status >= 300) continue;
    const [requests, bytes] = gets.get(digest) ?? [0, 0];
    gets.set(digest, [requests + 1, bytes + size]);
  }
  return gets;
}

export interface PushOptions {
  /** Sent as it is: `Basic …`. */
  readonly authorization?: string;
}

/**
 * Puts an image of an OCI layout into a registry, byte for byte: blobs, then manifests, then indexes. Docker's media types
 * pass too, which is why it is not left to a tool with opinions.
 *
 * @param name repository and tag or digest to push to, such as `library/redis:latest`
 * @param layout directory with `index.json` and `blobs/`; `index.json`'s first manifest is what is pushed
 * @returns descriptor of what was pushed
 */
export async function pushImage(
  registry: Pick<Registry, 'url'>,
  name: string,
  layout: string,
  options: PushOptions = {},
): Promise<Descriptor> {
  const headers = options.authorization === undefined ? {} : {authorization: options.authorization};
  const [, repository, tag] = /^(.+?)(?::([\w][\w.-]{0,127}))?$/.exec(name)!;
  const target = getTarget(layout);
  const base = `${registry.url}/v2/${repository}`;
  const blobFile = ({digest}: Descriptor): string => join(layout, 'blobs', ...digestParts(digest));

  const pushBlob = async (desc: Descriptor): Promise<void> => {
    const head = await fetch(`${base}/blobs/${desc.digest}`, {method: 'HEAD', headers});
    if (head.ok) return;
    const begun = await fetch(`${base}/blobs/uploads/`, {method: 'POST', headers});
    assert.equal(begun.status, 202, `upload of ${desc.digest} was not begun: ${await begun.text()}`);
    const url = new URL(begun.headers.get('location')!, registry.url);
    url.searchParams.set('digest', desc.digest);
    const put = await fetch(url, {
      method: 'PUT',
      headers: {...headers, 'content-type': 'application/octet-stream'},
      body: await openAsBlob(blobFile(desc)),
    });
    assert.equal(put.status, 201, `${desc.digest} was not taken: ${await put.text()}`);
  };

  const pushManifest = async (desc: Descriptor, at: string): Promise<void> => {
    const text = readFileSync(blobFile(desc));
    const {
      manifests = [],
      config,
      layers = [],
    } = JSON.parse(text.toString()) as {
      manifests?: Descriptor[];
      config?: Descriptor;
      layers?: Descriptor[];
    };
    for (const child of manifests) await (kindOf(child.mediaType) === 'unknown' ? pushBlob(child) : pushManifest(child, child.digest));
    for (const blob of config === undefined ? [] : [config, ...layers]) if (blob.urls === undefined) await pushBlob(blob);
    const put = await fetch(`${base}/manifests/${at}`, {method: 'PUT', headers: {...headers, 'content-type': desc.mediaType}, body: text});
    assert.equal(put.status, 201, `${desc.mediaType} ${desc.digest} was not taken: ${await put.text()}`);
  };

  await pushManifest(target, tag ?? target.digest);
  return target;
}
