import assert from 'node:assert/strict';
import {describe, it} from 'node:test';
import {backoff, isTemporary, parseRetryAfter} from '../../../src/lib/remotes/retry.ts';

const NOW = Date.UTC(2026, 0, 5, 12, 0, 0);
const latin1 = (text: string): string => Buffer.from(text).toString('latin1');

describe('Retry-After', () => {
  for (const [text, expected] of [
    ['0', 0],
    ['7', 7000],
    [' 120 ', 120_000],
    ['Mon, 05 Jan 2026 12:00:30 GMT', 30_000],
    ['Monday, 05-Jan-26 12:00:30 GMT', 30_000],
    ['Mon, 05 Jan 2026 11:00:00 GMT', 0],
    ['880µs', 0.88],
    ['880μs', 0.88],
    ['880us', 0.88],
    ['500ms', 500],
    ['1.5s', 1500],
    ['1m30s', 90_000],
    ['2h', 7_200_000],
    ['12ns', 12e-6],
    ['', undefined],
    ['soon', undefined],
    ['-1', undefined],
    ['1.5', undefined],
    ['5 s', undefined],
    ['s', undefined],
    ['2026', 2_026_000],
  ] as const)
    it(`${JSON.stringify(text)} is ${expected} ms`, () => {
      const got = parseRetryAfter(latin1(text), NOW);
      if (expected === undefined) assert.equal(got, undefined);
      else assert.ok(Math.abs(got! - expected) <= expected * 1e-9, String(got));
    });
});

describe('retries', () => {
  it('are for what another try may cure', () => {
    const temporary = Array.from({length: 500}, (_, i) => i + 100).filter(isTemporary);
    assert.deepEqual(temporary.slice(0, 5), [408, 429, 500, 502, 503]);
    assert.ok(!temporary.includes(501));
  });
  it('double their pause, and spread it', () => {
    for (let n = 1; n <= 5; n++) {
      const pauses = Array.from({length: 200}, () => backoff(n, 100) / (100 * 2 ** (n - 1)));
      assert.ok(pauses.every((p) => p >= 0.5 && p < 1.5));
      assert.ok(Math.max(...pauses) - Math.min(...pauses) > 0.5);
    }
  });
});
