/** Hostile images as their victims meet them: in a registry, pulled and run by the command, with a canary outside of everything. */
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

/** Both engines under BERTH_TEST_TORTURE=1; by default the one that is installed. */
const ENGINES: readonly Engine[] = TORTURE ? ['node', 'executable'] : ['executable'];

export const SNAPSHOTTERS = ['erofs', 'overlayfs', 'native'] as const;
export type SnapshotterName = (typeof SNAPSHOTTERS)[number];

export function describeOnEngines(name: string, declare: (engine: Engine) => void): void {
  for (const engine of ENGINES) describe(`${name}, ${engine}`, () => declare(engine));
}

export type Layer = readonly (TarEntry | Buffer)[] | Buffer;

export interface ImageOptions {
  /** What becomes of a layer's tar in the registry, such as `gzipSync`. */
  readonly compress?: (tar: Buffer) => Buffer;
  /** The `config` object of the image's configuration. */
  readonly config?: object;
  /** Digests that the configuration claims for the layers' tars. */
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
  /** Absolute: a directory with a file `canary` (mode 0400) and a directory `dir`, where every command stands. */
  readonly outside: string;
  readonly root: string;
  /** Puts an image in the registry. @returns its reference */
  publish(layers: readonly Layer[], options?: ImageOptions): string;
  pull(ref: string, options?: PullOptions): Promise<Result>;
  /** A pull that must be refused so; what it left is looked at. @returns the error */
  refused(ref: string, code: Code, options?: PullOptions): Promise<ErrorJSON>;
  /** A pull that must do no harm. */
  harmless(ref: string, options?: PullOptions): Promise<void>;
  /** Nothing outside has changed, nothing half-made is left, and the store is whole. */
  assertUnharmed(): Promise<void>;
}

/** @returns undefined when the test was skipped */
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

/** Runs an attack on every snapshotter, each on a store of its own. */
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
