/** What a new container is made of: an image of the namespace, a directory of the host, or a specification in a file. */

import {statSync} from 'node:fs';
import {resolve} from 'node:path';
import {ErrdefsError, fromErrno} from '../../errdefs.ts';
import type {Digest} from '../../oci/descriptor.ts';
import type {ExecConfig} from '../../oci/manifest.ts';
import {hostPlatform} from '../../oci/platform.ts';
import {type IdMappings, idMappings} from '../../runtime/id-mappings.ts';
import type {RootReader} from '../../runtime/path-in-root.ts';
import {resolveSpec} from '../../runtime/resolve-spec.ts';
import type {Spec} from '../../runtime/spec.ts';
import type {ContainerOptions, Volume} from '../../runtime/spec-option-types.ts';
import {getSnapshotter} from '../../store/snapshotters.ts';
import type {StoreTransaction} from '../../store/transaction-types.ts';
import {findImage, planLocally} from '../api/find-image.ts';
import type {Context} from '../context.ts';
import {ensureUnpacked} from '../pull/ensure-unpacked.ts';
import {assertUnpacked} from '../pull/image-snapshots.ts';
import {imagesOf} from '../pull/plan.ts';
import {assertAllowed, assertUnsignedAllowed} from '../signatures/assert-allowed.ts';
import type {CreateOptions} from '../types/index.ts';
import {volumesInMemory} from './container-volumes.ts';

export interface ContainerSource {
  /** For the record: name of the image; empty for none. */
  readonly image: string;
  readonly imageDigest?: Digest;
  readonly config: ExecConfig;
  /** Empty where `directory` is the root, and nothing is stored. */
  readonly snapshotter: string;
  /** Parent of the container's snapshot; a function, because it may have to be unpacked. */
  readonly unpack: () => Promise<Digest | undefined>;
  /** Root of a container without a snapshot; absolute. */
  readonly directory?: string;
  readonly tty: boolean;
  /** Of users and groups; absent: they are the host's. */
  readonly mappings?: IdMappings | undefined;
  /** @param volumes that were made for the container; none where its specification is given */
  readonly makeSpec: (rootfs: RootReader, volumes?: readonly Volume[]) => Spec;
  /** In the transaction that makes the container. @throws the image may no longer be used, or its layers are gone */
  readonly assertStill: (tx: StoreTransaction) => void;
}

const withoutImage = (namespace: string) =>
  ({
    image: '',
    config: {},
    snapshotter: '',
    unpack: async () => undefined,
    assertStill: (tx: StoreTransaction) => assertUnsignedAllowed(tx, namespace),
  }) as const;

/** @param cgroupsPath of the container, unless its options or its specification say otherwise */
export async function containerSource(
  context: Context,
  namespace: string,
  ref: string,
  cgroupsPath: string,
  options: CreateOptions,
): Promise<ContainerSource> {
  const {config: file, rootfs = false, tty = false, signal} = options;
  if (file !== undefined) {
    refuseShaping(ref, options);
    const {readGivenSpec} = await import('../../runtime/given-spec.ts');
    const {root, terminal, mappings, makeSpec} = readGivenSpec(file, cgroupsPath);
    if (tty && !terminal)
      throw new ErrdefsError('invalid_argument', `--tty, but "process.terminal" of ${JSON.stringify(file)} is not true`);
    return {...withoutImage(namespace), directory: checkDirectory(root), tty: terminal, mappings, makeSpec};
  }
  const request = {
    cgroupsPath,
    options: {...options, netHost: options.netHost === true || options.network === 'host'},
    ...(signal === undefined ? {} : {signal}),
  };
  if (rootfs) {
    if (options.platform !== undefined || options.snapshotter !== undefined)
      throw new ErrdefsError('invalid_argument', 'a directory has no platform and no snapshotter', {hint: 'leave out --rootfs, or these'});
    const directory = checkDirectory(resolve(ref));
    const make = await resolveSpec({...request, image: {}, architecture: hostPlatform().architecture});
    const makeSpec = (root: RootReader, volumes?: readonly Volume[]): Spec => {
      const spec = make(root, volumes);
      return {...spec, root: {...spec.root, path: directory}};
    };
    return {...withoutImage(namespace), directory, tty, mappings: idMappings(options), makeSpec};
  }
  const {pull: policy = 'never'} = options;
  if (policy !== 'never') {
    const {pullForRun} = await import('./pull-policy.ts');
    await pullForRun(context, namespace, ref, policy, options);
  }
  const image = findImage(context, namespace, ref);
  const approval = await assertAllowed(context, namespace, image);
  const snapshotter = getSnapshotter(context.snapshotterName(namespace, options.snapshotter));
  const plan = await planLocally(context, namespace, image, options.platform);
  const chosen = imagesOf(plan)[0];
  if (chosen === undefined) throw new ErrdefsError('failed_precondition', `${image.name} is not an image that can run`);
  const {architecture, config} = chosen.config;
  const shaped = {...request.options, mounts: [...(options.mounts ?? []), ...volumesInMemory(config, options)]};
  const makeSpec = await resolveSpec({...request, options: shaped, image: config, architecture});
  let parent: Digest | undefined;
  return {
    image: image.name,
    imageDigest: image.target.digest,
    config,
    snapshotter: snapshotter.name,
    tty,
    mappings: idMappings(options),
    unpack: async () => (parent = await ensureUnpacked(context, namespace, image.name, plan, snapshotter, signal)),
    makeSpec,
    assertStill: (tx) => {
      approval.assertStill(tx, image.target);
      assertUnpacked(context, tx, namespace, snapshotter.name, parent);
    },
  };
}

