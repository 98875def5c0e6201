/** A parent is a link to the host, and entries, whiteouts and hard links go through it. Found in several unpackers in 2026. */
import assert from 'node:assert/strict';
import {describe, it} from 'node:test';
import {char, dir, file, link, opaque, symlink, type TarEntry, whiteout} from '../support/tartest.ts';
import {harmless, refused} from './tar-attack.ts';

const THROUGH: Readonly<Record<string, readonly TarEntry[]>> = {
  'a file': [file('etc/canary', 'written'), file('etc/new', 'written')],
  'a file in a directory': [file('etc/dir/new', 'written')],
  'a directory': [dir('etc/dir', 0o777), dir('etc/new')],
  'a link': [symlink('x', 'etc/canary'), symlink('x', 'etc/new')],
  'a device': [char('etc/canary', 1, 3)],
  'a whiteout': [whiteout('etc/canary'), whiteout('etc/dir')],
  'an opaque mark': [opaque('etc'), opaque('etc/dir')],
};

describe('nothing goes through a link to the host', () => {
  for (const [what, entries] of Object.entries(THROUGH)) {
    it(`${what}, in the same layer`, (t) => harmless(t, (outside) => [[symlink(outside, 'etc'), ...entries]]));
    it(`${what}, in the next layer`, (t) => harmless(t, (outside) => [[symlink(outside, 'etc')], entries]));
    it(`${what}, by many steps up`, (t) =>
      harmless(t, (outside) => [[dir('a'), symlink(`${'../'.repeat(40)}${outside}`, 'a/etc'), symlink('a/etc', 'etc')], entries]));
  }

  it('a hard link to a file of the host is rejected', (t) => {
    refused(t, (outside) => [[symlink(outside, 'etc'), link('etc/canary', 'stolen')]], 'invalid_argument');
    refused(t, (outside) => [[symlink(outside, 'etc')], [link('etc/canary', 'stolen')]], 'invalid_argument');
  });

  it('a link to the host leads to the same path inside', (t) =>
    harmless(
      t,
      () => [[symlink('/host/dir', 'etc'), file('etc/f', 'x')]],
      (tree) => {
        assert.equal(tree.at('host/dir/f').size, 1);
        assert.equal(tree.at('etc').target, '/host/dir');
      },
    ));
});
