/** Specifications of containers for generated flags, compared with those that containerd's own ctr makes for the same words. */
import assert from 'node:assert/strict';
import {realpathSync, writeFileSync} from 'node:fs';
import {join} from 'node:path';
import {describe, it} from 'node:test';
import {CONTAINER_FLAGS, containerOptions} from '../../src/cli/container-flags.ts';
import {parseFlags} from '../../src/cli/parse-flags.ts';
import {splitArgv} from '../../src/cli/read-flag-words.ts';
import {ErrdefsError} from '../../src/lib/errdefs.ts';
import type {ImageConfig} from '../../src/lib/oci/manifest.ts';
import {readGivenSpec} from '../../src/lib/runtime/given-spec.ts';
import {RootReader} from '../../src/lib/runtime/path-in-root.ts';
import {resolveSpec} from '../../src/lib/runtime/resolve-spec.ts';
import type {Spec} from '../../src/lib/runtime/spec.ts';
import type {User} from '../../src/lib/runtime/user.ts';
import {findProgram, newClient, requiresProgram, requiresRoot, temporaryDirectory} from '../support/helpers.ts';
import {startContainerd} from './containerd.ts';
import {document, type Manifest, publishedImages} from './fixtures.ts';

const published = publishedImages();

/** Alternatives of one flag, of which a command line has none or one; or of flags that exclude each other. */
const CHOICES: readonly (readonly (readonly string[])[])[] = [
  [
    ['--env', 'A=b', '--env', 'C=d e'],
    ['--env', 'PATH=/x', '--env', 'X=vt100'],
  ],
  [
    ['--cwd', '/tmp'],
    ['--cwd', '/absent/dir'],
  ],
  [
    ['--user', '1000'],
    ['--user', '1000:7'],
    ['--user', '0:0'],
  ],
  [
    ['--mount', 'type=bind,src=/usr,dst=/u,options=rbind:ro'],
    ['--mount', 'type=bind,src=/tmp,dst=/a,options=rbind:rw', '--mount', 'type=tmpfs,dst=/b/c,src=tmpfs,options=nosuid'],
  ],
  [
    ['--label', 'a=b'],
    ['--label', 'a=b', '--annotation', 'a=c'],
    ['--annotation', 'x=y', '--annotation', 'z='],
  ],
  [['--read-only']],
  [['--tty']],
  [['--net-host'], ['--with-ns', 'network:/proc/1/ns/net'], ['--with-ns', 'cgroup:/proc/1/ns/cgroup', '--with-ns', 'ipc:/proc/1/ns/ipc']],
  [['--hostname', 'h']],
  [['--uidmap', '0:100000:65536', '--gidmap', '0:200000:65536']],
  [['--privileged'], ['--privileged', '--privileged-without-host-devices']],
  [
    ['--cap-add', 'CAP_NET_ADMIN'],
    ['--cap-add', 'CAP_CHOWN', '--cap-add', 'CAP_BPF'],
  ],
  [
    ['--cap-drop', 'CAP_CHOWN'],
    ['--cap-drop', 'CAP_CHOWN', '--cap-drop', 'CAP_MKNOD'],
  ],
  [['--allow-new-privs']],
  [['--memory-limit', '67108864']],
  [
    ['--cpus', '1.5'],
    ['--cpu-quota', '50000'],
    ['--cpu-quota', '50000', '--cpu-period', '200000'],
    ['--cpu-period', '50000'],
  ],
  [['--cpu-shares', '512']],
  [
    ['--cgroup', '/some/where'],
    ['--cgroup', ''],
  ],
  [
    ['--rootfs-propagation', 'rslave'],
    ['--rootfs-propagation', 'shared'],
  ],
  [
    ['--device', '/dev/null'],
    ['--device', '/dev/null', '--device', '/dev/zero'],
  ],
  [['--apparmor-profile', 'some']],
];

/** A generator of numbers, the same in each run. */
function numbers(seed: number): (below: number) => number {
  let state = seed;
  return (below) => {
    state = (Math.imul(state, 1_664_525) + 1_013_904_223) >>> 0;
    return Math.floor((state / 2 ** 32) * below);
  };
}

/** Each alternative alone, then mixtures. */
function commandLines(mixtures: number): readonly (readonly string[])[] {
  const next = numbers(7);
  const mixed = Array.from({length: mixtures}, () =>
    CHOICES.filter(() => next(3) === 0).flatMap((alternatives) => alternatives[next(alternatives.length)]!),
  );
  return [[], ...CHOICES.flat(), ...mixed];
}

