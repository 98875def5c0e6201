import assert from 'node:assert/strict';
import {describe, it} from 'node:test';
import type {CommandTable} from '../../src/cli/command-types.ts';
import {canonicalID, resolveCommand} from '../../src/cli/resolve-command.ts';
import {COMMANDS} from '../../src/commands/index.ts';
import {is} from '../support/helpers.ts';

const command = (line: string) => {
  const found = resolveCommand(line === '' ? [] : line.split(' '), COMMANDS);
  assert.equal(found.kind, 'command', line);
  if (found.kind !== 'command') return '';
  const early = found.earlyFlags.map(({name, value}) => `--${name}=${value}`);
  return `${found.id} | ${[...early, ...found.argv].join(' ')}`;
};

describe('command words', () => {
  const same: readonly [string, readonly string[]][] = [
    ['images ls', ['images list', 'image ls', 'i ls', 'i list']],
    ['images rm', ['images remove', 'images delete', 'image del', 'i rm']],
    ['images inspect', ['images i', 'i i', 'image inspect']],
    ['namespaces ls', ['ns ls', 'namespace list']],
    ['namespaces create', ['ns c', 'namespaces c']],
    ['namespaces label', ['namespaces set-labels']],
    ['containers ls', ['c ls', 'container list']],
    ['content rm', ['content delete', 'content del', 'content remove']],
    ['snapshots mounts', ['snapshots m', 'snapshot mount']],
    ['pull', ['images pull', 'image pull', 'i pull']],
  ];
  for (const [id, lines] of same) {
    for (const line of [id, ...lines]) it(`"${line}" is ${id}`, () => assert.equal(command(line), `${id} | `));
  }

  it('no command begins another, so that the first match is the longest', () => {
    const ids = Object.keys(COMMANDS.commands);
    for (const id of ids) for (const other of ids) assert.ok(id === other || !other.startsWith(`${id} `), `${id} begins ${other}`);
  });

  it('every alias leads to a command or topic and hides none', () => {
    const {commands, topics, topicAliases, aliases} = COMMANDS;
    for (const [topic, words] of Object.entries(topicAliases))
      for (const word of words) {
        assert.ok(Object.hasOwn(topics, topic), topic);
        assert.ok(!Object.hasOwn(commands, word) && !Object.hasOwn(topics, word), word);
      }
    for (const [id, lines] of Object.entries(aliases))
      for (const line of lines) {
        assert.ok(Object.hasOwn(commands, id), id);
        assert.ok(!Object.hasOwn(commands, line), line);
        assert.equal(canonicalID(COMMANDS, line.split(' ')), id);
      }
  });
});

describe('flags before the command', () => {
  const lines: readonly [string, string][] = [
    ['-n foo images ls', 'images ls | --namespace=foo'],
    ['-nfoo images ls -q', 'images ls | --namespace=foo -q'],
    ['--namespace=foo --debug images ls', 'images ls | --namespace=foo --debug=true'],
    ['--namespace foo images --json ls x', 'images ls | --namespace=foo --json=true x'],
    ['--timeout 5s pull redis', 'pull | --timeout=5s redis'],
    ['snapshots --snapshotter native ls', 'snapshots ls | --snapshotter=native'],
    // The namespace is called like a command.
    ['-n images ns ls', 'namespaces ls | --namespace=images'],
  ];
  for (const [line, expected] of lines) it(line, () => assert.equal(command(line), expected));

  it('leaves everything after the command alone', () =>
    assert.equal(command('run --rm img id sh -c help --help -v'), 'run | --rm img id sh -c help --help -v'));

  for (const line of ['--nope images ls', '-a x images ls', '--rm run x y', '-qn foo images ls', '--=x images ls'])
    it(`${line} is refused`, () => assert.throws(() => resolveCommand(line.split(' '), COMMANDS), is('invalid_argument')));
});

describe('help and version', () => {
  const lines: readonly [string, ReturnType<typeof resolveCommand>][] = [
    ['', {kind: 'help', id: ''}],
    ['--help', {kind: 'help', id: ''}],
    ['-h', {kind: 'help', id: ''}],
    ['help', {kind: 'help', id: ''}],
    ['images', {kind: 'help', id: 'images'}],
    ['i --help', {kind: 'help', id: 'images'}],
    ['help images list', {kind: 'help', id: 'images ls'}],
    ['images help ls', {kind: 'help', id: 'images ls'}],
    ['--help pull', {kind: 'help', id: 'pull'}],
    ['--version', {kind: 'version'}],
    ['-v', {kind: 'version'}],
  ];
  for (const [line, expected] of lines)
    it(`"${line}"`, () => assert.deepEqual(resolveCommand(line === '' ? [] : line.split(' '), COMMANDS), expected));

  it('docker has shorter names for some', () => {
    for (const [line, expected] of [
      ['ps', 'containers ls | '],
      ['exec a sh', 'tasks exec | a sh'],
      ['logs a', 'tasks logs | a'],
      ['rm a', 'containers rm | a'],
      ['rmi a', 'images rm | a'],
      ['tag a b', 'images tag | a b'],
      ['stop a', 'tasks stop | a'],
    ] as const)
      assert.equal(command(line), expected);
  });

  it('an image may be called help', () => assert.equal(command('pull help'), 'pull | help'));
});

describe('unknown commands', () => {
  const hints: readonly [string, RegExp][] = [
    ['pul x', /did you mean "berth pull"/],
    ['pu x', /^see "berth --help"$/],
    ['x', /^see "berth --help"$/],
    ['gv', /^see "berth --help"$/],
    ['images l', /^see "berth images --help"$/],
    ['images xy', /^see "berth images --help"$/],
    ['build .', /buildah/],
    ['save redis', /^see "berth images export"$/],
    ['images build', /buildah/],
    ['container port r1', /tasks ls --json/],
    ['imges ls', /did you mean "berth images ls"/],
    ['imges lss', /did you mean "berth images"/],
    ['contaner delete x', /did you mean "berth containers rm"/],
    ['imges', /did you mean "berth images"/],
    ['images lss', /did you mean "berth images ls"/],
    ['ns craete', /did you mean "berth namespaces create"/],
    ['pulll redis', /did you mean "berth pull"/],
    ['images frobnicate', /^see "berth images --help"$/],
    ['xyzzy', /^see "berth --help"$/],
    ['constructor', /^see "berth --help"$/],
  ];
  for (const [line, hint] of hints)
    it(line, () =>
      assert.throws(
        () => resolveCommand(line.split(' '), COMMANDS),
        (err: {code: string; hint: string}) => err.code === 'invalid_argument' && hint.test(err.hint),
      ),
    );

  it('suggests from a table of any size', () => {
    const table: CommandTable<true> = {commands: {}, topics: {}, topicAliases: {}, verbAliases: {}, aliases: {}};
    assert.throws(() => resolveCommand(['x'], table), is('invalid_argument'));
  });
});
