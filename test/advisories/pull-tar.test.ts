/**
 * Published attacks by a layer, by the command, on every snapshotter. Invalid layers must be rejected, valid ones must do no harm, and the
 * canary beside the store must not change. `tar-*.test.ts` check the trees.
 */
import {join} from 'node:path';
import {it} from 'node:test';
import {gzipSync, zstdCompressSync} from 'node:zlib';
import type {Code} from '../../src/lib/errdefs.ts';
import {char, dir, encode, fifo, file, link, opaque, symlink, type TarEntry, tar, whiteout} from '../support/tartest.ts';
import {describeOnEngines, type ImageOptions, type Layer, onEverySnapshotter} from './hostile-registry.ts';

interface Case extends ImageOptions {
  readonly name: string;
  /** @param outside absolute path of the directory with the canary, the command's working directory */
  readonly layers: (outside: string) => readonly Layer[];
  /** Expected error; absent for an accepted layer. */
  readonly code?: Code;
}

const THROUGH: readonly TarEntry[] = [
  file('etc/canary', 'written'),
  file('etc/dir/new', 'written'),
  dir('etc/dir', 0o777),
  symlink('x', 'etc/link'),
  char('etc/null', 1, 3),
  whiteout('etc/canary'),
  opaque('etc/dir'),
];
const CHAIN = [dir('a'), dir('a/b'), dir('a/b/c'), symlink('../..', 'a/b/c/up'), symlink('c/up/../..', 'a/b/escape')];
const MORE = {uid: 1000, gid: 1000, mtime: 5, xattrs: {'security.foo': 'x'}};
const ARCHIVE = tar(
  dir('d'),
  file('d/f', Buffer.from(Array.from({length: 50_000}, (_, i) => (i * i) & 0xff))),
  file('g', 'x'.repeat(5000)),
);
const cut = (bytes: Buffer): Buffer => bytes.subarray(0, bytes.length / 2);

