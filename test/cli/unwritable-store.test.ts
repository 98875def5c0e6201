/** A state directory on a full or read-only disk, or of another user: commands that read work, commands that write fail with the cause. */
import assert from 'node:assert/strict';
import {spawnSync} from 'node:child_process';
import {chmodSync, chownSync, mkdirSync} from 'node:fs';
import {join} from 'node:path';
import {it, type TestContext} from 'node:test';
import {CLASSES, type Code, type ErrorJSON} from '../../src/lib/errdefs.ts';
import {fileScope} from '../e2e/fixtures.ts';
import {type PulledStore, pulled} from '../lib/client/pulled-store.ts';
import {requiresProgram, requiresRoot, temporaryDirectory} from '../support/helpers.ts';
import {engineEnvironment, forEachEngine, root, run} from './harness.ts';

const READS = [
  'images ls',
  'namespaces ls',
  'content ls',
  'snapshots ls',
  'leases ls',
  'containers ls',
  'images check',
  'df',
  'check',
] as const;
const CHANGES = ['pull', 'run', 'images tag', 'images rm', 'namespaces create', 'namespaces rm', 'leases create', 'gc', 'prune'] as const;

interface Disk {
  readonly name: string;
  /** Shell: makes `$root` such a directory out of the store in `$origin`. */
  readonly make: string;
  /** Class of what those that change something say. */
  readonly code: Code;
  /** The same of those that read; none when they can. */
  readonly reads?: Code;
  /** Runs the command. */
  readonly as?: string;
}

const DISKS: readonly Disk[] = [
  {
    name: 'that is full, and nothing was kept back',
    make: 'mount -t tmpfs -o size=2m,mode=711 tmpfs "$root"; cp -a "$origin/." "$root"; rm -rf "$root/cache"; cat /dev/zero > "$root/filler" 2>/dev/null || :',
    code: 'resource_exhausted',
  },
  {
    name: 'that is read-only',
    make: 'cp -a "$origin/." "$root"; mount --bind "$root" "$root"; mount -o remount,ro,bind "$root"',
    code: 'permission_denied',
  },
  {
    name: "that is somebody else's",
    make: 'mount -t tmpfs -o mode=711 tmpfs "$root"; cp -a "$origin/." "$root"',
    as: 'setpriv --reuid 65534 --regid 65534 --clear-groups',
    code: 'permission_denied',
    reads: 'permission_denied',
  },
];

let made: Promise<PulledStore> | undefined;
const scope = fileScope();

function requirements(t: TestContext): boolean {
  if (!requiresRoot(t) || !requiresProgram(t, 'unshare', 'mount', 'setpriv', 'runc')) return false;
  const {status} = spawnSync('setpriv', ['--reuid', '65534', '--regid', '65534', '--clear-groups', 'test', '-x', join(root, 'bin/ctr')]);
  if (status !== 0) t.skip('no other user can reach this checkout');
  return status === 0;
}

function words(command: string, ref: string): readonly string[] {
  const more: Readonly<Record<string, readonly string[]>> = {
    pull: ['--progress', 'none', '--snapshotter', 'overlayfs', ref],
    run: ['--rm', '--snapshotter', 'overlayfs', ref, 'c1'],
    'images tag': [ref, 'another:1'],
    'images rm': [ref],
    'images check': ['--snapshotter', 'overlayfs'],
    'snapshots ls': ['--snapshotter', 'overlayfs'],
    'namespaces create': ['new'],
    'namespaces rm': ['--recursive', 'default'],
    'leases create': ['--id', 'new'],
  };
  return [...command.split(' '), ...(more[command] ?? [])];
}

