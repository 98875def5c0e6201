/** Specifications that are given as a file: what is wrong is named by its field, and what is right stays as it is. */
import assert from 'node:assert/strict';
import {mkdirSync, writeFileSync} from 'node:fs';
import {join} from 'node:path';
import {describe, it} from 'node:test';
import {readGivenSpec} from '../../../src/lib/runtime/given-spec.ts';
import {RootReader} from '../../../src/lib/runtime/path-in-root.ts';
import {is, type Scope, temporaryDirectory} from '../../support/helpers.ts';
import {program} from '../../support/static-programs.ts';

const GIVEN = {
  ociVersion: '1.1.0',
  process: {args: ['/p'], cwd: '/', user: {uid: 7, gid: 8}, env: ['A=b']},
  root: {path: 'tree'},
  mounts: [
    {destination: '/a', type: 'bind', source: 'beside', options: ['ro']},
    {destination: '/b', source: 'beside', options: ['rbind']},
    {destination: '/c', type: 'tmpfs', source: 'tmpfs', options: []},
  ],
  linux: {cgroupsPath: '/of/its/own', namespaces: [{type: 'pid'}]},
  unknown: {kept: true},
};

function given(t: Scope): {directory: string; write: (value: unknown) => string} {
  const directory = temporaryDirectory(t);
  mkdirSync(join(directory, 'tree'));
  writeFileSync(join(directory, 'tree/p'), program('exit'), {mode: 0o755});
  writeFileSync(join(directory, 'tree/text'), '');
  const file = join(directory, 'config.json');
  return {
    directory,
    write: (value) => {
      writeFileSync(file, typeof value === 'string' ? value : JSON.stringify(value));
      return file;
    },
  };
}

/** Path of a field, a value that is wrong there, and what the message names; `undefined` takes the field away. */
const WRONG: readonly (readonly [path: string, value: unknown, named: RegExp])[] = [
  ['process', undefined, /"process.args"/],
  ['process', [], /"process.args"/],
  ['process.args', undefined, /"process.args"/],
  ['process.args', [], /"process.args"/],
  ['process.args', [1], /"process.args"/],
  ['process.cwd', undefined, /"process.cwd"/],
  ['process.cwd', 'tmp', /"process.cwd"/],
  ['process.cwd', '/proc/self/fd/7', /must not be in \/proc/],
  ['process.env', 'A=b', /"process.env"/],
  ['root', undefined, /"root.path"/],
  ['root.path', '', /"root.path"/],
  ['root.path', 1, /"root.path"/],
  ['linux', undefined, /"linux" is missing/],
  ['linux.cgroupsPath', 1, /"linux.cgroupsPath"/],
  ['mounts', {}, /"mounts"/],
  ['mounts', [{}], /"mounts"/],
];

function withField(path: string, value: unknown): unknown {
  const copy = structuredClone(GIVEN) as Record<string, unknown>;
  const [first, second] = path.split('.') as [string, string | undefined];
  const place = second === undefined ? copy : (copy[first] as Record<string, unknown>);
  place[second ?? first] = value;
  return copy;
}

describe('a given specification', () => {
  it('is refused by the field that is wrong', (t) => {
    const {directory, write} = given(t);
    for (const [path, value, named] of WRONG)
      assert.throws(
        () => readGivenSpec(write(withField(path, value)), '/own'),
        (err: Error) => is('invalid_argument')(err) && named.test(err.message),
        `${path}: ${JSON.stringify(value)}`,
      );
    for (const text of ['', '{', 'null', '[]', '"x"'])
      assert.throws(() => readGivenSpec(write(text), '/own'), is('invalid_argument'), text);
    assert.throws(() => readGivenSpec(join(directory, 'absent'), '/own'), is('not_found'));
  });

  it('stays as it is but for its paths, which count from its directory', (t) => {
    const {directory, write} = given(t);
    const read = (value: unknown) => {
      const {root, makeSpec} = readGivenSpec(write(value), '/own');
      assert.equal(root, join(directory, 'tree'));
      return makeSpec(new RootReader(root));
    };
    const beside = join(directory, 'beside');
    const mounts = [{...GIVEN.mounts[0]!, source: beside}, {...GIVEN.mounts[1]!, type: '', source: beside}, GIVEN.mounts[2]];
    assert.deepEqual(read(GIVEN), {...GIVEN, root: {path: join(directory, 'tree')}, mounts});
    const little = read({process: {args: ['/p'], cwd: '/'}, root: {path: join(directory, 'tree')}, linux: {}});
    assert.deepEqual(little, {
      process: {args: ['/p'], cwd: '/', user: {uid: 0, gid: 0}, env: []},
      root: {path: join(directory, 'tree')},
      mounts: [],
      linux: {namespaces: [], cgroupsPath: '/own'},
    });
    assert.throws(() => read(withField('process.args', ['/absent'])), is('not_found'));
    assert.throws(() => read(withField('process.args', ['/text'])), is('permission_denied'));
  });
});
