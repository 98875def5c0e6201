/** Runs the printed mount scripts in shells, for every snapshotter, any number of layers, and unusual names. */
import assert from 'node:assert/strict';
import {execFileSync} from 'node:child_process';
import {mkdirSync, readdirSync, renameSync, rmSync} from 'node:fs';
import {join} from 'node:path';
import {describe, it, type TestContext} from 'node:test';
import {lines} from '../../../src/cli/printable.ts';
import {digestOf, startFakeRegistry} from '../../fakes/registry.ts';
import {randomOf} from '../../fuzz/seeded-random.ts';
import {findProgram, newClient, requiresProgram, requiresRoot, SAMPLE, TORTURE, temporaryDirectory} from '../../support/helpers.ts';
import {requiresLoopDevices, stateOnLoops} from '../../support/loop-devices.ts';
import {ODD_NAMES, oddName} from '../../support/odd-names.ts';
import {dir, file, tar, whiteout} from '../../support/tartest.ts';
import {CONFIG} from './pulled-store.ts';

const WAYS = ['erofs', 'erofs on loop devices', 'overlayfs', 'native'] as const;
type Way = (typeof WAYS)[number];

const snapshotterOf = (way: Way): string => (way === 'erofs on loop devices' ? 'erofs' : way);

/** Each layer adds a file, replaces one, and deletes one; the lowest layer deletes a missing one. */
const layersOf = (count: number): readonly Buffer[] =>
  Array.from({length: count}, (_, i) =>
    tar(
      ...(i === 0 ? [dir('added'), dir('gone')] : []),
      file(`added/${i}`, `${i}`),
      file('replaced', `${i}`),
      file(`gone/${i}`),
      whiteout(`gone/${i - 1}`),
    ),
  );

/** Expected output of `LOOK` for the tree of so many layers. */
const expected = (count: number): string =>
  [
    ...['.', './added', './gone', './replaced', `./gone/${count - 1}`, ...Array.from({length: count}, (_, i) => `./added/${i}`)].sort(),
    `${count - 1}:${Array.from({length: count}, (_, i) => i).join('')}`,
  ].join('\n');

/** The tree, then contents of files, the lowest layer's first. */
const LOOK = `find . | LC_ALL=C sort; cat replaced; printf :; i=0; while test -e added/$i; do cat added/$i; i=$((i + 1)); done`;

/**
 * Runs a script twice, each time in its own mount namespace; the second run sees files of the first.
 *
 * @returns what `LOOK` prints, once it is sure that one mount was made, that it can be written to or not, and that nothing is left
 */
function runScript(
  shell: readonly string[],
  script: string,
  {
    base,
    target,
    scratch,
    isWritable,
  }: {readonly base: string; readonly target: string; readonly scratch: string; readonly isWritable: boolean},
): string {
  const write = isWritable
    ? 'echo written > "$target/new" || exit'
    : '! touch "$target/new" 2>/dev/null || { echo "it can be written to"; exit 1; }';
  const read = isWritable ? 'read -r word < "$target/new" && test "$word" = written && rm "$target/new" || exit' : ':';
  const text = `
    base=$1; target=$2; script=$3; shift 3
    # Mounts of other tests are gone as soon as these have removed their directories.
    count() { grep -cF "$base" /proc/self/mountinfo; }
    before=$(count)
    "$@" -c "$script" || exit
    test $(($(count) - before)) = 1 || { echo "it left other mounts"; cat /proc/self/mountinfo; exit 1; }
    ${write}
    umount "$target" || exit
    "$@" -c "$script" || exit
    ${read}
    (cd "$target" && ${LOOK}) || exit
    umount "$target" || exit
    test $(count) = "$before" || { echo "it kept a mount"; cat /proc/self/mountinfo; exit 1; }`;
  const args = ['-m', '--propagation', 'private', 'sh', '-c', text, 'sh', base, target, script, ...shell];
  const output = execFileSync('unshare', args, {
    encoding: 'utf8',
    stdio: ['ignore', 'pipe', 'pipe'],
    env: {PATH: process.env.PATH, TMPDIR: scratch},
  });
  assert.deepEqual(readdirSync(scratch), [], 'files left');
  return output;
}

const SHELLS = [['sh'], ['bash', '--posix']].filter(([program]) => findProgram(program!) !== undefined);

