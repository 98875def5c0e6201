/**
 * Flags of docker, podman, skopeo and ctr that the command of that name here does not have, each with what to do instead. Loaded when one is
 * given. Those of `run` are in unsupported-flags.ts.
 */

/** Commands, separated by commas, or all; flags, separated by blanks; what to do. The first row with both decides. */
type Row = readonly [commands: string, flags: string, hint: string];

const LISTS = 'containers ls, images ls, volumes ls';
const SEVERAL =
  'tasks stop, tasks kill, tasks pause, tasks resume, tasks wait, containers rm, containers restart, containers start, images rm, volumes rm, volumes inspect';

const ROWS: readonly Row[] = [
  [
    'containers ls',
    'f filter',
    'filters are words, as in "berth containers ls labels.team==infra"; those that run are listed by "berth tasks ls"',
  ],
  ['images ls', 'f filter', 'filters are words, as in "berth images ls name~=redis"'],
  ['volumes ls', 'f filter', 'filters are words, as in "berth volumes ls labels.team==infra"'],
  ['events', 'filter', 'filters are words, as in "berth events topic~=/tasks/"'],
  ['prune, images prune, volumes prune', 'filter', 'nothing can be chosen by labels: "berth prune --older-than 24h" chooses by age'],
  [SEVERAL, 'f filter', 'name them: a list with filters and --quiet prints their names, such as "berth containers ls -q image~=redis"'],
  [
    SEVERAL,
    'a all',
    'name them: "berth containers ls -q", "berth tasks ls -q", "berth images ls -q" and "berth volumes ls -q" print all names',
  ],
  [SEVERAL, 'cidfile', 'write "$(cat FILE)" instead'],
  [SEVERAL, 'i ignore', 'the exit status of what does not exist is 5: test for it'],
  ['tasks kill', 'f force', '--signal KILL ends it'],
  ['volumes rm', 'f force t time', 'a volume that a container has stays: remove the container first, with "berth containers rm --force"'],
  ['images rm', 'f force', 'leave it out: nothing is asked, and a container keeps what it needs of its image'],
  ['images rm', 'no-prune', 'what nothing refers to any more goes with the image; "berth leases create" keeps more'],
  ['containers rm', 'depend t time', '--force ends it first; "berth tasks stop --timeout 30s" gives it time'],
  ['tasks wait', 'condition interval i', 'it ends with the task'],
  [LISTS, 'noheading n', '--quiet prints keys alone, and --format what you choose'],
  ['containers ls', 'last latest l', 'lists are sorted by name; "berth containers ls --json" has the times'],
  ['containers ls', 's size', '"berth df" shows sizes'],
  [
    'containers ls, images ls, images prune',
    'external ns p pod sync w watch sort digests history build-cache',
    'leave it out; --json has all that is known',
  ],
  [
    'tasks exec, tasks attach, tasks stop, tasks kill, tasks pause, tasks resume, tasks wait, tasks logs, tasks stats, tasks ps, containers rm, containers restart, containers start, inspect, attach, diff',
    'l latest',
    'name the container: "berth containers ls" lists them',
  ],
  ['tasks exec', 'env-file', 'write --env KEY=VALUE for each of them'],
  ['tasks exec', 'privileged', 'the process has the rights of its container: give --privileged to "berth run"'],
  ['tasks exec', 'detach-keys', 'give it to "berth tasks attach"; a process with --detach has no terminal'],
  ['tasks exec', 'preserve-fd preserve-fds', 'a process gets no descriptors but its standard streams'],
  ['tasks logs', 'color names', 'a log has one container'],
  ['tasks stats', 'a all i interval no-reset', 'without an ID it shows all that run'],
  ['tasks ps', 'o', 'columns are PID, INFO and COMMAND; "berth tasks exec ID ps -o user,pid,args" asks the ps of the container'],
  [
    'containers start',
    'attach a interactive i detach-keys sig-proxy',
    '"berth tasks start" runs it in the foreground, "berth tasks attach" connects to it later',
  ],
  ['containers create', 'rm', '"berth run --detach --rm" starts a container that is removed when it ends'],
  ['containers create', 'init-ctr', 'berth runs single containers'],
  ['containers restart', 'running', 'name them: "berth tasks ls -q" prints those that run'],
  [
    'containers update',
    'restart',
    'nothing of berth stays to restart a container: let systemd, by the unit of "berth containers systemd ID"',
  ],
  ['containers update', 'c', 'write --cpu-shares'],
  ['containers update', 'kernel-memory memory-swappiness', 'this kernel has no such limit'],
  [
    'containers update',
    'blkio-weight blkio-weight-device cpu-rt-period cpu-rt-runtime device-read-bps device-read-iops device-write-bps device-write-iops',
    'limits of block I/O and real-time scheduling are not supported',
  ],
  [
    'containers update',
    'health-cmd health-interval health-log-destination health-max-log-count health-max-log-size health-on-failure health-retries health-start-period health-startup-cmd health-startup-interval health-startup-retries health-startup-success health-startup-timeout health-timeout no-healthcheck',
    'nothing of berth stays to check a health: let a timer of systemd call "berth tasks exec"',
  ],
  ['containers cp', 'overwrite', 'a file is replaced, a directory never by a file'],
  ['attach', 'detach-keys no-stdin sig-proxy', 'the streams of a container are those of "berth tasks attach"'],
  ['commit', 'p pause', 'a container that runs is always paused while its tree is read'],
  ['commit', 'q quiet', '--progress none shows no progress'],
  ['commit', 'f format', 'the image has the media types of the image of its container; "berth images convert" changes them'],
  ['commit', 'config', 'write --change for each of its members'],
  [
    'commit',
    'iidfile include-volumes s squash',
    'the digest is printed; volumes are not part of an image; "berth images flatten" makes one layer',
  ],
  [
    'inspect',
    's size t type daemon-host no-tags shared-blob-dir',
    'it shows an image in a registry; "berth containers info" shows a container, "berth images inspect" a stored image',
  ],
  ['inspect, info, version, volumes inspect, images inspect, df', 'f', 'write --format'],
  ['df', 'v verbose', '"berth images usage" shows each image'],
  ['events', 'no-trunc', 'leave it out: nothing is shortened'],
  ['events', 'stream', 'it ends, unless --follow is given'],
  ['events', 'until', '--follow goes on, and --timeout ends it'],
  [
    'volumes create',
    'driver d opt o',
    'volumes are directories of the state directory; mount others first, and give their path to --volume',
  ],
  ['volumes create', 'ignore', 'the exit status of a volume that exists is 6: test for it'],
  ['volumes create', 'l', 'write --label'],
  ['pull', 'a all-tags', '"berth tags" lists them: pull the references that you want'],
  ['pull, push, images tag', 'local', 'leave it out: there is no other service that could transfer it'],
  ['push', 'digestfile', '--quiet prints the digest: redirect it to the file'],
  [
    'push',
    'compress compression-format compression-level force-compression f',
    'blobs are pushed as they are; "berth images convert" compresses them anew',
  ],
  [
    'images mount',
    'skip-verify k plain-http user u refresh hosts-dir tlscacert tlscert tlskey http-dump http-trace label',
    'it mounts what is here: "berth pull" fetches it first',
  ],
  [
    'images unmount',
    'skip-verify k plain-http user u refresh hosts-dir tlscacert tlscert tlskey http-dump http-trace label',
    'leave it out: nothing is fetched',
  ],
  ['unshare', 'rootless-netns', 'networks of containers are made by pasta, for each container: "berth run --network default"'],
  ['containers create', 'pid-file no-pivot log-driver', 'give it to "berth tasks start"'],
  ['content active', 't', 'write --timeout'],
  ['content edit', 'validate', 'leave it out: the digest is computed anew'],
  ['tasks rm', 'exec-id', 'a process of "berth tasks exec" leaves nothing that had to be removed'],
  ['namespaces rm', 'c cgroup', 'a control group goes with its container'],
  ['copy', 'additional-tag', 'copy it again to the other tag: nothing is sent twice'],
  ['copy, sync', 'src-authfile dest-authfile', 'write --authfile, for both'],
  ['copy, sync', 'src-username src-password', 'write --src-creds USER, and --src-password-stdin'],
  ['copy, sync', 'dest-username dest-password', 'write --dest-creds USER, and --dest-password-stdin'],
  [
    'copy, sync',
    'src-cert-dir dest-cert-dir',
    '--hosts-dir has certificates for each registry; --tlscacert, --tlscert and --tlskey name them',
  ],
  ['copy, sync', 'src-no-creds dest-no-creds', 'write --authfile /dev/null'],
  ['copy, sync', 'src-registry-token dest-registry-token', 'a token is asked for with --src-creds and --dest-creds'],
  [
    'copy',
    'dest-compress dest-compress-format dest-compress-level dest-decompress dest-oci-accept-uncompressed-layers',
    'blobs are copied as they are; "berth images convert" compresses them anew',
  ],
  ['copy', 'src-daemon-host dest-daemon-host', 'there is no daemon: "docker save" writes an archive, docker-archive:FILE names it'],
  ['copy', 'src-shared-blob-dir dest-shared-blob-dir dest-precompute-digests', 'leave it out; blobs that the destination has are not sent'],
  ['copy, sync', 'image-parallel-copies', 'write --max-concurrent-downloads'],
  ['sync', 'src s dest d', 'leave it out: a place says of itself what it is, as docker://REFERENCE, dir:DIRECTORY, or a list in YAML'],
  ['sync', 'digestfile preserve-digests f format', 'leave it out: digests stay; --json has those of all images'],
  ['login, logout', 'compat-auth-file', 'write --authfile; the format is the same'],
  ['login', 'v verbose', 'write --debug'],
  ['login', 'secret', 'write --password-stdin <FILE'],
  ['logout', 'a', 'write --all'],
  ['*', 'tls-verify', 'write --plain-http for a registry without TLS, or --skip-verify to accept any certificate'],
  ['*', 'cert-dir', '--hosts-dir has certificates for each registry; --tlscacert, --tlscert and --tlskey name them'],
  ['*', 'no-creds', 'write --authfile /dev/null'],
  ['*', 'password', 'write --password-stdin'],
  ['*', 'registry-token', '--refresh takes a refresh token; other tokens are asked for with --user'],
  ['*', 'retry retry-delay retry-times', 'requests are repeated by themselves until --timeout'],
  ['*', 'arch os variant override-arch override-os override-variant', 'write --platform OS/ARCH'],
  [
    '*',
    'disable-content-trust remove-signatures sign-by sign-by-sigstore sign-by-sigstore-private-key sign-passphrase-file sign-identity',
    'cosign signs; what is trusted is a label of the namespace, berth/require-signature',
  ],
  ['*', 'encrypt-layer encryption-key decryption-key', 'layers are neither encrypted nor decrypted: skopeo copy does it'],
];

const includes = (text: string, separator: RegExp, word: string): boolean => text.split(separator).includes(word);

/** @param flag with its dashes @returns what to do instead, if another tool's command of that name has it */
export function foreignFlagHint(id: string, flag: string): string | undefined {
  const name = flag.replace(/^--?/, '');
  return ROWS.find(([ids, flags]) => (ids === '*' || includes(ids, /, /, id)) && includes(flags, / /, name))?.[2];
}
