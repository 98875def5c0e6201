/** CVE-2021-29136 (umoci): a layer replaces the root by a link, and the next one writes through it. */
import assert from 'node:assert/strict';
import {it} from 'node:test';
import {file, link, opaque, symlink, whiteout} from '../support/tartest.ts';
import {harmless} from './tar-attack.ts';

for (const name of ['.', '/', '/.', './', '', '..', 'a/..', './/../.'])
  it(`the root is not replaced by a link named ${JSON.stringify(name)}`, (t) =>
    harmless(
      t,
      (outside) => [[symlink(outside, name)], [file('canary', 'written'), file('dir/f', 'written')]],
      (tree) => {
        assert.equal(tree.at('.').type, 'directory');
        assert.equal(tree.at('canary').size, 7);
      },
    ));

it('the root is not replaced by a file or a hard link', (t) =>
  harmless(
    t,
    () => [[file('f', 'x'), file('.', 'x'), link('f', '/')]],
    (tree) => assert.equal(tree.at('.').type, 'directory'),
  ));

it('the root is not removed', (t) =>
  harmless(
    t,
    () => [[file('f', 'x')], [whiteout('f'), opaque('.')]],
    (tree) => assert.equal(tree.at('.').type, 'directory'),
  ));
