/**
 * Every flag of every command in every form that people write it in. The long form with `=`, before the arguments, is the
 * oracle: another form is read as that one is, or refused with status 3 and one line that names the flag.
 */
import assert from 'node:assert/strict';
import {describe, it} from 'node:test';
import type {FlagInput} from '@oclif/core/parser';
import type {Call, CommandClass, Commands} from '../../src/cli/command-types.ts';
import {runCommandLine} from '../../src/cli/run-command-line.ts';
import {GLOBAL_FLAGS} from '../../src/cli/shared-flags.ts';
import {COMMANDS} from '../../src/commands/index.ts';
import {randomOf} from '../fuzz/seeded-random.ts';
import {TORTURE} from '../support/helpers.ts';
import {runOnFakes} from './fake-client.ts';

/** What a command has understood. */
interface Understood {
  readonly id: string;
  readonly flags: unknown;
  readonly args: unknown;
  readonly tail: readonly string[];
}

let understood: Understood | undefined;

/** The commands, which stop as soon as they have read their words. */
const PROBES: Commands = {
  ...COMMANDS,
  commands: Object.fromEntries(
    Object.entries(COMMANDS.commands).map(([id, load]) => [
      id,
      async () => {
        const Command = (await load()).default as unknown as new (
          call: Call,
        ) => {
          parse(command: unknown): Promise<{flags: unknown; args: unknown}>;
          tail: readonly string[];
        };
        class Probe extends Command {
          override async parse(command: unknown): Promise<never> {
            const {flags, args} = await super.parse(command);
            understood = {id, flags, args, tail: this.tail};
            throw new Error('stop');
          }
        }
        return {default: Probe as unknown as CommandClass};
      },
    ]),
  ),
};

interface Read {
  readonly status: number;
  readonly stderr: string;
  readonly understood: Understood | undefined;
}

async function read(words: readonly string[]): Promise<Read> {
  understood = undefined;
  let stderr = '';
  const {status} = await runCommandLine(words, PROBES, {
    program: 'ctr',
    stdout: () => {},
    stderr: (text) => {
      stderr += text;
    },
    open: () => assert.fail('a command opened a store before its words were read'),
  });
  return {status, stderr, understood};
}

interface Spec {
  readonly id: string;
  readonly words: readonly string[];
  readonly positionals: readonly string[];
  /** Everything after the positionals is the container's. */
  readonly passesOn: boolean;
  readonly flags: FlagInput;
}

const SPECS: readonly Spec[] = await Promise.all(
  Object.entries(COMMANDS.commands).map(async ([id, load]) => {
    const {args, flags, positionals} = (await load()).default;
    const needed = Object.values(args).flatMap(({required, options}, i) => (required ? [options?.[0] ?? `arg${i}`] : []));
    const {help: _, ...all} = {...GLOBAL_FLAGS, ...flags} as FlagInput;
    return {id, words: id.split(' '), positionals: needed, passesOn: positionals !== Number.POSITIVE_INFINITY, flags: all};
  }),
);

/** A flag with a value that it takes, and what else it needs. */
interface Given {
  readonly name: string;
  readonly char: string | undefined;
  readonly value: string | undefined;
  readonly needs: readonly string[];
}

const CANDIDATES = ['word', '3', '10s', '5M', 'type=tmpfs,dst=/x', 'json', 'host', 'tmpfs', 'no', 'none'];

async function valueFor({words, positionals}: Spec, name: string, needs: readonly string[]): Promise<string> {
  for (const value of CANDIDATES)
    if ((await read([...words, `--${name}=${value}`, ...needs, ...positionals])).understood !== undefined) return value;
  return assert.fail(`--${name} of ${words.join(' ')} takes none of ${CANDIDATES.join(' ')}: add a value that it takes`);
}

/** Global flags are read by one mechanism for all: these commands have them tried in every form. */
const SAMPLE: readonly string[] = TORTURE ? SPECS.map(({id}) => id) : ['images ls', 'prune', 'pull', 'run', 'snapshots prepare'];

async function givenOf(spec: Spec): Promise<Given[]> {
  const flags = Object.entries(spec.flags).filter(
    ([name]) => !Object.hasOwn(GLOBAL_FLAGS, name) || name === 'json' || SAMPLE.includes(spec.id),
  );
  return Promise.all(
    flags.map(async ([name, flag]) => {
      const {options, dependsOn = []} = flag as {options?: readonly string[]; dependsOn?: readonly string[]};
      const needs = dependsOn.map((other) => (spec.flags[other]!.type === 'boolean' ? `--${other}` : `--${other}=word`));
      const value = flag.type === 'boolean' ? undefined : (options?.[0] ?? (await sequential(() => valueFor(spec, name, needs))));
      return {name, char: flag.char as string | undefined, value, needs};
    }),
  );
}

