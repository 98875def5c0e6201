/** Limits in the words of systemd, for users who have no control groups of berth's. */
import assert from 'node:assert/strict';
import {describe, it} from 'node:test';
import {scopeCommand} from '../../../src/lib/runtime/rootless-spec.ts';
import type {Limits} from '../../../src/lib/runtime/spec.ts';

describe('a scope of systemd in place of limits', () => {
  const CASES: readonly (readonly [Limits, string | undefined])[] = [
    [{memory: {limit: 100_000_000}}, '-p MemoryMax=100000000'],
    [{memory: {limit: 100, reservation: 50, swap: 300}}, '-p MemoryMax=100 -p MemoryLow=50 -p MemorySwapMax=200'],
    [{memory: {limit: 100, swap: -1}}, '-p MemoryMax=100'],
    [{cpu: {quota: 150_000, period: 100_000}}, '-p CPUQuota=150%'],
    [{cpu: {quota: 1000}}, '-p CPUQuota=1%'],
    [{cpu: {quota: -1, cpus: '0-2,7', mems: '0'}}, '-p AllowedCPUs=0-2,7 -p AllowedMemoryNodes=0'],
    [{pids: {limit: 10}}, '-p TasksMax=10'],
    [{pids: {limit: -1}}, undefined],
    [{}, undefined],
  ];
  for (const [limits, words] of CASES)
    it(`${JSON.stringify(limits)} is ${words ?? 'nothing'}`, () => {
      assert.equal(scopeCommand(limits), words && `systemd-run --user --scope ${words}`);
    });

  it('has a weight of 1 to 10000 for all shares, and no smaller one for more of them', () => {
    let before = 0;
    for (const shares of [0, 1, 2, 3, 100, 512, 1023, 1024, 2048, 65_536, 262_143, 262_144, 1_000_000]) {
      const weight = Number(/CPUWeight=(\d+)$/.exec(scopeCommand({cpu: {shares}})!)![1]);
      assert.ok(weight >= Math.max(1, before) && weight <= 10_000, `${shares}: ${weight}`);
      before = weight;
    }
    assert.equal(before, 10_000);
  });
});
