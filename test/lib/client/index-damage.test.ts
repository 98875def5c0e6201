/**
 * Damaged indexes of layers: a check ends soon and reports the layer as damaged, unless its tree is still right, and a repair restores
 * every byte. Seeds as in test/fuzz/fuzzer.ts.
 */
import assert from 'node:assert/strict';
import {readFileSync, truncateSync, writeFileSync} from 'node:fs';
import {basename, join} from 'node:path';
import {describe, it} from 'node:test';
import type {CheckOptions, Finding} from '../../../src/lib/client/types/index.ts';
import {damageIndex} from '../../fuzz/damage-index.ts';
import {randomOf} from '../../fuzz/seeded-random.ts';
import {requiresRoot, SAMPLE, TORTURE} from '../../support/helpers.ts';
import {requiresLoopDevices, stateOnLoops} from '../../support/loop-devices.ts';
import {pulled, says} from './pulled-store.ts';

const {BERTH_TEST_FUZZ_SEED, BERTH_TEST_FUZZ_INPUT} = process.env;
const SEED = Number(BERTH_TEST_FUZZ_SEED ?? (TORTURE ? SAMPLE : 5));
const FIRST = Number(BERTH_TEST_FUZZ_INPUT ?? 0);
const COUNT = BERTH_TEST_FUZZ_INPUT !== undefined ? 1 : TORTURE ? 600 : 15;
/** Time limit: far above the time on a busy machine, and far below that of reading as many bytes as a damaged size claims. */
const LONGEST_MS = 20_000;
const MOST_BYTES = 256 << 20;
/** Sizes of the file, in bytes: cut, or with a hole behind what should be its end. */
const SIZES = [0, 1024, 1100, 2000, 2 ** 36, 2 ** 40] as const;

const LOOKS: readonly CheckOptions[] = [{}, {deep: true}, {deep: true, repair: true}, {deep: true}];

describe('check', () => {
  // Loop devices take longer, and the other steps are the same.
  for (const [backing, count] of [
    ['files', COUNT],
    ['loop', Math.ceil(COUNT / 3)],
  ] as const)
    it(`judges and repairs damaged indexes, ${backing}: ${SEED}/${FIRST} to ${SEED}/${FIRST + count - 1}`, {
      timeout: 3_600_000,
    }, async (t) => {
      if (!requiresRoot(t) || (backing === 'loop' && !(await requiresLoopDevices(t)))) return;
      const rig = await pulled(t, 'erofs', backing === 'loop' ? {state: stateOnLoops(t)} : {});
      const files = [0, 1].map((n) => join(rig.layer(n), backing === 'loop' ? 'layer.img' : 'layer.erofs'));
      const right = files.map((path) => readFileSync(path));
      const before = process.memoryUsage().rss;
      let damaged = 0;
      for (let n = FIRST; n < FIRST + count; n++) {
        const random = randomOf(SEED, n);
        const layer = random.below(2);
        const path = files[layer]!;
        const size = random.chance(1 / 10) ? random.pick(SIZES) : undefined;
        const {bytes, what} = size === undefined ? damageIndex(right[layer]!, random) : {bytes: right[layer]!, what: `has ${size} B`};
        writeFileSync(path, bytes);
        if (size !== undefined) truncateSync(path, size);
        const about = `BERTH_TEST_FUZZ_SEED=${SEED} BERTH_TEST_FUZZ_INPUT=${n}: layer ${layer}, ${what}`;
        const found: (readonly Finding[])[] = [];
        for (const options of LOOKS) {
          const began = performance.now();
          try {
            found.push((await rig.client.check(options)).findings);
          } catch (err) {
            assert.fail(`${about}: check ${JSON.stringify(options)}: ${(err as Error).stack}`);
          }
          assert.ok(performance.now() - began < LONGEST_MS, `${about}: check ${JSON.stringify(options)} took too long`);
        }
        const [shallow, deep, repaired, after] = found as [readonly Finding[], readonly Finding[], readonly Finding[], readonly Finding[]];
        const object = `layer ${basename(rig.layer(layer))}`;
        for (const finding of [...shallow, ...deep, ...repaired])
          assert.ok(finding.object === object && finding.severity === 'damage', `${about}: ${says(finding)}`);
        assert.ok(shallow.length <= deep.length && deep.length <= 1, about);
        assert.deepEqual(repaired.map(says), deep.map(says), about);
        assert.deepEqual(after.map(says), [], about);
        if (deep.length === 0) writeFileSync(path, right[layer]!);
        assert.ok(readFileSync(path).equals(right[layer]!), `${about}: is not as it was`);
        damaged += deep.length;
      }
      t.diagnostic(`${damaged} of ${count} made another tree`);
      assert.ok(count < 9 || damaged > count / 4, 'what is changed matters');
      const growth = process.memoryUsage().rss - before;
      assert.ok(growth < MOST_BYTES, `${growth} B more in memory`);
    });
});
