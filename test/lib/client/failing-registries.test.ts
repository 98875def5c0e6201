/**
 * Pulls from failing registries, generated: faults × the affected request × authentication × support of ranges × connections that end with
 * each response.
 * A pull succeeds with the right digests, or ends within its time limit with an error class of the table. Another pull of the same blobs
 * from a healthy registry is not delayed, received bytes are not requested again, and the next pull completes.
 *
 * By default a sample, with `BERTH_TEST_TORTURE=1` all.
 */
import assert from 'node:assert/strict';
import {randomBytes} from 'node:crypto';
import {readdirSync} from 'node:fs';
import {join} from 'node:path';
import {describe, it} from 'node:test';
import {setTimeout as sleep} from 'node:timers/promises';
import {gzipSync} from 'node:zlib';
import type {Client, PullResult} from '../../../src/lib/client/types/index.ts';
import {type Code, codeOf} from '../../../src/lib/errdefs.ts';
import {OCI_LAYER} from '../../../src/lib/oci/mediatypes.ts';
import {downloadKey} from '../../../src/lib/store/blob-store.ts';
import {sizeOf} from '../../e2e/fixtures.ts';
import {digestOf, type FakeOptions, type FakeRegistry, type Fault, startFakeRegistry} from '../../fakes/registry.ts';
import {is, newClient, SAMPLE, type Scope, TORTURE, temporaryDirectory} from '../../support/helpers.ts';
import {sample, tryAll} from '../../support/sample-cases.ts';
import {file, tar} from '../../support/tartest.ts';

const LAYER = 200_000;
const MIDDLE = 80_000;
/** Time limit of a pull, in milliseconds: five requests with their stalls, pauses of 4.5 s, and a margin for a busy machine. */
const BUDGET_MS = 60_000;
const LOCK_TIMEOUT_MS = 300;
/** Timeouts of a pull from the failing registry, and of one from the healthy registry. */
const STALL_MS = 500;
const PATIENT_MS = 600_000;

interface Kind {
  /** At the beginning of an answer. */
  readonly start: Fault;
  /** In the middle of a layer; absent when that makes no difference. */
  readonly middle?: Fault;
  /** Allowed error classes while the fault lasts; empty when the pull has to succeed. */
  readonly codes: readonly Code[];
  /** Retries overcome a fault of one or two requests. */
  readonly isTransient: boolean;
}

const html = Buffer.from('<html>sign in</html>');
const KINDS: Readonly<Record<string, Kind>> = {
  silence: {start: {stallAt: -1}, middle: {stallAt: MIDDLE}, codes: ['unavailable'], isTransient: true},
  reset: {start: {resetAt: -1}, middle: {resetAt: MIDDLE}, codes: ['unavailable'], isTransient: true},
  cut: {start: {truncateAt: 0}, middle: {truncateAt: MIDDLE}, codes: ['unavailable'], isTransient: true},
  restart: {start: {restartAt: -1, restartMs: 300}, middle: {restartAt: MIDDLE, restartMs: 300}, codes: ['unavailable'], isTransient: true},
  '500': {start: {status: 500}, codes: ['unavailable'], isTransient: true},
  '503': {start: {status: 503, headers: {'retry-after': '0'}}, codes: ['unavailable'], isTransient: true},
  '429': {start: {status: 429, code: 'TOOMANYREQUESTS'}, codes: ['resource_exhausted'], isTransient: true},
  '401': {start: {status: 401, code: 'UNAUTHORIZED'}, codes: ['unauthenticated'], isTransient: false},
  '403': {start: {status: 403, code: 'DENIED'}, codes: ['permission_denied'], isTransient: false},
  // From a token server it says nothing about an image.
  '404': {start: {status: 404, code: 'NAME_UNKNOWN'}, codes: ['not_found', 'unauthenticated'], isTransient: false},
  page: {
    start: {headers: {'content-type': 'text/html', 'content-length': String(html.length), 'docker-content-digest': null}, body: () => html},
    codes: ['failed_precondition'],
    isTransient: false,
  },
  'other bytes': {
    start: {body: (right) => Buffer.concat([right.subarray(0, -1), Buffer.from([right.at(-1)! ^ 1])])},
    codes: ['failed_precondition', 'invalid_argument'],
    isTransient: false,
  },
  gzip: {start: {encoding: 'gzip'}, codes: [], isTransient: true},
  zstd: {start: {encoding: 'zstd'}, codes: [], isTransient: true},
  slowness: {start: {delayMs: 2 * STALL_MS}, codes: ['unavailable'], isTransient: true},
};

const PHASES = ['resolve', 'token', 'manifest', 'config', 'layer', 'middle of the layer'] as const;
const AUTHS = ['none', 'token', 'basic'] as const;
const RANGES = ['honoured', 'ignored', 'wrong'] as const;

