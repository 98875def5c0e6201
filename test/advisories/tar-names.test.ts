/** Names that unpackers truncate, merge or misread. */
import assert from 'node:assert/strict';
import {it} from 'node:test';
import {file, symlink} from '../support/tartest.ts';
import {harmless, refused} from './tar-attack.ts';

it('names that look alike differ by their bytes', (t) => {
  const names = ['\xff', '\xfe', '\xc3\xa9', 'e\xcc\x81', '\xef\xbf\xbd', 'A', 'a', 'new\nline', 'cr\r', '\x01', '\x7f'];
  harmless(
    t,
    () => [names.map((name) => file(name, name))],
    (tree) => assert.deepEqual(tree.entries.map(({path}) => path).sort(), ['.', ...names].sort()),
  );
});

it('a NUL that could truncate a name is rejected', (t) => {
  refused(t, (outside) => [[file('x', '', 0o644, {pax: {path: `a/..${outside}/canary\0`}})]], 'invalid_argument');
  refused(t, (outside) => [[symlink('x', 's', {pax: {linkpath: `${outside}/canary\0.txt`}})]], 'invalid_argument');
});

it('a component longer than the file system allows is rejected', (t) => refused(t, () => [[file('x'.repeat(256))]], 'invalid_argument'));

it('a path that is too long in total is rejected', (t) => refused(t, () => [[file(`${'d/'.repeat(2040)}f`)]], 'invalid_argument'));

it('a PAX path overrides the header, and is confined equally', (t) =>
  harmless(
    t,
    (outside) => [
      [
        file('innocent', 'written', 0o644, {pax: {path: `../../../..${outside}/canary`}}),
        symlink(outside, 'l'),
        file('x', 'y', 0o644, {pax: {path: 'l/canary'}}),
      ],
    ],
    (tree) =>
      assert.equal(
        tree.entries.some(({path}) => path === 'innocent'),
        false,
      ),
  ));
