/** Versions and constraints of `sync`: a table from Masterminds' documentation, and npm's semver where the two mean the same. */
import assert from 'node:assert/strict';
import {createRequire} from 'node:module';
import {describe, it} from 'node:test';
import {compareVersions, parseConstraint, parseVersion} from '../../../src/lib/client/copy/semver.ts';
import {randomOf} from '../../fuzz/seeded-random.ts';
import {is, SAMPLE, TORTURE} from '../../support/helpers.ts';

/** A dependency of oclif. */
const semver = createRequire(import.meta.url)('semver') as {
  compare(a: string, b: string): number;
  satisfies(version: string, range: string): boolean;
};

const ROUNDS = TORTURE ? 100_000 : 3000;

describe('versions', () => {
  it('are ordered as by npm', () => {
    for (let round = 0; round < ROUNDS; round++) {
      const {below, pick} = randomOf(SAMPLE, round);
      const version = (): string =>
        `${below(3)}.${below(3)}.${below(3)}${pick(['', '', '-1', '-2', '-10', '-a', '-a.1', '-a.b', '-rc.1', '-rc.2'])}`;
      const [a, b] = [version(), version()];
      assert.equal(Math.sign(compareVersions(parseVersion(a)!, parseVersion(b)!)), semver.compare(a, b), `${a} ${b}`);
    }
  });

  it('have missing numbers, and a leading v', () => {
    for (const [text, same] of [
      ['1', '1.0.0'],
      ['v1.2', '1.2.0'],
      ['1.2-rc1', '1.2.0-rc1'],
      ['1.2.3+build', '1.2.3'],
    ] as const)
      assert.equal(compareVersions(parseVersion(text)!, parseVersion(same)!), 0, text);
    for (const text of ['', 'latest', '1.2.3.4', 'x1', '1.', '1.2.3-', 'a.b.c']) assert.equal(parseVersion(text), undefined, text);
  });
});

describe('constraints', () => {
  it('are met as by npm, without pre-releases', () => {
    for (let round = 0; round < ROUNDS; round++) {
      const {below, pick} = randomOf(SAMPLE + 1, round);
      const partial = (): string => pick([`${below(3)}`, `${below(3)}.${below(3)}`, `${below(3)}.${below(3)}.${below(3)}`]);
      const word = (): string =>
        pick(['', '=', '>', '>=', '<', '<=', '~', '^']) + pick([partial(), partial(), `${below(3)}.x`, `${below(3)}.${below(3)}.x`]);
      const alternative = (): string => pick([word(), `${word()} ${word()}`, `${partial()} - ${partial()}`]);
      const constraint = pick([alternative(), `${alternative()} || ${alternative()}`]);
      const version = `${below(3)}.${below(3)}.${below(3)}`;
      assert.equal(
        parseConstraint(constraint)(parseVersion(version)!),
        semver.satisfies(version, constraint),
        `${version} meets ${constraint}`,
      );
    }
  });

  for (const [constraint, met, unmet] of [
    ['>= 1.2, < 3.0.0 || >= 4.2.3', ['1.2.0', '2.9.9', '4.2.3'], ['1.1.9', '3.0.0', '4.2.2']],
    ['!=1.2', ['1.1.0', '1.3.0'], ['1.2.0', '1.2.9']],
    ['!=1.2.3', ['1.2.4'], ['1.2.3']],
    ['1.2 - 1.4.5', ['1.2.0', '1.4.5'], ['1.4.6']],
    ['1.2.x', ['1.2.0', '1.2.9'], ['1.3.0']],
    ['>= 1.2.x', ['1.2.0', '9.0.0'], ['1.1.9']],
    ['<= 2.x', ['2.9.0', '0.0.1'], ['3.0.0']],
    ['*', ['0.0.0', '9.9.9'], []],
    ['~1.2.3', ['1.2.3', '1.2.9'], ['1.3.0']],
    ['~1', ['1.0.0', '1.9.0'], ['2.0.0']],
    ['^1.2.3', ['1.9.0'], ['2.0.0', '1.2.2']],
    ['^0.2.3', ['0.2.9'], ['0.3.0']],
    ['^0.0.3', ['0.0.3'], ['0.0.4']],
    ['^0', ['0.9.0'], ['1.0.0']],
    ['>=1.2', ['1.2.0'], ['1.3.0-rc1']],
    ['>=1.2.0-0', ['1.3.0-rc1', '1.2.0'], ['1.1.0']],
    ['=> 1.0', ['1.0.0'], ['0.9.0']],
  ] as const)
    it(constraint, () => {
      const test = parseConstraint(constraint);
      for (const version of met) assert.ok(test(parseVersion(version)!), `${version} meets it`);
      for (const version of unmet) assert.ok(!test(parseVersion(version)!), `${version} does not meet it`);
    });

  for (const text of ['', ' ', 'latest', '>', '1.2.3.4', '>= a', '1 ||', '~~1'])
    it(`${JSON.stringify(text)} is refused`, () => assert.throws(() => parseConstraint(text), is('invalid_argument')));
});
