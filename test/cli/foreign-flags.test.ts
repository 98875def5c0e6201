/** What people type who know ctr, docker, podman, skopeo and umoci: each command and flag means the same here, or is refused by name with what to do instead. */
import assert from 'node:assert/strict';
import {readFileSync} from 'node:fs';
import {join} from 'node:path';
import {describe, it, type TestContext} from 'node:test';
import type {FlagInput} from '@oclif/core/parser';
import type {CommandClass} from '../../src/cli/command-types.ts';
import {foreignFlagHint} from '../../src/cli/foreign-flags.ts';
import {type FlagHints, readFlag} from '../../src/cli/read-flag-words.ts';
import {EARLY_FLAGS, resolveCommand} from '../../src/cli/resolve-command.ts';
import {GLOBAL_FLAGS} from '../../src/cli/shared-flags.ts';
import {UNSUPPORTED_FLAGS} from '../../src/cli/unsupported-flags.ts';
import Checkpoint from '../../src/commands/containers/checkpoint.ts';
import Create from '../../src/commands/containers/create.ts';
import Restore from '../../src/commands/containers/restore.ts';
import RemoveContainer from '../../src/commands/containers/rm.ts';
import {COMMANDS} from '../../src/commands/index.ts';
import Run from '../../src/commands/run.ts';
import CheckpointTask from '../../src/commands/tasks/checkpoint.ts';
import Exec from '../../src/commands/tasks/exec.ts';
import Kill from '../../src/commands/tasks/kill.ts';
import Remove from '../../src/commands/tasks/rm.ts';
import Start from '../../src/commands/tasks/start.ts';
import {ErrdefsError} from '../../src/lib/errdefs.ts';
import {commandsOf, DOCKER_COMMANDS, type ForeignCommand} from '../support/foreign-commands.ts';
import {requiresProgram} from '../support/helpers.ts';
import {root} from './harness.ts';

const words = (text: string): readonly string[] => text.trim().split(/\s+/);

const flags = {...GLOBAL_FLAGS, ...Run.flags};
/** A value that no flag converts: only names matter here. */
const isKnown = (flag: string): boolean => {
  try {
    readFlag([flag, 'x'], 0, flags);
    return true;
  } catch (err) {
    assert.ok(err instanceof ErrdefsError);
    return !err.message.includes('unknown flag');
  }
};

describe('flags of other programs', () => {
  it('that are refused are not refused for nothing', () => {
    for (const [flag, hint] of Object.entries(UNSUPPORTED_FLAGS)) assert.ok(!isKnown(flag), `${flag}: ${hint}`);
  });

  // `--help` of containerd 1.7 and 2.2.
  for (const [command, names] of [
    [Start, '--null-io --log-uri --fifo-dir --pid-file --detach -d'],
    [Checkpoint, '--rw --image --task'],
    [Restore, '--rw --live'],
    [CheckpointTask, '--exit --image-path --work-path'],
    [Exec, '--cwd --tty -t --detach -d --exec-id --fifo-dir --log-uri --user'],
    [Kill, '--signal -s --exec-id --all -a'],
    [Remove, '--force -f --exec-id'],
    [RemoveContainer, '--keep-snapshot'],
    [Create, '--fifo-dir --dump-config'],
  ] as const)
    it(`of ctr's ${command.name} are supported or refused by name`, () => {
      const known = {...GLOBAL_FLAGS, ...command.flags};
      for (const flag of words(names))
        try {
          readFlag([flag, 'x'], 0, known, command.flagHints);
          assert.equal(command.flagHints[flag], undefined, flag);
        } catch (err) {
          assert.ok(err instanceof ErrdefsError && err.hint === command.flagHints[flag] && err.hint !== undefined, `${flag}: ${err}`);
        }
    });
});

const commandOf = async (id: string): Promise<CommandClass> => (await COMMANDS.commands[id]!()).default;

/** The error of a line that is no command here. */
function refusal(line: readonly string[]): ErrdefsError | undefined {
  try {
    resolveCommand(line, COMMANDS);
    return undefined;
  } catch (err) {
    assert.ok(err instanceof ErrdefsError);
    return err;
  }
}

/** The id of the command or topic here; of `content prune references` the last word is an argument. */
function idOf(line: readonly string[]): string {
  const resolved = resolveCommand(line, COMMANDS);
  assert.ok(resolved.kind !== 'version');
  return resolved.id;
}

const read: Readonly<Record<string, () => Promise<readonly ForeignCommand[]>>> = {
  docker: async () => DOCKER_COMMANDS,
  ...Object.fromEntries(
    ['ctr', 'skopeo', 'umoci', 'podman'].map((program) => [
      program,
      memoized(() => commandsOf(program, (line) => line.length > 0 && refusal(line) !== undefined)),
    ]),
  ),
};

function memoized<T>(make: () => Promise<T>): () => Promise<T> {
  let made: Promise<T> | undefined;
  return () => {
    made ??= make();
    return made;
  };
}

