/** What a container was made with goes on from a checkpoint, or is refused before anything changes, as the table in decision 0046 says. */
import assert from 'node:assert/strict';
import {spawnSync} from 'node:child_process';
import {existsSync, mkdirSync, readdirSync, readFileSync, rmdirSync} from 'node:fs';
import {join} from 'node:path';
import {it} from 'node:test';
import {onEnd, TORTURE, temporaryDirectory} from '../../support/helpers.ts';
import {CNI_PLUGINS, newTestNetwork, requiresCni} from '../../support/network-namespace.ts';
import {requiresCriu, taskRig, until} from '../../support/tasks.ts';
import {assertCounted, COUNT, counting, logOf} from './counting-container.ts';

const TABLE = new URL('../../../docs/decisions/0046-checkpoints.md', import.meta.url);

/** Mounts that a process sees: each with its place, options, and kind of file system. See proc_pid_mountinfo(5). */
const mountsOf = (pid: number): readonly string[] =>
  readFileSync(`/proc/${pid}/mountinfo`, 'utf8')
    .trim()
    .split('\n')
    .map((line) => {
      const words = line.split(' ');
      const kind = words[words.indexOf('-') + 1]!;
      // Files are masked by the container's /dev/null at first, and by the host's afterwards.
      if (words[4]!.startsWith('/proc/') && kind.endsWith('tmpfs')) return `${words[4]} masked`;
      return [words[4], words[5], kind].join(' ');
    })
    .sort();

it('what a container was made with goes on, or is refused', async (t) => {
  if (!requiresCriu(t) || !requiresCni(t)) return;
  const r = await taskRig(t);
  const {ns, namespace} = r;
  const net = await newTestNetwork(t);
  const work = temporaryDirectory(t);
  mkdirSync(join(work, 'bound'));
  mkdirSync(join(work, 'net.d'));
  const unit = `${namespace}-unit`;
  const trees = (): readonly string[] => readdirSync('/sys/fs/cgroup').map((tree) => join('/sys/fs/cgroup', tree, unit));
  const group = existsSync('/sys/fs/cgroup/systemd') ? join('/sys/fs/cgroup/systemd', unit) : join('/sys/fs/cgroup', unit);
  onEnd(t, () => {
    for (const path of [...trees(), group]) if (existsSync(path)) rmdirSync(path);
  });
  const ctr = (words: readonly string[], inUnit = false): {readonly status: number | null; readonly stderr: string} => {
    const env = ['env', `NETCONFPATH=${join(work, 'net.d')}`, `CNI_PATH=${CNI_PLUGINS}`];
    const own = inUnit ? ['sh', '-c', `mkdir -p ${group} && echo $$ >${group}/cgroup.procs && exec "$@"`, 'sh'] : [];
    const [program, ...args] = net.argv(...own, ...env, ...r.program, '--root', r.root, '--state', r.state, '-n', namespace, ...words);
    return spawnSync(program, args, {encoding: 'utf8'});
  };
  await counting(r, 'other');
  const other = (await ns.tasks.get('other')).pid;

  const flags: Readonly<Record<string, readonly string[]>> = {
    '--tty': ['--tty'],
    '--interactive': ['--interactive'],
    '--volume NAME:/PATH': ['--volume', 'named:/named'],
    '--volume /PATH': ['--volume', '/own'],
    '--volume /HOST:/PATH': ['--volume', `${work}/bound:/bound`],
    '--tmpfs /PATH': ['--tmpfs', '/memory'],
    '--net-host': ['--net-host'],
    '--add-host': ['--add-host', 'a:10.0.0.1'],
    '--read-only': ['--read-only'],
    '--privileged': ['--privileged'],
    '--memory': ['--memory', '64m'],
    '--split-cgroup': [],
    '--uidmap': ['--uidmap', '0:100000:65536'],
    '--gidmap': ['--gidmap', '0:100000:65536'],
    '--cni': ['--cni'],
    '--publish': ['--publish', '7000:7000'],
    '--network container:ID': ['--network', 'container:other'],
    '--with-ns': ['--with-ns', `ipc:/proc/${other}/ns/ipc`],
  };
  const rows = [...readFileSync(TABLE, 'utf8').matchAll(/^\| `(--.*?)` \| (goes on|refused)/gm)].map(([, made, outcome]) => ({
    made: made!,
    refused: outcome === 'refused',
  }));
  assert.deepEqual(
    rows.map(({made}) => made),
    Object.keys(flags),
  );
  const good = rows.flatMap(({made, refused}) => (refused ? [] : [made]));
  const bad = rows.flatMap(({made, refused}) => (refused ? [made] : []));
  // A network excludes another one, and the host's.
  const withoutNetwork = good.filter((made) => made !== '--net-host' && made !== '--split-cgroup');
  const sets: readonly (readonly string[])[] = TORTURE
    ? [
        ...good.flatMap((one, i) => [[one], ...good.slice(i + 1).map((two) => [one, two])]),
        good,
        ...bad.flatMap((one) => [[one], ...withoutNetwork.map((two) => [one, two])]),
      ]
    : [
        good,
        good.filter((made) => !['--privileged', '--read-only'].includes(made)),
        ...bad.filter((_, i) => i % 2 === 0).map((one, i) => [one, withoutNetwork[i]!]),
      ];
  for (const [i, set] of sets.entries()) {
    const id = `c${i}`;
    const when = set.join(' ');
    const streams = set.includes('--interactive') ? ['--interactive'] : [];
    const settings = set.flatMap((one) => (one === '--interactive' ? [] : flags[one]!));
    const made = ctr(['containers', 'create', ...settings, r.ref, id, ...COUNT]);
    assert.equal(made.status, 0, `${when}: ${made.stderr}`);
    const isSplit = set.includes('--split-cgroup');
    const started = ctr(['tasks', 'start', '--detach', ...streams, ...(isSplit ? ['--split-cgroup'] : []), id], isSplit);
    assert.equal(started.status, 0, `${when}: ${started.stderr}`);
    await until(`${id} counts, ${when}`, async () => (await logOf(r, id)).length > 5);
    const before = await ns.tasks.get(id);
    const mounts = mountsOf(before.pid);
    const refused = set.some((one) => bad.includes(one));
    const dumped = ctr(['containers', 'checkpoint', '--progress', 'none', id]);
    assert.equal(dumped.status, refused ? 9 : 0, `${when}: ${dumped.stderr}`);
    if (refused) {
      assert.match(dumped.stderr, /cannot be checkpointed: it.*\nhint: run it with/, when);
      assert.deepEqual(await ns.tasks.get(id), before, when);
    } else {
      const restored = ctr(['containers', 'restore', '--progress', 'none', id]);
      assert.equal(restored.status, 0, `${when}: ${restored.stderr}`);
      assert.deepEqual(mountsOf((await ns.tasks.get(id)).pid), mounts, when);
    }
    const {length} = await logOf(r, id);
    await until(`${id} goes on, ${when}`, async () => (await logOf(r, id)).length > length + 3);
    assertCounted(await logOf(r, id), when);
    const removed = ctr(['rm', '--force', id]);
    assert.equal(removed.status, 0, `${when}: ${removed.stderr}`);
  }
  await ns.containers.delete('other', {force: true});
  await until(
    () => `nothing is left: ${r.left().join('\n')}`,
    () => r.left().length === 0,
  );
  const kept = (await ns.snapshots('native').list()).filter(({key}) => key.startsWith('checkpoints/'));
  assert.deepEqual(kept, []);
});
