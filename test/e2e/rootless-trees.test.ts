/** Trees of generated layers that an ordinary user unpacks, beside those of rootless podman. */
import assert from 'node:assert/strict';
import {mkdirSync} from 'node:fs';
import {join} from 'node:path';
import {describe, it} from 'node:test';
import {requiresProgram, SAMPLE, TORTURE, temporaryDirectory} from '../support/helpers.ts';
import {addImage, setTarget} from '../support/layouts.ts';
import {ordinaryUser, requiresOrdinaryUser} from '../support/ordinary-user.ts';
import {pushImage, sharedRegistry} from '../support/registry.ts';
import {block, char, dir, fifo, file, link, type More, MTIME, opaque, symlink, type TarEntry, tar, whiteout} from '../support/tartest.ts';

const IMAGES = TORTURE ? 40 : 2;
const LAYERS = 4;
const ENTRIES = 40;
const registry = sharedRegistry();

/** Everything but the root's own line, whose time is that of the extraction. */
const LISTING = `cd "$1" && find . -mindepth 1 -printf '%p %y %m %U:%G %T@ %l %n %s\\n' | sed 's/\\( d .*\\) [0-9]* [0-9]*$/\\1/' | sort
find . -type f -print0 | sort -z | xargs -0 -r sha256sum
find . -mindepth 1 -print0 | sort -z | xargs -0 -r getfattr -h -d -m '^(user\\.|security\\.capability)' --absolute-names 2>/dev/null`;

/** VFS_CAP_REVISION_2 with CAP_NET_RAW, permitted and effective. */
const CAPABILITY = Buffer.from('0100000200200000000000000000000000000000', 'hex');

