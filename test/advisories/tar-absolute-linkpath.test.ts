/**
 * CVE-2026-23745 (node-tar before 7.5.3), CVE-2026-50163 (oras-go): a link target is resolved from the host's root or the working
 * directory.
 */
import assert from 'node:assert/strict';
import {join} from 'node:path';
import {it} from 'node:test';
import {onEnd} from '../support/helpers.ts';
import {file, link, symlink} from '../support/tartest.ts';
import {harmless, refused} from './tar-attack.ts';

it('the absolute target of a hard link is resolved inside', (t) => {
  refused(t, (outside) => [[link(join(outside, 'canary'), 'stolen')]], 'invalid_argument');
  harmless(
    t,
    (outside) => [[file(join(outside, 'canary'), 'inside'), link(join(outside, 'canary'), 'kept')]],
    (tree) => assert.equal(tree.at('kept').size, 6),
  );
});

it('the relative target of a hard link is resolved from the root, not from the working directory', (t) => {
  const before = process.cwd();
  onEnd(t, () => process.chdir(before));
  refused(
    t,
    (outside) => {
      process.chdir(outside);
      return [[link('canary', 'stolen')]];
    },
    'invalid_argument',
  );
  refused(t, () => [[link('../outside/canary', 'stolen'), link('../../outside/canary', 'stolen')]], 'invalid_argument');
});

it('a symbolic link keeps its target, which nothing follows outside', (t) =>
  harmless(
    t,
    (outside) => [
      [symlink(join(outside, 'canary'), 'l'), file('l', 'written')],
      [symlink(join(outside, 'canary'), 'm'), link('m', 'n', {mode: 0o777})],
    ],
    (tree) => {
      assert.equal(tree.at('l').type, 'file');
      assert.equal(tree.at('n').type, 'symlink');
    },
  ));
