/** Serves hostile images from a registry, and pulls and runs them by the command, with a canary outside of the state directory. */
import assert from 'node:assert/strict';
import {createHash} from 'node:crypto';
import {chmodSync, existsSync, mkdirSync, readdirSync, readFileSync, writeFileSync} from 'node:fs';
import {join} from 'node:path';
import {describe} from 'node:test';
import {CLASSES, type Code, type ErrorJSON} from '../../src/lib/errdefs.ts';
import {type CommandLine, commandLine, type Engine, type Result} from '../cli/harness.ts';
import {type FakeOptions, type FakeRegistry, startFakeRegistry} from '../fakes/registry.ts';
import {requiresProgram, requiresRoot, type Scope, type Skippable, TORTURE, temporaryDirectory} from '../support/helpers.ts';
import {ARCHITECTURE} from '../support/layouts.ts';
import {type TarEntry, tar} from '../support/tartest.ts';
import {diffTrees, readTree} from '../support/tree.ts';

/** Both engines under BERTH_TEST_TORTURE=1, else the installed one. */
const ENGINES: readonly Engine[] = TORTURE ? ['node', 'executable'] : ['executable'];

export const SNAPSHOTTERS = ['erofs', 'overlayfs', 'native'] as const;
export type SnapshotterName = (typeof SNAPSHOTTERS)[number];

export function describeOnEngines(name: string, declare: (engine: Engine) => void): void {
  for (const engine of ENGINES) describe(`${name}, ${engine}`, () => declare(engine));
}

export type Layer = readonly (TarEntry | Buffer)[] | Buffer;

export interface ImageOptions {
  /** Compresses a layer's tar for the registry, such as `gzipSync`. */
  readonly compress?: (tar: Buffer) => Buffer;
  /** The `config` object of the image's configuration. */
  readonly config?: object;
  /** Diff IDs in the config, if not the right ones. */
  readonly diffIDs?: readonly string[];
}

export interface PullOptions {
  readonly snapshotter?: SnapshotterName;
  readonly flags?: readonly string[];
  readonly env?: Readonly<Record<string, string>>;
}

export interface AttackSetup {
  readonly ctr: CommandLine;
  readonly registry: FakeRegistry;
  /** Absolute path of the commands' working directory, with a file `canary` (mode 0400) and a directory `dir`. */
  readonly outside: string;
  readonly root: string;
  /** Adds an image to the registry. @returns its reference */
  publish(layers: readonly Layer[], options?: ImageOptions): string;
  pull(ref: string, options?: PullOptions): Promise<Result>;
  /** Asserts that a pull fails with this class and leaves nothing. @returns the error */
  refused(ref: string, code: Code, options?: PullOptions): Promise<ErrorJSON>;
  /** Asserts that a pull succeeds and does no harm. */
  harmless(ref: string, options?: PullOptions): Promise<void>;
  /** Asserts that nothing outside has changed, that no temporary data is left, and that the store is sound. */
  assertUnharmed(): Promise<void>;
}

/** @returns `undefined` if the test was skipped */
export async function setUpAttack(t: Scope & Skippable, engine: Engine, options: FakeOptions = {}): Promise<AttackSetup | undefined> {
  if (!requiresRoot(t) || !requiresProgram(t, 'getfattr')) return undefined;
  const ctr = commandLine(t, engine);
  const registry = await startFakeRegistry(t, options);
  const outside = join(temporaryDirectory(t, 'berth-outside-'), 'outside');
  mkdirSync(join(outside, 'dir'), {recursive: true});
  writeFileSync(join(outside, 'canary'), 'canary');
  chmodSync(join(outside, 'canary'), 0o400);
  const before = readTree(outside);
  const root = ctr.env.BERTH_ROOT!;
  let published = 0;

  const attack: AttackSetup = {
    ctr,
    registry,
    outside,
    root,
    publish: (layers, {compress = (bytes: Buffer) => bytes, config = {}, diffIDs} = {}) => {
      const tars = layers.map((layer) => (Buffer.isBuffer(layer) ? layer : tar(...layer)));
      const tag = `v${++published}`;
      registry.addImage('image', tag, tars.map(compress), {
        architecture: ARCHITECTURE,
        os: 'linux',
        config,
        rootfs: {type: 'layers', diff_ids: diffIDs ?? tars.map((bytes) => `sha256:${createHash('sha256').update(bytes).digest('hex')}`)},
      });
      return `${registry.host}/image:${tag}`;
    },
    pull: (ref, {snapshotter = 'overlayfs', flags = [], env = {}} = {}) =>
      ctr(['pull', '--json', '--progress', 'none', '--snapshotter', snapshotter, ...flags, ref], {cwd: outside, env}),
    refused: async (ref, code, pullOptions = {}) => {
      const {status, stdout, stderr} = await attack.pull(ref, pullOptions);
      assert.equal(status, CLASSES[code].exit, `${pullOptions.snapshotter ?? ''} ${stdout}${stderr}`);
      assert.equal(stdout, '');
      const {error} = JSON.parse(stderr) as {error: ErrorJSON};
      assert.equal(error.kind, code);
      assert.doesNotMatch(stderr, /\n\s+at /);
      await attack.assertUnharmed();
      return error;
    },
    harmless: async (ref, pullOptions = {}) => {
      const {status, stderr} = await attack.pull(ref, pullOptions);
      assert.equal(status, 0, `${pullOptions.snapshotter ?? ''} ${stderr}`);
      await attack.assertUnharmed();
    },
    assertUnharmed: async () => {
      assert.deepEqual(diffTrees(before, readTree(outside)), [], 'outside');
      for (const place of ['work', 'trash'])
        assert.deepEqual(existsSync(join(root, place)) ? readdirSync(join(root, place)) : [], [], place);
      assert.ok(!readFileSync('/proc/self/mountinfo', 'utf8').includes(root));
      const {status, stdout} = await ctr(['check']);
      assert.equal(status, 0, stdout);
    },
  };
  return attack;
}

/** Runs an attack on every snapshotter, each with its own store. */
export async function onEverySnapshotter(
  t: Scope & Skippable,
  engine: Engine,
  run: (attack: AttackSetup, snapshotter: SnapshotterName) => Promise<void>,
): Promise<void> {
  for (const snapshotter of SNAPSHOTTERS) {
    const attack = await setUpAttack(t, engine);
    if (attack === undefined) return;
    await run(attack, snapshotter);
  }
}