interface Case {
  readonly kind: string;
  readonly phase: (typeof PHASES)[number];
  readonly auth: (typeof AUTHS)[number];
  readonly ranges: (typeof RANGES)[number];
  readonly closes: boolean;
  readonly lasts: boolean;
}

const nameOf = ({kind, phase, auth, ranges, closes, lasts}: Case): string =>
  `${kind} at ${phase}${lasts ? ', for good' : ', once'}; auth ${auth}, ranges ${ranges}${closes ? ', closing' : ''}`;

const CASES: readonly Case[] = Object.entries(KINDS).flatMap(([kind, {middle, isTransient, codes}]) =>
  PHASES.flatMap((phase) =>
    AUTHS.flatMap((auth) =>
      RANGES.flatMap((ranges) =>
        [false, true].flatMap((closes) => [false, true].map((lasts) => ({kind, phase, auth, ranges, closes, lasts}))),
      ),
    ),
  ).filter(
    ({phase, auth, ranges, lasts}) =>
      (phase !== 'token' || auth === 'token') &&
      (phase !== 'middle of the layer' || middle !== undefined) &&
      (lasts || (isTransient && codes.length > 0)) &&
      // A range is requested after a layer was interrupted.
      (phase === 'middle of the layer' || ranges === 'honoured'),
  ),
);

/** Faults that last until the lock is overtaken, at every request. */
const isCore = ({kind, auth, ranges, closes, lasts, phase}: Case): boolean =>
  kind === 'silence' && auth === (phase === 'token' ? 'token' : 'none') && ranges === 'honoured' && closes && lasts;

const login = {username: 'me', password: 'open sesame'};
const OPTIONS: Readonly<Record<Case['auth'], FakeOptions>> = {
  none: {},
  token: {auth: {kind: 'token', login}},
  basic: {auth: {kind: 'basic', login}},
};

/** Waits for one of them. */
async function until(what: () => boolean, timeoutMs: number): Promise<void> {
  for (const end = performance.now() + timeoutMs; !what() && performance.now() < end; ) await sleep(5);
}

type Outcome = {readonly result: PullResult} | {readonly err: unknown};

class Trial {
  readonly #case: Case;
  readonly #name: string;
  readonly #client: Client;
  readonly #ingests: string;
  readonly #layer = gzipSync(tar(file('f', randomBytes(LAYER))), {level: 0});
  readonly #config;

  constructor(client: Client, root: string, tried: Case, name: string) {
    this.#case = tried;
    this.#name = name;
    this.#client = client;
    this.#ingests = join(root, 'content/ingest');
    const tree = tar(file('f', Buffer.alloc(0)));
    this.#config = {architecture: 'amd64', os: 'linux', rootfs: {type: 'layers', diff_ids: [digestOf(tree)]}};
  }