async function ownSpec(argv: readonly string[], root: string, {config, architecture}: ImageConfig): Promise<Spec> {
  const split = splitArgv(argv, CONTAINER_FLAGS);
  const {flags} = await parseFlags(split, CONTAINER_FLAGS, {}, new Map(), (message) => new ErrdefsError('invalid_argument', message));
  const options = {...containerOptions(flags as never), args: ['/bin/sh']};
  const makeSpec = await resolveSpec({cgroupsPath: '/default/c', image: config, architecture, options});
  const rootfs = new RootReader(root);
  try {
    return makeSpec(rootfs);
  } finally {
    rootfs.close();
  }
}

/**
 * What differs on purpose. berth filters system calls, and says nothing of shares, quotas and periods that are the kernel's own.
 *
 * Not among `CHOICES`, because it differs too: `--env NAME`, which here removes a variable of the image; a mount on /run, which here replaces
 * the default one; `ALL` capabilities, where ctr's order of adding and dropping differs;
 * TERM of the caller with a terminal, which ctr adds to.
 */
function withoutIntended({ociVersion: _, ...spec}: Spec): unknown {
  const {seccomp: __, cgroupsPath, resources, ...linux} = spec.linux;
  const {cpu, ...others} = resources;
  const kernels: Readonly<Record<string, number>> = {shares: 1024, quota: -1, period: 0};
  const limits = Object.entries(cpu ?? {}).filter(([name, value]) => value !== kernels[name]);
  return {
    ...spec,
    linux: {
      ...linux,
      cgroupsPath: cgroupsPath === '' ? undefined : cgroupsPath,
      resources: {...others, ...(limits.length === 0 ? {} : {cpu: Object.fromEntries(limits)})},
    },
  };
}

/** Go leaves out what is empty. */
const normal = (spec: Spec): unknown =>
  JSON.parse(
    JSON.stringify(withoutIntended(spec), (_, value: unknown) =>
      value === false || (Array.isArray(value) && value.length === 0) ? undefined : value,
    ),
  );

describe('a specification', () => {
  it('is the one that ctr makes, but for what is listed', async (t) => {
    if (!requiresRoot(t) || !requiresProgram(t, 'containerd', 'ctr')) return;
    const busybox = await published(t, 'busybox');
    if (busybox === undefined || findProgram('ctr') === undefined) return;
    const config = document<ImageConfig>(busybox.image, document<Manifest>(busybox.image, busybox.image.target).config);
    const {ctr, pull, withImage} = await startContainerd(t);
    pull(busybox.ref);
    // A runtime that does not exist: the container is made, and nothing starts.
    const start = ['run', '--detach', '--snapshotter', 'overlayfs', '--runtime', 'io.containerd.none.v2'];
    // ctr's has no command, no environment, no groups and no devices yet.
    const template = (spec: Spec): unknown => {
      const {args: _, env: __, user: ___, ...process} = spec.process;
      return normal({...spec, process: process as Spec['process'], linux: {...spec.linux, resources: {devices: []}}});
    };
    const own = (await (await newClient(t)).defaultSpec()) as unknown as Spec;
    assert.deepEqual(template(own), template(JSON.parse(ctr('oci', 'spec')) as Spec), 'oci spec');
    await withImage(busybox.ref, async (root) => {
      // A directory as the root, and a specification as it is.
      const tree = realpathSync(root);
      assert.throws(() => ctr(...start, '--rootfs', tree, 'd1', '/bin/sh'), /none/);
      const text = ctr('containers', 'info', '--spec', 'd1');
      const expected = normal(JSON.parse(text.replaceAll('/default/d1', '/default/c')) as Spec);
      const made = await ownSpec([], root, {...config, config: {}} as ImageConfig);
      // ctr gives it no PATH, and root no groups.
      const user = {uid: 0, gid: 0} as User;
      assert.deepEqual(normal({...made, root: {path: tree}, process: {...made.process, env: [], user}}), expected, '--rootfs');
      const file = join(temporaryDirectory(t), 'config.json');
      writeFileSync(file, text);
      assert.throws(() => ctr(...start, '--config', file, 'g1'), /none/);
      const given = readGivenSpec(file, '/never').makeSpec(new RootReader(root));
      const go = (spec: unknown): unknown => normal(spec as Spec);
      assert.deepEqual(go(given), go(JSON.parse(ctr('containers', 'info', '--spec', 'g1'))), '--config');
      let id = 0;
      for (const argv of commandLines(30)) {
        const name = `c${++id}`;
        assert.throws(() => ctr(...start, ...argv, busybox.ref, name, '/bin/sh'), /none/, argv.join(' '));
        const text = ctr('containers', 'info', '--spec', name);
        const theirs = normal(JSON.parse(text.replaceAll(`/default/${name}`, '/default/c')) as Spec);
        assert.deepEqual(normal(await ownSpec(argv, root, config)), theirs, argv.join(' '));
      }
    });
  });
});
