/**
 * Failures of clean-up never change the result of a command. Output, exit status and records are those of an undisturbed run, one warning
 * reports the failure, and once the obstacle is gone `gc` leaves nothing.
 *
 * The test finds the calls of the clean-up itself: all calls after the last commit of a command, and all calls on leftovers of dead
 * processes. Each fails in turn, with each errno of a real obstacle; `BERTH_TEST_TORTURE=1` tries every pair.
 */
import assert from 'node:assert/strict';
import {execFileSync} from 'node:child_process';
import {
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  symlinkSync,
  utimesSync,
  writeFileSync,
} from 'node:fs';
import {join} from 'node:path';
import {Readable} from 'node:stream';
import {describe, it} from 'node:test';
import {openClient} from '../../../src/lib/client/index.ts';
import {Store} from '../../../src/lib/store/store.ts';
import {ctrHere, type Place} from '../../cli/run-in-process.ts';
import {fileScope} from '../../e2e/fixtures.ts';
import {arm, disarm, type Failpoint, killedHere} from '../../fakes/failpoints.ts';
import {digestOf, startFakeRegistry} from '../../fakes/registry.ts';
import {
  findProgram,
  newClient,
  onEnd,
  requiresProgram,
  requiresRoot,
  type Scope,
  TORTURE,
  temporaryDirectory,
} from '../../support/helpers.ts';
import {checkStore} from '../../support/invariants.ts';
import {dir, file, tar} from '../../support/tartest.ts';
import {CONFIG, DEAD, LAYERS, withContainer} from './pulled-store.ts';

const SNAPSHOTTER = 'overlayfs';
const ERRNOS = ['EPERM', 'EACCES', 'EXDEV', 'EBUSY', 'EROFS'] as const;

const LEFT = `${DEAD}.1-leftover`;
const BYTES = 'bytes that a user keeps';

interface Result {
  readonly status: number;
  readonly stdout: string;
  /** Warnings of clean-up on standard error, one for each line. */
  readonly warnings: readonly string[];
  readonly stderr: string;
}

interface Origin {
  readonly root: string;
  readonly app: string;
  readonly tool: string;
}

const scope = fileScope();
let made: Promise<Origin> | undefined;
let memory: string | undefined;

/** A directory in memory: `sync` of a busy disk takes seconds. */
function placeInMemory(t: Scope): string {
  if (memory === undefined) {
    const mounted = temporaryDirectory(scope);
    execFileSync('mount', ['-t', 'tmpfs', 'memory', mounted]);
    onEnd(scope, () => execFileSync('umount', [mounted]));
    memory = mounted;
  }
  const directory = mkdtempSync(join(memory, 'place-'));
  onEnd(t, () => rmSync(directory, {recursive: true, force: true}));
  return directory;
}

/** Two images of which one tag has moved since, in two namespaces; a container, a lease, content and a snapshot of a user's. */
async function makeOrigin(): Promise<Origin> {
  const registry = await startFakeRegistry(scope);
  const client = await newClient(scope);
  const [app, tool] = [`${registry.host}/app:latest`, `${registry.host}/tool:latest`];
  registry.addImage('app', 'latest', LAYERS, CONFIG);
  const busybox = tar(dir('bin/'), file('bin/busybox', readFileSync(findProgram('busybox')!), 0o755));
  const config = {...CONFIG, config: {Cmd: ['/bin/busybox']}, rootfs: {type: 'layers', diff_ids: [digestOf(busybox)]}};
  registry.addImage('tool', 'latest', [busybox], config);
  const ns = client.namespace('default');
  await ns.pull(app, {snapshotter: SNAPSHOTTER});
  await ns.pull(tool, {snapshotter: SNAPSHOTTER});
  await client.namespace('other').pull(tool, {snapshotter: SNAPSHOTTER});
  await withContainer({client, snapshotter: SNAPSHOTTER, ref: app});
  await ns.leases.create({id: 'kept'});
  await ns.content.ingest('key', Readable.from([Buffer.from(BYTES)]));
  await ns.snapshots(SNAPSHOTTER).prepare('work');
  await client.close();
  // Old enough for a collection to sync them.
  const old = new Date(Date.now() - 3600_000);
  for (const id of readdirSync(join(client.root, 'layers'))) {
    const info = join(client.root, 'layers', id, 'layer.json');
    if (existsSync(info)) utimesSync(info, old, old);
  }
  const moved = tar(file('c', 'moved'));
  registry.addImage('app', 'latest', [moved], {...CONFIG, rootfs: {type: 'layers', diff_ids: [digestOf(moved)]}});
  return {root: client.root, app, tool};
}

