/** Seed archives, and the repair of mutated ones. */
import {block, char, dir, encode, fifo, file, link, opaque, paxRecords, sign, symlink, tar, whiteout} from '../support/tartest.ts';
import type {Random} from './seeded-random.ts';

const sparseHeader = (pax: Readonly<Record<string, string>>, content: string) => file('sparse', content, 0o644, {pax});

export const SEEDS: readonly Buffer[] = [
  tar(dir('d', 0o755), file('d/f', 'content'), symlink('f', 'd/s'), link('d/f', 'd/l')),
  tar(dir('etc'), file('etc/a', 'x'.repeat(600)), whiteout('etc/b'), opaque('usr')),
  tar(char('null', 1, 3), block('disk', 8, 0), fifo('pipe')),
  tar(file('x'.repeat(150), 'long'), symlink('y'.repeat(150), 's'), file('p', '', 0o644, {prefix: 'a/b/c'})),
  tar(file('x'.repeat(150), 'gnu', 0o644, {format: 'gnu'}), link('z'.repeat(120), 'k', {format: 'gnu'})),
  tar(file('old', 'v7', 0o644, {format: 'v7'}), file('dir/', '', 0o755, {format: 'v7', typeflag: '\0'})),
  tar(file('f', 'x', 0o4755, {uid: 2 ** 22, gid: 2 ** 22, mtime: -5, pax: {mtime: '-1.25', uid: '4000000', gid: '7', size: '1'}})),
  tar(
    file('x', 'x', 0o644, {xattrs: {'user.a': 'b', 'security.capability': Buffer.from('0100000200040000', 'hex')}}),
    dir('y', 0o700, {xattrs: {'trusted.overlay.opaque': 'y'}}),
  ),
  tar(
    sparseHeader(
      {
        'GNU.sparse.major': '0',
        'GNU.sparse.minor': '1',
        'GNU.sparse.size': '1000',
        'GNU.sparse.numblocks': '2',
        'GNU.sparse.map': '0,1,900,2',
      },
      'abc',
    ),
  ),
  tar(
    sparseHeader(
      {'GNU.sparse.major': '1', 'GNU.sparse.minor': '0', 'GNU.sparse.realsize': '1000', 'GNU.sparse.name': 'n'},
      `${'1\n10\n3\n'.padEnd(512, '\0')}abc`,
    ),
  ),
  tar(
    file('gnu-sparse', 'abc', 0o644, {
      typeflag: 'S',
      format: 'gnu',
      patch: (header) => {
        header.write('00000000000\0', 386);
        header.write('00000000003\0', 398);
        header.write('00000001000\0', 483);
      },
    }),
  ),
  tar(
    encode({name: 'g', typeflag: 'g', content: paxRecords({comment: 'global'})}),
    file('../../outside/canary', 'x'),
    symlink('../../outside', 'o'),
    file('o/canary', 'x'),
  ),
  tar(symlink('../..', 'up'), dir('up/outside'), link('../../outside/canary', 'stolen'), whiteout('up/outside/canary')),
  tar(dir('a'), file('a/f', '1'), symlink('../../outside', 'a'), file('a/canary', 'written'), link('f', 'a'), dir('a/dir', 0o777)),
];

export const TOKENS: readonly string[] = [
  '../',
  '/',
  './',
  '.wh.',
  '.wh..wh..opq',
  'outside/canary',
  '../../outside',
  'ustar\0' + '00',
  'ustar  \0',
  '\0',
  '\xff\xff\xff\xff\xff\xff\xff\xff',
  '\x80\0\0\0\0\0\0\0\0\0\0\x01',
  '77777777777\0',
  '11 path=a/b\n',
  '16 linkpath=a/b\n',
  '20 size=99999999999\n',
  '30 mtime=1350244992.023960108\n',
  '22 GNU.sparse.major=1\n',
  '22 GNU.sparse.minor=0\n',
  'SCHILY.xattr.user.x=',
];

const BLOCK = 512;

/** Corrects the checksum of each block that resembles a header; leaves one block in eight. */
export function resign(bytes: Buffer, random: Random): Buffer {
  for (let at = 0; at + BLOCK <= bytes.length; at += BLOCK) {
    const header = bytes.subarray(at, at + BLOCK);
    if (header.toString('latin1', 257, 262) === 'ustar' && !random.chance(1 / 8)) sign(header);
  }
  return bytes;
}
