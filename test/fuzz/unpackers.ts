/** Unpackers of many images at once: berth, containerd and umoci. */
import assert from 'node:assert/strict';
import {type ChildProcess, execFileSync, spawn, spawnSync} from 'node:child_process';
import {once} from 'node:events';
import {mkdirSync, readFileSync, writeFileSync} from 'node:fs';
import {join} from 'node:path';
import {type Code, codeOf} from '../../src/lib/errdefs.ts';
import type {Mount} from '../../src/lib/runtime/mount-plan.ts';
import {startContainerd} from '../e2e/containerd.ts';
import {digestOf, startFakeRegistry} from '../fakes/registry.ts';
import {findProgram, newClient, type Scope, temporaryDirectory} from '../support/helpers.ts';
import {ARCHITECTURE, addImage, setTarget} from '../support/layouts.ts';
import {diffTrees, readAllXattrs, readTree, type TreeEntry} from '../support/tree.ts';

/** The tree of an image, or an error. */
export type Outcome = {readonly tree: readonly TreeEntry[]} | {readonly error: string; readonly code?: Code};

/** @param images layers of each, bottom first */
export type Unpacker = (scope: Scope, images: readonly (readonly Buffer[])[]) => Promise<readonly Outcome[]>;

/** Concurrent pulls. */
const AT_ONCE = 4;

const quoted = (word: string): string => `'${word.replaceAll("'", "'\\''")}'`;

/**
 * Runs a script for each image in one private mount namespace, and reads the mounted trees.
 *
 * @param scripts shell with the mount point as `$1`; `undefined` for an image that already failed
 */
async function readMounted(scope: Scope, scripts: readonly (string | undefined)[]): Promise<readonly Outcome[]> {
  const dir = temporaryDirectory(scope, 'berth-trees-');
  const script = scripts.flatMap((own, i) => {
    const at = join(dir, String(i));
    if (own === undefined) return [];
    mkdirSync(at);
    return [`(set -e -- ${quoted(at)}; ${own}) >/dev/null 2>${quoted(`${at}.err`)} && touch ${quoted(`${at}.done`)}`];
  });
  const lines = [...script, 'echo mounted', 'read -r _'].join('\n');
  writeFileSync(join(dir, 'script'), lines);
  // Three paths exceed libmount's option limit for the new mount API.
  const env = {...process.env, LIBMOUNT_FORCE_MOUNT2: 'always'};
  const own = ['--pdeathsig', 'KILL', 'unshare', '--mount', '--propagation', 'private', 'sh', join(dir, 'script')];
  const child: ChildProcess = spawn('setpriv', own, {env, stdio: ['pipe', 'pipe', 'inherit']});
  const ended = once(child, 'exit');
  try {
    const [answer] = await Promise.race([once(child.stdout!, 'data'), ended]);
    assert.equal(String(answer), 'mounted\n');
    const root = `/proc/${child.pid}/root${dir}`;
    const done = scripts.map((_, i) => isReadable(`${dir}/${i}.done`));
    const xattrs = readAllXattrs(scripts.flatMap((_, i) => (done[i] === true ? [`${root}/${i}`] : [])));
    return scripts.map((_, i): Outcome => {
      if (done[i] !== true) return {error: scripts[i] === undefined ? 'not mounted' : readFileSync(`${dir}/${i}.err`, 'utf8')};
      try {
        return {tree: readTree(`${root}/${i}`, xattrs)};
      } catch (err) {
        return {error: String(err)};
      }
    });
  } finally {
    child.stdin!.end('\n');
    await ended;
  }
}

function isReadable(path: string): boolean {
  try {
    readFileSync(path);
    return true;
  } catch {
    return false;
  }
}

/** Shell script that mounts a snapshot's parts below `$1`, and the snapshot at `$1`. */
function mountScript(mounts: readonly Mount[]): string {
  const at = (i: number): string => (i === mounts.length - 1 ? '"$1"' : `"$1.${i}"`);
  return mounts
    .map(({type, source, options}, i) => {
      const resolved = options.join(',').replaceAll(/\{\{ mount (\d+) \}\}/g, (_, n: string) => `'"$1.${n}"'`);
      return `mkdir -p ${at(i)}; mount -t ${type} -o '${resolved}' '${source}' ${at(i)}`;
    })
    .join('; ')
    .replaceAll("''", '');
}

