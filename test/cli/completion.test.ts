/** Completions of command lines: what berth answers for every command, and what real shells make of it. */
import assert from 'node:assert/strict';
import {execFileSync} from 'node:child_process';
import {mkdirSync, writeFileSync} from 'node:fs';
import {join} from 'node:path';
import {Readable} from 'node:stream';
import {after, before, describe, it} from 'node:test';
import {ARGUMENT_KINDS, kindOfArgument} from '../../src/cli/complete.ts';
import {GLOBAL_FLAGS} from '../../src/cli/shared-flags.ts';
import {COMMANDS} from '../../src/commands/index.ts';
import {openClient} from '../../src/lib/client/index.ts';
import {fileScope} from '../e2e/fixtures.ts';
import {digestOf, startFakeRegistry} from '../fakes/registry.ts';
import {requiresProgram, temporaryDirectory} from '../support/helpers.ts';
import {file, tar} from '../support/tartest.ts';
import {root as checkout} from './harness.ts';
import {ctrHere, type Place} from './run-in-process.ts';

const scope = fileScope();
const place: Place = {root: join(temporaryDirectory(scope), 'root'), state: join(temporaryDirectory(scope), 'state')};
const BYTES = Buffer.from('bytes');
let ref = '';

before(async () => {
  const registry = await startFakeRegistry({after});
  const layer = tar(file('a', 'b'));
  registry.addImage('app', 'v1', [layer], {architecture: 'amd64', os: 'linux', rootfs: {type: 'layers', diff_ids: [digestOf(layer)]}});
  ref = `${registry.host}/app:v1`;
  const client = openClient({...place});
  const foo = client.namespace('foo');
  await foo.pull(ref, {unpack: false, platforms: ['linux/amd64']});
  await foo.content.ingest('key', Readable.from([BYTES]));
  await foo.leases.create({id: 'lease1'});
  await foo.snapshots('native').prepare('snap1');
  await client.namespace('bar').content.ingest('key', Readable.from([BYTES]));
  await client.close();
});

async function answers(...words: readonly string[]): Promise<{readonly values: readonly string[]; readonly shell: string}> {
  const {status, stdout, stderr} = await ctrHere(place, []).then(() => complete(words));
  assert.deepEqual({status, stderr}, {status: 0, stderr: ''});
  const lines = stdout.trimEnd().split('\n');
  const shell = lines.pop()!;
  assert.match(shell, /^:(?:files|directories)?$/);
  return {values: lines.map((line) => line.split('\t', 1)[0]!), shell: shell.slice(1)};
}

async function complete(words: readonly string[]) {
  const {runCommandLine} = await import('../../src/cli/run-command-line.ts');
  let stdout = '';
  let stderr = '';
  const {status} = await runCommandLine(['__complete', ...words], COMMANDS, {
    program: 'ctr',
    stdout: (data) => {
      stdout += Buffer.from(data as string).toString();
    },
    stderr: (text) => {
      stderr += text;
    },
    open: async (options) => openClient({...place, ...options}),
  });
  return {status, stdout, stderr};
}

