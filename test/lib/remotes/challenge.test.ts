import assert from 'node:assert/strict';
import {describe, it} from 'node:test';
import fc from 'fast-check';
import {parseChallenges} from '../../../src/lib/remotes/challenge.ts';

const read = (header: string | readonly string[] | undefined): unknown =>
  parseChallenges(header).map(({scheme, params}) => [scheme, Object.fromEntries(params)]);

const REALM = 'https://auth.docker.io/token';

describe('WWW-Authenticate', () => {
  for (const [title, header, expected] of [
    ['nothing', undefined, []],
    ['an empty header', '', []],
    [
      'one scope, as containerd has it',
      `Bearer realm="${REALM}",service="registry.docker.io",scope="repository:library/hello:pull,push"`,
      [['bearer', {realm: REALM, service: 'registry.docker.io', scope: 'repository:library/hello:pull,push'}]],
    ],
    [
      'two scopes in one value',
      `Bearer realm="${REALM}",scope="repository:a:pull,push repository:b:pull"`,
      [['bearer', {realm: REALM, scope: 'repository:a:pull,push repository:b:pull'}]],
    ],
    ['unquoted values and blanks around the sign', 'Bearer realm = abc , service=\tdef', [['bearer', {realm: 'abc', service: 'def'}]]],
    ['escapes in a quoted value', 'Basic realm="say \\"hi\\\\\\"", charset="UTF-8"', [['basic', {realm: 'say "hi\\"', charset: 'UTF-8'}]]],
    ['a comma and a scheme in a quoted value', 'Basic realm="a, Bearer realm=b"', [['basic', {realm: 'a, Bearer realm=b'}]]],
    [
      'two challenges in one header',
      'Basic realm="x", Bearer realm="y",service="z"',
      [
        ['basic', {realm: 'x'}],
        ['bearer', {realm: 'y', service: 'z'}],
      ],
    ],
    [
      'two headers',
      ['Basic realm="x"', 'Bearer realm="y"'],
      [
        ['basic', {realm: 'x'}],
        ['bearer', {realm: 'y'}],
      ],
    ],
    [
      'schemes without parameters, and with a token68',
      'Negotiate, NTLM TlRMTVNTUAAC==, Basic realm="x"',
      [
        ['negotiate', {}],
        ['ntlm', {}],
        ['basic', {realm: 'x'}],
      ],
    ],
    ['schemes and names in any case', 'bEARER REALM="y"', [['bearer', {realm: 'y'}]]],
    ['empty list elements', ', ,Bearer ,realm="y",, service="z",', [['bearer', {realm: 'y', service: 'z'}]]],
    ['the first of a repeated parameter', 'Bearer realm="good",realm="bad"', [['bearer', {realm: 'good'}]]],
    [
      'what comes before an unclosed quote',
      'Bearer realm="y",service="z',
      [
        ['bearer', {realm: 'y'}],
        ['service', {}],
      ],
    ],
    ['no prototype', 'Bearer __proto__="x",constructor="y"', [['bearer', JSON.parse('{"__proto__":"x","constructor":"y"}')]]],
  ] as const)
    it(`reads ${title}`, () => assert.deepEqual(read(header), expected));

  it('reads anything, and in no time', () => {
    fc.assert(
      fc.property(fc.string({unit: fc.constantFrom(...'aB=", \\\t\u00e9()'), maxLength: 200}), (text) => {
        for (const {scheme, params} of parseChallenges(text)) {
          assert.equal(scheme, scheme.toLowerCase());
          for (const name of params.keys()) assert.match(name, /^[!#$%&'*+.^_`|~0-9a-z-]+$/);
        }
      }),
      {seed: 1},
    );
    for (const text of ['"', 'a ', 'a="', 'a=b,', '\\', 'a="\\']) parseChallenges(`Bearer ${text.repeat(16_384)}`);
  });
});