forEachEngine('a disk', (engine) => {
  for (const {name, make, code, reads, as = ''} of DISKS)
    it(`${name} can be read if permitted, and errors name the cause`, async (t) => {
      if (!requirements(t)) return;
      made ??= pulled(scope, 'overlayfs');
      const {client, ref} = await made;
      const base = temporaryDirectory(t);
      chmodSync(base, 0o755);
      const [dir, state] = [join(base, 'root'), join(base, 'state')];
      mkdirSync(dir);
      mkdirSync(state, {mode: 0o700});
      if (as !== '') chownSync(state, 65534, 65534);
      const script = `set -e; root=$1 origin=$2; shift 2; ${make}; exec ${as} "$@"`;
      const ctr = (command: string) => {
        const call = [join(root, 'bin/ctr'), '--json', '--root', dir, '--state', state, ...words(command, ref)];
        // Unpacking needs root wherever it is.
        if (as !== '' && command === 'pull') call.push('--no-unpack');
        // Nothing but a mount namespace of its own, which takes the mounts along when it ends.
        return run('unshare', ['--mount', '--propagation', 'private', 'sh', '-c', script, 'sh', dir, client.root, ...call], {
          // A user without a range of ids, who is content with one, gets as far as the store.
          env: {...engineEnvironment(engine), BERTH_ONE_ID: '1'},
        });
      };
      const commands = engine === 'executable' ? [...READS, ...CHANGES] : ['images ls', 'pull', 'images rm'];
      for (const command of commands) {
        spawnSync('find', [dir, '-mindepth', '1', '-delete']);
        const {status, stdout, stderr} = await ctr(command);
        const expected = (READS as readonly string[]).includes(command) ? reads : code;
        if (expected === undefined) {
          assert.equal(status, 0, `${command}: ${stderr}`);
          if (command.endsWith(' ls')) assert.equal(stdout, await whole(command), command);
          continue;
        }
        // What there is nothing to do for may be done.
        if (status === 0 && ['gc', 'prune'].includes(command)) continue;
        assert.equal(status, command === 'run' ? 125 : CLASSES[expected].exit, `${command}: ${stdout}${stderr}`);
        const {error} = JSON.parse(stderr.trim().split('\n').at(-1)!) as {error: ErrorJSON & {stack?: string}};
        assert.equal(error.kind, expected, command);
        assert.ok(error.message.includes(dir), `${command} names the place: ${error.message}`);
        assert.match(error.hint ?? '', /\S/, `${command}: ${error.message}`);
        assert.equal(error.stack, undefined);
      }

      async function whole(command: string): Promise<string> {
        const env = {...engineEnvironment(engine), BERTH_STATE: state, BERTH_ROOT: client.root};
        return (await run(join(root, 'bin/ctr'), [...words(command, ref), '--json'], {env})).stdout;
      }
    });
});

/** Shell: takes all that is left of the disk in `$disk`. */
const FILL = {
  bytes: 'cat /dev/zero > "$disk/filler" 2>/dev/null || :',
  inodes: 'i=0; while true 2>/dev/null > "$disk/filler.$i"; do i=$((i + 1)); done',
} as const;

/** What removes something, and of which there is something here. */
const REMOVALS = ['images rm', 'prune', 'namespaces rm', 'gc', 'check --repair'] as const;

forEachEngine('a disk on which nothing is left', (engine) => {
  for (const what of ['bytes', 'inodes'] as const)
    for (const command of engine === 'executable' ? REMOVALS : (['images rm'] as const))
      it(`of its ${what}: ${command} frees the space that it should free`, async (t) => {
        if (!requirements(t)) return;
        made ??= pulled(scope, 'overlayfs');
        const {client, ref} = await made;
        const base = temporaryDirectory(t);
        const [disk, state] = [join(base, 'disk'), join(base, 'state')];
        mkdirSync(disk);
        const store = join(disk, 'root');
        const ctr = ['ctr', '--root', store, '--state', state].map((word, i) => (i === 0 ? join(root, 'bin/ctr') : word)).join(' ');
        // Garbage for those that remove nothing else: a blob that no record names, as a kill leaves it.
        const garbage = `"$disk/root/content/blobs/sha256/${'a'.repeat(64)}"`;
        const script = `set -e; disk=$1
          mount -t tmpfs -o size=4m,nr_inodes=400 tmpfs "$disk"
          cp -a "$2" "$disk/root"; head -c 100000 /dev/zero > ${garbage}; : > "$disk/root/journal/unswept"
          ${FILL[what]}
          if (true > "$disk/one-more" && echo > "$disk/one-more") 2>/dev/null; then echo not full >&2; exit 1; fi
          stat -f -c '%a %d' "$disk"
          ${ctr} ${words(command, ref).join(' ')} >&2
          stat -f -c '%a %d' "$disk"
          ${ctr} check --json`;
        const {status, stdout, stderr} = await run(
          'unshare',
          ['--mount', '--propagation', 'private', 'sh', '-c', script, 'sh', disk, client.root],
          {
            env: engineEnvironment(engine),
          },
        );
        assert.equal(status, 0, `${stdout}${stderr}`);
        const [before, after, ...rest] = stdout.split('\n');
        const [free, freeAfter] = [before, after].map((line) => Number(line!.split(' ')[what === 'bytes' ? 0 : 1]));
        assert.ok(freeAfter! > free!, `${before}, ${after}`);
        const {findings} = JSON.parse(rest.join('\n')) as {findings: unknown[]};
        assert.deepEqual(findings, []);
      });
});