const CASES: readonly Case[] = [
  ...['.', '/.', './', '', '..', 'a/..'].map((name) => ({
    name: `CVE-2021-29136: the root is a link named ${JSON.stringify(name)}, and the next layer writes through it`,
    layers: (outside: string) => [
      [file('f'), symlink(outside, name)],
      [file('canary', 'written'), file('dir/f', 'written')],
    ],
  })),
  {
    name: 'symlink ancestor: a parent is a link to the host, in the same layer',
    layers: (outside) => [[symlink(outside, 'etc'), ...THROUGH]],
  },
  {
    name: 'symlink ancestor: a parent is a link to the host, in the next layer',
    layers: (outside) => [[symlink(outside, 'etc')], THROUGH],
  },
  {
    name: 'symlink ancestor: a parent is a link with many ".."',
    layers: (outside) => [[dir('a'), symlink(`${'../'.repeat(40)}${outside}`, 'a/etc'), symlink('a/etc', 'etc')], THROUGH],
  },
  {
    name: 'symlink ancestor: a hard link to a file behind it',
    layers: (outside) => [[symlink(outside, 'etc')], [link('etc/canary', 'stolen')]],
    code: 'invalid_argument',
  },
  {
    name: 'CVE-2026-26960: a hard link at the end of a chain of links',
    layers: (outside) => [[...CHAIN, link(`a/b/escape${outside}/canary`, 'stolen')]],
    code: 'invalid_argument',
  },
  {
    name: 'CVE-2026-26960: a file at the end of a chain of links',
    layers: (outside) => [CHAIN, [file(`a/b/escape${outside}/canary`, 'written')]],
  },
  {
    name: 'CVE-2026-23745: a hard link with an absolute path',
    layers: (outside) => [[link(join(outside, 'canary'), 'stolen')]],
    code: 'invalid_argument',
  },
  {
    name: 'CVE-2026-23745: a symbolic link with an absolute path, and its replacement',
    layers: (outside) => [
      [symlink(join(outside, 'canary'), 'l'), file('l', 'written')],
      [symlink(join(outside, 'canary'), 'm'), link('m', 'n')],
    ],
  },
  {
    name: 'CVE-2026-50163: a hard link relative to the working directory',
    layers: () => [[link('canary', 'stolen')]],
    code: 'invalid_argument',
  },
  {
    name: 'CVE-2026-50163: a hard link relative to the working directory, with ".."',
    layers: () => [[link('../outside/canary', 'stolen')]],
    code: 'invalid_argument',
  },
  {
    name: 'CVE-2025-47290: a directory becomes a link between check and use',
    layers: (outside) => [
      [dir('a'), file('a/f', '1'), symlink(outside, 'a'), file('a/canary', 'written'), file('a/dir/x', 'written')],
      [dir('x'), symlink('x', 'l'), file('l/f', '1'), symlink(outside, 'x'), file('l/canary', 'written')],
    ],
  },
  {
    name: 'CVE-2025-47290: a directory becomes a link before its deferred attributes are set',
    layers: (outside) => [
      [
        dir('a', 0o777, {uid: 5, pax: {mtime: '5.123456789'}, xattrs: {'user.x': '1'}}),
        dir('a/dir', 0o777, {uid: 5}),
        symlink(outside, 'a'),
      ],
    ],
  },
  {
    name: 'CVE-2021-32760: mode, owner, time and attributes through a link',
    layers: (outside) => [
      [symlink(join(outside, 'canary'), 'l', {mode: 0o777, ...MORE}), link('l', 'm', {mode: 0o777, ...MORE})],
      [link('l', 'n', {mode: 0o644, uid: 5, mtime: 7}), symlink(outside, 'd'), fifo('d/canary', 0o777, MORE), dir('d/dir', 0o777, MORE)],
    ],
  },
  {
    name: 'CVE-2021-20291: a truncated gzip layer',
    layers: () => [ARCHIVE],
    compress: (bytes) => cut(gzipSync(bytes)),
    code: 'data_loss',
  },
  {
    name: 'CVE-2021-20291: a truncated zstd layer',
    layers: () => [ARCHIVE],
    compress: (bytes) => cut(zstdCompressSync(bytes)),
    code: 'data_loss',
  },
  {
    name: 'CVE-2021-20291: a truncated xz layer',
    layers: () => [ARCHIVE],
    compress: () => Buffer.from('fd377a585a000004e6d6b4460200210116000000742fe5a3', 'hex'),
    code: 'failed_precondition',
  },
  {name: 'CVE-2021-20291: a truncated tar', layers: () => [cut(ARCHIVE)], code: 'data_loss'},
  {
    name: 'bytes after the last gzip member',
    layers: () => [ARCHIVE],
    compress: (bytes) => Buffer.concat([gzipSync(bytes), Buffer.from('more')]),
    code: 'data_loss',
  },
  {
    name: 'several gzip members',
    layers: () => [ARCHIVE],
    compress: (bytes) => Buffer.concat([gzipSync(bytes.subarray(0, 1000)), gzipSync(bytes.subarray(1000))]),
  },
  {name: 'a layer with another diff ID', layers: () => [ARCHIVE], diffIDs: [`sha256:${'0'.repeat(64)}`], code: 'failed_precondition'},
  {name: 'a whiteout of the empty name', layers: () => [[dir('d'), file('d/.wh.', '')]], code: 'invalid_argument'},
  {name: 'a whiteout of ".."', layers: () => [[dir('d'), file('d/.wh...', '')]], code: 'invalid_argument'},
  {
    name: 'a whiteout after its target in the same layer',
    layers: () => [
      [file('f', 'x'), whiteout('f')],
      [file('f', 'y'), whiteout('f')],
    ],
  },
  {
    name: 'repeated entries of another type',
    layers: () => [[file('a', '1'), dir('a'), file('a/b'), symlink('x', 'a'), fifo('a'), file('a', '2')]],
  },
  {name: 'a negative size', layers: () => [[file('f', '', 0o644, {size: -1})]], code: 'invalid_argument'},
  {
    name: 'PAX records that override name and owner',
    layers: (outside) => [
      [file('innocent', 'written', 0o644, {pax: {path: `../../../..${outside}/canary`, uid: '0', gid: '0'}}), file('x', 'x', 0o4755)],
    ],
  },
  {name: 'an owner beyond 32 bits', layers: () => [[file('f', '', 0o644, {pax: {uid: '4294967296'}})]], code: 'invalid_argument'},
  {
    name: 'device nodes, also the one that looks like a whiteout',
    layers: () => [[char('null', 1, 3), char('zero', 0, 0), char('big', 4095, 1048575)]],
  },
  {
    name: 'names with newlines, control characters and invalid UTF-8',
    layers: () => [['\xff', '\xfe', 'new\nline', '\x1b[31m', '\x7f', '-rf', '--', '*'].map((name) => file(name, name))],
  },
  {
    name: 'a NUL in a name',
    layers: (outside) => [[file('x', '', 0o644, {pax: {path: `a/..${outside}/canary\0`}})]],
    code: 'invalid_argument',
  },
  {
    name: 'a header that contradicts its checksum',
    layers: () => [Buffer.concat([encode(file('f')).fill(0x41, 0, 4), Buffer.alloc(1024)])],
    code: 'data_loss',
  },
];

describeOnEngines('layers', (engine) => {
  for (const {name, layers, code, ...options} of CASES)
    it(name, (t) =>
      onEverySnapshotter(t, engine, async (attack, snapshotter) => {
        const ref = attack.publish(layers(attack.outside), options);
        if (code === undefined) await attack.harmless(ref, {snapshotter});
        else await attack.refused(ref, code, {snapshotter});
      }),
    );
});
