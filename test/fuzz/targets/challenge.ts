/** WWW-Authenticate and Retry-After headers. */
import assert from 'node:assert/strict';
import {parseChallenges} from '../../../src/lib/remotes/challenge.ts';
import {parseRetryAfter} from '../../../src/lib/remotes/retry.ts';
import type {Target} from '../target.ts';

export const target: Target = {
  name: 'challenge',
  seeds: [
    'Bearer realm="https://auth.docker.io/token",service="registry.docker.io",scope="repository:library/redis:pull"',
    'Basic realm="x", Bearer realm=y,error="insufficient_scope"',
    'Negotiate abc==, Digest a="b\\"c", e=f',
    'Basic',
    '120',
    'Wed, 21 Oct 2026 07:28:00 GMT',
    '880µs',
    '1h2m3.5s',
  ].map((text) => Buffer.from(text)),
  tokens: ['"', '\\', '\\"', ',', '=', ' ', '\t', 'Bearer ', 'Basic ', 'realm=', '==', ';', '\x7f', '\xff', 'ms', '1e9'],
  sources: ['/remotes/challenge.ts', '/remotes/retry.ts'],
  refuses: [],
  run(bytes) {
    const text = bytes.toString('latin1');
    for (const {scheme, params} of parseChallenges([text, text])) {
      assert.match(scheme, /^[!#$%&'*+.^_`|~0-9a-z-]+$/);
      for (const [name, value] of params) assert.ok(name !== '' && name === name.toLowerCase() && typeof value === 'string');
    }
    const wait = parseRetryAfter(text, 0);
    assert.ok(wait === undefined || (Number.isFinite(wait) && wait >= 0));
  },
};
