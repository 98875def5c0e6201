/**
 * Pushes to failing registries, generated: faults × the affected request × authentication × registries that know of broken uploads ×
 * connections that end with each response.
 * A push succeeds with every blob and the right manifest in place, or ends with an error class of the table and without a tag. A manifest
 * never comes before what it refers to. The next push completes.
 *
 * By default a sample, with `BERTH_TEST_TORTURE=1` all.
 */
import assert from 'node:assert/strict';
import {randomBytes} from 'node:crypto';
import {describe, it} from 'node:test';
import {setTimeout as sleep} from 'node:timers/promises';
import {gzipSync} from 'node:zlib';
import type {Client, PushResult} from '../../../src/lib/client/types/index.ts';
import {type Code, codeOf} from '../../../src/lib/errdefs.ts';
import {OCI_CONFIG, OCI_LAYER, OCI_MANIFEST} from '../../../src/lib/oci/mediatypes.ts';
import {digestOf, type FakeOptions, type FakeRegistry, type Fault, startFakeRegistry} from '../../fakes/registry.ts';
import {newClient, SAMPLE, type Scope, TORTURE} from '../../support/helpers.ts';
import {sample, tryAll} from '../../support/sample-cases.ts';
import {file, tar} from '../../support/tartest.ts';

/** More than what an upload is resumed for. */
const LAYER = 3 << 20;
const MIDDLE = 2 << 20;
const MAX_BODY = 1 << 20;
/** A blob's last request may be answered ten times later. */
const STALL_MS = 300;
/** Nothing waits that long; what does hangs. */
const PATIENT_MS = 240_000;

interface Kind {
  readonly fault: Fault;
  /** Allowed error classes while the fault lasts. */
  readonly codes: readonly Code[];
  /** Retries overcome a single one. */
  readonly isTransient: boolean;
}

const KINDS: Readonly<Record<string, Kind>> = {
  silence: {fault: {stallAt: -1}, codes: ['unavailable'], isTransient: true},
  reset: {fault: {resetAt: -1}, codes: ['unavailable'], isTransient: true},
  'lost answer': {fault: {resetAt: 0, chunked: true}, codes: ['unavailable'], isTransient: true},
  restart: {fault: {restartAt: -1, restartMs: 200}, codes: ['unavailable'], isTransient: true},
  '500': {fault: {status: 500}, codes: ['unavailable'], isTransient: true},
  '503': {fault: {status: 503, headers: {'retry-after': '0'}}, codes: ['unavailable'], isTransient: true},
  '429': {fault: {status: 429, code: 'TOOMANYREQUESTS'}, codes: ['resource_exhausted'], isTransient: true},
  '401': {fault: {status: 401, code: 'UNAUTHORIZED'}, codes: ['unauthenticated'], isTransient: false},
  '403': {fault: {status: 403, code: 'DENIED'}, codes: ['permission_denied'], isTransient: false},
  // From a token server it says nothing about an image.
  '404': {fault: {status: 404, code: 'NAME_UNKNOWN'}, codes: ['not_found', 'unauthenticated'], isTransient: false},
  '413': {
    fault: {status: 413, headers: {'content-type': 'text/html'}},
    codes: ['resource_exhausted', 'unauthenticated'],
    isTransient: false,
  },
  page: {
    fault: {status: 200, headers: {'content-type': 'text/html', location: null, 'docker-content-digest': null}},
    codes: ['failed_precondition'],
    isTransient: false,
  },
};

const PHASES = {
  'question for the tag': {method: 'HEAD', path: /manifests\/v1/},
  token: {path: /^\/token/},
  mount: {method: 'POST', path: /mount=/},
  'question for a blob': {method: 'HEAD', path: /blobs/},
  'begin of an upload': {method: 'POST', path: /uploads\/$/},
  upload: {method: 'PUT', path: /uploads/},
  'middle of an upload': {method: 'PUT', path: /uploads/, readAt: MIDDLE},
  chunk: {method: 'PATCH', path: /uploads/},
  manifest: {method: 'PUT', path: /manifests\/v1/},
} as const satisfies Readonly<Record<string, Fault>>;

const AUTHS = ['none', 'token', 'basic'] as const;

interface Case {
  readonly kind: string;
  readonly phase: keyof typeof PHASES;
  readonly auth: (typeof AUTHS)[number];
  readonly resumes: boolean;
  readonly closes: boolean;
  readonly lasts: boolean;
}

const nameOf = ({kind, phase, auth, resumes, closes, lasts}: Case): string =>
  `${kind} at ${phase}${lasts ? ', for good' : ', once'}; auth ${auth}${resumes ? ', resuming' : ''}${closes ? ', closing' : ''}`;

const CASES: readonly Case[] = Object.entries(KINDS).flatMap(([kind, {isTransient}]) =>
  (Object.keys(PHASES) as (keyof typeof PHASES)[]).flatMap((phase) =>
    AUTHS.flatMap((auth) =>
      [false, true].flatMap((resumes) =>
        [false, true].flatMap((closes) =>
          [false, true]
            .map((lasts) => ({kind, phase, auth, resumes, closes, lasts}))
            .filter(
              () =>
                (phase !== 'token' || auth === 'token') &&
                (!resumes || phase === 'middle of an upload' || phase === 'chunk') &&
                // What comes before all of the body has no answer.
                (phase !== 'middle of an upload' || kind === 'silence' || kind === 'reset'),
            )
            .filter(({lasts}) => lasts || isTransient),
        ),
      ),
    ),
  ),
);