/** What a flag means here: our flag; `refused`, with what to do instead; `unknown`. */
async function meaningOf(id: string | undefined, flag: string): Promise<{readonly name: string; readonly takesValue?: boolean}> {
  const {flags: own, flagHints} = id === undefined ? {flags: EARLY_FLAGS, flagHints: {} as FlagHints} : await commandOf(id);
  const known: FlagInput = {...GLOBAL_FLAGS, ...own};
  try {
    const {given} = readFlag([flag, 'x'], 0, known, flagHints);
    assert.equal(given.length, 1, `${flag} is several flags here`);
    return {name: given[0]!.name, takesValue: known[given[0]!.name]!.type === 'option'};
  } catch (err) {
    assert.ok(err instanceof ErrdefsError);
    if (!err.message.includes('unknown flag')) throw err;
    return {name: (flagHints[flag] ?? foreignFlagHint(id ?? 'berth', flag)) === undefined ? 'unknown' : 'refused'};
  }
}

/** Short flags that mean something else here, and what happens. */
const OTHERWISE: readonly (readonly [lines: RegExp, flag: string, meaning: string])[] = [
  // A number is no namespace of anybody, and a command that misses its argument says that -n took it.
  [/ inspect$| logs$| ls$| list$| ps$/, '-n', 'namespace'],
  // As in ctr. A file that does not exist is refused.
  [/ run$| create$/, '-c', 'config'],
  // docker's --timeout is --time here, as in docker before; --timeout is the time limit of the command.
  [/ stop$| restart$/, '-t', 'time'],
  // As everywhere: help. The host name is --hostname.
  [/ run$| create$/, '-h', 'help'],
  // A container that is restored keeps its name.
  [/ restore$/, '-n', 'namespace'],
  // A filter of docker is no filter here, and is refused.
  [/ events$/, '-f', 'follow'],
];

/** Aliases that are other commands here. */
const OTHER_ALIASES = ['umoci rm'];

describe('commands of other programs', () => {
  for (const [program, commands] of Object.entries(read)) {
    const has = (t: TestContext): boolean => program === 'docker' || requiresProgram(t, program);

    it(`of ${program} are ours, or refused by name with what to do`, async (t) => {
      if (!has(t)) return;
      const found = await commands();
      assert.ok(found.length > 10, `${found.length} commands`);
      for (const {line, aliases} of found) {
        const err = refusal(line);
        if (err !== undefined) assert.doesNotMatch(err.hint!, /^see "berth (?:\w+ )?--help"$|^did you mean/, line.join(' '));
        for (const alias of aliases) {
          const other = [...line.slice(0, -1), alias];
          if (OTHER_ALIASES.includes(`${program} ${other.join(' ')}`)) continue;
          if (err === undefined) assert.equal(idOf(other), idOf(line), other.join(' '));
          else assert.doesNotMatch(refusal(other)?.hint ?? '', /^see "berth (?:\w+ )?--help"$|^did you mean|^$/, other.join(' '));
        }
      }
    });

    it(`of ${program} have flags that mean the same here, or are refused by name with what to do`, async (t) => {
      if (!has(t)) return;
      const wrong: string[] = [];
      let count = 0;
      for (const {line, flags: theirs} of await commands()) {
        if (refusal(line) !== undefined) continue;
        const id = line.length === 0 ? undefined : idOf(line);
        if (id !== undefined && !Object.hasOwn(COMMANDS.commands, id)) continue;
        const typed = [program, ...line].join(' ');
        for (const {names, takesValue} of theirs) {
          if (id === undefined && names.some((name) => /^--(?:help|version)$/.test(name))) continue;
          count++;
          const meanings = new Map<string, Awaited<ReturnType<typeof meaningOf>>>();
          for (const name of names) meanings.set(name, await meaningOf(id, name));
          const long = meanings.get(names.find((name) => name.startsWith('--')) ?? names[0]!)!;
          for (const [name, ours] of meanings) {
            if (ours.name === 'refused') continue;
            if (OTHERWISE.some(([lines, flag, meaning]) => flag === name && meaning === ours.name && lines.test(typed))) continue;
            if (ours.name === 'unknown') wrong.push(`${typed} ${name}: unknown`);
            else if (ours.name !== long.name) wrong.push(`${typed} ${name}: is --${ours.name} here, and ${names.join(', ')} there`);
            else if (takesValue !== undefined && ours.takesValue !== takesValue)
              wrong.push(`${typed} ${name}: takes ${takesValue ? 'a' : 'no'} value there`);
          }
        }
      }
      assert.ok(count > 15, `${count} flags`);
      assert.deepEqual(wrong, []);
    });
  }
});

describe('hints about other programs', () => {
  it('give commands and flags that there are', async () => {
    const wrong: string[] = [];
    for (const file of ['foreign-flags', 'unsupported-flags', 'resolve-command', 'container-flags', 'task-flags'])
      for (const [, line] of readFileSync(join(root, `src/cli/${file}.ts`), 'utf8').matchAll(/"berth ([a-z][^"$`]*)"/g))
        try {
          const resolved = resolveCommand(words(line!), COMMANDS);
          if (resolved.kind !== 'command') continue;
          const {flags: own} = await commandOf(resolved.id);
          // Words after a command in a container are that command's.
          const until = resolved.id === 'tasks exec' ? resolved.argv.indexOf('ID') : resolved.argv.length;
          for (const [i, word] of resolved.argv.entries())
            if (word.startsWith('-') && word !== '-' && i < until) readFlag(resolved.argv, i, {...GLOBAL_FLAGS, ...own});
        } catch (err) {
          wrong.push(`${line}: ${(err as Error).message}`);
        }
    assert.deepEqual(wrong, []);
  });
});