async function canUse(t: TestContext, way: Way): Promise<boolean> {
  if (!requiresRoot(t) || !requiresProgram(t, 'unshare', 'mount')) return false;
  return way !== 'erofs on loop devices' || (await requiresLoopDevices(t));
}

/**
 * Pairs of names, of root and target: under torture the whole table and many that are made up, else a share of both.
 *
 * @param part of the table, and of how many parts; counted from 0
 */
function* names(seed: number, [part, parts]: readonly [number, number]): Generator<readonly [string, string]> {
  const shift = randomOf(seed, 0).below(ODD_NAMES.length);
  if (parts < ODD_NAMES.length) yield ['root', 'target'];
  for (const [i, name] of ODD_NAMES.entries()) if (TORTURE || i % parts === part) yield [name, ODD_NAMES[(i + shift) % ODD_NAMES.length]!];
  for (let n = 1; n <= (TORTURE ? 100 : 1); n++) yield [oddName(randomOf(seed, 2 * n)), oddName(randomOf(seed, 2 * n + 1))];
}

const COUNTS = [1, 3, 7, 127] as const;
const MANY = 127;

describe('a mount script', () => {
  for (const way of WAYS)
    for (const count of COUNTS) {
      // There need not be so many devices; and copies are mounted in one way, however many layers were copied.
      if (count === MANY && (way === 'erofs on loop devices' || (way === 'native' && !TORTURE))) continue;
      const seed = SAMPLE * 1000 + WAYS.indexOf(way) * 200 + count;
      it(`mounts ${count} layers, for any names of root and target, ${way}, seed ${seed}`, async (t) => {
        if (!(await canUse(t, way))) return;
        const base = temporaryDirectory(t);
        const scratch = join(base, "tmp dir's");
        mkdirSync(scratch);
        const state = way === 'erofs on loop devices' ? stateOnLoops(t) : join(base, 'state');
        let root = join(base, 'origin');
        const layers = layersOf(count);
        const registry = await startFakeRegistry(t);
        registry.addImage('app', 'latest', layers, {
          ...CONFIG,
          rootfs: {type: 'layers', diff_ids: layers.map((layer) => digestOf(layer))},
        });
        const origin = await newClient(t, {root, state});
        const snapshotter = snapshotterOf(way);
        const {unpacked} = await origin.namespace('default').pull(`${registry.host}/app:latest`, {snapshotter});
        const {chainID} = unpacked[0]!;
        await origin.namespace('default').snapshots(snapshotter).prepare('writable', chainID);
        await origin.namespace('default').snapshots(snapshotter).view('view', chainID);
        await origin.close();
        let turn = 0;
        for (const [rootName, targetName] of names(
          seed,
          count === MANY ? [SAMPLE % ODD_NAMES.length, ODD_NAMES.length] : [COUNTS.indexOf(count), COUNTS.length - 1],
        )) {
          const what = JSON.stringify({rootName, targetName});
          const next = join(base, 'roots', rootName);
          const target = join(base, 'targets', targetName);
          mkdirSync(join(base, 'roots'), {recursive: true});
          renameSync(root, next);
          root = next;
          mkdirSync(target, {recursive: true});
          const client = await newClient(t, {root, state});
          const key = turn % 2 === 0 ? 'view' : 'writable';
          const script = await client.namespace('default').snapshots(snapshotter).mountScript(key, target);
          assert.equal(lines(script), `${script.join('\n')}\n`, 'a terminal is shown what a shell would run');
          const shell = SHELLS[turn++ % SHELLS.length]!;
          const output = runScript(shell, script.join('\n'), {base, target, scratch, isWritable: key === 'writable'});
          assert.equal(output, expected(count), `${what} in ${shell}`);
          rmSync(target, {recursive: true});
        }
      });
    }

  it('is one command when that suffices, and resolves its target against the working directory', async (t) => {
    const client = await newClient(t);
    const snapshots = client.namespace('default').snapshots('overlayfs');
    await snapshots.prepare('alone');
    const tree = (await snapshots.mounts('alone'))[0]!.source;
    assert.deepEqual(await snapshots.mountScript('alone', '-o'), [`mount -t bind ${tree} ${process.cwd()}/-o -o rw,rbind`]);
  });
});