/** Layers whose entries name all their parents, so that no tool has to invent any. The same for the same seed. */
function generateLayers(seed: number): readonly Buffer[] {
  let state = seed;
  const pick = <T>(choices: readonly T[]): T => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    return choices[Math.floor((state / 2 ** 32) * choices.length)]!;
  };
  const more = (): More => ({
    uid: pick([0, 0, 1, 33, 999, 65_534, 65_535]),
    gid: pick([0, 0, 5, 42, 65_535]),
    mtime: MTIME + pick([0, 1, 86_400, 1_000_000]),
  });
  /** Names that a layer below shows, by directory. */
  const shown = new Set<string>();
  const below = (path: string): readonly string[] => [...shown].filter((name) => name.startsWith(`${path}/`));
  return Array.from({length: LAYERS}, () => {
    const entries: TarEntry[] = [];
    const written = new Set<string>();
    const directories = new Set<string>();
    const enter = (path: string): void => {
      if (path === '' || written.has(path)) return;
      enter(path.slice(0, Math.max(path.lastIndexOf('/'), 0)));
      written.add(path);
      directories.add(path);
      entries.push(dir(path, pick([0o755, 0o700, 0o1777, 0o2755]), {...more(), xattrs: pick([{}, {'user.note': 'directory'}])}));
    };
    /** A directory that this layer removes does not come back. */
    const isGone = (path: string): boolean =>
      [...path.matchAll(/\//g)].some(({index}) => written.has(path.slice(0, index)) && !directories.has(path.slice(0, index)));
    const [removed, opaques]: [string[], string[]] = [[], []];
    const lower = [...shown];
    for (let i = 0; i < ENTRIES; i++) {
      const parent = pick(['', 'd0', 'd1', 'd0/d2', 'd1/d3', 'd0/d2/d4']);
      const name = pick(['0', '1', '2', '3']);
      const at = (kind: string): string => (parent === '' ? `${kind}${name}` : `${parent}/${kind}${name}`);
      const kind = pick(['f', 'f', 'f', 's', 'h', 'p', 'n', 'remove', 'remove', 'opaque']);
      if (kind === 'remove') {
        const path = lower.length === 0 ? undefined : pick(lower);
        if (path === undefined || written.has(path) || isGone(path) || [...written].some((one) => one.startsWith(`${path}/`))) continue;
        // podman shows the names of whiteouts in an opaque directory.
        if (opaques.some((one) => path.startsWith(`${one}/`))) continue;
        removed.push(path);
        enter(path.slice(0, Math.max(path.lastIndexOf('/'), 0)));
        written.add(path);
        entries.push(whiteout(path, {mtime: MTIME}));
        for (const gone of [path, ...below(path)]) shown.delete(gone);
        continue;
      }
      if (kind === 'opaque') {
        if (parent === '' || written.has(parent) || isGone(parent) || !lower.includes(parent)) continue;
        if (removed.some((one) => one.startsWith(`${parent}/`))) continue;
        opaques.push(parent);
        enter(parent);
        entries.push(opaque(parent));
        for (const gone of below(parent)) shown.delete(gone);
        continue;
      }
      const path = at(kind);
      // podman gives a file the attributes of the last of its links, and loses its capability then.
      const files = entries.filter(
        (one) => one.typeflag === '0' && /(^|\/)f\d$/.test(one.name) && Object.keys(one.xattrs ?? {}).length === 0,
      );
      if (written.has(path) || isGone(path) || (kind === 'h' && files.length === 0)) continue;
      enter(parent);
      written.add(path);
      if (kind === 's') entries.push(symlink(pick(['/etc/passwd', '../f0', 'd0/f1', 'nowhere']), path, more()));
      else if (kind === 'n') entries.push(pick([char, block])(path, pick([1, 7]), pick([0, 3]), more()));
      else if (kind === 'p') entries.push(fifo(path, 0o620, more()));
      else if (kind === 'h') {
        const {name: target, mode, uid, gid, mtime} = pick(files);
        entries.push(link(target, path, {mode, uid, gid, mtime} as More));
      } else
        entries.push(
          file(path, pick(['', 'text', 'x'.repeat(70_000)]), pick([0o644, 0o4755, 0o2711, 0o000]), {
            ...more(),
            xattrs: pick([{}, {}, {'user.note': 'file'}, {'security.capability': CAPABILITY}]),
          }),
        );
    }
    for (const path of written) if (!entries.some(({name}) => name === path.replace(/([^/]*)$/, '.wh.$1'))) shown.add(path);
    return tar(...entries);
  });
}

describe('the tree that an ordinary user unpacks', () => {
  it("is rootless podman's", async (t) => {
    if (!requiresOrdinaryUser(t) || !requiresProgram(t, 'podman', 'getfattr')) return;
    const running = await registry(t);
    if (running === undefined) return;
    const user = ordinaryUser(t);
    const berth = join(user.home, '../package/bin/berth');
    const env = {PODMAN_IGNORE_CGROUPSV1_WARNING: '1'};
    try {
      for (let i = 0; i < IMAGES; i++) {
        const seed = SAMPLE * 1000 + i;
        const layout = join(temporaryDirectory(t), 'layout');
        mkdirSync(layout);
        setTarget(layout, addImage(layout, {layers: generateLayers(seed)}));
        await pushImage(running, `generated:${i}`, layout);
        const ref = `${running.host}/generated:${i}`;
        const list = async (command: readonly string[]): Promise<readonly string[]> => {
          const {status, stdout, stderr} = await user.run(command, {env});
          assert.equal(status, 0, `seed ${seed}: ${stderr}`);
          return stdout.split('\n');
        };
        const pulled = await user.berth(['pull', '-q', '--plain-http', ref]);
        assert.equal(pulled.status, 0, pulled.stderr);
        assert.match(pulled.stderr, /device \S+ skipped: not permitted to make device nodes/);
        const mounted = `mkdir -p "$1" && "$2" images mount "$3" "$1" >/dev/null; ${LISTING}
cd / && "$2" images unmount --rm "$1" >/dev/null`;
        const mine = await list([berth, 'unshare', 'sh', '-ec', mounted, 'sh', join(user.home, 'mnt'), berth, ref]);
        await list(['podman', '--log-level=error', 'pull', '-q', '--tls-verify=false', ref]);
        const podman = `set -- "$(podman image mount "$1")"; ${LISTING}`;
        const theirs = await list(['podman', '--log-level=error', 'unshare', 'sh', '-ec', podman, 'sh', ref]);
        assert.ok(theirs.length > 20, `seed ${seed}: only ${theirs.length} lines`);
        assert.deepEqual(mine, theirs, `seed ${seed}`);
        await user.ok(['images', 'rm', ref]);
      }
    } finally {
      // Its files belong to ids that the test cannot remove otherwise, and a process of its own keeps its user namespace.
      await user.run(['podman', 'unshare', 'rm', '-rf', join(user.home, '.local/share/containers')], {env});
      await user.run(['podman', 'system', 'migrate'], {env});
    }
  });
});