/** Mounts as a container of berth has them. A view with a different tree is a failure. */
export const ours =
  (snapshotter: string): Unpacker =>
  async (scope, images) => {
    const registry = await startFakeRegistry(scope);
    const client = await newClient(scope);
    const namespace = client.namespace('default');
    const snapshots = namespace.snapshots(snapshotter);
    const scripts: (readonly [container: string, view: string])[] = [];
    const failed = new Map<number, Outcome>();
    const unpack = async (layers: readonly Buffer[], i: number): Promise<void> => {
      const config = {architecture: ARCHITECTURE, os: 'linux', rootfs: {type: 'layers', diff_ids: layers.map((layer) => digestOf(layer))}};
      registry.addImage('app', `n${i}`, layers, config);
      try {
        const {unpacked} = await namespace.pull(`${registry.host}/app:n${i}`, {snapshotter});
        const {chainID} = unpacked[0]!;
        scripts[i] = [mountScript(await snapshots.prepare(`c${i}`, chainID)), mountScript(await snapshots.view(`v${i}`, chainID))];
      } catch (err) {
        failed.set(i, {error: String(err), code: codeOf(err)});
      }
    };
    const todo = images.map((layers, i) => [layers, i] as const).reverse();
    const lane = async (): Promise<void> => {
      for (let next = todo.pop(); next !== undefined; next = todo.pop()) await unpack(...next);
    };
    await Promise.all(Array.from({length: AT_ONCE}, lane));
    const read = await readMounted(
      scope,
      [0, 1].flatMap((way) => images.map((_, i) => scripts[i]?.[way])),
    );
    return images.map((_, i) => failed.get(i) ?? withView(read[i]!, read[images.length + i]!));
  };

function withView(container: Outcome, view: Outcome): Outcome {
  if ('error' in container || 'error' in view) return 'error' in container ? container : view;
  const lines = diffTrees(container.tree, view.tree, {ignore: (path, field) => path === '.' && field === 'mtime'});
  return lines.length === 0 ? container : {error: `a view shows something else: ${lines.join('; ')}`};
}

/** Mounts by containerd's `ctr images mount`. */
export const containerd =
  (snapshotter: string): Unpacker =>
  async (scope, images) => {
    const work = temporaryDirectory(scope);
    const layout = join(work, 'layout');
    const manifests = images.map((layers, i) => ({
      ...addImage(layout, {layers, compression: 'none'}),
      annotations: {'io.containerd.image.name': `trees.test/n:${i}`},
    }));
    writeFileSync(join(layout, 'oci-layout'), '{"imageLayoutVersion":"1.0.0"}');
    writeFileSync(join(layout, 'index.json'), JSON.stringify({schemaVersion: 2, manifests}));
    execFileSync('tar', ['-C', layout, '-cf', join(work, 'images.tar'), '.']);
    const {ctr, socket} = await startContainerd(scope);
    ctr('images', 'import', '--no-unpack', join(work, 'images.tar'));
    const mount = `${findProgram('ctr')} --address ${socket} images mount --snapshotter ${snapshotter}`;
    return readMounted(
      scope,
      images.map((_, i) => `${mount} trees.test/n:${i} "$1"`),
    );
  };

export const umoci: Unpacker = (scope, images) =>
  Promise.resolve(
    images.map((layers): Outcome => {
      const work = temporaryDirectory(scope);
      setTarget(join(work, 'layout'), addImage(join(work, 'layout'), {layers, compression: 'none'}));
      const {status, stderr} = spawnSync('umoci', ['raw', 'unpack', '--image', `${work}/layout:latest`, join(work, 'tree')], {
        encoding: 'utf8',
      });
      return status === 0 ? {tree: readTree(join(work, 'tree'))} : {error: stderr.trim()};
    }),
  );
