/**
 * Semantic versions and constraints on them, as `images-by-semver` of `skopeo sync` has them.
 *
 * Grammar after github.com/Masterminds/semver, README.md: `=`, `!=`, `>`, `<`, `>=`, `<=`, `~`, `^`, ranges `1.2 - 1.4`, wildcards `1.2.x`;
 * `,` or a space joins conditions, `||` offers alternatives. A pre-release meets only a condition that names one.
 */
import {ErrdefsError} from '../../errdefs.ts';

export interface Version {
  readonly numbers: readonly [major: number, minor: number, patch: number];
  /** Empty: none. */
  readonly prerelease: readonly string[];
}

const NUMBERS = /^v?(\d{1,15})(?:\.(\d{1,15}))?(?:\.(\d{1,15}))?(?:-([0-9A-Za-z.-]+))?(?:\+[0-9A-Za-z.-]+)?$/;

/** @returns undefined for other text. Missing numbers are 0, a leading `v` is passed over. */
export function parseVersion(text: string): Version | undefined {
  const match = NUMBERS.exec(text);
  if (match === null) return undefined;
  const [, major, minor = '0', patch = '0', prerelease] = match;
  return {numbers: [Number(major), Number(minor), Number(patch)], prerelease: prerelease?.split('.') ?? []};
}

/** Negative when `a` is the older. Rules of precedence after semver.org, 11. */
export function compareVersions(a: Version, b: Version): number {
  for (const [i, number] of a.numbers.entries()) if (number !== b.numbers[i]) return number - b.numbers[i]!;
  if (a.prerelease.length === 0 || b.prerelease.length === 0) return b.prerelease.length - a.prerelease.length;
  for (const [i, left] of a.prerelease.entries()) {
    const right = b.prerelease[i];
    if (right === undefined) return 1;
    if (left === right) continue;
    const [leftNumber, rightNumber] = [left, right].map((part) => (/^\d+$/.test(part) ? Number(part) : undefined));
    if (leftNumber !== undefined && rightNumber !== undefined) return leftNumber - rightNumber;
    // Numbers come before words.
    if (leftNumber !== undefined) return -1;
    if (rightNumber !== undefined) return 1;
    return left < right ? -1 : 1;
  }
  return a.prerelease.length - b.prerelease.length;
}

type Test = (version: Version) => boolean;

const CONDITION =
  /^(=|==|!=|>=|=>|<=|=<|>|<|~>?|\^)?\s*v?(\d{1,15}|[xX*])(?:\.(\d{1,15}|[xX*]))?(?:\.(\d{1,15}|[xX*]))?(?:-([0-9A-Za-z.-]+))?$/;

/**
 * Reads a constraint.
 *
 * @throws invalid_argument
 */
export function parseConstraint(text: string): Test {
  const invalid = (): ErrdefsError => new ErrdefsError('invalid_argument', `version constraint ${JSON.stringify(text)}`);
  const alternatives = text.split('||').map((alternative): readonly Test[] => {
    // Spaces between an operator and its version, and around the dash of a range, join them.
    const joined = alternative
      .replaceAll(/(\S+)\s+-\s+(\S+)/g, '>=$1 <=$2')
      .replaceAll(/([=<>~^!])\s+/g, '$1')
      .trim();
    const words = joined.split(/[\s,]+/).filter((word) => word !== '');
    if (words.length === 0) throw invalid();
    return words.map((word) => parseCondition(word) ?? fail(invalid()));
  });
  return (version) => alternatives.some((tests) => tests.every((test) => test(version)));
}

function fail(err: ErrdefsError): never {
  throw err;
}

function parseCondition(word: string): Test | undefined {
  const match = CONDITION.exec(word);
  if (match === null) return undefined;
  const [, operator = '', ...parts] = match;
  const isGiven = (part: string | undefined): part is string => part !== undefined && /^\d+$/.test(part);
  // What follows a wildcard does not count.
  const given = parts.slice(0, 3).findIndex((part) => !isGiven(part));
  const count = given < 0 ? 3 : given;
  const numbers = [0, 1, 2].map((i) => (i < count ? Number(parts[i]) : 0)) as [number, number, number];
  const prerelease = count === 3 ? (parts[3]?.split('.') ?? []) : [];
  const low: Version = {numbers, prerelease};
  /** The first version after those that begin with the first `n` numbers. */
  const after = (n: number): Version => ({
    numbers: numbers.map((number, i) => (i < n - 1 ? number : i === n - 1 ? number + 1 : 0)) as [number, number, number],
    prerelease: [],
  });
  const atLeast: Test = (version) => compareVersions(version, low) >= 0;
  const below =
    (n: number): Test =>
    (version) =>
      n === 0 || compareVersions(version, after(n)) < 0;
  const within =
    (n: number): Test =>
    (version) =>
      atLeast(version) && below(n)(version);
  const test = ((): Test => {
    switch (operator) {
      case '':
      case '=':
      case '==':
        return count === 3 ? (version) => compareVersions(version, low) === 0 : within(count);
      case '!=':
        return count === 3 ? (version) => compareVersions(version, low) !== 0 : (version) => !within(count)(version);
      case '>':
        return count === 3 ? (version) => compareVersions(version, low) > 0 : (version) => !below(count)(version);
      case '>=':
      case '=>':
        return atLeast;
      case '<':
        return (version) => compareVersions(version, low) < 0;
      case '<=':
      case '=<':
        return count === 3 ? (version) => compareVersions(version, low) <= 0 : below(count);
      case '^': {
        const first = numbers.findIndex((number) => number > 0);
        return within(count === 0 ? 0 : first < 0 ? count : Math.min(first + 1, count));
      }
      default: // ~ and ~>
        return within(Math.min(count, 2));
    }
  })();
  return (version) => (version.prerelease.length === 0 || prerelease.length > 0) && test(version);
}
