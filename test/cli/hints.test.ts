/** Commands in hints: by the name of the program that was started, and as they can be typed. */
import assert from 'node:assert/strict';
import {readdirSync, readFileSync} from 'node:fs';
import {join} from 'node:path';
import {describe, it, type TestContext} from 'node:test';
import {typedHere} from '../../src/cli/report-error.ts';
import {whereOf} from '../../src/cli/run-command-line.ts';
import {COMMANDS} from '../../src/commands/index.ts';
import {berth} from '../../src/lib/berth-command.ts';
import type {ErrorJSON} from '../../src/lib/errdefs.ts';
import {digestOf, type FakeRegistry, startFakeRegistry} from '../fakes/registry.ts';
import {requiresRoot, slow, temporaryDirectory} from '../support/helpers.ts';
import {ARCHITECTURE} from '../support/layouts.ts';
import {file, tar} from '../support/tartest.ts';
import {type CommandLine, commandLine, forEachEngine, root} from './harness.ts';
import {assertNamed, commandsIn, runHint} from './hints.ts';

describe('commands in texts', () => {
  const {commands, aliases} = COMMANDS;
  const ids = [...Object.keys(commands), ...Object.values(aliases).flat()].filter((id) => id.includes(' '));
  /** Two words that are a command, and no part of another word, a key or a path. */
  const command = new RegExp(`(?<![\\w/-])(?:${ids.join('|')})(?![\\w/-])`, 'g');

  it('are called berth in all of the library, so that they can be printed by another name', () => {
    const wrong: string[] = [];
    const library = readdirSync(join(root, 'src/lib'), {recursive: true, encoding: 'utf8'}).filter((path) => path.endsWith('.ts'));
    for (const path of [...library.map((name) => `src/lib/${name}`), 'src/cli/unsupported-flags.ts', 'src/cli/resolve-command.ts'])
      for (const [i, line] of readFileSync(join(root, path), 'utf8').split('\n').entries()) {
        if (/^\s*(?:\/?\*|\/\/|import |detail: )/.test(line)) continue;
        if (/['"`: ](?:ctr|dist) [a-z-]/.test(line)) wrong.push(`${path}:${i + 1}: ${line.trim()}`);
        for (const {index} of line.matchAll(command))
          if (!/berth[ `](?:-n \S+ )?$/.test(line.slice(0, index))) wrong.push(`${path}:${i + 1}: ${line.trim()}`);
      }
    assert.deepEqual(wrong, []);
  });

  it('are quoted for sh', () => {
    assert.equal(berth`images unmount ${'/mnt/a b'}`, "berth images unmount '/mnt/a b'");
    assert.equal(berth`rm ${['a', "b'c", '']}`, "berth rm a 'b'\\''c' ''");
  });

  const text = 'pull it: berth -n foo images pull x, or "berth images ls"; berth has none';
  for (const [argv, expected] of [
    [[], 'pull it: ctr -n foo images pull x, or "ctr images ls"; berth has none'],
    [['-n', 'foo'], 'pull it: ctr -n foo images pull x, or "ctr -n foo images ls"; berth has none'],
    [
      ['-n', 'bar', '--root=/a b'],
      "pull it: ctr --root '/a b' -n foo images pull x, or \"ctr --root '/a b' -n bar images ls\"; berth has none",
    ],
    [['--state', '/s', 'images'], 'pull it: ctr --state /s -n foo images pull x, or "ctr --state /s images ls"; berth has none'],
  ] as const)
    it(`after ${['ctr', ...argv].join(' ')}`, () => assert.equal(typedHere(text, whereOf('ctr', argv)), expected));

  it('leave out the namespace that the environment gives', () => {
    const here = {program: 'ctr', flags: [], namespace: 'foo'};
    assert.equal(typedHere('pull it: berth -n foo images pull x', here), 'pull it: ctr images pull x');
    assert.equal(typedHere('pull it: berth -n bar images pull x', here), 'pull it: ctr -n bar images pull x');
    assert.equal(typedHere('pull it: berth -n foo images pull x', {...here, givenNamespace: 'foo'}), 'pull it: ctr -n foo images pull x');
  });
});

/** A registry with `app:1`, for this machine and for another one, made from `base:1`, which has the same lowest layer. */
function addImages(registry: FakeRegistry): void {
  const layers = ['base', 'app'].map((name) => tar(file(name, name)));
  const config = (architecture: string, count: number): object => ({
    architecture,
    os: 'linux',
    rootfs: {type: 'layers', diff_ids: layers.slice(0, count).map((layer) => digestOf(layer))},
  });
  registry.addImage('base', '1', layers.slice(0, 1), config(ARCHITECTURE, 1));
  const manifests = [ARCHITECTURE, 's390x'].map((architecture) => ({
    ...registry.addImage('app', architecture, layers, config(architecture, 2)).manifest,
    platform: {os: 'linux', architecture},
  }));
  registry.addIndex('app', '1', manifests);
}

interface Lack {
  readonly name: string;
  readonly prepare?: (call: CommandLine['ok'], host: string) => Promise<unknown>;
  readonly fails: (host: string, directory: string) => readonly string[];
  readonly requires?: (t: TestContext) => boolean;
}

const pulled =
  (...words: readonly string[]): NonNullable<Lack['prepare']> =>
  (ok, host) =>
    ok(['pull', '--progress', 'none', ...words, `${host}/app:1`]);

const LACKS: readonly Lack[] = [
  {name: 'an image', fails: (host, directory) => ['images', 'export', `${directory}/out.tar`, `${host}/app:1`]},
  {
    name: 'platforms of an image to export',
    prepare: pulled('--no-unpack'),
    fails: (host, directory) => ['images', 'export', '--all-platforms', `${directory}/out.tar`, `${host}/app:1`],
  },
  {
    name: 'a platform of an image to push',
    prepare: pulled('--no-unpack'),
    fails: (host) => ['push', '--progress', 'none', '--platform', 'linux/s390x', `${host}/other:1`, `${host}/app:1`],
  },
  {
    name: 'parts of an image to push',
    prepare: pulled('--no-unpack'),
    fails: (host) => ['push', '--progress', 'none', `${host}/other:1`, `${host}/app:1`],
  },
  {
    name: 'layers of an image',
    requires: requiresRoot,
    prepare: async (ok, host) => {
      await pulled('--no-unpack')(ok, host);
      await ok(['content', 'rm', digestOf(tar(file('base', 'base')))]);
    },
    fails: (host, directory) => ['unpack', `${host}/app:1`, `${directory}/bundle`],
  },
];

forEachEngine('the command of a hint', (engine) => {
  for (const {name, prepare, fails, requires} of LACKS)
    it(`that names ${name} ends the failure, with the flags that the command line had`, async (t) => {
      if (engine === 'node' && !slow(t)) return;
      if (requires?.(t) === false) return;
      const registry = await startFakeRegistry(t);
      addImages(registry);
      const directory = temporaryDirectory(t);
      const ctr = commandLine(t, engine, 'berth');
      const {BERTH_ROOT: _, BERTH_STATE: __, ...env} = ctr.env;
      const place = ['--root', join(directory, 'the root'), '--state', join(directory, 'state'), '--namespace', 'foo'];
      const call = ((args, options) => ctr([...place, ...args], options)) as CommandLine;
      await prepare?.((args) => ctr.ok([...place, ...args]), registry.host);
      const words = fails(registry.host, directory);
      const {stderr, status} = await call(['--json', ...words]);
      assert.notEqual(status, 0);
      const {error} = JSON.parse(stderr) as {error: ErrorJSON};
      assertNamed('berth', error.hint!);
      const [typed = '', ...more] = commandsIn(error.hint!);
      assert.deepEqual(more, []);
      const pull = await runHint(typed, env);
      assert.equal(pull.status, 0, `${typed}: ${pull.stderr}`);
      const again = await call(words);
      assert.equal(again.status, 0, again.stderr);
    });
});