/** Creates every kind of leftover of dead processes. @returns their paths below `place` */
function leaveThings({root, state}: Place): readonly string[] {
  const long = new Date(Date.now() - 48 * 3600_000);
  const ingest = join(root, 'content/ingest', `sha256-${'1'.repeat(64)}`);
  const layer = join(root, 'layers', `overlayfs-sha256-${'2'.repeat(64)}`);
  const directories = [
    join(root, 'trash', LEFT, 'fs'),
    join(root, 'work', LEFT, 'fs'),
    join(root, 'layers', `.tmp.${LEFT}`, 'fs'),
    join(root, 'locks', `store.${LEFT}`),
    join(root, 'locks', `ingest-ref-${'3'.repeat(64)}`),
    ingest,
    join(layer, 'fs'),
    join(state, 'views', `view-${LEFT}`),
    join(state, 'runs/default/bundles', `.${DEAD}.7`),
  ];
  for (const directory of directories) mkdirSync(directory, {recursive: true, mode: 0o700});
  const files = [
    join(directories[0]!, 'file'),
    join(directories[1]!, 'file'),
    join(root, 'trash', `${DEAD}.2-leftover`),
    ...['', 'journal', 'content/blobs/sha256', 'namespaces/default/images'].map((directory) => join(root, directory, `.tmp.${LEFT}`)),
    join(directories[3]!, LEFT),
    join(directories[4]!, LEFT),
    join(ingest, 'data'),
    join(root, 'content/blobs/sha256', '4'.repeat(64)),
    join(layer, 'layer.json'),
    join(directories[7]!, 'fstab'),
    join(state, `.tmp.${LEFT}`),
  ];
  for (const path of files) writeFileSync(path, '', {mode: 0o600});
  utimesSync(join(ingest, 'data'), long, long);
  return [...directories, ...files];
}

let places = 0;

async function fresh(directory: string): Promise<Place & Origin> {
  made ??= makeOrigin();
  const origin = await made;
  const place = join(directory, String(places++));
  mkdirSync(place);
  execFileSync('cp', ['-a', origin.root, join(place, 'root')]);
  return {...origin, root: join(place, 'root'), state: join(place, 'state')};
}

type Command = (place: Place & Origin) => Promise<Result>;

async function ctr(place: Place, words: readonly string[]): Promise<Result> {
  const {status, stdout, stderr} = await ctrHere(place, words);
  return {status, stdout, stderr, warnings: stderr.split('\n').filter((line) => line.startsWith('ctr: warning: cleanup is incomplete'))};
}

const ingest: Command = async ({root, state}) => {
  const warnings: string[] = [];
  const client = openClient({root, state, onWarning: ({message}) => void warnings.push(message)});
  const {digest} = await client.namespace('default').content.ingest('new', Readable.from([Buffer.from('new')]));
  await client.close();
  return {status: 0, stdout: digest, warnings: warnings.slice(0, 1), stderr: warnings.join('\n')};
};

const PULL = ['pull', '--progress', 'none', '--snapshotter', SNAPSHOTTER] as const;

