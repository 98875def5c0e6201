/**
 * Concurrent processes: each ends in bounded time with the right result, or with an error of a class that says why, and leaves a
 * consistent store. No lock is held during network access, hashing, extraction or a child process.
 *
 * By default 8 processes, and 32 once; with `BERTH_TEST_TORTURE=1` 2, 8 and 32 everywhere.
 */
import assert from 'node:assert/strict';
import {spawn} from 'node:child_process';
import {once} from 'node:events';
import {readdirSync, readFileSync, rmSync, utimesSync, writeFileSync} from 'node:fs';
import {join} from 'node:path';
import {describe, it} from 'node:test';
import {setTimeout as delay} from 'node:timers/promises';
import {gzipSync} from 'node:zlib';
import type {Descriptor} from '../../src/lib/oci/descriptor.ts';
import {type CommandLine, commandLine, environment, type Result, root as repository} from '../cli/harness.ts';
import {digestOf, type FakeRegistry, startFakeRegistry} from '../fakes/registry.ts';
import {randomNumbers} from '../fuzz/seeded-random.ts';
import {startScript} from '../support/children.ts';
import {
  findProgram,
  onEnd,
  requiresOneClock,
  requiresProgram,
  requiresRoot,
  type Scope,
  type Skippable,
  TORTURE,
  temporaryDirectory,
} from '../support/helpers.ts';
import {checkStore} from '../support/invariants.ts';
import {ARCHITECTURE} from '../support/layouts.ts';
import {dir, file, symlink, tar} from '../support/tartest.ts';
import {assertNoRuns, assertWhole, eventually, names, type Started, start} from './fixtures.ts';

const CROWDS: readonly number[] = TORTURE ? [2, 8, 32] : [8];
/** Of actors that do one thing after another, in milliseconds. */
const STORM_MS = TORTURE ? 20_000 : 2000;
const LONGEST_STORM_MS = 60_000;

const requiresRuntime = (t: Skippable): boolean => requiresRoot(t) && requiresProgram(t, 'runc', 'unshare', 'mount', 'busybox');

const numbers = (count: number): readonly number[] => Array.from({length: count}, (_, i) => i);

/** The same numbers for the same seed, from 0 to below `n`. */
function dice(seed: number): (n: number) => number {
  const next = randomNumbers(seed);
  return (n) => Math.floor(next() * n);
}

// ---- images ----------------------------------------------------------------------------------------------------------

interface Stock {
  readonly registry: FakeRegistry;
  readonly images: readonly {readonly ref: string; readonly config: Descriptor; readonly layers: readonly Descriptor[]}[];
}

const UNPACKED = {os: 'linux', architecture: ARCHITECTURE};

/**
 * Images of three layers: a busybox that all share, one that every two share, and one of their own; of which every other has
 * a layer that leaves its directory to those below.
 */
async function stock(scope: Scope, count: number): Promise<Stock> {
  const registry = await startFakeRegistry(scope);
  const noise = dice(count);
  const random = (bytes: number): Buffer => Buffer.from(Array.from({length: bytes}, () => noise(256)));
  const base = tar(
    dir('bin'),
    file('bin/busybox', readFileSync(findProgram('busybox')!), 0o755),
    ...['sh', 'cat', 'echo', 'sleep', 'true'].map((name) => symlink('busybox', `bin/${name}`)),
    dir('etc'),
    dir('gate'),
  );
  const pairs = numbers(Math.ceil(count / 2)).map((i) =>
    tar(dir('pair'), file('pair/name', `pair ${i}`), file('pair/noise', random(20_000))),
  );
  const images = numbers(count).map((i) => {
    const own = i % 2 === 0 ? tar(dir('own'), file('own/name', `image ${i}\n`)) : tar(file('etc/name', `image ${i}\n`), dir('own'));
    const trees = [base, pairs[i >> 1]!, own];
    const config = {
      ...UNPACKED,
      config: {Env: ['PATH=/bin'], Cmd: ['sh']},
      rootfs: {type: 'layers', diff_ids: trees.map((tree) => digestOf(tree))},
    };
    const image = registry.addImage(
      `library/image${i}`,
      'latest',
      trees.map((tree) => gzipSync(tree)),
      config,
    );
    return {ref: `${registry.host}/library/image${i}:latest`, config: image.config, layers: image.layers};
  });
  return {registry, images};
}

/** Output by which a container identifies its image. */
const SHOW = ['sh', '-c', 'cat /own/name /etc/name 2>/dev/null; true'];

