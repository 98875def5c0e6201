/** Filters and their regular expressions. */
import {parseFilters} from '../../../src/lib/store/filters.ts';
import type {Target} from '../target.ts';

const VALUES = ['', 'redis', 'docker.io/library/redis:latest', 'a'.repeat(200), `${'ab'.repeat(50)}c`];

export const target: Target = {
  name: 'filters',
  seeds: [
    'name==redis',
    'name~=^docker[.]io/.*$,labels.foo',
    'labels."a.b"!="x\\"y"',
    'name~=/(a|b)*c{2,5}[^x-z]/',
    'target.digest~=sha256:[0-9a-f]{64}',
    'name~="(a*)*b"',
    'name~=|(x+x+)+y|',
    'name~=(?i:ab)\\\\bx',
  ].map((text) => Buffer.from(text)),
  tokens: [
    '==',
    '!=',
    '~=',
    ',',
    '.',
    '"',
    '\\',
    '|',
    '/',
    '(',
    ')',
    '*',
    '+',
    '?',
    '{1,1000}',
    '[^',
    ']',
    '(?',
    '(?P<n>',
    '\\p{L}',
    '\\b',
    '^',
    '$',
    '{1000}',
    'labels.',
  ],
  sources: ['/store/filters.ts', '/store/regexp.ts'],
  refuses: ['invalid_argument'],
  async run(bytes) {
    const shows = await parseFilters([bytes.toString()]);
    for (const value of VALUES) shows(() => value);
  },
};
