/** CVE-2021-32760 (containerd): mode, owner, time or attributes are set through a link on a file of the host. */
import assert from 'node:assert/strict';
import {join} from 'node:path';
import {it} from 'node:test';
import {dir, fifo, link, opaque, symlink, whiteout} from '../support/tartest.ts';
import {harmless} from './tar-attack.ts';

const MORE = {uid: 1000, gid: 1000, mtime: 5, xattrs: {'security.foo': 'x'}};

it('owner and time of a link are set on the link, never on its target', (t) =>
  harmless(
    t,
    (outside) => [[symlink(join(outside, 'canary'), 'l', {mode: 0o777, ...MORE})]],
    (tree) =>
      assert.deepEqual([tree.at('l').uid, tree.at('l').mtime, tree.at('l').xattrs], [1000, 5_000_000_000n, {'security.foo': '0x78'}]),
  ));

it('a hard link to a link changes the link', (t) =>
  harmless(t, (outside) => [
    [symlink(join(outside, 'canary'), 'l'), link('l', 'm', {mode: 0o777, ...MORE})],
    [link('l', 'n', {mode: 0o644, uid: 5, mtime: 7})],
  ]));

it('times in nanoseconds, extended attributes and nodes, which are set last, do not follow links', (t) =>
  harmless(t, (outside) => [
    [
      symlink(outside, 'd'),
      dir('e', 0o700, {pax: {mtime: '5.123456789'}, xattrs: {'user.x': '1'}}),
      symlink(join(outside, 'canary'), 'e/canary', {pax: {mtime: '5.123456789'}}),
      fifo('d/canary', 0o777, MORE),
    ],
    [dir('d/dir', 0o777, {...MORE, pax: {mtime: '5.123456789'}}), opaque('d/dir'), whiteout('d/canary')],
  ]));

it('a directory becomes a link to the host before its deferred attributes are set', (t) =>
  harmless(t, (outside) => [
    [dir('a', 0o777, {uid: 5, pax: {mtime: '5.123456789'}, xattrs: {'user.x': '1'}}), dir('a/dir', 0o777, {uid: 5}), symlink(outside, 'a')],
  ]));

it('a file becomes a link to the host before its deferred attributes are set', (t) =>
  harmless(t, (outside) => [
    [
      dir('a'),
      {...fifo('a/canary'), uid: 7},
      {...fifo('b'), typeflag: '0', xattrs: {'user.x': '1'}, pax: {mtime: '5.123456789'}, uid: 7},
      symlink(join(outside, 'canary'), 'b'),
      symlink(outside, 'a'),
    ],
  ]));
