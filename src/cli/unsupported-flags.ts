/** Flags of `run` of ctr, docker and podman that have no equivalent here, each with what to do instead. */
import type {FlagHints} from './read-flag-words.ts';

const each = (names: string, hint: string): FlagHints =>
  Object.fromEntries(names.split(' ').map((name) => [name.length === 1 ? `-${name}` : `--${name}`, hint]));

/** Of ctr's commands that start processes. */
export const NO_FIFOS: FlagHints = each('fifo-dir', 'there is no daemon that would need FIFOs: the streams are those of the command');

/** Of ctr's `tasks exec`. */
export const EXEC_HINTS: FlagHints = {
  ...NO_FIFOS,
  ...each('log-uri', 'no log is kept of one more process: leave out --detach, or let the command write to a file'),
};

/** Of ctr's `tasks delete`. */
export const DELETE_HINTS: FlagHints = each('exec-id', 'an exec is gone when it has ended; "berth tasks kill --exec-id EXEC ID" ends one');

const STAYS = 'a checkpoint stays with its container, on this machine';
const FILES_STAY = 'files stay in the snapshot of the container: "berth commit" keeps them in an image';

/** Of `containers checkpoint` of ctr, and `container checkpoint` of podman. */
export const CHECKPOINT_HINTS: FlagHints = {
  ...each('rw image ignore-rootfs ignore-volumes', FILES_STAY),
  ...each('task', 'leave it out: the processes are what is kept'),
  ...each('e export c compress create-image', STAYS),
  ...each('k keep print-stats', 'leave it out: the log of criu is shown when it fails'),
  ...each('P pre-checkpoint with-previous', 'the memory is written at once'),
  ...each('file-locks', 'leave it out: locks of files are kept'),
  ...each('a all l latest', 'name the container'),
};

/** Of ctr's `tasks checkpoint`. */
export const TASK_CHECKPOINT_HINTS: FlagHints = {
  ...each('image-path', STAYS),
  ...each('work-path', 'leave it out: the log of criu is shown when it fails'),
};

/** Of `containers restore` of ctr, and `container restore` of podman. */
export const RESTORE_HINTS: FlagHints = {
  ...each('rw ignore-rootfs ignore-volumes', FILES_STAY),
  ...each('live', 'leave it out: the processes go on'),
  ...each('i import import-previous n name pod', STAYS),
  ...each('p publish ignore-static-ip ignore-static-mac', 'the network is that of the container'),
  ...each('tcp-established', 'leave it out: the checkpoint says whether it has connections'),
  ...each('print-stats', 'leave it out'),
  ...each('file-locks', 'leave it out: locks of files are kept'),
  ...each('a all l latest', 'name the container'),
};

