/** Registries that ask not to be asked: every form of `Retry-After`, and cool-downs that several remotes share. */
import assert from 'node:assert/strict';
import {readdirSync, writeFileSync} from 'node:fs';
import {join} from 'node:path';
import {describe, it, type TestContext} from 'node:test';
import {sharedCoolDowns} from '../../../src/lib/client/pull/shared-cool-downs.ts';
import type {ErrdefsError} from '../../../src/lib/errdefs.ts';
import {openRemote, type Remote} from '../../../src/lib/remotes/index.ts';
import {retryAfterOf} from '../../../src/lib/remotes/retry.ts';
import type {CoolDowns} from '../../../src/lib/remotes/types.ts';
import {runtimeStatePath} from '../../../src/lib/store/layout.ts';
import {type FakeRegistry, startFakeRegistry} from '../../fakes/registry.ts';
import {is, onEnd, temporaryDirectory} from '../../support/helpers.ts';

const HOUR = 3_600_000;

describe('Retry-After', () => {
  const server = Date.UTC(2001, 5, 7, 8, 9, 10);
  const date = new Date(server).toUTCString();
  for (const [header, expected] of [
    ['0', 0],
    ['1', 1000],
    ['120', 120_000],
    ['1m30s', 90_000],
    ['500ms', 500],
    [new Date(server + 5000).toUTCString(), 5000],
    [new Date(server - 5000).toUTCString(), 0],
    ['Thursday, 07-Jun-01 08:09:40 GMT', 30_000],
    ['9'.repeat(400), Number.MAX_SAFE_INTEGER],
    ['-5', undefined],
    ['soon', undefined],
    ['', undefined],
    ['1e3', undefined],
    ['2001', 2_001_000],
  ] as const)
    it(`${JSON.stringify(header.slice(0, 40))} is ${expected} ms after the server's date`, () =>
      assert.equal(retryAfterOf({'retry-after': header, date}), expected));
  it('as a date counts from the clock of this machine without the server’s', () => {
    const ms = retryAfterOf({'retry-after': new Date(Date.now() + HOUR).toUTCString()})!;
    assert.ok(ms > HOUR - 60_000 && ms <= HOUR);
    assert.equal(retryAfterOf({date}), undefined);
  });
});

async function world(
  t: TestContext,
  coolDowns?: CoolDowns,
): Promise<{registry: FakeRegistry; remote: Remote; open(shared?: CoolDowns): Remote}> {
  const registry = await startFakeRegistry(t);
  registry.addImage('app', 'v1', [Buffer.from('x')]);
  const open = (shared = coolDowns): Remote => {
    const remote = openRemote({backoffMs: 1, plainHTTP: true}, {coolDowns: shared});
    onEnd(t, () => remote.close());
    return remote;
  };
  return {registry, remote: open(), open};
}

const shared = (t: TestContext): [state: string, one: CoolDowns, other: CoolDowns] => {
  const state = temporaryDirectory(t);
  return [state, sharedCoolDowns(state, () => state), sharedCoolDowns(state, () => state)];
};

describe('a cool-down', () => {
  it('is kept by other remotes, too', async (t) => {
    const [, one, other] = shared(t);
    const {registry, remote, open} = await world(t, one);
    const ref = {domain: registry.host, path: 'app', tag: 'v1'};
    registry.fault({status: 429, times: 1, headers: {'retry-after': '1'}});
    const first = remote.resolve(ref);
    while (registry.faulted === 0 || one.find(registry.url) === undefined) await new Promise((resolve) => setTimeout(resolve, 5));
    const begun = registry.requests[0]!.at;
    await Promise.all([first, open(other).resolve(ref), open(other).resolve(ref)]);
    assert.equal(registry.requests.length, 4);
    for (const {at} of registry.requests.slice(1)) assert.ok(at - begun >= 990, `asked again after ${at - begun} ms`);
  });

  it('that is too long to wait for fails at once, and says until when', async (t) => {
    const [, one, other] = shared(t);
    const {registry, remote, open} = await world(t, one);
    const ref = {domain: registry.host, path: 'app', tag: 'v1'};
    registry.fault({status: 429, headers: {'retry-after': '7200'}});
    await assert.rejects(remote.resolve(ref), is('resource_exhausted'));
    assert.equal(registry.requests.length, 1);
    await assert.rejects(open(other).resolve(ref), (err: ErrdefsError) => {
      is('resource_exhausted')(err);
      const until = Date.parse(/until (\S+Z)/.exec(err.message)![1]!);
      assert.ok(until > Date.now() + 2 * HOUR - 60_000 && until <= Date.now() + 2 * HOUR);
      return true;
    });
    assert.equal(registry.requests.length, 1, 'and asks nothing');
  });

  it('is forgotten after a minute, and never believed for more than a day', async (t) => {
    const {registry, open} = await world(t);
    const ref = {domain: registry.host, path: 'app', tag: 'v1'};
    const now = Date.now();
    const asked = (askedAt: number, end: number): CoolDowns => ({find: () => ({askedAt, end, status: 429}), put: () => {}});
    await open(asked(now - 61_000, now + HOUR)).resolve(ref);
    await open(asked(now + HOUR, now + 2 * HOUR)).resolve(ref); // a clock that was set back
    await assert.rejects(open(asked(now, Number.MAX_SAFE_INTEGER)).resolve(ref), (err: ErrdefsError) => {
      assert.match(err.message, /until \d{4}-\d\d-\d\dT/);
      return is('resource_exhausted')(err);
    });
  });

  for (const [status, code] of [
    [429, 'resource_exhausted'],
    [503, 'unavailable'],
  ] as const)
    it(`is of the class of the response that asked for it: ${status}`, async (t) => {
      const {registry, open} = await world(t);
      const [, one, other] = shared(t);
      const ref = {domain: registry.host, path: 'app', tag: 'v1'};
      registry.fault({path: /manifests/, status, headers: {'retry-after': '3600'}});
      await assert.rejects(open(one).resolve(ref), is(code));
      const asked = registry.requests.length;
      await assert.rejects(open(other).resolve(ref), is(code));
      assert.equal(registry.requests.length, asked);
    });

  it('that is damaged, or of another origin, is none', async (t) => {
    const [state, one, other] = shared(t);
    const {registry} = await world(t);
    one.put(registry.url, {askedAt: Date.now(), end: Date.now() + HOUR, status: 429});
    assert.ok(other.find(registry.url) !== undefined);
    assert.equal(other.find('https://registry.example'), undefined);
    const [file] = readdirSync(runtimeStatePath.coolDowns(state));
    for (const text of ['', '{', 'null', '[]', '{"origin":"x"}', JSON.stringify({origin: registry.url, end: 'soon', askedAt: 1})]) {
      writeFileSync(join(runtimeStatePath.coolDowns(state), file!), text);
      assert.equal(sharedCoolDowns(state, () => state).find(registry.url), undefined, text);
    }
  });

  it('is this process’s own where the state directory is not to be used', (t) => {
    const coolDowns = sharedCoolDowns(temporaryDirectory(t), () => {
      throw new Error('of another user');
    });
    const coolDown = {askedAt: 1, end: 2, status: 429};
    coolDowns.put('https://a.example', coolDown);
    assert.deepEqual(coolDowns.find('https://a.example'), coolDown);
  });
});