const COMMANDS: Readonly<Record<string, Command>> = {
  'pull of a tag that has moved': (place) => ctr(place, [...PULL, place.app]),
  'pull in another namespace': (place) => ctr(place, ['-n', 'third', ...PULL, place.app]),
  'images tag --force': (place) => ctr(place, ['images', 'tag', '--force', place.tool, place.app]),
  'images rm': (place) => ctr(place, ['images', 'rm', place.app]),
  'images label': (place) => ctr(place, ['images', 'label', place.app, 'a=b']),
  'content rm': (place) => ctr(place, ['content', 'rm', digestOf(Buffer.from(BYTES))]),
  'content ingest': ingest,
  'snapshots prepare': (place) => ctr(place, ['snapshots', '--snapshotter', SNAPSHOTTER, 'prepare', 'new']),
  'snapshots commit': (place) => ctr(place, ['snapshots', '--snapshotter', SNAPSHOTTER, 'commit', 'done', 'work']),
  'snapshots rm': (place) => ctr(place, ['snapshots', '--snapshotter', SNAPSHOTTER, 'rm', 'work']),
  'leases rm': (place) => ctr(place, ['leases', 'rm', 'kept']),
  'containers rm': (place) => ctr(place, ['containers', 'rm', 'c1']),
  'namespaces create': (place) => ctr(place, ['namespaces', 'create', 'new']),
  'namespaces rm': (place) => ctr(place, ['namespaces', 'rm', '--recursive', 'other']),
  prune: (place) => ctr(place, ['prune']),
  gc: (place) => ctr(place, ['gc']),
  run: (place) => ctr(place, ['run', '--rm', '--snapshotter', SNAPSHOTTER, place.tool, 'r', '/bin/busybox', 'sh', '-c', 'exit 7']),
};

/** Removes from a text everything that differs between copies of a store. */
const steady = (text: string, root: string): string =>
  text
    .replaceAll(root, 'ROOT')
    .replaceAll(/"(?:createdAt|updatedAt|expiresAt|containerd.io\/gc.root)": ?"[^"]*"/g, '')
    .replaceAll(/overlayfs-own-[0-9a-f]+/g, 'OWN')
    .replaceAll(/\b\d+(\.\d+)?( ?[KMG]i)?(B|s|ms)?(\/s)?\b/g, '#');

/** Every record and every count, as a reader sees them. */
function recordsOf(root: string): string {
  const survey = new Store({root, lockTimeoutMs: 1000}).view((tx) => tx.survey());
  return steady(JSON.stringify({...survey, counts: [...survey.counts].sort()}, null, 1), root);
}

const outcome = ({status, stdout}: Result, root: string) => ({status, stdout: steady(stdout, root), records: recordsOf(root)});

/** Clean-up whose failure every command reports. An event that cannot be written is lost without a word. */
const TOLD = /^\/(?:root\/(?:trash|layers|work|content)|state\/(?!events\/))/;

/**
 * Calls of the clean-up: after so many commits, and on what dead processes left.
 *
 * @param left their paths below the place
 */
function cleanUp(commits: number, left: readonly string[], seen: (name: string, path: string) => void): NonNullable<Failpoint['only']> {
  let committed = 0;
  let isSynced = false;
  return (name, path) => {
    // The commit itself: the link, and the sync of its directory, which readers repeat where it is not applied.
    if (name === 'linkSync' && /^\/root\/journal\/\d{16}$/.test(path)) {
      committed++;
      isSynced = false;
      return false;
    }
    if (name === 'fsyncSync' && path === '/root/journal') {
      isSynced = true;
      return false;
    }
    const isLeft = left.some((leftover) => path === leftover || path.startsWith(`${leftover}/`));
    if (!isLeft && !(committed >= commits && isSynced)) return false;
    seen(name, path);
    return true;
  };
}

/** Number of commits between two states of a store. */
const generation = (root: string): number =>
  Math.max(0, ...readdirSync(join(root, 'journal')).flatMap((name) => (/^\d{16}$/.test(name) ? [Number(name)] : [])));

async function assertNothingLeft(place: Place, what: string): Promise<void> {
  killedHere(place.root);
  killedHere(place.state);
  const collected = await ctr(place, ['gc']);
  assert.equal(collected.status, 0, `${what}: ${collected.stderr}`);
  assert.deepEqual(collected.warnings, [], what);
  assert.deepEqual(checkStore(place.root, {litter: true, deep: false}), [], what);
  const views = join(place.state, 'views');
  assert.deepEqual(existsSync(views) ? readdirSync(views) : [], [], what);
}