/** Asserts that each of these blobs was downloaded once, and no other. */
function assertOnce(registry: FakeRegistry, blobs: readonly Descriptor[]): void {
  const digests = new Map(blobs.map((blob) => [blob.digest, blob]));
  assert.equal(registry.count('GET', /\/blobs\//), digests.size);
  for (const {digest, size} of digests.values()) {
    const path = new RegExp(`/blobs/${digest}`);
    assert.deepEqual([registry.count('GET', path), registry.bytesSent(path)], [1, size], digest);
  }
}

// ---- processes -------------------------------------------------------------------------------------------------------

interface Answer extends Result {
  /** Class of the error; `ok` when it succeeded. */
  readonly kind: string;
  readonly ms: number;
}

/** Result of a command, with its class. `ctr` asserts the time limit. */
async function ask(ctr: CommandLine, args: readonly string[], input: string | Uint8Array = ''): Promise<Answer> {
  const begun = performance.now();
  const result = await ctr(['--json', ...args], {input, timeoutMs: 120_000});
  const ms = performance.now() - begun;
  if (result.status === 0) return {...result, kind: 'ok', ms};
  const last = result.stderr.trimEnd().split('\n').at(-1) ?? '';
  assert.match(last, /^\{"error":/, `${args.join(' ')} ended with ${result.status}: ${result.stderr}`);
  return {...result, kind: (JSON.parse(last) as {error: {kind: string}}).error.kind, ms};
}

/** Starts all commands at the same moment and waits for all. */
const together = (ctr: CommandLine, commands: readonly (readonly string[])[]): Promise<readonly Answer[]> =>
  Promise.all(commands.map((args) => ask(ctr, args)));

const pull = (ref: string, ...flags: readonly string[]): readonly string[] => [...flags, 'pull', '--plain-http', '--progress', 'none', ref];

function assertAll(answers: readonly Answer[], kind = 'ok'): void {
  for (const answer of answers) assert.equal(answer.kind, kind, answer.stderr);
}

/** What `check --deep` finds. */
async function findings(ctr: CommandLine): Promise<readonly string[]> {
  const checked = JSON.parse(await ctr.ok(['check', '--deep', '--json', '--progress', 'none'])) as {
    findings: {severity: string; object: string; problem: string}[];
  };
  return checked.findings.map(({severity, object, problem}) => `${severity}: ${object}: ${problem}`);
}

/** Asserts that there are no findings and no leftovers of ended processes. */
async function assertClean(ctr: CommandLine): Promise<void> {
  const root = ctr.env.BERTH_ROOT!;
  assert.deepEqual(await findings(ctr), []);
  assert.deepEqual(checkStore(root), []);
  for (const place of ['work', 'trash', 'locks', 'content/ingest']) assert.deepEqual(names(join(root, place)), [], place);
  for (const ns of names(join(root, 'namespaces'))) assert.deepEqual(names(join(root, 'namespaces', ns, 'leases')), [], `leases of ${ns}`);
  assertNoRuns(ctr.env.BERTH_STATE!);
  const mounts = readFileSync('/proc/self/mountinfo', 'utf8');
  for (const place of [root, ctr.env.BERTH_STATE!]) assert.ok(!mounts.includes(place), `mounts in ${place}`);
}

interface Step {
  readonly args: readonly string[];
  /** Allowed error classes. */
  readonly or: readonly string[];
}

/** Lets actors do one step after another, all of them at once, for a while, and until each of these answers has been given. */
async function storm(
  t: Scope & {diagnostic(text: string): void},
  ctr: CommandLine,
  actors: number,
  required: readonly string[],
  step: (random: (n: number) => number) => Step,
): Promise<void> {
  const begun = performance.now();
  const tally = new Map<string, number>();
  const odd: string[] = [];
  let longest = 0;
  await Promise.all(
    numbers(actors).map(async (i) => {
      const random = dice(i * 7919);
      for (;;) {
        const lasted = performance.now() - begun;
        if (lasted > LONGEST_STORM_MS || (lasted > STORM_MS && required.every((answer) => tally.has(answer)))) return;
        const {args, or} = step(random);
        const {kind, ms, stderr, status} = await ask(ctr, args);
        const words = args
          .filter((word) => word !== 'true' && word !== 'none' && !/^-|[:/]|\d/.test(word))
          .slice(0, 2)
          .join(' ');
        tally.set(`${words} ${kind}`, (tally.get(`${words} ${kind}`) ?? 0) + 1);
        longest = Math.max(longest, ms);
        const isOurs = !args.includes('run') || status === 0 || status === 125;
        if (!isOurs || (kind !== 'ok' && !or.includes(kind))) odd.push(`${args.join(' ')}: ${status}: ${stderr}`);
      }
    }),
  );
  const total = [...tally.values()].reduce((sum, n) => sum + n, 0);
  const answers = [...tally].sort().map(([answer, n]) => `${answer} ${n}`);
  t.diagnostic(`${actors} at once, ${total} commands, the longest took ${Math.round(longest)} ms: ${answers.join(', ')}`);
  assert.deepEqual(odd, []);
  for (const answer of required) assert.ok(tally.has(answer), `none of ${answer}`);
}

// ---- pulls -----------------------------------------------------------------------------------------------------------

describe('concurrent pulls', () => {
  for (const count of [...new Set([...CROWDS, 32])])
    it(`${count} of one image download each layer once, and all succeed`, async (t) => {
      if (!requiresRuntime(t)) return;
      const {registry, images} = await stock(t, 2);
      const {ref, config, layers} = images[1]!;
      const ctr = commandLine(t, 'executable');
      // Slow enough that all have started before the first has its bytes.
      registry.fault({path: new RegExp(`/blobs/${layers[0]!.digest}`), trickle: {bytes: Math.ceil(layers[0]!.size / 20), everyMs: 20}});
      const spaces = numbers(count).map((i) => (i % 2 === 0 ? 'default' : `n${i}`));
      const answers = await together(
        ctr,
        spaces.map((ns) => pull(ref, '-n', ns)),
      );
      assertAll(answers);
      assertOnce(registry, [config, ...layers]);
      assert.equal(registry.count('GET', /\/manifests\//), 1);
      const transferred = answers.reduce(
        (total, {stdout}) => total + (JSON.parse(stdout) as {transferredBytes: number}).transferredBytes,
        0,
      );
      assert.equal(transferred, registry.bytesSent(), 'and what the processes say of that is true');
      t.diagnostic(`the last ended after ${Math.round(Math.max(...answers.map(({ms}) => ms)))} ms`);
      for (const ns of new Set(spaces)) await assertWhole(ctr, ns);
      assert.equal(await ctr.ok(['-n', spaces.at(-1)!, 'run', '--rm', ref, 'r', ...SHOW]), 'image 1\n');
      await assertClean(ctr);
    });

  for (const count of CROWDS)
    it(`${count} of images that share layers download each layer once`, async (t) => {
      if (!requiresRuntime(t)) return;
      const {registry, images} = await stock(t, count);
      const ctr = commandLine(t, 'executable');
      registry.fault({path: /\/blobs\//, trickle: {bytes: 64 << 10, everyMs: 5}});
      assertAll(
        await together(
          ctr,
          images.map(({ref}) => pull(ref)),
        ),
      );
      assertOnce(
        registry,
        images.flatMap(({config, layers}) => [config, ...layers]),
      );
      await assertWhole(ctr);
      for (const [i, {ref}] of images.slice(0, 4).entries()) assert.equal(await ctr.ok(['run', '--rm', ref, 'r', ...SHOW]), `image ${i}\n`);
      await assertClean(ctr);
    });

  for (const count of CROWDS)
    it(`${count} processes that pull, remove, prune, collect and run get right results, and the last pulled image runs`, {
      timeout: 300_000,
    }, async (t) => {
      if (!requiresRuntime(t)) return;
      const {images} = await stock(t, 4);
      const ctr = commandLine(t, 'executable');
      let containers = 0;
      await storm(t, ctr, count, ['pull ok', 'run ok', 'images rm ok'], (random) => {
        const {ref} = images[random(images.length)]!;
        const ns = ['-n', `n${random(2)}`];
        const pulls: Step = {args: pull(ref, ...ns), or: []};
        const runs: Step = {args: [...ns, 'run', '--rm', ref, `c${containers++}`, 'true'], or: ['not_found', 'aborted']};
        const steps: readonly Step[] = [
          ...[pulls, pulls, pulls, pulls, runs, runs, runs],
          {args: [...ns, 'images', 'rm', ref], or: ['not_found']},
          {args: ['gc'], or: []},
          {args: ['prune', '--all-namespaces', random(4) === 0 ? 'images' : 'content'], or: []},
          {args: ['check', '--progress', 'none'], or: []},
          {args: [...ns, 'images', 'ls'], or: []},
          {args: ['df'], or: []},
        ];
        return steps[random(steps.length)]!;
      });
      for (const {ref} of images) await ctr.ok(pull(ref));
      await assertWhole(ctr);
      for (const [i, {ref}] of images.entries()) assert.equal(await ctr.ok(['run', '--rm', ref, 'last', ...SHOW]), `image ${i}\n`);
      await assertClean(ctr);
    });
});

// ---- namespaces ------------------------------------------------------------------------------------------------------

describe('concurrent imports and exports', () => {
  for (const count of CROWDS.filter((size) => size > 2))
    it(`${count} processes that import from files and from pipes, export, remove and collect get right results`, {
      timeout: 300_000,
    }, async (t) => {
      if (!requiresRuntime(t)) return;
      const {images} = await stock(t, 2);
      const ctr = commandLine(t, 'executable');
      const place = temporaryDirectory(t);
      const archives = images.map((_, i) => join(place, `image${i}.tar`));
      for (const [i, {ref}] of images.entries()) {
        await ctr.ok(pull(ref));
        await ctr.ok(['images', 'export', archives[i]!, ref]);
        await ctr.ok(['images', 'rm', ref]);
      }
      const bytes = archives.map((path) => readFileSync(path));
      const importing = (source: string): readonly string[] => ['images', 'import', '--progress', 'none', source];
      assertAll(
        await Promise.all(
          numbers(count).map((i) => {
            const space = ['-n', i % 4 < 2 ? 'default' : `n${i}`];
            return i % 2 === 0
              ? ask(ctr, [...space, ...importing(archives[i & 1]!)])
              : ask(ctr, [...space, ...importing('-')], bytes[i & 1]!);
          }),
        ),
      );
      await storm(t, ctr, count, ['images import ok', 'images export ok', 'images rm ok', 'gc ok'], (random) => {
        const {ref} = images[random(2)]!;
        const space = random(2) === 0 ? [] : ['-n', `n${random(2)}`];
        const steps: readonly Step[] = [
          {args: [...space, ...importing(archives[random(2)]!)], or: []},
          {args: [...space, ...importing(archives[random(2)]!)], or: []},
          {args: [...space, 'images', 'export', '--progress', 'none', join(place, `out${random(4)}.tar`), ref], or: ['not_found']},
          {args: [...space, 'images', 'rm', ref], or: ['not_found']},
          {args: ['gc'], or: []},
        ];
        return steps[random(steps.length)]!;
      });
      for (const path of archives) await ctr.ok(importing(path));
      await assertWhole(ctr);
      for (const [i, {ref}] of images.entries()) {
        assert.equal(await ctr.ok(['run', '--rm', ref, 'r', ...SHOW]), `image ${i}\n`);
        const out = join(place, 'again.tar');
        await ctr.ok(['images', 'export', out, ref]);
        assert.ok(readFileSync(out).equals(bytes[i]!));
      }
      assert.deepEqual(
        names(place).filter((name) => name.startsWith('.')),
        [],
      );
      await assertClean(ctr);
    });
});

describe('namespaces', () => {
  for (const count of CROWDS)
    it(`${count} processes create and remove them while others pull and run in them`, {timeout: 300_000}, async (t) => {
      if (!requiresRuntime(t)) return;
      const {images} = await stock(t, 2);
      const ctr = commandLine(t, 'executable');
      await ctr.ok(pull(images[0]!.ref, '-n', 'bystander'));
      let containers = 0;
      await storm(t, ctr, count, ['pull ok', 'run ok', 'namespaces rm ok'], (random) => {
        const name = `n${random(3)}`;
        const {ref} = images[random(images.length)]!;
        const pulls: Step = {args: pull(ref, '-n', name), or: ['aborted']};
        const run = (...flags: readonly string[]): Step => ({
          args: ['-n', name, 'run', ...flags, ref, `c${containers++}`, 'true'],
          or: ['not_found', 'aborted'],
        });
        const steps: readonly Step[] = [
          ...[pulls, pulls, pulls, run(), run(), run('--rm')],
          {args: ['namespaces', 'create', name], or: ['already_exists']},
          {args: ['namespaces', 'rm', name], or: ['not_found', 'failed_precondition']},
          {args: ['namespaces', 'rm', '--recursive', name], or: ['not_found', 'failed_precondition']},
          {args: ['namespaces', 'ls'], or: []},
          {args: ['namespaces', 'label', name, `k${random(3)}=v`], or: ['not_found']},
        ];
        return steps[random(steps.length)]!;
      });
      assert.deepEqual(await findings(ctr), []);
      await assertWhole(ctr, 'bystander');
      const left = (await ctr.ok(['namespaces', 'ls', '-q'])).trim().split('\n');
      await ctr.ok(['namespaces', 'rm', '--recursive', ...left]);
      for (const place of ['content/blobs/sha256', 'layers', 'namespaces'])
        assert.deepEqual(names(join(ctr.env.BERTH_ROOT!, place)), [], place);
      await assertClean(ctr);
    });
});

// ---- containers ------------------------------------------------------------------------------------------------------

/** A container that runs until the gate is opened, at most half a minute. */
function gated(scope: Scope): {readonly flags: readonly string[]; readonly command: readonly string[]; readonly up: string; open(): void} {
  const place = temporaryDirectory(scope);
  const open = (): void => writeFileSync(join(place, 'open'), '');
  return {
    flags: ['--mount', `type=bind,src=${place},dst=/gate,options=rbind:rw`],
    command: [
      'sh',
      '-c',
      'echo up >/gate/up; n=0; while [ ! -e /gate/open ] && [ $n -lt 600 ]; do sleep 0.05; n=$((n+1)); done; cat /gate/up',
    ],
    up: join(place, 'up'),
    open,
  };
}

describe('containers', () => {
  for (const count of CROWDS)
    it(`${count} of one image run at once under ids of their own`, async (t) => {
      if (!requiresRuntime(t)) return;
      const {images} = await stock(t, 1);
      const {ref} = images[0]!;
      const ctr = commandLine(t, 'executable');
      await ctr.ok(pull(ref));
      const answers = await Promise.all(
        numbers(count).map((i) =>
          ctr(['run', ...(i % 2 === 0 ? ['--rm'] : []), ref, `c${i}`, 'sh', '-c', `echo ${i} >/own/mine; sleep 0.2; cat /own/mine`]),
        ),
      );
      for (const [i, {status, stdout, stderr}] of answers.entries()) assert.deepEqual([status, stdout, stderr], [0, `${i}\n`, '']);
      const kept = numbers(count)
        .filter((i) => i % 2 !== 0)
        .map((i) => `c${i}`)
        .sort();
      assert.deepEqual((await ctr.ok(['containers', 'ls', '-q'])).trim().split('\n').filter(Boolean), kept);
      assertAll(
        await together(
          ctr,
          kept.map((id) => ['containers', 'rm', id]),
        ),
      );
      await assertClean(ctr);
    });

  for (const flags of [['--rm'], []])
    for (const count of CROWDS)
      it(`${count} that want one id${flags.map((flag) => `, with ${flag}`).join('')}: one gets it, and the others fail with already_exists`, async (t) => {
        if (!requiresRuntime(t)) return;
        const {images} = await stock(t, 1);
        const {ref} = images[0]!;
        const ctr = commandLine(t, 'executable');
        await ctr.ok(pull(ref));
        for (const round of numbers(TORTURE ? 20 : 3)) {
          const gate = gated(t);
          let ended = 0;
          const answers = await Promise.all(
            numbers(count).map(async () => {
              const answer = await ask(ctr, ['run', ...flags, ...gate.flags, ref, 'same', ...gate.command]);
              if (++ended === count - 1) gate.open();
              return answer;
            }),
          );
          const kinds = answers.map(({kind}) => kind).sort();
          assert.deepEqual(
            kinds,
            [...numbers(count - 1).map(() => 'already_exists'), 'ok'],
            `round ${round}: ${answers.map(({stderr}) => stderr).join('')}`,
          );
          for (const {status, stdout} of answers)
            if (status === 0) assert.equal(stdout, 'up\n');
            else assert.equal(status, 125);
          if (flags.length === 0) await ctr.ok(['containers', 'rm', 'same']);
        }
        await assertClean(ctr);
      });

  for (const count of CROWDS)
    it(`${count} processes run and remove containers of few ids, and no running one is removed`, {timeout: 300_000}, async (t) => {
      if (!requiresRuntime(t)) return;
      const {images} = await stock(t, 1);
      const {ref} = images[0]!;
      const ctr = commandLine(t, 'executable');
      await ctr.ok(pull(ref));
      await storm(t, ctr, count, ['run sh ok', 'containers rm ok'], (random) => {
        const id = `c${random(count > 2 ? 3 : 1)}`;
        const steps: readonly Step[] = [
          {args: ['run', ref, id, 'sh', '-c', 'echo x >/own/mine && cat /own/mine'], or: ['already_exists']},
          {args: ['run', '--rm', ref, id, 'sh', '-c', 'echo x >/own/mine && cat /own/mine'], or: ['already_exists']},
          {args: ['containers', 'rm', id], or: ['not_found', 'failed_precondition']},
          {args: ['containers', 'ls'], or: []},
        ];
        return steps[random(steps.length)]!;
      });
      const left = (await ctr.ok(['containers', 'ls', '-q'])).trim().split('\n').filter(Boolean);
      if (left.length > 0) await ctr.ok(['containers', 'rm', ...left]);
      await assertClean(ctr);
    });
});

// ---- records ---------------------------------------------------------------------------------------------------------

describe('records of one image', () => {
  for (const count of CROWDS)
    it(`${count} processes that tag and label lose no change`, async (t) => {
      if (!requiresRuntime(t)) return;
      const {images} = await stock(t, 2);
      const [one, two] = images.map(({ref}) => ref) as [string, string];
      const ctr = commandLine(t, 'executable');
      for (const ref of [one, two]) await ctr.ok(pull(ref));
      const rounds = TORTURE ? 20 : 5;
      const begun = performance.now();
      await Promise.all(
        numbers(count).map(async (i) => {
          for (const round of numbers(rounds)) {
            assertAll([
              await ask(ctr, ['images', 'label', one, `label${i}.${round}=${round}`]),
              await ask(ctr, ['images', 'tag', one, `tag${i}.${round}`]),
              await ask(ctr, ['images', 'tag', '--force', round % 2 === i % 2 ? one : two, 'moving']),
              ...(round === 0 ? [await ask(ctr, pull(one))] : []),
            ]);
          }
        }),
      );
      t.diagnostic(`${count * (3 * rounds + 1)} commands in ${Math.round(performance.now() - begun)} ms`);
      const listed = JSON.parse(await ctr.ok(['images', 'ls', '--json'])) as {name: string; labels: Record<string, string>}[];
      const tags = numbers(count).flatMap((i) => numbers(rounds).map((round) => `docker.io/library/tag${i}.${round}:latest`));
      assert.deepEqual(listed.map(({name}) => name).sort(), [one, two, 'docker.io/library/moving:latest', ...tags].sort());
      const labels = Object.fromEntries(
        numbers(count).flatMap((i) => numbers(rounds).map((round) => [`label${i}.${round}`, String(round)])),
      );
      assert.deepEqual(listed.find(({name}) => name === one)!.labels, labels);
      await assertClean(ctr);
    });
});

// ---- locks -----------------------------------------------------------------------------------------------------------

/** Longest time that another's small change may take meanwhile, in milliseconds; the best of several is asked, for a busy machine's sake. */
const PROMPT_MS = 1000;

const rootOf = (ctr: CommandLine): string => ctr.env.BERTH_ROOT!;

/** Names in a directory that may vanish at any moment. */
function namesNow(directory: string): readonly string[] {
  try {
    return readdirSync(directory);
  } catch (err) {
    assert.equal((err as NodeJS.ErrnoException).code, 'ENOENT');
    return [];
  }
}

/** The owner's file of the store's lock; none while it is free. */
const holders = (ctr: CommandLine): readonly string[] => namesNow(join(rootOf(ctr), 'locks/store'));

const pidOf = (ownerFile: string): number => Number.parseInt(ownerFile, 10);

/**
 * While `busy`: small changes by others go through, none of which waits for long, and the process is not seen with the lock,
 * save for the moment in which it commits what it has done.
 */
async function assertLockFree(
  t: {diagnostic(text: string): void},
  ctr: CommandLine,
  pid: number,
  ref: string,
  busy: () => boolean,
): Promise<void> {
  const best = new Map<string, number>();
  let [samples, held, changes] = [0, 0, 0];
  let over = false;
  const others = (async () => {
    for (let n = 0; n < 3 && (busy() || n === 0); n++)
      for (const args of [
        ['namespaces', 'create', `other${n}`],
        ['images', 'tag', ref, `other${n}`],
        ['images', 'label', ref, `other=${n}`],
        ['images', 'rm', `other${n}`],
      ]) {
        const {kind, ms, stderr} = await ask(ctr, ['--lock-timeout', '2s', ...args]);
        assert.equal(kind, 'ok', `${args.join(' ')}: ${stderr}`);
        const name = args.slice(0, 2).join(' ');
        best.set(name, Math.min(ms, best.get(name) ?? ms));
        changes++;
      }
  })().finally(() => {
    over = true;
  });
  for (; !over; await delay(1)) {
    const found = holders(ctr);
    if (!busy()) continue;
    samples++;
    if (found.some((holder) => pidOf(holder) === pid)) held++;
  }
  await others;
  t.diagnostic(
    `${samples} looks at the lock, ${changes} changes by others, ${[...best].map(([name, ms]) => `${name} ${Math.round(ms)} ms`).join(', ')}`,
  );
  assert.ok(samples > 0, 'it was over before anybody looked');
  assert.ok(held <= samples / 4, `it held the lock at ${held} of ${samples} looks`);
  for (const [name, ms] of best) assert.ok(ms < PROMPT_MS, `${name} took ${ms} ms at best`);
}

interface Large {
  readonly ctr: CommandLine;
  readonly registry: FakeRegistry;
  /** Is pulled. */
  readonly small: string;
  readonly large: string;
  readonly layer: Descriptor;
  readonly chainID: string;
}

/** A store with a small image, and another image in the registry with a layer of many files. */
async function largeLayer(t: Scope, files: number): Promise<Large> {
  const {registry, images} = await stock(t, 1);
  const ctr = commandLine(t, 'executable');
  await ctr.ok(pull(images[0]!.ref));
  const tree = tar(dir('many'), ...numbers(files).map((i) => file(`many/${i}`, `file ${i}`)));
  const config = {...UNPACKED, config: {Env: ['PATH=/bin'], Cmd: ['sh']}, rootfs: {type: 'layers', diff_ids: [digestOf(tree)]}};
  const {layers} = registry.addImage('library/large', 'latest', [gzipSync(tree, {level: 1})], config);
  return {ctr, registry, small: images[0]!.ref, large: `${registry.host}/library/large:latest`, layer: layers[0]!, chainID: digestOf(tree)};
}

/** The command is killed, if it still runs, when the scope ends. */
function background(t: Scope, ctr: CommandLine, args: readonly string[]): Started & {readonly pid: number; running(): boolean} {
  const started = start(ctr, args);
  let over = false;
  void started.ended.then(() => {
    over = true;
  });
  onEnd(t, async () => {
    started.child.kill('SIGKILL');
    await started.ended;
  });
  return {...started, pid: started.child.pid!, running: () => !over};
}

describe('no lock is held', () => {
  for (const [what, path] of [
    ['the manifest', /\/manifests\//],
    ['a layer', /\/blobs\//],
  ] as const)
    it(`during network access: while a registry is silent in the middle of ${what}`, async (t) => {
      if (!requiresRuntime(t)) return;
      const {ctr, registry, small, large, layer} = await largeLayer(t, 100);
      registry.clear();
      registry.fault({method: 'GET', path: what === 'a layer' ? new RegExp(layer.digest) : path, stallAt: 10});
      const pulling = background(t, ctr, pull(large));
      await eventually('a silent registry', () => registry.requests.some(({bytesSent}) => bytesSent === 10));
      await assertLockFree(t, ctr, pulling.pid, small, pulling.running);
      assert.ok(pulling.running(), 'it still waits');
    });

  it('while standard input is read and hashed', async (t) => {
    if (!requiresRuntime(t)) return;
    const {ctr, small} = await largeLayer(t, 1);
    const ingesting = spawn(join(repository, 'bin/ctr'), ['content', 'ingest', 'slow'], {
      env: {...environment(), ...ctr.env},
      stdio: ['pipe', 'ignore', 'inherit'],
    });
    const ended = once(ingesting, 'close');
    const feeding = setInterval(() => ingesting.stdin.write(Buffer.alloc(1 << 18)), 5);
    onEnd(t, async () => {
      clearInterval(feeding);
      ingesting.kill('SIGKILL');
      await ended;
    });
    await eventually('an ingest', () => names(join(rootOf(ctr), 'content/ingest')).length > 0);
    await assertLockFree(t, ctr, ingesting.pid!, small, () => ingesting.exitCode === null);
    clearInterval(feeding);
    ingesting.stdin.end();
    assert.deepEqual(await ended, [0, null]);
  });

  for (const snapshotter of ['overlayfs', 'native'])
    it(`over extraction and ${snapshotter === 'native' ? 'copies' : 'deletion'}, with ${snapshotter}`, async (t) => {
      if (!requiresRuntime(t)) return;
      const {ctr, small, large, chainID} = await largeLayer(t, snapshotter === 'native' ? 4000 : 10_000);
      const flags = ['--snapshotter', snapshotter];
      const steps: readonly (readonly [place: string, args: readonly string[]])[] = [
        ['work', [...pull(large), ...flags]],
        snapshotter === 'native' ? ['work', ['snapshots', 'prepare', ...flags, 'copy', chainID]] : ['trash', ['images', 'rm', large]],
      ];
      for (const [place, args] of steps) {
        const isThere = (): boolean => namesNow(join(rootOf(ctr), place)).length > 0;
        const working = background(t, ctr, args);
        await eventually(`something in ${place}`, isThere);
        await assertLockFree(t, ctr, working.pid, small, () => working.running() && isThere());
        const {status, stderr} = await working.ended;
        assert.equal(status, 0, stderr);
        const others = (await ctr.ok(['namespaces', 'ls', '-q'])).split('\n').filter((name) => name.startsWith('other'));
        await ctr.ok(['namespaces', 'rm', ...others]);
      }
    });

  it('while a container runs', async (t) => {
    if (!requiresRuntime(t)) return;
    const {ctr, small} = await largeLayer(t, 1);
    const gate = gated(t);
    const running = background(t, ctr, ['run', ...gate.flags, small, 'slow', ...gate.command]);
    await eventually('a container', () => names(join(gate.up, '..')).includes('up'));
    await assertLockFree(t, ctr, running.pid, small, running.running);
    gate.open();
    assert.deepEqual(await running.ended, {status: 0, stdout: 'up\n', stderr: ''});
  });
});

describe('a lock', () => {
  /** A process that holds the store's lock until it is released. */
  const hold = async (t: Scope, ctr: CommandLine) => {
    const code =
      "const {acquireLock} = await lib('fs/lock.ts'); await acquireLock(args[0], {timeoutMs: 60_000}); say('held'); await sleep(60_000);";
    const script = startScript(t, code, [join(rootOf(ctr), 'locks/store')]);
    assert.equal(await script.line(), 'held');
    return script;
  };

  it('of a killed holder delays the next command by no more than 100 ms', async (t) => {
    const ctr = commandLine(t, 'executable');
    const best = {free: Number.POSITIVE_INFINITY, dead: Number.POSITIVE_INFINITY, dying: Number.POSITIVE_INFINITY};
    const change = async (key: keyof typeof best, begun = performance.now()): Promise<void> => {
      await ctr.ok(['namespaces', 'label', 'default', `key=${begun}`]);
      best[key] = Math.min(best[key], performance.now() - begun);
    };
    await ctr.ok(['namespaces', 'create', 'default']);
    for (let round = 0; round < 7; round++) {
      await change('free');
      const dead = await hold(t, ctr);
      dead.process.kill('SIGKILL');
      await dead.done;
      assert.equal(holders(ctr).length, 1, 'it is still there');
      await change('dead');

      const dying = await hold(t, ctr);
      const waiting = ctr.ok(['namespaces', 'label', 'default', 'key=waiting']);
      await eventually('one that waits', () => names(join(rootOf(ctr), 'locks')).length > 1);
      await delay(30);
      const killed = performance.now();
      dying.process.kill('SIGKILL');
      await waiting;
      best.dying = Math.min(best.dying, performance.now() - killed);
    }
    t.diagnostic(
      Object.entries(best)
        .map(([key, ms]) => `${key} ${Math.round(ms)} ms`)
        .join(', '),
    );
    assert.ok(best.dead - best.free <= 100);
    assert.ok(best.dying <= 100);
  });

  /** Runs a command that stops itself, with all its threads, at the `n`-th of these system calls: it is made, and nothing after it. */
  const stopped = (t: Scope, ctr: CommandLine, calls: string, n: number, args: readonly string[], through: readonly string[] = []) => {
    const inject = ['-f', '-qq', '-o', '/dev/null', '-e', `trace=${calls}`, '-e', `inject=${calls}:signal=SIGSTOP:when=${n}`];
    const program = [...through, findProgram('strace')!, ...inject, join(repository, 'bin/ctr'), ...args];
    // A process group of its own, so that all of it can be told to go on.
    const child = spawn(program[0]!, program.slice(1), {
      detached: true,
      env: {...environment(), ...ctr.env},
      stdio: ['ignore', 'ignore', 'pipe'],
    });
    let stderr = '';
    child.stderr.setEncoding('utf8').on('data', (text: string) => {
      stderr += text;
    });
    const ended = once(child, 'close').then(([status]) => ({status: status as number | null, stderr}));
    const signal = (name: NodeJS.Signals): void => {
      if (child.exitCode === null && child.signalCode === null) process.kill(-child.pid!, name);
    };
    onEnd(t, async () => {
      signal('SIGCONT');
      signal('SIGKILL');
      await ended;
    });
    return {ended, goOn: () => signal('SIGCONT')};
  };

  it('stays with a command that is stopped in the middle of its commit, and the next error names the holder', async (t) => {
    if (!requiresProgram(t, 'strace')) return;
    const ctr = commandLine(t, 'executable');
    await ctr.ok(['namespaces', 'create', 'shared']);
    const sleeper = stopped(t, ctr, '?link,linkat', 1, ['namespaces', 'label', 'shared', 'sleeper=was here']);
    const [holder] = await eventually('a holder', () => holders(ctr).length > 0 && holders(ctr));
    await delay(100);
    const next = await ask(ctr, ['--lock-timeout', '300ms', 'namespaces', 'create', 'other']);
    assert.deepEqual([next.status, next.kind], [14, 'unavailable']);
    assert.match(next.stderr, new RegExp(`held by pid ${pidOf(holder!)} \\([^)]*stopped\\)`));
    sleeper.goOn();
    assert.deepEqual(await sleeper.ended, {status: 0, stderr: ''});
    await ctr.ok(['namespaces', 'create', 'other']);
    assert.equal(labelsOf(ctr, 'shared').sleeper, 'was here');
    assert.deepEqual(checkStore(rootOf(ctr)), []);
  });

  /** Where in its change the sleeper is stopped: before it is committed, as soon as it is, and while it is applied. */
  const POINTS = [
    ['fsync', 1],
    ['?link,linkat', 1],
    ['?rename,?renameat,renameat2', 2],
    ...(TORTURE
      ? ([
          ['fsync', 2],
          ['?unlink,unlinkat', 1],
        ] as const)
      : []),
  ] as const;
  for (const [calls, n] of POINTS)
    it(`taken from a command that sleeps at call ${n} of ${calls} never has two holders: its commit gets a new generation`, async (t) => {
      if (!requiresRoot(t) || !requiresProgram(t, 'strace', 'unshare') || !requiresOneClock(t, 'a sign of life is a file time')) return;
      const ctr = commandLine(t, 'executable');
      await ctr.ok(['namespaces', 'create', 'shared']);
      // Other processes cannot see that a process in another pid namespace is stopped.
      const through = [findProgram('unshare')!, '--pid', '--fork', '--kill-child', '--mount-proc'];
      const sleeper = stopped(t, ctr, calls, n, ['namespaces', 'label', 'shared', 'sleeper=was here'], through);
      const [holder] = await eventually('a holder', () => holders(ctr).length > 0 && holders(ctr));
      await delay(300);
      assert.deepEqual(holders(ctr), [holder], 'it is stopped with the lock');
      const silent = Date.now() / 1000 - 11;
      utimesSync(join(rootOf(ctr), 'locks/store', holder!), silent, silent);
      await ctr.ok(['namespaces', 'label', 'shared', 'other=was here too']);
      sleeper.goOn();
      assert.deepEqual(await sleeper.ended, {status: 0, stderr: ''});
      assert.deepEqual(labelsOf(ctr, 'shared'), {sleeper: 'was here', other: 'was here too'});
      assertGenerations(ctr, 3);
    });

  it('taken from a process with a blocked event loop never has two holders: its change is repeated on top of the other', async (t) => {
    if (!requiresRoot(t) || !requiresProgram(t, 'unshare') || !requiresOneClock(t, 'a sign of life is a file time')) return;
    const ctr = commandLine(t, 'executable');
    await ctr.ok(['namespaces', 'create', 'shared']);
    const code = `
      const {Store} = await lib('store/store.ts');
      const store = new Store({root: args[0], lockTimeoutMs: 10_000});
      const gate = args[0] + '.gate';
      let runs = 0;
      await store.update('a long thought', (tx) => {
        runs++;
        if (runs === 1) say('thinks');
        for (let n = 0; !require('node:fs').existsSync(gate) && n < 6000; n++) Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, 10);
        const ns = tx.namespaces.get('shared');
        tx.namespaces.put({...ns, labels: {...ns.labels, sleeper: 'was here'}});
      });
      say(String(runs));`;
    const gate = join(`${rootOf(ctr)}.gate`);
    onEnd(t, () => rmSync(gate, {force: true}));
    const sleeper = startScript(t, code, [rootOf(ctr)], {through: ['unshare', '--pid', '--fork', '--kill-child', '--mount-proc']});
    assert.equal(await sleeper.line(), 'thinks');
    const silent = Date.now() / 1000 - 11;
    utimesSync(join(rootOf(ctr), 'locks/store', holders(ctr)[0]!), silent, silent);
    await ctr.ok(['namespaces', 'label', 'shared', 'other=was here too']);
    writeFileSync(gate, '');
    assert.equal(await sleeper.line(), '2', 'its first commit was refused');
    assert.deepEqual(labelsOf(ctr, 'shared'), {sleeper: 'was here', other: 'was here too'});
    assertGenerations(ctr, 3);
  });

  it('is granted in order: 32 processes that each make 20 small changes', {timeout: 120_000}, async (t) => {
    const ctr = commandLine(t, 'executable');
    await ctr.ok(['namespaces', 'create', 'shared']);
    const code = `
      const {Store} = await lib('store/store.ts');
      await import(args[2]);
      const store = new Store({root: args[0], lockTimeoutMs: 60_000});
      const waits = [];
      say('up');
      await go();
      for (let n = 0; n < 20; n++) {
        const begun = performance.now();
        let waited = 0;
        await store.update('a small change', (tx) => {
          waited = performance.now() - begun;
          const ns = tx.namespaces.get('shared');
          tx.namespaces.put({...ns, labels: {...ns.labels, count: String(Number(ns.labels.count ?? 0) + 1), ['last' + args[1]]: String(n)}});
        });
        waits.push(waited);
      }
      say(JSON.stringify(waits));`;
    const scripts = numbers(32).map((i) => startScript(t, code, [rootOf(ctr), String(i), import.meta.resolve('proper-lockfile')]));
    for (const script of scripts) assert.equal(await script.line(), 'up');
    const begun = performance.now();
    for (const script of scripts) script.go();
    const waits = (await Promise.all(scripts.map((script) => script.line())))
      .flatMap((line) => JSON.parse(line) as number[])
      .sort((a, b) => a - b);
    const total = performance.now() - begun;
    const at = (share: number): string => `${Math.round(waits[Math.floor((waits.length - 1) * share)]!)} ms`;
    t.diagnostic(`32 × 20 changes in ${Math.round(total)} ms; waited: median ${at(0.5)}, one in ten ${at(0.9)}, worst ${at(1)}`);
    const {count, ...last} = labelsOf(ctr, 'shared');
    assert.equal(count, '640', 'no change is lost');
    assert.deepEqual(last, Object.fromEntries(numbers(32).map((i) => [`last${i}`, '19'])));
    assert.ok(waits.at(-1)! < 30_000);
    assert.deepEqual(names(join(rootOf(ctr), 'locks')), []);
    assert.deepEqual(checkStore(rootOf(ctr)), []);
  });
});

const labelsOf = (ctr: CommandLine, namespace: string): Record<string, string> =>
  (JSON.parse(readFileSync(join(rootOf(ctr), 'namespaces', namespace, 'namespace.json'), 'utf8')) as {labels: Record<string, string>})
    .labels;

/** Each generation up to this one has one record, in which nothing of an earlier one is lost. */
function assertGenerations(ctr: CommandLine, count: number): void {
  const journal = join(rootOf(ctr), 'journal');
  const records = names(journal).filter((name) => /^\d+$/.test(name));
  assert.deepEqual(
    records.map(Number),
    numbers(count).map((i) => i + 1),
  );
  let before = 0;
  for (const name of records) {
    const {generation, writes} = JSON.parse(readFileSync(join(journal, name), 'utf8')) as {
      generation: number;
      writes: Record<string, {labels?: object}>;
    };
    assert.equal(generation, Number(name));
    const labels = Object.keys(writes['namespaces/shared/namespace.json']?.labels ?? {}).length;
    assert.ok(labels >= before, `generation ${generation} lost a label`);
    before = labels;
  }
  assert.deepEqual(checkStore(rootOf(ctr)), []);
}