/** `understood` is one for all. */
let queue: Promise<unknown> = Promise.resolve();
function sequential<T>(fn: () => Promise<T>): Promise<T> {
  const result = queue.then(fn);
  queue = result.catch(() => {});
  return result;
}

const canonical = ({name, value}: Given): string => (value === undefined ? `--${name}` : `--${name}=${value}`);

/** Every way to write it, a list of words each. */
function formsOf({name, char, value}: Given): string[][] {
  if (value === undefined)
    return [
      [`--${name}`],
      [`-${name}`],
      [`--${name}=true`],
      [`-${name}=true`],
      [`--${name}=false`, `--${name}`],
      ...(char === undefined ? [] : [[`-${char}`], [`-${char}=true`]]),
    ];
  return [
    [`--${name}`, value],
    [`--${name}=${value}`],
    [`-${name}`, value],
    [`-${name}=${value}`],
    ...(char === undefined ? [] : [[`-${char}`, value], [`-${char}${value}`], [`-${char}=${value}`]]),
  ];
}

/** In one word with a boolean flag before it. */
const bundledWith = (first: Given, {char, value}: Given): string[][] =>
  first.char === undefined || char === undefined || first.value !== undefined || first.char === char
    ? []
    : value === undefined
      ? [[`-${first.char}${char}`], [`-${first.char}${char}=true`]]
      : [[`-${first.char}${char}`, value], [`-${first.char}${char}${value}`], [`-${first.char}${char}=${value}`]];

/** These exit with the status of a container. */
const refusedStatus = ({id}: Spec): number => (['run', 'tasks attach', 'tasks exec', 'tasks start', 'unshare'].includes(id) ? 125 : 3);

/** Status 3, in a container's stead 125; one line, and a hint; no flag understood in another sense. */
function assertRefused(spec: Spec, {status, stderr, understood}: Read, line: readonly string[], named: RegExp): void {
  const what = `${JSON.stringify(line)}: ${stderr}`;
  assert.equal(understood, undefined, what);
  assert.ok(status === 3 || status === refusedStatus(spec), `${status} ${what}`);
  assert.match(stderr, /^ctr: [^\n]*: invalid argument\n(?:hint: [^\n]+\n)?$/, what);
  assert.match(stderr, named, what);
}

const escaped = (text: string): string => text.replaceAll(/[^\w-]/g, '\\$&');