describe('completions', () => {
  it('are every command, verb and flag', async () => {
    const first = new Set((await answers('')).values);
    for (const [id, load] of Object.entries(COMMANDS.commands)) {
      const [topic, verb] = id.split(' ') as [string, string?];
      assert.ok(first.has(topic), topic);
      if (verb !== undefined) assert.ok((await answers(topic, '')).values.includes(verb), id);
      const {flags} = (await load()).default;
      const expected = Object.entries({...GLOBAL_FLAGS, ...flags}).flatMap(([name, {hidden}]) => (hidden ? [] : [`--${name}`]));
      assert.deepEqual([...(await answers(...id.split(' '), '-')).values].sort(), expected.sort(), id);
    }
  });

  it('of an argument are decided, and none is decided that does not exist', async () => {
    const used = new Set<string>();
    const open: string[] = [];
    for (const [id, load] of Object.entries(COMMANDS.commands))
      for (const [name, {options}] of Object.entries((await load()).default.args) as [string, {options?: unknown}][]) {
        if (options !== undefined) continue;
        const [topic] = id.split(' ');
        const key = [`${id} ${name}`, `${topic} ${name}`].find((one) => Object.hasOwn(ARGUMENT_KINDS, one));
        if (key === undefined) open.push(`${id} ${name}`);
        else used.add(key);
        assert.equal(typeof kindOfArgument(id, name), 'string');
      }
    assert.deepEqual(
      Object.keys(ARGUMENT_KINDS).filter((key) => !used.has(key)),
      [],
    );
    // A new name, a reference at a registry, a filter, labels.
    assert.deepEqual(
      open.filter((one) => !/ (?:filter|label|ref|registry|repository|target|type|remote|destination|key|match|what|name|id)$/.test(one)),
      [],
    );
  });

  it('are what the namespace has', async () => {
    const digest = digestOf(BYTES);
    for (const [words, expected] of [
      [['-n', 'foo', 'images', 'rm', ''], [ref]],
      [['-n=foo', 'i', 'tag', ''], [ref]],
      [['images', 'rm', '--namespace', 'foo', ''], [ref]],
      [['-n', 'foo', 'images', 'rm', ref, ''], []],
      [['images', 'rm', ''], []],
      [['-n', 'foo', 'diff', ''], [ref]],
      [['-n', 'bar', 'content', 'get', 'sha256:'], [digest]],
      [['-n', 'bar', 'content', 'push-object', 'r.example/x', 'sha256:'], [digest]],
      [['-n', 'foo', 'leases', 'rm', 'l'], ['lease1']],
      [['-n', 'foo', 'snapshots', '--snapshotter', 'native', 'info', ''], ['snap1']],
      [['-n', 'foo', 'snapshots', 'rm', '--snapshotter', 'native', 's'], ['snap1']],
      [
        ['-n', ''],
        ['bar', 'foo'],
      ],
      [
        ['images', 'ls', '--namespace='],
        ['--namespace=bar', '--namespace=foo'],
      ],
      [['images', 'ls', '-n', 'f'], ['foo']],
      [
        ['run', '--pull', 'n'],
        ['never', 'newer'],
      ],
      [['prune', 'images', 'im'], []],
      [['prune', '--', 'im'], ['images']],
      [
        ['pull', '--platform', 'linux/arm'],
        ['linux/arm64', 'linux/arm/v7'],
      ],
      [['-n', 'foo', 'run', ref, 'c1', ''], []],
      [['no-such-command', ''], []],
      [['images', 'ls', '--no-such-flag', '--js'], ['--json']],
    ] as const)
      assert.deepEqual((await answers(...words)).values, expected, words.join(' '));
    for (const [words, shell] of [
      [['images', 'import', ''], 'files'],
      [['content', 'push-object', 'r.example/x', './'], 'files'],
      [['copy', 'oci:'], 'files'],
      [['cp', 'r1:/'], 'files'],
      [['cp', ''], 'files'],
      [['--root', ''], 'directories'],
      [['images', 'mount', ref, ''], 'directories'],
    ] as const)
      assert.deepEqual(await answers(...words), {values: [], shell}, words.join(' '));
  });

  it('change nothing, and say nothing of a store that cannot be read', async (t) => {
    const nowhere = temporaryDirectory(t);
    assert.deepEqual((await complete(['--root', join(nowhere, 'x'), 'images', 'rm', ''])).stdout, ':\n');
    writeFileSync(join(nowhere, 'version'), 'nonsense');
    assert.deepEqual((await complete(['--root', nowhere, 'images', 'rm', ''])).stdout, ':\n');
    assert.deepEqual(execFileSync('ls', ['-A', nowhere], {encoding: 'utf8'}), 'version\n');
  });
});

