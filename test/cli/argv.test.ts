import assert from 'node:assert/strict';
import {describe, it} from 'node:test';
import {canonicalWords, plainValue, splitArgv} from '../../src/cli/argv.ts';
import {GLOBAL_FLAGS} from '../../src/cli/flags.ts';
import Run from '../../src/commands/run.ts';

const flags = {...GLOBAL_FLAGS, ...Run.flags};
const split = (line: string, bound: number) => splitArgv(line.split(' '), flags, bound);
const words = (line: string, bound: number): string => canonicalWords(split(line, bound)).map(plainValue).join(' ');

describe('what a command passes on', () => {
  const lines: readonly [line: string, own: string, tail: string][] = [
    ['img id', '-- img id', ''],
    ['--rm img id sh -c x --json --help', '--rm -- img id', 'sh -c x --json --help'],
    // Values of flags are no positionals, however they are attached.
    ['--env A=b -e C -u1:2 --cwd=/x img id a', '--env A=b --env C --user 1:2 --cwd /x -- img id', 'a'],
    ['-tu guest img id a', '--tty --user guest -- img id', 'a'],
    ['img --rm id --rm', '--rm -- img id', '--rm'],
    ['img id -- a', '-- img id', '-- a'],
    ['-- img id a', '-- img id', 'a'],
    ['img id a b a b', '-- img id', 'a b a b'],
    ['--nope img id a', '-- img id', 'a'],
    ['img', '-- img', ''],
    ['- id x', '-- - id', 'x'],
  ];
  for (const [line, own, tail] of lines) it(line, () => assert.deepEqual([words(line, 2), split(line, 2).tail.join(' ')], [own, tail]));

  it('is nothing without a bound', () => {
    const got = split('a b c -- --json d', Number.POSITIVE_INFINITY);
    assert.deepEqual(got.positionals, ['a', 'b', 'c', '--json', 'd']);
    assert.deepEqual(got.tail, []);
  });
});

describe('what must be known before the rest parses', () => {
  const known = (line: string) => {
    const got = split(line, 2).flags;
    return [got.get('help') === true, got.get('json') === true];
  };
  it('finds --json and --help among the flags', () => assert.deepEqual(known('--json -h img'), [true, true]));
  it('beside what is wrong', () => assert.deepEqual(known('--nope --timeout --json img'), [false, true]));
  it('not in what is passed on', () => assert.deepEqual(known('img id --json --help'), [false, false]));
  it('not after --', () => assert.equal(splitArgv(['--', '--json'], flags, Number.POSITIVE_INFINITY).flags.get('json'), undefined));
});

describe('boolean flags as Go programs take them', () => {
  it('=true is the flag', () => assert.equal(words('--rm=true -t=true img', 2), '--rm --tty -- img'));
  it('=false is nothing', () => assert.equal(words('--rm --rm=false img', 2), '-- img'));
  it('anything else is refused', () => assert.equal(split('--rm=maybe img', 2).error?.code, 'invalid_argument'));
});
