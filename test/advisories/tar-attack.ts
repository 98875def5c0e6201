/** Applies hostile layers in every mode, beside a canary. */
import assert from 'node:assert/strict';
import {chmodSync, mkdirSync, writeFileSync} from 'node:fs';
import {join} from 'node:path';
import type {TestContext} from 'node:test';
import {type Code, codeOf} from '../../src/lib/errdefs.ts';
import {APPLY_MODES} from '../lib/archive/apply-modes.ts';
import {Tree} from '../lib/archive/scenarios.ts';
import {requiresProgram, requiresRoot, temporaryDirectory} from '../support/helpers.ts';
import {type TarEntry, tar} from '../support/tartest.ts';
import {diffTrees, readTree} from '../support/tree.ts';

/** The tree, or the error class. */
export type Outcome = {readonly tree: Tree; readonly code?: never} | {readonly tree?: never; readonly code: Code};

/**
 * Applies layers in every mode. Asserts that nothing outside has changed and that the modes agree.
 *
 * @param layers receives the absolute path of a directory outside, with a file `canary` (mode 0400) and a directory `dir`
 * @returns `undefined` if the test was skipped
 */
export function attack(t: TestContext, layers: (outside: string) => readonly (readonly (TarEntry | Buffer)[])[]): Outcome | undefined {
  if (!requiresRoot(t) || !requiresProgram(t, 'getfattr')) return undefined;
  const outcomes = APPLY_MODES.map((mode): Outcome => {
    const work = temporaryDirectory(t);
    const outside = join(work, 'outside');
    mkdirSync(join(outside, 'dir'), {recursive: true});
    writeFileSync(join(outside, 'canary'), 'canary');
    chmodSync(join(outside, 'canary'), 0o400);
    const inside = join(work, 'inside');
    mkdirSync(inside);
    const before = readTree(outside);
    let outcome: Outcome;
    try {
      outcome = {
        tree: new Tree(
          mode.run(
            inside,
            layers(outside).map((entries) => tar(...entries)),
          ),
        ),
      };
    } catch (err) {
      outcome = {code: codeOf(err)};
    }
    assert.deepEqual(diffTrees(before, readTree(outside)), [], `outside, after ${mode.name}`);
    return outcome;
  });
  const [first, ...others] = outcomes;
  for (const other of others) assert.equal(other.code, first!.code);
  return first;
}

/** Asserts that the layers are accepted. */
export function harmless(t: TestContext, layers: Parameters<typeof attack>[1], check: (tree: Tree) => void = () => {}): void {
  const outcome = attack(t, layers);
  if (outcome === undefined) return;
  assert.ok(outcome.tree, outcome.code);
  check(outcome.tree);
}

/** Asserts that the layers are rejected. */
export function refused(t: TestContext, layers: Parameters<typeof attack>[1], code: Code): void {
  const outcome = attack(t, layers);
  if (outcome !== undefined) assert.equal(outcome.code, code);
}