describe('clean-up that fails', () => {
  for (const [name, command] of Object.entries(COMMANDS))
    it(`does not change the result of ${name}`, async (t) => {
      if (!requiresRoot(t) || !requiresProgram(t, 'busybox')) return;
      if (name === 'run' && !requiresProgram(t, 'runc')) return;
      const directory = placeInMemory(t);
      const place = (at: Place): string => join(at.root, '..');
      const leave = (at: Place): readonly string[] => leaveThings(at).map((path) => path.slice(place(at).length));

      const undisturbed = await fresh(directory);
      const before = generation(undisturbed.root);
      leave(undisturbed);
      const right = await command(undisturbed);
      assert.deepEqual(right.warnings, [], right.stderr);
      assert.equal(right.status, name === 'run' ? 7 : 0, right.stderr);
      const expected = outcome(right, undisturbed.root);
      const commits = generation(undisturbed.root) - before;

      const counting = await fresh(directory);
      const left = leave(counting);
      let calls = 0;
      arm({below: place(counting), action: 'EIO', at: 0, only: cleanUp(commits, left, () => void calls++)});
      await command(counting);
      disarm();
      assert.ok(calls > 0, 'it has no clean-up');

      const step = TORTURE ? 1 : Math.max(1, Math.floor(calls / (name.startsWith('pull') ? 2 : 4)));
      for (let at = 1; at <= calls; at += step)
        for (const [i, action] of ERRNOS.entries()) {
          if (!TORTURE && i !== (at + calls) % ERRNOS.length) continue;
          for (const lasting of TORTURE ? [false, true] : [at % 2 === 0]) {
            const what = `${name}, call ${at} of ${calls}, ${action}${lasting ? ' from then on' : ''}`;
            const disturbed = await fresh(directory);
            leave(disturbed);
            let call = 0;
            let failed = '';
            const seen = (_: string, path: string): void => {
              if (++call === at) failed = path;
            };
            arm({below: place(disturbed), action, at, lasting, only: cleanUp(commits, left, seen)});
            const got = await command(disturbed).finally(() => disarm());
            assert.deepEqual(outcome(got, disturbed.root), expected, `${what} (${failed}): ${got.stderr}`);
            // Across filesystems, files are deleted in place.
            if (action !== 'EXDEV' && TOLD.test(failed)) assert.equal(got.warnings.length, 1, `${what} (${failed}): ${got.stderr}`);
            assert.ok(got.warnings.length <= 1, `${what}: ${got.stderr}`);
            await assertNothingLeft(disturbed, `${what} (${failed})`);
          }
        }
    });
});

/** A real obstacle. */
interface Obstacle {
  readonly needs: readonly string[];
  /** Whether it prevents clean-up, so that there is a warning. */
  readonly isTold: boolean;
  /** @returns a function that removes it */
  readonly put: (place: Place, directory: string) => () => void;
}

function linkedElsewhere(...names: readonly string[]): Obstacle['put'] {
  return ({root}, directory) => {
    const other = join(directory, 'other');
    mkdirSync(other);
    execFileSync('mount', ['-t', 'tmpfs', 'other', other]);
    for (const name of names) {
      const target = join(other, name.replaceAll('/', '-'));
      execFileSync('cp', ['-a', join(root, name), target]);
      renameSync(join(root, name), join(directory, `old-${name.replaceAll('/', '-')}`));
      symlinkSync(target, join(root, name));
    }
    return () => execFileSync('umount', [other]);
  };
}