/** A test holds that each flag of the three programs is either supported or here. */
export const UNSUPPORTED_FLAGS: FlagHints = {
  ...each('blkio-weight blkio-weight-device blockio-class blockio-config-file', 'block I/O classes and weights are not supported'),
  ...each(
    'device-read-bps device-read-iops device-write-bps device-write-iops io-maxbandwidth io-maxiops',
    'limits of block I/O are not supported',
  ),
  ...each('cpu-rt-period cpu-rt-runtime', 'real-time scheduling is not supported: --cpu-shares and --cpus limit the CPU'),
  ...each('cpu-count cpu-percent isolation', 'this is for Windows'),
  ...each('a attach', 'standard streams are those of the command; a detached task is attached by "berth tasks attach"'),
  ...each('detach-keys sig-proxy', 'give it to "berth tasks attach"'),
  ...each(
    'health-cmd health-interval health-log-destination health-max-log-count health-max-log-size health-on-failure health-retries health-start-interval health-start-period health-startup-cmd health-startup-interval health-startup-retries health-startup-success health-startup-timeout health-timeout',
    'nothing of berth stays to check a health: let a timer of systemd call "berth tasks exec"',
  ),
  ...each('log-opt', 'conmon writes the log: --log-max-size bounds it'),
  ...each(
    'ip ip6 ip-address link-local-ip mac-address',
    'addresses are chosen by the plugins of the network: say it in its file in /etc/cni/net.d',
  ),
  ...each('network-alias net-alias link', 'containers reach each other by their network; names are given by --add-host'),
  ...each('P publish-all', 'name the ports: --publish PORT publishes one on a free port of the host'),
  ...each('no-hosts hosts-file no-hostname', 'mount a file of your own: --volume FILE:/etc/hosts'),
  ...each('domainname', 'write --hostname NAME.DOMAIN'),
  ...each('kernel-memory', 'the kernel has no such limit any more: --memory-limit counts its memory, too'),
  ...each('memory-swappiness', 'set vm.swappiness of the host, or --memory-swap'),
  ...each('oom-kill-disable', 'a container that waits for memory for ever helps nobody: --oom-score-adj -1000 spares it'),
  ...each('storage-opt', 'the root is as large as the disk; --tmpfs DST:size=N is a file system of a size'),
  ...each('volume-driver', 'volumes are directories of the state directory; mount others first, and give their path to --volume'),
  ...each('gpus', 'write --device for the devices, and --volume for the libraries: no hook of the vendor is called'),
  ...each('device-cgroup-rule', 'write --device for each device'),
  ...each('cgroup-parent cgroup-conf runc-systemd-cgroup', 'write --cgroup PATH'),
  ...each('cgroups', 'write --cgroup PATH; units of systemd start with "berth tasks start --split-cgroup": see "berth containers systemd"'),
  ...each('subuidname subgidname', 'name the ids: --uidmap 0:100000:65536'),
  ...each('hostuser', 'the files of the image stay as they are'),
  ...each('remap-labels', 'write --uidmap: owners are mapped by the kernel, with every snapshotter'),
  ...NO_FIFOS,
  ...each('dump-config', 'make it with "berth containers create", and read it with "berth containers info --spec"'),
  ...each('rdt-class', 'classes of cache and memory bandwidth (RDT) are not supported'),
  ...each('runc-root', 'the state of the runtime is in the state directory: --state'),
  ...each('runtime-config-path', 'write --runtime PROGRAM: it is called directly, without a shim'),
  ...each('sandbox pod pod-id-file', 'there are no sandboxes and pods; --with-ns joins the namespaces of another container'),
  ...each('disable-content-trust signature-policy', 'what is trusted is a label of the namespace: berth/require-signature'),
  ...each('decryption-key', 'encrypted images are not supported'),
  ...each('use-api-socket', 'there is no daemon and no socket'),
  ...each('arch os variant', 'write --platform OS/ARCH'),
  ...each('retry retry-delay', 'pulls are repeated until --timeout'),
  ...each('tls-verify', 'write --plain-http or --skip-verify'),
  ...each('env-host env-merge http-proxy', 'write --env KEY=VALUE for each of them'),
  ...each('unsetenv unsetenv-all', 'write --env KEY: without a value it removes the variable'),
  ...each('tz', 'write --env TZ=NAME'),
  ...each('umask', 'set it in the command: sh -c "umask 022; exec …"'),
  ...each('group-entry passwd passwd-entry chrootdirs', 'the files of the image stay as they are'),
  ...each('init-path', '--init runs tini of this machine'),
  ...each('personality seccomp-policy', 'the seccomp filter and the kernel decide it: --security-opt seccomp=FILE'),
  ...each('pidfile conmon-pidfile', 'write --pid-file FILE'),
  ...each('preserve-fd preserve-fds', 'a container gets no descriptors but its standard streams'),
  ...each('read-only-tmpfs', 'write --tmpfs /tmp, and so on'),
  ...each('replace', 'remove the other one first, with "berth containers rm"'),
  ...each('rmi', 'remove the image afterwards, with "berth images rm"'),
  ...each('requires', 'let systemd order them, in units'),
  ...each('secret', 'write --volume FILE:/run/secrets/NAME:ro'),
  ...each('sdnotify', 'let the unit be of Type=exec'),
  ...each('shm-size-systemd systemd', 'write --tmpfs /run --tmpfs /run/lock --tmpfs /tmp'),
};
