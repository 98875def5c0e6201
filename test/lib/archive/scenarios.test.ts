import assert from 'node:assert/strict';
import {describe, it} from 'node:test';
import {is, requiresProgram, requiresRoot, temporaryDirectory} from '../../support/helpers.ts';
import {tar} from '../../support/tartest.ts';
import {diffTrees} from '../../support/tree.ts';
import {APPLY_MODES, PLAIN_MODE} from './apply-modes.ts';
import {SCENARIOS, Tree} from './scenarios.ts';

describe('a layer becomes the same tree in every mode', () => {
  for (const {name, layers, error, check} of SCENARIOS)
    it(name, (t) => {
      if (!requiresRoot(t) || !requiresProgram(t, 'getfattr')) return;
      const tars = layers.map((entries) => tar(...entries));
      if (error !== undefined) {
        for (const mode of APPLY_MODES) assert.throws(() => mode.run(temporaryDirectory(t), tars), is(error), mode.name);
        return;
      }
      const trees = APPLY_MODES.map((mode) => ({mode: mode.name, entries: mode.run(temporaryDirectory(t), tars)}));
      for (const {mode, entries} of trees) assert.doesNotThrow(() => check?.(new Tree(entries)), mode);
      for (const {mode, entries} of trees.slice(1))
        assert.deepEqual(
          diffTrees(trees[0]!.entries, entries, {ignore: (path, field) => path === '.' && field === 'mtime'}),
          [],
          `${PLAIN_MODE.name} and ${mode}`,
        );
    });
});
