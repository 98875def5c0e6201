import assert from 'node:assert/strict';
import {describe, it, type TestContext} from 'node:test';
import {CLASSES, ErrdefsError, isErrdefs, toJSON} from '../../../src/lib/errdefs.ts';
import {abortError, REGISTRY_CODES, WIRE, WireError, type WireKind, wireFailure} from '../../../src/lib/remotes/errors.ts';
import {openRemote, type RemoteOptions} from '../../../src/lib/remotes/index.ts';
import {type FakeOptions, type Fault, startFakeRegistry} from '../../fakes/registry.ts';
import {is, onEnd} from '../../support/helpers.ts';

async function failing(t: TestContext, fault: Fault, options: RemoteOptions = {}, fake: FakeOptions = {}) {
  const registry = await startFakeRegistry(t, fake);
  registry.fault(fault);
  const remote = openRemote({backoffMs: 1, plainHTTP: true, ...options});
  onEnd(t, () => remote.close());
  const err = await remote.resolve({domain: registry.host, path: 'team/app', tag: 'v1'}).then(
    () => assert.fail('resolved'),
    (e: unknown) => e,
  );
  assert.ok(isErrdefs(err), String(err));
  return {err, registry};
}

describe("the registry's codes", () => {
  for (const [code, expected] of Object.entries(REGISTRY_CODES))
    it(`${code} is ${expected}`, async (t) => {
      const {err, registry} = await failing(t, {status: 400, code, message: 'because'});
      assert.equal(err.code, expected);
      const reason = expected === 'not_found' || expected === 'unauthenticated' ? '' : ' (because)';
      assert.equal(
        err.message,
        `resolve ${registry.host}/team/app:v1: ${registry.host} answered 400 ${code}${reason}: ${CLASSES[expected].text}`,
      );
      assert.deepEqual(err.details, {
        httpStatus: 400,
        registryCode: code,
        registryMessage: 'because',
        host: registry.host,
        url: `${registry.url}/v2/team/app/manifests/v1`,
        attempt: 1,
      });
    });

  for (const [status, code, expected] of [
    [404, 'DENIED', 'permission_denied'],
    [403, 'UNKNOWN', 'permission_denied'],
    [401, 'DENIED', 'unauthenticated'],
    [429, 'DENIED', 'resource_exhausted'],
    [500, 'MANIFEST_UNKNOWN', 'unavailable'],
    [501, 'UNSUPPORTED', 'not_implemented'],
    [504, 'UNKNOWN', 'deadline_exceeded'],
    [410, 'GONE', 'not_found'],
    [418, 'TEAPOT', 'invalid_argument'],
    [300, 'MANY', 'failed_precondition'],
    [304, 'SAME', 'failed_precondition'],
  ] as const)
    it(`${code} with ${status} is ${expected}`, async (t) => {
      assert.equal((await failing(t, {status, code})).err.code, expected);
    });

  it('are taken from nothing but a body of their form', async (t) => {
    for (const body of [
      '',
      '<html>404</html>',
      'null',
      '[]',
      '{"errors":null}',
      '{"errors":[null]}',
      '{"errors":[]}',
      '{"errors":{"0":7}}',
      '{"errors":[{"code":7}]}',
      '{"errors":[{"code":"a b\\n"}]}',
      '['.repeat(7000),
    ]) {
      const {err} = await failing(t, {status: 404, body: () => Buffer.from(body), headers: {'content-length': String(body.length)}});
      assert.equal(err.code, 'not_found', body);
      assert.equal(err.details?.registryCode, undefined);
    }
  });
});

describe("the registry's words", () => {
  it('are one short line without control characters', async (t) => {
    const message = `\u001b[31mred\u0007\r\n  text\u202e ${'x'.repeat(500)}`;
    const {err} = await failing(t, {status: 403, code: 'DENIED', message});
    // biome-ignore lint/suspicious/noControlCharactersInRegex: they are what must not be there
    assert.doesNotMatch(err.message, /[\u0000-\u001f\u007f\u202e]/);
    assert.ok(err.message.length < 400);
    assert.ok(String(err.details?.registryMessage).length <= 200);
  });
  it('are read no further than 8 KiB', async (t) => {
    const {err, registry} = await failing(t, {
      method: 'GET',
      status: 403,
      body: () => Buffer.alloc(64 << 20, 'x'),
      headers: {'content-length': String(64 << 20)},
      trickle: {bytes: 4096, everyMs: 1},
    });
    assert.equal(err.code, 'permission_denied');
    assert.ok(registry.bytesSent() < 1 << 20);
  });
  it('do not repeat what we told in confidence', async (t) => {
    const credentials = {username: 'me', password: 'hunter2-secret'};
    const basic = Buffer.from('me:hunter2-secret').toString('base64');
    const registry = await startFakeRegistry(t, {auth: {kind: 'basic', login: credentials}});
    registry.addImage('team/app', 'v1', []);
    const remote = openRemote({credentials, plainHTTP: true});
    onEnd(t, () => remote.close());
    const ref = {domain: registry.host, path: 'team/app', tag: 'v1'};
    await remote.resolve(ref);
    registry.fault({status: 400, code: 'UNKNOWN', message: `bad header Basic ${basic}, password hunter2-secret`});
    await assert.rejects(remote.resolve(ref), (err: Error) => {
      assert.match(err.message, /bad header Basic \*\*\*, password \*\*\*/);
      assert.doesNotMatch(JSON.stringify(toJSON(err)), /hunter2|bWU6/);
      return true;
    });
  });
  it('come with the address, without its query and its credentials', async (t) => {
    const other = await startFakeRegistry(t);
    const {err} = await failing(t, {redirect: `${other.url.replace('//', '//user:pw@')}/blob?X-Amz-Signature=abc`});
    assert.equal(err.details?.url, `${other.url}/blob`);
    assert.equal(err.details?.host, other.host);
    assert.doesNotMatch(JSON.stringify(toJSON(err)), /Signature|user:pw/);
    assert.equal(err.hint, undefined);
  });
});

describe('failures of the wire', () => {
  const on = {what: 'fetch x', url: new URL('https://r.example/v2/a?secret=1'), attempt: 2};
  for (const kind of Object.keys(WIRE) as WireKind[])
    it(`${kind} has its class and its words`, () => {
      const err = wireFailure(new WireError(kind, {code: 'EWHAT'}), on);
      assert.equal(err.code, WIRE[kind].code);
      assert.equal(err.message, `fetch x: r.example: ${WIRE[kind].text}: ${CLASSES[WIRE[kind].code].text}`);
      assert.deepEqual(err.details, {host: 'r.example', url: 'https://r.example/v2/a', attempt: 2, errno: 'EWHAT'});
    });
  it('that a signal caused are what the signal says', () => {
    assert.equal(abortError('x', new DOMException('a', 'AbortError')).code, 'canceled');
    assert.equal(abortError('x', new DOMException('a', 'TimeoutError')).code, 'deadline_exceeded');
    assert.equal(abortError('x', 'just so').code, 'canceled');
    assert.equal(abortError('x', new Error('stop')).code, 'canceled');
    const mine = new ErrdefsError('aborted', 'y');
    assert.equal(abortError('x', mine), mine);
    is('canceled')(abortError('x', undefined));
  });
});
