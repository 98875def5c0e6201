import assert from 'node:assert/strict';
import {describe, it} from 'node:test';
import {formatTable} from '../../src/cli/format-table.ts';
import {formatTree} from '../../src/cli/format-tree.ts';
import {parseMount} from '../../src/cli/mount-flag.ts';
import {formatAge, formatLabels, formatSize} from '../../src/cli/value-formatters.ts';
import {parseDecimal, parseDuration, parseLabels, parseSize} from '../../src/cli/value-parsers.ts';
import {randomOf} from '../fuzz/seeded-random.ts';
import {is} from '../support/helpers.ts';

const table = <T>(name: string, fn: (text: string) => T, rows: readonly (readonly [string, T])[], refused: readonly string[] = []) =>
  describe(name, () => {
    for (const [text, expected] of rows)
      it(`${JSON.stringify(text)} is ${JSON.stringify(expected)}`, () => assert.deepEqual(fn(text), expected));
    for (const text of refused) it(`${JSON.stringify(text)} is refused`, () => assert.throws(() => fn(text), is('invalid_argument')));
  });

table(
  'durations, in milliseconds',
  parseDuration,
  [
    ['0', 0],
    ['0s', 0],
    ['10s', 10_000],
    ['1m30s', 90_000],
    ['500ms', 500],
    ['1.5h', 5_400_000],
    ['2h45m0.5s', 9_900_500],
    ['1500us', 1.5],
    ['1500µs', 1.5],
    ['.5s', 500],
    ['1.s', 1000],
    ['7d', 604_800_000],
    ['1d12h', 129_600_000],
  ],
  ['', '5', '-5s', 's', '5 s', '5x', '5s5', '1e3s', ' 5s', '5S', '.s', '1..5s', '.', 's5', '1w'],
);

/** Nanoseconds by Go's grammar, read a character at a time; `undefined` for what it refuses. Days are ours. */
function goDuration(text: string): bigint | undefined {
  const units: Readonly<Record<string, bigint>> = {
    ns: 1n,
    us: 1000n,
    ms: 1_000_000n,
    s: 10n ** 9n,
    m: 60n * 10n ** 9n,
    h: 3600n * 10n ** 9n,
    d: 86_400n * 10n ** 9n,
  };
  if (text === '0') return 0n;
  let rest = text;
  let sum = 0n;
  const digits = (): string => {
    let end = 0;
    while (end < rest.length && rest[end]! >= '0' && rest[end]! <= '9') end++;
    const found = rest.slice(0, end);
    rest = rest.slice(end);
    return found;
  };
  if (rest === '') return undefined;
  while (rest !== '') {
    const whole = digits();
    let fraction = '';
    if (rest.startsWith('.')) {
      rest = rest.slice(1);
      fraction = digits();
    }
    if (whole === '' && fraction === '') return undefined;
    let end = 0;
    while (end < rest.length && rest[end] !== '.' && !(rest[end]! >= '0' && rest[end]! <= '9')) end++;
    const unit = units[rest.slice(0, end)];
    if (unit === undefined) return undefined;
    rest = rest.slice(end);
    sum += BigInt(whole || '0') * unit + (BigInt(fraction || '0') * unit) / 10n ** BigInt(fraction.length);
  }
  return sum;
}

it('durations are what Go reads', () => {
  const seed = 7;
  for (let n = 0; n < 5000; n++) {
    const random = randomOf(seed, n);
    const text = Array.from({length: random.below(8)}, () =>
      random.pick(['0', '1', '5', '12', '.', 'ns', 'us', 'ms', 's', 'm', 'h', 'd', ' ', 'x', '-']),
    ).join('');
    const expected = goDuration(text);
    const what = `seed ${seed}, ${n}: ${JSON.stringify(text)}`;
    if (expected === undefined) assert.throws(() => parseDuration(text), is('invalid_argument'), what);
    else assert.ok(Math.abs(parseDuration(text) - Number(expected) / 1e6) <= 1e-6 + Number(expected) / 1e18, what);
  }
});

table(
  'sizes, in bytes',
  parseSize,
  [
    ['0', 0],
    ['65536', 65_536],
    ['512k', 512 * 1024],
    ['512M', 512 * 1024 ** 2],
    ['512mb', 512 * 1024 ** 2],
    ['1.5GiB', 1.5 * 1024 ** 3],
    ['2T', 2 * 1024 ** 4],
    ['7B', 7],
  ],
  ['', '-1', 'M', '1X', '1 M', '0x10', '1MM', '.5M'],
);