  async #registry(scope: Scope, options: FakeOptions = {}): Promise<FakeRegistry> {
    const registry = await startFakeRegistry(scope, options);
    const config = registry.addBlob(Buffer.from(JSON.stringify(this.#config)), 'application/vnd.oci.image.config.v1+json');
    const layer = registry.addBlob(this.#layer, `${OCI_LAYER}+gzip`);
    const mediaType = 'application/vnd.oci.image.manifest.v1+json';
    registry.addManifest('team/app', {schemaVersion: 2, mediaType, config, layers: [layer]}, mediaType, 'v1');
    return registry;
  }

  get #onDisk(): number {
    return sizeOf(join(this.#ingests, downloadKey(digestOf(this.#layer)), 'data'));
  }

  #pull(namespace: string, {host}: FakeRegistry, stallTimeoutMs: number, signal?: AbortSignal): Promise<Outcome> {
    return this.#client
      .namespace(namespace)
      .pull(`${host}/team/app:v1`, {unpack: false, credentials: login, stallTimeoutMs, ...(signal && {signal})})
      .then(
        (result) => ({result}),
        (err: unknown) => ({err}),
      );
  }

  async run(scope: Scope): Promise<void> {
    const {kind, phase, auth, ranges, closes, lasts} = this.#case;
    const {start, middle, codes, isTransient} = KINDS[kind]!;
    const [faulty, healthy] = await Promise.all([this.#registry(scope, {...OPTIONS[auth], ranges, closes}), this.#registry(scope)]);
    const path = {
      resolve: /manifests\/v1/,
      token: /^\/token/,
      manifest: /manifests\/sha256/,
      config: new RegExp(`blobs/${digestOf(Buffer.from(JSON.stringify(this.#config)))}`),
      layer: new RegExp(`blobs/${digestOf(this.#layer)}`),
      'middle of the layer': new RegExp(`blobs/${digestOf(this.#layer)}`),
    }[phase];
    faulty.fault({...(phase === 'middle of the layer' ? middle : start), path, times: lasts ? Number.POSITIVE_INFINITY : 1});

    // A registry that stays silent is stopped when the others have ended.
    const isSilent = kind === 'silence' && lasts && closes;
    const patience = new AbortController();
    const begun = performance.now();
    const first = this.#pull(`${this.#name}-a`, faulty, isSilent ? PATIENT_MS : STALL_MS, patience.signal);
    let over = false;
    void first.then(() => {
      over = true;
    });
    await until(() => over || (faulty.faulted > 0 && (phase !== 'middle of the layer' || this.#onDisk >= MIDDLE)), BUDGET_MS);

    const before = kind === 'other bytes' ? 0 : this.#onDisk;
    // A silent registry would delay it by ten minutes.
    const second = await this.#pull(`${this.#name}-b`, healthy, PATIENT_MS, AbortSignal.timeout(BUDGET_MS));
    if ('err' in second) throw second.err;
    const sent = healthy.bytesSent(new RegExp(`blobs/${digestOf(this.#layer)}`));
    assert.ok(sent <= this.#layer.length - before, `${sent} B came again, of ${this.#layer.length} B, though ${before} B were here`);

    if (isSilent) patience.abort();
    const outcome = await first;
    const took = performance.now() - begun;
    assert.ok(took < BUDGET_MS, `the pull took ${took} ms`);
    const got = 'err' in outcome ? codeOf(outcome.err) : 'ok';
    if (isSilent) assert.ok(got === 'canceled' || got === 'ok', got);
    else if (!lasts && isTransient) assert.equal(got, 'ok', String('err' in outcome && outcome.err));
    else
      assert.ok(
        got === 'ok' || codes.includes(got),
        `ended with ${got}, not ${codes}: ${'err' in outcome && (outcome.err as Error).stack}`,
      );

    const third = await this.#pull(`${this.#name}-a`, healthy, PATIENT_MS);
    if ('err' in third) throw third.err;
    assert.equal(third.result.transferredBytes, 0, 'all of it was here');
  }
}

describe('a slow connection', () => {
  for (const [what, fault, atLeast] of [
    ['falls silent', {stallAt: 60_000}, 60_000],
    ['brings a little at a time', {trickle: {bytes: 1000, everyMs: 30}}, 20_000],
  ] as const satisfies readonly (readonly [string, Fault, number])[])
    it(`and ${what} loses no received bytes: they are in the ingest within a moment`, async (t) => {
      const registry = await startFakeRegistry(t);
      const layer = randomBytes(300_000);
      registry.addImage('team/app', 'v1', [layer], {
        architecture: 'amd64',
        os: 'linux',
        rootfs: {type: 'layers', diff_ids: [digestOf(layer)]},
      });
      const path = new RegExp(digestOf(layer));
      registry.fault({path, ...fault});
      const root = temporaryDirectory(t, 'berth-root-');
      const client = await newClient(t, {root});
      const abort = new AbortController();
      const pull = client
        .namespace('default')
        .pull(`${registry.host}/team/app:v1`, {unpack: false, stallTimeoutMs: PATIENT_MS, signal: abort.signal});
      const ended = assert.rejects(pull, is('canceled'));
      const data = join(root, 'content/ingest', downloadKey(digestOf(layer)), 'data');
      await until(() => sizeOf(data) >= atLeast, 10_000);
      // Less than one slot of a worker.
      assert.ok(sizeOf(data) >= atLeast && sizeOf(data) <= registry.bytesSent(path), `${sizeOf(data)} B of ${registry.bytesSent(path)} B`);
      assert.ok(registry.bytesSent(path) < layer.length, 'and the rest is still to come');
      abort.abort();
      await ended;
    });
});

describe('a registry that fails', () => {
  it('only prevents the success of its own pull', {timeout: TORTURE ? 3_000_000 : 300_000}, async (t) => {
    const seed = SAMPLE;
    t.diagnostic(`seed ${seed}; ${CASES.length} cases`);
    const chosen = TORTURE ? CASES : [...CASES.filter(isCore), ...sample(CASES, 24, seed)];
    const root = temporaryDirectory(t, 'berth-root-');
    const client = await newClient(t, {root, lockTimeoutMs: LOCK_TIMEOUT_MS});
    const failures = await tryAll(chosen, nameOf, (scope, one, i) => new Trial(client, root, one, `case${i}`).run(scope));
    assert.deepEqual(failures, []);
    const {findings} = await client.check({deep: true});
    assert.deepEqual(
      findings.filter(({severity}) => severity !== 'garbage'),
      [],
    );
    assert.deepEqual(
      readdirSync(join(root, 'content/ingest')).filter((name) => !name.startsWith('sha256-')),
      [],
      'what has overtaken is gone',
    );
  });
});