/** Runs a shell with `ctr` in PATH, on the store. */
const inShell = (program: string, args: readonly string[], directory: string): string =>
  execFileSync(program, args, {
    encoding: 'utf8',
    cwd: directory,
    env: {
      PATH: `${join(checkout, 'bin')}:/usr/local/bin:/usr/bin:/bin`,
      HOME: directory,
      BERTH_ROOT: place.root,
      BERTH_STATE: place.state,
      CONTAINERD_NAMESPACE: 'foo',
      TERM: 'dumb',
    },
  });

/** Lines as they are typed, and what a shell completes them to: the words that it may put in place of the last one. */
const TYPED: readonly (readonly [line: string, () => readonly string[]])[] = [
  ['ctr imag', () => ['images']],
  ['ctr images rm ', () => [ref]],
  ['ctr images rm 127.0.0.1:', () => [ref]],
  ['ctr leases rm l', () => ['lease1']],
  ['ctr run --pull=n', () => ['--pull=never', '--pull=newer']],
  ['ctr images import no', () => ['notes.tar']],
];

describe('completions in', () => {
  const directory = (t: Parameters<typeof temporaryDirectory>[0]): string => {
    const made = temporaryDirectory(t);
    writeFileSync(join(made, 'notes.tar'), '');
    mkdirSync(join(made, 'dir'));
    return made;
  };

  it('bash', (t) => {
    if (!requiresProgram(t, 'bash')) return;
    const at = directory(t);
    for (const [line, expected] of TYPED) {
      const script = `eval "$(ctr completion bash)"; COMP_LINE=$1; COMP_POINT=${'$'}{#1}; _ctr_complete 2>/dev/null
        current=${'$'}{COMP_LINE##* }; kept=${'$'}{current%"${'$'}{current##*[:=]}"}
        for word in "${'$'}{COMPREPLY[@]}"; do printf '%s\\n' "$kept$word"; done`;
      assert.deepEqual(
        inShell('bash', ['--norc', '-c', script, 'bash', line], at).trimEnd().split('\n').sort(),
        [...expected()].sort(),
        line,
      );
    }
  });

  it('fish', (t) => {
    if (!requiresProgram(t, 'fish')) return;
    const at = directory(t);
    for (const [line, expected] of TYPED) {
      const shown = inShell('fish', ['--no-config', '-c', `ctr completion fish | source; complete -C ${JSON.stringify(line)}`], at);
      const words = shown.split('\n').flatMap((row) => (row === '' ? [] : [row.split('\t', 1)[0]!]));
      assert.deepEqual(words.sort(), [...expected()].sort(), line);
    }
  });

  it('zsh', (t) => {
    if (!requiresProgram(t, 'zsh')) return;
    const at = directory(t);
    for (const [line, expected] of TYPED) {
      const [only, ...more] = expected();
      if (more.length > 0) continue;
      // Types the line and a tab into a shell with a terminal of its own, and has the line printed that it made of it.
      const script = `zmodload zsh/zpty
zpty z 'PS1=; zsh -f -i'
zpty -w z 'PS1=; autoload -Uz compinit; compinit -u -D; source <(ctr completion zsh); show() { print -r "<<$BUFFER>>"; zle kill-buffer }; zle -N show; bindkey "^X" show; print READY'
while zpty -r z answer; do [[ $answer == READY* ]] && break; done
zpty -w -n z ${JSON.stringify(line)}$'\\t\\x18'
while zpty -r z answer; do [[ $answer == *'<<'*'>>'* ]] && { print -r -- "$answer"; break; }; done`;
      const shown = /<<(.*)>>/.exec(inShell('zsh', ['-f', '-c', script], at))?.[1]?.replaceAll('\\', '');
      assert.equal(shown?.trimEnd(), `${line.slice(0, line.lastIndexOf(' ') + 1)}${only}`, line);
    }
  });
});
