import assert from 'node:assert/strict';
import {describe, it} from 'node:test';
import {splitArgv} from '../../src/cli/argv.ts';
import {GLOBAL_FLAGS} from '../../src/cli/flags.ts';
import Run from '../../src/commands/run.ts';
import {is} from '../helpers.ts';

const flags = {...GLOBAL_FLAGS, ...Run.flags};
const split = (line: string, positionals: number) => splitArgv(line.split(' '), flags, positionals);

describe('what a command passes on', () => {
  const lines: readonly [line: string, head: string, tail: string][] = [
    ['img id', 'img id', ''],
    ['--rm img id sh -c x --json --help', '--rm img id', 'sh -c x --json --help'],
    // Values of flags are no positionals, however they are attached.
    ['--env A=b -e C -u1:2 --user 3 --cwd=/x img id a', '--env A=b -e C -u1:2 --user 3 --cwd=/x img id', 'a'],
    ['img --rm id --rm', 'img --rm id', '--rm'],
    ['img id -- a', 'img id', '-- a'],
    ['-- img id a', 'img id', 'a'],
    ['img id a b a b', 'img id', 'a b a b'],
    ['--nope img id a', '--nope img id', 'a'],
    ['img', 'img', ''],
    ['--env', '--env', ''],
  ];
  for (const [line, head, tail] of lines)
    it(line, () => {
      const got = split(line, 2);
      assert.deepEqual([got.head.join(' '), got.tail.join(' ')], [head, tail]);
    });

  it('is nothing without a bound', () => {
    const got = split('a b c -- --json d', Number.POSITIVE_INFINITY);
    assert.deepEqual(got.head, ['a', 'b', 'c', '--', '--json', 'd']);
    assert.deepEqual(got.tail, []);
  });
});

describe('what must be known before the rest parses', () => {
  const known = (line: string) => {
    const {help, json} = split(line, 2);
    return {help, json};
  };
  it('finds --json and --help among the flags', () => assert.deepEqual(known('--json -h img'), {help: true, json: true}));
  it('not in what is passed on', () => assert.deepEqual(known('img id --json --help'), {help: false, json: false}));
  it('not after --', () => assert.equal(splitArgv(['--', '--json', '--help'], flags, Number.POSITIVE_INFINITY).json, false));
});

describe('boolean flags as Go programs take them', () => {
  it('=true is the flag', () => assert.deepEqual(split('--rm=true -t=true img', 2).head, ['--rm', '-t', 'img']));
  it('=false is nothing', () => assert.deepEqual(split('--rm=false img', 2).head, ['img']));
  it('--json=true is known early', () => assert.equal(split('--json=true img', 2).json, true));
  it('--json=false too', () => assert.equal(split('--json=false img', 2).json, false));
  it('anything else is refused', () => assert.throws(() => split('--rm=maybe img', 2), is('invalid_argument')));
});