for (const spec of SPECS)
  describe(spec.id, () => {
    const {words, positionals, passesOn, flags} = spec;
    const topic = words.length === 2 ? words[0]! : undefined;
    const same = async (line: readonly string[], expected: Understood): Promise<void> => {
      const got = await read(line);
      assert.deepEqual(got.understood, expected, `${JSON.stringify(line)}: ${got.stderr}`);
    };

    it('reads each flag alike in every form, wherever it may stand', async () => {
      const all = await givenOf(spec);
      for (const given of all) {
        const {understood: expected} = await read([...words, canonical(given), ...given.needs, ...positionals]);
        assert.ok(expected !== undefined, canonical(given));
        const isGlobal = Object.hasOwn(GLOBAL_FLAGS, given.name);
        for (const form of formsOf(given)) {
          await same([...words, ...given.needs, ...form, ...positionals], expected);
          if (!passesOn) await same([...words, ...given.needs, ...positionals, ...form], expected);
          if (isGlobal) await same([...form, ...words, ...positionals], expected);
          if (isGlobal && topic !== undefined) await same([topic, ...form, words[1]!, ...positionals], expected);
        }
        for (const first of all.filter(({char, value}) => char !== undefined && value === undefined && char !== given.char)) {
          const both = await read([...words, canonical(first), canonical(given), ...given.needs, ...positionals]);
          for (const form of bundledWith(first, given)) await same([...words, ...given.needs, ...form, ...positionals], both.understood!);
        }
        if (given.value === undefined) {
          const {understood} = await read([...words, ...given.needs, ...positionals]);
          const without = {...understood!, flags: {...(understood!.flags as object), [given.name]: false}};
          for (const off of [
            `--${given.name}=false`,
            `-${given.name}=false`,
            ...(given.char === undefined ? [] : [`-${given.char}=false`]),
          ])
            await same([...words, ...given.needs, off, ...positionals], without);
        }
      }
    });

    it('takes a value that looks like a flag where it is attached', async () => {
      for (const {name, char, value, needs} of await givenOf(spec)) {
        if (value !== 'word') continue;
        for (const odd of ['--json', '-n', '-', '--', '-x=y', '']) {
          const {understood: expected} = await read([...words, `--${name}=${odd}`, ...needs, ...positionals]);
          assert.ok(expected !== undefined, `--${name}=${odd}`);
          if (char !== undefined) await same([...words, `-${char}=${odd}`, ...needs, ...positionals], expected);
          if (odd === '-' || odd === '') await same([...words, `--${name}`, odd, ...needs, ...positionals], expected);
        }
      }
    });

    it('refuses a flag without its value, or with a wrong one, by its name', async () => {
      for (const {name, char, value, needs} of await givenOf(spec)) {
        const named = new RegExp(`^ctr: [^\\n]*--${name}\\b`);
        const shortly = char === undefined ? [] : [`-${char}`];
        for (const form of [`--${name}`, `-${name}`, ...shortly]) {
          if (value === undefined) {
            for (const wrong of ['maybe', '', 'TRUE', '1']) {
              const line = [...words, ...needs, `${form}=${wrong}`, ...positionals];
              assertRefused(spec, await read(line), line, named);
            }
            continue;
          }
          const lines = [
            [...words, ...needs, form],
            ...['--json', '--namespace', '-n', '--', `--${name}`].map((next) => [...words, ...needs, form, next, ...positionals]),
            ...(passesOn ? [] : [[...words, ...needs, ...positionals, form]]),
            ...(Object.hasOwn(GLOBAL_FLAGS, name) ? [[form], [form, '--json', ...words]] : []),
          ];
          for (const line of lines) {
            const got = await read(line);
            if (line.includes('--json') && got.stderr.startsWith('{'))
              assert.match(JSON.parse(got.stderr).error.message, new RegExp(`--${name}\\b`));
            else assertRefused(spec, got, line, named);
          }
        }
      }
    });

    it('refuses a flag that it does not have, by its name', async () => {
      const others = [...new Set(SPECS.flatMap((other) => Object.keys(other.flags)))].filter(
        (name) => !Object.hasOwn(flags, name) && !Object.values(flags).some(({aliases}) => aliases?.includes(name)),
      );
      const chars = [...'abcdefgijklmopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789?'].filter(
        (c) => !Object.values(flags).some(({char}) => char === c),
      );
      for (const form of [...others.map((name) => `--${name}`), ...Object.keys(flags).map((name) => `--${name}x`), '--=', '---x'].filter(
        (_, i) => TORTURE || i % 7 === 0 || SAMPLE.includes(spec.id),
      ))
        for (const line of [
          [...words, form, ...positionals],
          [...words, `${form}=x`, ...positionals],
        ])
          assertRefused(spec, await read(line), line, new RegExp(`^ctr: [^\\n]*${escaped(form.split('=')[0]!)}`));
      for (const char of chars) {
        const line = [...words, `-${char}`, ...positionals];
        assertRefused(spec, await read(line), line, new RegExp(`^ctr: [^\\n]*-${escaped(char)}`));
      }
    });

    it('reads flags alike in any order and mixture of forms', async () => {
      const seed = 20260101;
      const all = (await givenOf(spec)).filter(({needs}) => needs.length === 0);
      for (let n = 0; n < (TORTURE ? 2000 : 20); n++) {
        const random = randomOf(seed, n);
        const chosen = new Map<string, Given>();
        for (let i = random.below(5); i >= 0; i--) {
          const given = random.pick(all);
          chosen.set(given.name, given);
        }
        const expected = await read([...words, ...[...chosen.values()].map(canonical), ...positionals]);
        const early: string[] = [];
        const before: string[] = [];
        const after: string[] = [];
        for (const given of chosen.values()) {
          const form = random.pick(formsOf(given));
          const where = random.below(3);
          (where === 0 && Object.hasOwn(GLOBAL_FLAGS, given.name) ? early : where === 1 && !passesOn ? after : before).push(...form);
        }
        const line = [...early, ...words, ...before, ...positionals, ...after];
        const got = await read(line);
        const what = `seed ${seed}, ${n}: ${JSON.stringify(line)}: ${got.stderr}`;
        if (expected.understood === undefined) assert.equal(got.status, expected.status, what);
        else assert.deepEqual(got.understood, expected.understood, what);
      }
    });
  });

describe('names of flags', () => {
  it('are not what short flags in one word can be', () => {
    for (const {id, flags} of SPECS) {
      const chars = Object.values(flags).flatMap(({char, type}) => (type === 'boolean' && char !== undefined ? [char as string] : []));
      for (const name of Object.keys(flags)) assert.ok(![...name].every((c) => chars.includes(c)), `-${name} of ${id}`);
    }
  });
  it('of Go programs reach the command as they do there', async () => {
    const {namespaces} = await runOnFakes('-namespace foo leases ls', {namespace: {leases: {list: async () => []}}});
    assert.deepEqual(namespaces, ['foo']);
  });
});
