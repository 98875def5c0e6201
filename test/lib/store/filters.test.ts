import assert from 'node:assert/strict';
import {describe, it} from 'node:test';
import fc from 'fast-check';
import {isErrdefs} from '../../../src/lib/errdefs.ts';
import {type Adaptor, parseFilters} from '../../../src/lib/store/filters.ts';

interface Entry {
  readonly name: string;
  readonly other?: string;
  readonly labels?: Readonly<Record<string, string>>;
}

const CORPUS: readonly Entry[] = [
  {name: 'foo', labels: {foo: 'true'}},
  {name: 'bar'},
  {name: 'foo', labels: {foo: 'present', 'more complex label': 'present'}},
  {name: 'bar', labels: {bar: 'true'}},
  {name: 'fooer', labels: {'more complex label with \\ and "': 'present'}},
  {name: 'fooer', labels: {'more complex label with \\ and ".post': 'present'}},
  {name: 'baz', other: 'too complex, yo'},
  {name: 'bazo', other: 'abc'},
  {name: 'compound', labels: {foo: 'omg_asdf.asdf-qwer'}},
];

const adaptor =
  (entry: Entry): Adaptor =>
  ([field, ...rest]) => {
    if (field === 'name') return entry.name;
    if (field === 'other') return entry.other;
    return field === 'labels' ? entry.labels?.[rest.join('.')] : undefined;
  };

/** Indexes of matching entries. */
const shown = async (...texts: string[]): Promise<number[]> => {
  const filter = await parseFilters(texts);
  return CORPUS.flatMap((entry, i) => (filter(adaptor(entry)) ? [i] : []));
};

const EVERY = CORPUS.map((_, i) => i);