/** Others take five times ten stall timeouts. */
const isQuick = ({kind, lasts}: Case): boolean => kind !== 'silence' || !lasts;

const login = {username: 'me', password: 'open sesame'};
const OPTIONS: Readonly<Record<Case['auth'], FakeOptions>> = {
  none: {},
  token: {auth: {kind: 'token', login}},
  basic: {auth: {kind: 'basic', login}},
};

const LAYERS = [randomBytes(LAYER), randomBytes(1000)].map((bytes) => tar(file('f', bytes)));
const CONFIG = {architecture: 'amd64', os: 'linux', rootfs: {type: 'layers', diff_ids: LAYERS.map((layer) => digestOf(layer))}};

function publish(registry: FakeRegistry): string {
  const layers = LAYERS.map((layer) => registry.addBlobTo('base/app', gzipSync(layer, {level: 0}), `${OCI_LAYER}+gzip`));
  const config = registry.addBlobTo('base/app', Buffer.from(JSON.stringify(CONFIG)), OCI_CONFIG);
  registry.addManifest('base/app', {schemaVersion: 2, mediaType: OCI_MANIFEST, config, layers}, OCI_MANIFEST, 'v1');
  return `${registry.host}/base/app:v1`;
}

type Outcome = {readonly result: PushResult} | {readonly err: unknown};

/** Waits until a registry that restarts is back. */
async function isUp({url}: FakeRegistry): Promise<void> {
  for (;;) {
    const answer = await fetch(`${url}/v2/`).catch(() => undefined);
    await answer?.body?.cancel();
    if (answer !== undefined) return;
    await sleep(10);
  }
}

async function attempt(scope: Scope, client: Client, origin: string, tried: Case, namespace: string): Promise<void> {
  const {kind, phase, auth, resumes, closes, lasts} = tried;
  const {fault, codes, isTransient} = KINDS[kind]!;
  const registry = await startFakeRegistry(scope, {
    ...OPTIONS[auth],
    resumes,
    closes,
    ...(phase === 'chunk' ? {maxBody: MAX_BODY} : {}),
  });
  const ns = client.namespace(namespace);
  const from = phase === 'mount' ? publish(registry) : origin;
  await ns.pull(from, {unpack: false, credentials: login});
  const push = (stallTimeoutMs: number): Promise<Outcome> =>
    ns.push(`${registry.host}/team/app:v1`, {from, credentials: login, stallTimeoutMs, signal: AbortSignal.timeout(PATIENT_MS)}).then(
      (result) => ({result}),
      (err: unknown) => ({err}),
    );
  const isWhole = (): boolean => {
    const manifest = registry.manifestIn('team/app', 'v1');
    if (manifest === undefined) return false;
    const {config, layers} = JSON.parse(manifest.toString());
    return [config, ...layers].every(({digest}) => registry.blobIn('team/app', digest) !== undefined);
  };

  registry.clear();
  const heal = registry.fault({...PHASES[phase], ...fault, times: lasts ? Number.POSITIVE_INFINITY : 1});
  const outcome = await push(STALL_MS);
  const got = 'err' in outcome ? codeOf(outcome.err) : 'ok';
  if (phase === 'mount' || (!lasts && isTransient)) assert.equal(got, 'ok', String('err' in outcome && (outcome.err as Error).stack));
  else assert.ok(got === 'ok' || codes.includes(got), `ended with ${got}: ${'err' in outcome && (outcome.err as Error).stack}`);
  assert.equal(registry.manifestIn('team/app', 'v1') !== undefined, isWhole());
  if (got === 'ok') assert.ok(isWhole(), 'what was pushed is there');

  heal();
  await isUp(registry);
  const again = await push(PATIENT_MS);
  if ('err' in again) throw again.err;
  assert.ok(isWhole());
  assert.equal(again.result.target.digest, digestOf(registry.manifestIn('team/app', 'v1')!));
}

describe('a registry that fails', () => {
  it('has all of a push or no tag, and the next push completes', {timeout: TORTURE ? 3_000_000 : 300_000}, async (t) => {
    t.diagnostic(`seed ${SAMPLE}; ${CASES.length} cases`);
    const chosen = TORTURE ? CASES : sample(CASES.filter(isQuick), 12, SAMPLE);
    const client = await newClient(t);
    const origin = publish(await startFakeRegistry(t));
    await client.namespace('origin').pull(origin, {unpack: false});
    assert.deepEqual(await tryAll(chosen, nameOf, (scope, one, i) => attempt(scope, client, origin, one, `case${i}`)), []);
    const {findings} = await client.check({deep: true});
    assert.deepEqual(
      findings.filter(({severity}) => severity !== 'garbage'),
      [],
    );
  });
});