const OBSTACLES: Readonly<Record<string, Obstacle>> = {
  'an immutable file in the trash': {
    needs: ['chattr'],
    isTold: true,
    put: ({root}) => {
      const path = join(root, 'trash', `${DEAD}.1-immutable`);
      mkdirSync(path, {recursive: true});
      writeFileSync(join(path, 'file'), '');
      execFileSync('chattr', ['+i', join(path, 'file')]);
      return () => execFileSync('chattr', ['-i', join(path, 'file')]);
    },
  },
  'a mount point in the trash': {
    needs: ['mount'],
    isTold: true,
    put: ({root}) => {
      const path = join(root, 'trash', `${DEAD}.1-mounted`, 'fs');
      mkdirSync(path, {recursive: true});
      execFileSync('mount', ['-t', 'tmpfs', 'other', path]);
      writeFileSync(join(path, 'precious'), 'not ours');
      return () => {
        assert.equal(readFileSync(join(path, 'precious'), 'utf8'), 'not ours');
        execFileSync('umount', [path]);
      };
    },
  },
  'the store in the lower layer of an overlay': {
    needs: ['mount'],
    isTold: false,
    put: ({root}, directory) => {
      const [lower, upper, work] = ['lower', 'upper', 'work'].map((name) => join(directory, name)) as [string, string, string];
      renameSync(root, lower);
      for (const path of [root, upper, work]) mkdirSync(path, {mode: 0o711});
      execFileSync('mount', [
        '-t',
        'overlay',
        'overlay',
        '-o',
        `redirect_dir=off,lowerdir=${lower},upperdir=${upper},workdir=${work}`,
        root,
      ]);
      return () => execFileSync('umount', [root]);
    },
  },
  'layers/ on another filesystem': {needs: ['mount'], isTold: false, put: linkedElsewhere('layers')},
  'content/ on another filesystem': {needs: ['mount'], isTold: false, put: linkedElsewhere('content')},
  'content/ingest on another filesystem': {needs: ['mount'], isTold: false, put: linkedElsewhere('content/ingest')},
  'trash/ and work/ on another filesystem': {needs: ['mount'], isTold: false, put: linkedElsewhere('trash', 'work')},
};

/** `check` does not report an obstacle that prevents nothing. */
async function assertSound(place: Place, what: string): Promise<void> {
  const found = await ctr(place, ['check', '--progress', 'none', ...(TORTURE ? ['--deep'] : [])]);
  assert.match(found.stdout, /: nothing wrong\n/, `${what}: ${found.stdout}${found.stderr}`);
}

describe('a command', () => {
  for (const [turn, [obstacle, {needs, isTold, put}]] of Object.entries(OBSTACLES).entries())
    it(`succeeds despite ${obstacle}`, async (t) => {
      if (!requiresRoot(t) || !requiresProgram(t, 'busybox', 'runc', ...needs)) return;
      for (const [i, [name, command]] of Object.entries(COMMANDS).entries()) {
        if (!TORTURE && i > 0 && (i + turn) % 5 !== 0) continue;
        const what = `${name} beside ${obstacle}`;
        const directory = placeInMemory(t);
        // overlayfs does not accept an upper directory on overlayfs.
        if (name === 'run' && obstacle.includes('overlay')) continue;
        const undisturbed = await fresh(directory);
        const expected = outcome(await command(undisturbed), undisturbed.root);
        const disturbed = await fresh(directory);
        mkdirSync(join(disturbed.root, 'trash'), {recursive: true, mode: 0o700});
        mkdirSync(join(disturbed.root, 'work'), {recursive: true, mode: 0o700});
        const takeAway = put(disturbed, directory);
        try {
          const got = await command(disturbed);
          assert.deepEqual(outcome(got, disturbed.root), expected, `${what}: ${got.stderr}`);
          assert.ok(got.warnings.length <= 1, got.stderr);
          if (isTold && /rm|gc|prune|force|moved|run/.test(name)) assert.equal(got.warnings.length, 1, `${what}: ${got.stderr}`);
          if (!isTold) {
            assert.deepEqual(got.warnings, [], what);
            await assertNothingLeft(disturbed, what);
            await assertSound(disturbed, what);
          }
        } finally {
          takeAway();
        }
        if (isTold) await assertNothingLeft(disturbed, what);
      }
    });
});
