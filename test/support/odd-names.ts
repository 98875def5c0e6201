/** File names with characters that are special to shells, mount(8), fstab(5) or overlayfs. */
import type {Random} from '../fuzz/seeded-random.ts';

export const ODD_NAMES = [
  'a,b',
  'a:b',
  'back\\slash',
  'a blank',
  '"quoted"',
  "it's",
  '$HOME',
  '`id`',
  'new\nline\n',
  '-o',
  '--',
  'ü€',
  '\\',
  '\\:,',
  '{{ mount 0 }}',
  'upperdir=x,lowerdir=y',
  '*',
  '#x',
  '~',
  '\t&|;<>()',
] as const;

const ALPHABET = [...',:\\ "\'$\n-ü#*?=%{}~`!&|;<>()[]\tab01', '\u001b', '\u202e', '😀'];

/** Generates a valid file name. */
export function oddName({below, pick}: Random): string {
  for (;;) {
    const name = Array.from({length: 1 + below(12)}, () => pick(ALPHABET)).join('');
    if (name !== '.' && name !== '..') return name;
  }
}
