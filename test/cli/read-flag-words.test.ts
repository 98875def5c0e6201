import assert from 'node:assert/strict';
import {describe, it} from 'node:test';
import {splitArgv} from '../../src/cli/read-flag-words.ts';
import {GLOBAL_FLAGS} from '../../src/cli/shared-flags.ts';
import Run from '../../src/commands/run.ts';

const flags = {...GLOBAL_FLAGS, ...Run.flags};
const split = (line: string, bound: number) => splitArgv(line.split(' '), flags, {bound});

/** The flags and positionals of a line in one form. */
function words(line: string, bound: number): string {
  const {flags: given, positionals} = split(line, bound);
  const long = [...given].flatMap(([name, value]) =>
    typeof value === 'boolean' ? (value ? [`--${name}`] : []) : value.flatMap((text) => [`--${name}`, text]),
  );
  return [...long, '--', ...positionals].join(' ');
}

describe('words after the positionals', () => {
  const lines: readonly [line: string, own: string, tail: string][] = [
    ['img id', '-- img id', ''],
    ['--rm img id sh -c x --json --help', '--rm -- img id', 'sh -c x --json --help'],
    // Values of flags are not positionals, however they are attached.
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

  it('are none without a bound', () => {
    const got = split('a b c -- --json d', Number.POSITIVE_INFINITY);
    assert.deepEqual(got.positionals, ['a', 'b', 'c', '--json', 'd']);
    assert.deepEqual(got.tail, []);
  });
});

describe('--json and --help', () => {
  const known = (line: string) => {
    const got = split(line, 2).flags;
    return [got.get('help') === true, got.get('json') === true];
  };
  it('are found among the flags', () => assert.deepEqual(known('--json -h img'), [true, true]));
  it('are found beside errors', () => assert.deepEqual(known('--nope --timeout --json img'), [false, true]));
  it('are not looked for in the tail', () => assert.deepEqual(known('img id --json --help'), [false, false]));
  it('are not looked for after --', () => assert.equal(splitArgv(['--', '--json'], flags).flags.get('json'), undefined));
});

describe('boolean flags as Go programs take them', () => {
  it('=true is the flag', () => assert.equal(words('--rm=true -t=true img', 2), '--rm --tty -- img'));
  it('=false is nothing', () => assert.equal(words('--rm --rm=false img', 2), '-- img'));
  it('anything else is refused', () => assert.equal(split('--rm=maybe img', 2).error?.code, 'invalid_argument'));
});
