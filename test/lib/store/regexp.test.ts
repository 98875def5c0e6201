import assert from 'node:assert/strict';
import {readFileSync} from 'node:fs';
import {describe, it} from 'node:test';
import fc from 'fast-check';
import {isErrdefs} from '../../../src/lib/errdefs.ts';
import {compile} from '../../../src/lib/store/regexp.ts';

/** Answers of Go's regexp package (1.24) to generated patterns: per text, or its error. */
const GO = JSON.parse(readFileSync(new URL('../../fixtures/regexp-go.json', import.meta.url), 'utf8')) as readonly {
  readonly pattern: string;
  readonly texts: readonly string[];
  readonly answers?: readonly boolean[];
  readonly error?: string;
}[];

describe('regular expressions', () => {
  // Pattern, matching texts, other texts.
  const ROWS: readonly (readonly [pattern: string, found: readonly string[], missing: readonly string[]])[] = [
    ['', ['', 'x'], []],
    ['b', ['abc'], ['ac', '']],
    ['^a', ['ab'], ['ba', 'x\na']],
    ['a$', ['ba'], ['ab', 'a\n']],
    ['(?m)^a$', ['x\na\ny'], ['xa']],
    ['\\Aa\\z', ['a'], ['a\n', 'ba']],
    ['a.c', ['abc', 'a牛c', 'a😀c'], ['a\nc', 'ac']],
    ['(?s)a.c', ['a\nc'], ['ac']],
    ['(?s:a.)c', ['a\nc'], []],
    ['(?s:a.)b.', ['a\nbx'], ['a\nb\n']],
    ['(?i)straße', ['STRAßE', 'Straße'], ['strasse']],
    ['(?i)[^a-c]', ['D'], ['A', 'b']],
    ['(?i:a)b', ['Ab'], ['AB']],
    ['(?i)a(?-i)b', ['Ab'], ['AB']],
    ['((?i)a)b', ['Ab'], ['AB']],
    ['ab|cd|', [''], []],
    ['^(ab|cd)$', ['ab', 'cd'], ['abcd', 'a']],
    ['^a*$', ['', 'aaa'], ['b']],
    ['^a+?$', ['a', 'aa'], ['']],
    ['^a?b$', ['b', 'ab'], ['aab']],
    ['^a{2}$', ['aa'], ['a', 'aaa']],
    ['^a{2,}$', ['aa', 'aaa'], ['a']],
    ['^a{1,2}$', ['a', 'aa'], ['', 'aaa']],
    ['^a{0}$', [''], ['a']],
    ['a{,2}', ['a{,2}'], ['aa']],
    ['a{', ['a{'], ['a']],
    ['^(a*)*$', ['aa', ''], ['b']],
    ['^(|a)+$', ['aa', ''], ['b']],
    ['^[a-a]\\x{10FFFF}$', ['a\u{10ffff}'], ['b\u{10ffff}']],
    ['[a-c-]+$', ['b', '-'], ['d']],
    ['^[]a]$', [']', 'a'], ['b']],
    ['^[^]a]$', ['b'], [']', 'a']],
    ['^[a\\]\\-]$', [']', '-', 'a'], ['\\']],
    ['^[[:alpha:]_]+$', ['aB_'], ['a1']],
    ['^[[:^digit:]]$', ['a'], ['1']],
    ['^\\d\\D\\w\\W\\s\\S$', ['1ab- x'], ['1ab-xx']],
    ['^[\\d\\s]$', ['1', ' '], ['a']],
    ['\\bfoo\\b', ['a foo.', 'foo'], ['food', '_foo']],
    ['\\Boo', ['foo'], ['oo']],
    ['^\\pL\\p{Greek}\\PL$', ['aλ1'], ['a1λ']],
    ['^\\p{^L}\\P{^L}$', ['1a'], ['a1']],
    ['^\\x41\\x{1F600}\\101\\0$', ['A😀A\0'], ['A']],
    ['^\\.\\*\\/\\n\\t$', ['.*/\n\t'], ['aaa']],
    ['^\\Qa.b*\\E+$', ['a.b*', 'a.b**'], ['aXb', 'a.b']],
    ['\\Qa.b', ['a.b'], ['aXb']],
    ['(?P<name>a)(?<other>b)(?:c)', ['abc'], ['ab']],
    ['^application/vnd.*gzip$', ['application/vnd.oci.image.layer.v1.tar+gzip'], ['text/gzip']],
    ['^*a', ['a'], ['b']],
  ];
  for (const [pattern, found, missing] of ROWS) {
    it(JSON.stringify(pattern), () => {
      const matches = compile(pattern);
      for (const text of found) assert.ok(matches(text), `found in ${JSON.stringify(text)}`);
      for (const text of missing) assert.ok(!matches(text), `not found in ${JSON.stringify(text)}`);
    });
  }

  const ERRORS: readonly (readonly [pattern: string, reason: string])[] = [
    ['[abc', 'missing closing ]: `[abc`'],
    ['[', 'missing closing ]: `[`'],
    ['[a-', 'missing closing ]: `[a-`'],
    ['(abc', 'missing closing ): `(abc`'],
    ['abc)', 'unexpected ): `abc)`'],
    ['*a', 'missing argument to repetition operator: `*`'],
    ['(+)', 'missing argument to repetition operator: `+`'],
    ['a**', 'invalid nested repetition operator: `**`'],
    ['a+?*', 'invalid nested repetition operator: `+?*`'],
    ['a{1001}', 'invalid repeat count: `{1001}`'],
    ['a{1,1001}', 'invalid repeat count: `{1,1001}`'],
    ['a{2,1}', 'invalid repeat count: `{2,1}`'],
    ['[b-a]', 'invalid character class range: `b-a`'],
    ['[a-\\d]', 'invalid escape sequence: `\\d`'],
    ['[[:word', 'missing closing ]: `[[:word`'],
    ['[[:wrd:]]', 'invalid character class range: `[:wrd:]`'],
    ['[[:constructor:]]', 'invalid character class range: `[:constructor:]`'],
    ['\\p{Nope}', 'invalid character class range: `\\p{Nope}`'],
    ['\\p', 'invalid character class range: `\\p`'],
    ['a\\', 'trailing backslash at end of expression'],
    ['\\y', 'invalid escape sequence: `\\y`'],
    ['\\8', 'invalid escape sequence: `\\8`'],
    ['(a)\\1', 'invalid escape sequence: `\\1`'],
    ['\\x{110000}', 'invalid escape sequence: `\\x{110000`'],
    ['(?=a)', 'invalid or unsupported Perl syntax: `(?=`'],
    ['(?<!a)', 'invalid named capture: `(?<!a)`'],
    ['(?z)', 'invalid or unsupported Perl syntax: `(?z`'],
    ['(?<a', 'invalid named capture: `(?<a`'],
    ['((a{100}){100}){100}', 'invalid repeat count: `{100}`'],
    ['((((){1000}){1000}){1000}){1000}', 'expression too large'],
  ];
  for (const [pattern, reason] of ERRORS) {
    it(`${JSON.stringify(pattern)}: ${reason}`, () => {
      assert.throws(() => compile(pattern), {code: 'invalid_argument', message: `error parsing regexp: ${reason}: invalid argument`});
    });
  }

  it('nest to a sensible depth', () => {
    assert.ok(compile(`${'('.repeat(999)}a${')'.repeat(999)}`)('a'));
    for (const depth of [1000, 8000])
      assert.throws(() => compile(`${'('.repeat(depth)}a${')'.repeat(depth)}`), {code: 'invalid_argument', message: /nests too deeply/});
  });

  it('are limited in length, since compiling takes time as well', () => {
    for (const piece of ['a', '(', '|', 'a*', '(?i)\\pL', '[^a]', '[a']) {
      const started = performance.now();
      try {
        compile(piece.repeat(16_384 / piece.length))('a');
      } catch (err) {
        assert.ok(isErrdefs(err) && err.code === 'invalid_argument', String(err));
      }
      assert.ok(performance.now() - started < 5000, piece);
      assert.throws(() => compile(piece.repeat(20_000)), {code: 'invalid_argument', message: /expression too large/});
    }
  });

  it('match and fail as in Go, on generated patterns', () => {
    for (const {pattern, texts, answers, error} of GO) {
      if (error !== undefined) assert.throws(() => compile(pattern), {message: `${error}: invalid argument`}, pattern);
      else assert.deepEqual(texts.map(compile(pattern)), answers, JSON.stringify({pattern, texts}));
    }
  });

  it('take a short time for any pattern and text', () => {
    // The text begins with the pattern's last letter, so that a search for that letter does not answer at once.
    for (const pattern of ['^b?(a+)+$', '(a|a)*b$', '^(.*a){25}$', '(a+a+)+b$', '(?:a?){200}a{200}b$', '[ab]*a[ab]{500}c?b$'])
      for (const piece of ['a', 'aab', 'abbabaaab']) {
        const matches = compile(pattern);
        const started = performance.now();
        matches(`b${piece.repeat(4000 / piece.length)}!`);
        assert.ok(performance.now() - started < 10_000, pattern);
      }
  });

  it("agree with JavaScript's where both know the syntax", () => {
    const atom = fc.constantFrom('a', 'b', '.', '[ab]', '[^a]', '\\d', '\\w', '\\b', '^', '$', 'é', '\\.', '');
    const {pattern} = fc.letrec<{pattern: string}>((tie) => ({
      pattern: fc.oneof(
        {maxDepth: 4},
        atom,
        fc.tuple(tie('pattern'), tie('pattern')).map(([a, b]) => a + b),
        fc.tuple(tie('pattern'), tie('pattern')).map(([a, b]) => `(?:${a}|${b})`),
        fc.tuple(tie('pattern'), fc.constantFrom('*', '+', '?', '{2}', '{1,3}', '{0,1}?')).map(([a, op]) => `(?:${a})${op}`),
      ),
    }));
    fc.assert(
      fc.property(pattern, fc.string({unit: fc.constantFrom('a', 'b', '1', '.', 'é', '\n', ' '), maxLength: 6}), (p, text) => {
        assert.equal(compile(p)(text), new RegExp(p, 'u').test(text), `${p} in ${JSON.stringify(text)}`);
      }),
      {seed: 7, numRuns: 5000},
    );
  });

  it('are compiled or refused as an invalid argument, whatever the text', () => {
    fc.assert(
      fc.property(fc.string({unit: fc.constantFrom(...'ab()[]{}?*+|^$\\.-:=<>PpQE1,xid'.split('')), maxLength: 12}), (pattern) => {
        try {
          assert.equal(typeof compile(pattern)('ab'), 'boolean');
        } catch (err) {
          assert.ok(isErrdefs(err) && err.code === 'invalid_argument', String(err));
        }
      }),
      {seed: 8, numRuns: 5000},
    );
  });
});