table(
  'numbers',
  parseDecimal,
  [
    ['1', 1],
    ['0.5', 0.5],
    ['12.25', 12.25],
  ],
  ['', '0', '0.0', '-1', '1e3', '.5', '1.', 'x'],
);

table(
  'labels',
  (text) => parseLabels(text.split(' ')),
  [
    ['a=b c=d', {a: 'b', c: 'd'}],
    ['a', {a: 'true'}],
    ['a=', {a: ''}],
    ['a=b=c', {a: 'b=c'}],
    ['__proto__=x', JSON.parse('{"__proto__":"x"}')],
  ],
  ['=x', ''],
);

describe('labels in a table', () => {
  it('are sorted by key', () => assert.equal(formatLabels({b: '2', a: '1', 'a-b': '3'}), 'a=1,a-b=3,b=2'));
  it('are a dash when there are none', () => assert.equal(formatLabels({}), '-'));
});

table('sizes for people', (text) => formatSize(Number(text)), [
  ['0', '0.0 B'],
  ['1023', '1023.0 B'],
  ['1024', '1.0 KiB'],
  ['76231475', '72.7 MiB'],
  ['1048575', '1.0 MiB'],
  ['1099511627776', '1.0 TiB'],
  ['5497558138880000', '5000.0 TiB'],
]);

const MINUTE = 60_000;
const HOUR = 60 * MINUTE;
table('ages for people', (text) => formatAge(Number(text)), [
  ['0', 'Less than a second'],
  ['-5', 'Less than a second'],
  ['1999', '1 second'],
  ['59000', '59 seconds'],
  [`${MINUTE}`, 'About a minute'],
  [`${2 * MINUTE}`, '2 minutes'],
  [`${HOUR}`, 'About an hour'],
  [`${2 * HOUR}`, '2 hours'],
  [`${48 * HOUR}`, '2 days'],
  [`${14 * 24 * HOUR}`, '2 weeks'],
  [`${60 * 24 * HOUR}`, '2 months'],
  [`${730 * 24 * HOUR}`, '2 years'],
]);

describe('tables', () => {
  it('are as wide as their widest cells, one space apart, without spaces at the end', () =>
    assert.deepEqual(
      formatTable(
        ['NAME', 'LABELS'],
        [
          ['foo', 'mylabel=bar'],
          ['default', ''],
        ],
      ),
      ['NAME    LABELS', 'foo     mylabel=bar', 'default -'],
    ));
  it('have a heading even without rows', () => assert.deepEqual(formatTable(['A', 'B'], []), ['A B']));
  it('show control characters', () => assert.deepEqual(formatTable(['A', 'B'], [['\u001b[2J', 'x']]), ['A       B', '\\x1b[2J x']));
});

describe('trees', () => {
  it('draw what belongs to what', () =>
    assert.deepEqual(
      formatTree({
        text: ['a'],
        children: [
          {text: ['b', '{'], children: [{text: ['c'], children: []}]},
          {text: ['d', '{'], children: []},
        ],
      }),
      ['a', '├── b', '│   │   {', '│   └── c', '└── d', '        {'],
    ));
});

table(
  'mounts',
  parseMount,
  [
    ['type=bind,src=/a,dst=/b,options=rbind:ro', {type: 'bind', source: '/a', destination: '/b', options: ['rbind', 'ro']}],
    ['type=tmpfs,destination=/t', {type: 'tmpfs', source: '', destination: '/t', options: []}],
    ['source=/a=b,destination=/b', {type: 'bind', source: '/a=b', destination: '/b', options: []}],
    ['type=bind,source=/a,target=/b,readonly', {type: 'bind', source: '/a', destination: '/b', options: ['ro']}],
    [
      'type=bind,src=/a,dst=/b,options=bind,ro=true,bind-propagation=rslave',
      {type: 'bind', source: '/a', destination: '/b', options: ['bind', 'ro', 'rslave']},
    ],
    ['type=bind,src=/a,dst=/b,ro=false,bind-nonrecursive=0', {type: 'bind', source: '/a', destination: '/b', options: []}],
    ['type=volume,src=v,dst=/b,volume-nocopy', {type: 'volume', source: 'v', destination: '/b', options: ['nocopy']}],
    ['type=tmpfs,dst=/t,tmpfs-size=64m,tmpfs-mode=700', {type: 'tmpfs', source: '', destination: '/t', options: ['size=64m', 'mode=700']}],
  ],
  [
    '',
    'src=/a',
    'ro',
    'dst=/b,ro=no',
    'dst=/b,tmpfs-size',
    'dst=/b,bind-propagation=',
    'type=bind,src=/a,dst=/b,mode=ro',
    'constructor=x,dst=/b',
  ],
);
