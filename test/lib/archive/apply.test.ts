import assert from 'node:assert/strict';
import {describe, it} from 'node:test';
import {is, requiresProgram, requiresRoot, temporaryDirectory} from '../../support/helpers.ts';
import {tar} from '../../support/tartest.ts';
import {diffTrees} from '../../support/tree.ts';
import {FORMS, PLAIN} from './apply-modes.ts';
import {SCENARIOS, Tree} from './scenarios.ts';

describe('a layer comes to the same tree in every form', () => {
  for (const {name, layers, error, check} of SCENARIOS)
    it(name, (t) => {
      if (!requiresRoot(t) || !requiresProgram(t, 'getfattr')) return;
      const tars = layers.map((entries) => tar(...entries));
      if (error !== undefined) {
        for (const form of FORMS) assert.throws(() => form.run(temporaryDirectory(t), tars), is(error), form.name);
        return;
      }
      const trees = FORMS.map((form) => ({form: form.name, entries: form.run(temporaryDirectory(t), tars)}));
      for (const {form, entries} of trees) assert.doesNotThrow(() => check?.(new Tree(entries)), form);
      for (const {form, entries} of trees.slice(1))
        assert.deepEqual(
          diffTrees(trees[0]!.entries, entries, {ignore: (path, field) => path === '.' && field === 'mtime'}),
          [],
          `${PLAIN.name} and ${form}`,
        );
    });
});