describe('filters', () => {
  const ROWS: readonly (readonly [filter: string, expected: readonly number[]])[] = [
    ['', EVERY],
    ['name', EVERY],
    ['labels.foo', [0, 2, 8]],
    ['labels.foo,name', [0, 2, 8]],
    ['labels.foo==true', [0]],
    ['labels.foo==omg_asdf.asdf-qwer', [8]],
    ['name==bar', [1, 3]],
    ['name!=bar', [0, 2, 4, 5, 6, 7, 8]],
    ['name==bar,labels.bar', [3]],
    ['other=="too complex, yo"', [6]],
    ['other~=[abc]+,name!=foo', [6, 7]],
    ['other~=/[abc]+/,name!=foo', [6, 7]],
    ['other~=/[abc]{1,2}/,name!=foo', [6, 7]],
    ['other~=/[abc]{0,1}"\\//,name!=foo', []],
    ['name==bar,labels.bar==true', [3]],
    ['name==bar,labels.bar==wrong', []],
    ['name==foo,labels."more complex label"', [2]],
    ['labels."more complex label with \\\\ and \\""==present', [4]],
    ['labels."more complex label with \\\\ and \\"".post==present', [5]],
    ['other~=|^abc$|', [7]],
    ['name~="^ba"', [1, 3, 6, 7]],
    ['name == bar', [1, 3]],
    ['labels.foo!=true', [1, 2, 3, 4, 5, 6, 7, 8]],
    ['labels.foo!=""', [0, 2, 8]],
    ['labels.foo==""', []],
    ['other~=^$', [0, 1, 2, 3, 4, 5, 8]],
    ['name=="\\x62\\141\\u0072"', [1, 3]],
    ['nothing.at.all', []],
    ['name~=(?i)^BAR$', [1, 3]],
  ];
  for (const [filter, expected] of ROWS)
    it(`${filter} shows ${expected.join(' ') || 'none'}`, async () => assert.deepEqual(await shown(filter), expected));

  it('are alternatives; no filter or an empty one shows everything', async () => {
    assert.deepEqual(await shown(), EVERY);
    assert.deepEqual(await shown('name==bar', 'labels.foo==true'), [0, 1, 3]);
    assert.deepEqual(await shown('name==bar', ''), EVERY);
  });

  it('take field paths apart, and values in any script', async () => {
    const paths: (readonly string[])[] = [];
    (await parseFilters(['labels."a.b/c".d==x']))((path) => {
      paths.push(path);
      return 'x';
    });
    assert.deepEqual(paths, [['labels', 'a.b/c', 'd']]);
    for (const text of ['name~=牛', 'name~=|牛|', 'name==牛', 'name=="\\xe7\\x89\\x9b"', 'name=="\\u725b"', 'name=="\\U0000725b"'])
      assert.ok(
        (await parseFilters([text]))(() => '牛'),
        text,
      );
    assert.ok((await parseFilters(['name=="\\U0010ffff\\303\\277"']))(() => '\u{10ffff}ÿ'));
    assert.ok((await parseFilters(['name=="\\377"']))(() => '\ufffd'));
    assert.ok((await parseFilters(['name=="\\ud800"']))(() => '\ufffd'));
    assert.ok((await parseFilters(['name=="\\a\\b\\f\\n\\r\\t\\v"']))(() => '\x07\b\f\n\r\t\v'));
  });

  const ERRORS: readonly (readonly [filter: string, text: string])[] = [
    ['labels.|foo|==omg_asdf.asdf-qwer', '[labels. >|||< foo|==omg_asdf.asdf-qwer]: invalid quote encountered'],
    [
      'labels.?"more complex label with \\\\ and \\"".post==present',
      '[labels. >|?|< "more complex label with \\\\ and \\"".post==present]: expected field or quoted',
    ],
    ['name==foo,', '[name==foo,]: expected field or quoted'],
    ['labels.', '[labels.]: expected field or quoted'],
    ['image~=,id?=?fbaq', '[image~= >|,|< id?=?fbaq]: expected value or quoted'],
    ['labels.ns/key==value', '[labels.ns >|/|< key==value]: quoted literal not terminated'],
    ['labels.key==/value', '[labels.key== >|/|< value]: quoted literal not terminated'],
    [',', '[ >|,|< ]: expected field or quoted'],
    [' ', '[ ]: expected field or quoted'],
    ['==x', '[ >|=|< =x]: expected field or quoted'],
    ['name==|x|', '[name== >|||< x|]: invalid quote encountered'],
    ['name=x', '[name >|=|< x]: unsupported operator "="'],
    ['name=~=x', '[name >|=|< ~=x]: unsupported operator "=~="'],
    ['name==', '[name==]: expected value or quoted'],
    ['name===x', '[name >|=|< ==x]: unsupported operator "==="'],
    ['name==x y', '[name==x >| |< y]: unexpected input:  '],
    ['name=="x"y', '[name=="x" >|y|< ]: unexpected input: y'],
    ['name x', '[name  >|x|< ]: expected an operator ("=="|"!="|"~=")'],
    ['name\\==x', '[name >|\\|< ==x]: expected an operator ("=="|"!="|"~=")'],
    ['name"', '[name >|"|< ]: quoted literal not terminated'],
    ['labels."a\nb"', '[labels. >|"|< a\nb"]: quoted literal not terminated'],
    ['labels."\\g"', '[labels. >|"|< \\g"]: illegal escape sequence'],
    ['labels."\\xaz"', '[labels. >|"|< \\xaz"]: illegal numeric escape sequence'],
    ['labels."\\09"', '[labels. >|"|< \\09"]: illegal numeric escape sequence'],
    ['labels."a\\', '[labels. >|"|< a\\]: illegal escape sequence'],
    ['name=="\\777"', '[name== >|"|< \\777"]: unquoting failed: quote syntax error'],
    ['name=="\\U00110000"', '[name== >|"|< \\U00110000"]: unquoting failed: quote syntax error'],
    ['name\0', '[name >|\0|< ]: unexpected null'],
    ['\ud800', '[ >|\ud800|< ]: rune error'],
    ['name=="\ufffd"', '[name== >|"|< \ufffd"]: rune error'],
    ['牛==x', '[ >|牛|< ==x]: expected field or quoted'],
  ];
  for (const [filter, text] of ERRORS) {
    it(`point at the error in ${JSON.stringify(filter)}`, async () => {
      const expected = {code: 'invalid_argument', message: `filters: parse error: ${text}: invalid argument`};
      await assert.rejects(parseFilters([filter]), expected);
      await assert.rejects(parseFilters(['name', filter]), expected);
    });
  }

  it('refuse an invalid expression, in one line', async () => {
    await assert.rejects(parseFilters(['name~=[abc']), {
      code: 'invalid_argument',
      message: 'filters: error parsing regexp: missing closing ]: `[abc`: invalid argument',
    });
  });

  it('accept any text or refuse it as an invalid argument', async () => {
    const text = fc.oneof(
      fc.string({unit: 'binary', maxLength: 30}),
      fc.string({unit: fc.constantFrom(...'ab.,=!~/|"\\ x0(*)[]{1}?'.split(''), '==', '~=', 'name', 'labels', '\n', '牛'), maxLength: 15}),
    );
    await fc.assert(
      fc.asyncProperty(text, async (filter) => {
        try {
          assert.equal(typeof (await parseFilters([filter]))(() => 'aab'), 'boolean');
        } catch (err) {
          assert.ok(isErrdefs(err) && err.code === 'invalid_argument' && err.message.startsWith('filters: '), String(err));
        }
      }),
      {seed: 5, numRuns: 5000},
    );
  });

  it('unquote every quoted field and value', async () => {
    const quoted = (text: string): string => JSON.stringify(text).replaceAll('\\ud', '\\u005cud');
    const part = fc.string({unit: 'grapheme', minLength: 1, maxLength: 10});
    await fc.assert(
      fc.asyncProperty(fc.array(part, {minLength: 1, maxLength: 4}), part, async (path, value) => {
        const filter = await parseFilters([`${path.map(quoted).join('.')}==${quoted(value)}`]);
        let asked: readonly string[] = [];
        assert.ok(
          filter((field) => {
            asked = field;
            return value;
          }),
        );
        assert.deepEqual(asked, path);
      }),
      {seed: 6, numRuns: 1000},
    );
  });
});
