/** Looks up names in damaged indexes. */
import {mkdtempSync, rmSync, writeFileSync} from 'node:fs';
import {tmpdir} from 'node:os';
import {join} from 'node:path';
import {openErofs} from '../../../src/lib/archive/erofs-reader.ts';
import {buildIndex} from '../../lib/archive/apply-modes.ts';
import {dir, file, link, opaque, symlink, tar, whiteout} from '../../support/tartest.ts';
import {damageIndex} from '../damage-index.ts';
import type {Target} from '../target.ts';

const XATTRS = {'user.a': 'a'.repeat(700), 'security.b': '', 'user.c': 'c'};
const LAYERS: readonly Buffer[] = [
  tar(dir('d', 0o2750), dir('d/e', 0o700, {xattrs: XATTRS}), file('d/e/f', 'f'), symlink('d', 'link'), link('d/e/f', 'd/g')),
  tar(
    dir('d'),
    opaque('d'),
    dir('d/e', 0o755, {xattrs: {'user.a': '1'}}),
    whiteout('gone'),
    ...Array.from({length: 300}, (_, i) => file(`d/e/${i.toString(36)}-${'x'.repeat(i % 40)}`, '')),
  ),
];
const indexes = LAYERS.map((layer) => Buffer.concat([...buildIndex(layer).index.encode(layer.length).bytes]));
const NAMES: readonly (readonly string[])[] = [
  [],
  ['d'],
  ['d', 'e'],
  ['d', 'e', 'f'],
  ['d', 'e', '0-'],
  ['link'],
  ['gone'],
  ['d', 'absent'],
  ['zz'],
  ['d', 'zz'],
  ['d', 'e', 'zz'],
];

const directory = mkdtempSync(join(tmpdir(), 'berth-fuzz-'));
const path = join(directory, 'index');

export const target: Target = {
  name: 'erofs',
  seeds: indexes,
  tokens: [],
  sources: ['/archive/erofs-reader.ts'],
  refuses: ['data_loss'],
  // Most inputs stay valid in form, because the reader rejects others early.
  repair: (bytes, random) => (random.chance(1 / 8) ? bytes : damageIndex(random.pick(indexes), random).bytes),
  run(bytes) {
    writeFileSync(path, bytes);
    const tree = openErofs(path);
    const errors: unknown[] = [];
    try {
      for (const names of NAMES)
        try {
          tree.lookup(names);
        } catch (err) {
          errors.push(err);
        }
    } finally {
      tree.close();
    }
    const strange = errors.find((err) => !(err instanceof Error && 'code' in err && target.refuses.includes(err.code as never)));
    if (errors.length > 0) throw strange ?? errors[0];
  },
  close: () => rmSync(directory, {recursive: true}),
};