function checkDirectory(path: string): string {
  const what = `root directory ${JSON.stringify(path)}`;
  let isDirectory: boolean;
  try {
    isDirectory = statSync(path).isDirectory();
  } catch (err) {
    throw fromErrno(err, what);
  }
  if (!isDirectory) throw new ErrdefsError('invalid_argument', `${what} is not a directory`);
  return path;
}

/** Options that a specification has fields for, or that choose the image: with a given specification they would be ignored. */
const SHAPING: Readonly<Record<Exclude<keyof ContainerOptions, 'labels' | 'tty'>, string>> = {
  allowNewPrivileges: '--allow-new-privs',
  annotations: '--annotation',
  apparmorDefaultProfile: '--apparmor-default-profile',
  apparmorProfile: '--apparmor-profile',
  args: 'a command',
  capAdd: '--cap-add',
  capDrop: '--cap-drop',
  cgroup: '--cgroup',
  cpuPeriod: '--cpu-period',
  cpuQuota: '--cpu-quota',
  cpuShares: '--cpu-shares',
  cpus: '--cpus',
  cpusetCpus: '--cpuset-cpus',
  cpusetMems: '--cpuset-mems',
  cwd: '--cwd',
  devices: '--device',
  entrypoint: '--entrypoint',
  env: '--env',
  envFiles: '--env-file',
  gidMappings: '--gidmap',
  groupAdd: '--group-add',
  hostname: '--hostname',
  init: '--init',
  joinNamespaces: '--with-ns',
  memoryLimit: '--memory-limit',
  memoryReservation: '--memory-reservation',
  memorySwap: '--memory-swap',
  mounts: '--mount or --tmpfs',
  namespaces: '--pid, --ipc, --uts or --cgroupns',
  netHost: '--net-host',
  oomScoreAdj: '--oom-score-adj',
  pidsLimit: '--pids-limit',
  privileged: '--privileged',
  privilegedWithoutHostDevices: '--privileged-without-host-devices',
  readOnly: '--read-only',
  rlimits: '--ulimit',
  rootfsPropagation: '--rootfs-propagation',
  seccomp: '--seccomp-profile or --security-opt',
  shmSize: '--shm-size',
  sysctls: '--sysctl',
  uidMappings: '--uidmap',
  user: '--user',
  volumes: '--volume',
};

/** @throws invalid_argument naming the option */
function refuseShaping(ref: string, options: CreateOptions): void {
  const isGiven = (value: unknown): boolean =>
    typeof value === 'object' && value !== null ? Object.keys(value).length > 0 : value !== undefined && value !== false;
  const others = {
    rootfs: '--rootfs',
    platform: '--platform',
    snapshotter: '--snapshotter',
    network: '--network',
    storedVolumes: '--volume',
    imageVolumes: '--image-volume',
    volumesFrom: '--volumes-from',
  } as const;
  const given = [...Object.entries(SHAPING), ...Object.entries(others)].filter(([name]) => isGiven(options[name as keyof CreateOptions]));
  const words = [...(ref === '' ? [] : ['an image']), ...given.map(([, flag]) => flag)];
  if (words.length > 0)
    throw new ErrdefsError('invalid_argument', `a given specification excludes ${words.join(', ')}`, {
      hint: 'say it in the specification, or leave out --config',
    });
}
