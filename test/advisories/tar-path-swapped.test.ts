/** CVE-2025-47290 (containerd 2.1.0): a directory is replaced by a link between check and use. */
import assert from 'node:assert/strict';
import {it} from 'node:test';
import {dir, file, link, symlink, whiteout} from '../support/tartest.ts';
import {harmless, refused} from './tar-attack.ts';

it('a directory that becomes a link is no longer used as a directory', (t) => {
  harmless(
    t,
    (outside) => [[dir('a'), file('a/f', '1'), symlink(outside, 'a'), file('a/canary', 'written'), file('a/dir/x', 'written')]],
    (tree) => assert.equal(tree.at('a').type, 'symlink'),
  );
  harmless(t, (outside) => [
    [dir('a'), dir('a/b'), file('a/b/f', '1'), symlink(outside, 'a'), file('a/dir/f', 'written'), file('a/b/f', '2')],
  ]);
  harmless(t, (outside) => [
    [dir('a'), file('a/f', '1')],
    [file('a/g', '2'), symlink(outside, 'a'), file('a/canary', 'written')],
  ]);
});

it('a parent on the path to a link is replaced', (t) => {
  harmless(t, (outside) => [[dir('x'), symlink('x', 'l'), file('l/f', '1'), symlink(outside, 'x'), file('l/canary', 'written')]]);
  harmless(t, (outside) => [[dir('x'), symlink('x', 'l'), file('l/f', '1'), symlink(outside, 'l'), file('l/canary', 'written')]]);
  harmless(t, (outside) => [
    [dir('x'), symlink('x', 'l'), file('l/f', '1')],
    [whiteout('x'), symlink(outside, 'x'), file('l/canary', 'written')],
  ]);
});

it('a hard link replaces a directory that is in use', (t) => {
  harmless(t, (outside) => [
    [dir('a'), file('a/f', '1'), symlink(outside, 's'), link('s', 'a', {mode: 0o777}), file('a/canary', 'written')],
  ]);
  refused(t, (outside) => [[dir('a'), symlink(outside, 'a/s'), link('a/s', 'a')]], 'invalid_argument');
});
