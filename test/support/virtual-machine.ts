/**
 * A virtual machine with what this machine may lack: Debian's kernel with version 2 of cgroups alone and AppArmor, systemd as first process, an
 * ordinary user, and disks whose power can be cut. It has no network device but the loopback.
 *
 * The processor is emulated, so that it runs wherever qemu does; programs take some twenty times as long as on the machine.
 */
import assert from 'node:assert/strict';
import {type ChildProcess, execFileSync, spawn} from 'node:child_process';
import {once} from 'node:events';
import {
  closeSync,
  existsSync,
  ftruncateSync,
  mkdirSync,
  mkdtempSync,
  openSync,
  readFileSync,
  renameSync,
  rmSync,
  writeFileSync,
} from 'node:fs';
import {createServer, type Socket} from 'node:net';
import {join} from 'node:path';
import {debianArchive} from './debian-images.ts';
import {onEnd, requiresProgram, requiresRoot, type Scope, type Skippable, TORTURE, temporaryDirectory} from './helpers.ts';

/** Raised with each change of how the machine is made. */
const VERSION = 1;

const PACKAGES = [
  ...[
    'systemd-sysv',
    'dbus',
    'dbus-user-session',
    'libpam-systemd',
    'kmod',
    'passwd',
    'login',
    'iproute2',
    'iputils-ping',
    'procps',
    'util-linux',
  ],
  ...['runc', 'conmon', 'crun', 'uidmap', 'passt', 'slirp4netns', 'apparmor', 'busybox-static', 'ca-certificates'],
];

/** Debian's kernel for virtual machines: with file system and disks of the root built in, it needs no initial file system. */
const KERNEL = 'linux-image-cloud-amd64';

/** The user that the machine has beside root. */
export const MACHINE_USER = {name: 'user', uid: 1000, firstSubordinate: 100_000} as const;

/** Services that a machine of some seconds has no use for. */
const MASKED = [
  ...['apt-daily.timer', 'apt-daily-upgrade.timer', 'dpkg-db-backup.timer', 'e2scrub_all.timer', 'e2scrub_reap.service', 'fstrim.timer'],
  ...[
    'getty@.service',
    'serial-getty@.service',
    'systemd-networkd.service',
    'systemd-timesyncd.service',
    'man-db.timer',
    'ldconfig.service',
  ],
  ...['systemd-udevd.service', 'systemd-udevd-kernel.socket', 'systemd-udevd-control.socket', 'systemd-udev-trigger.service'],
  ...['modprobe@.service', 'kmod-static-nodes.service', 'systemd-modules-load.service', 'dev-hugepages.mount', 'sys-kernel-debug.mount'],
  ...['sys-kernel-tracing.mount', 'systemd-journal-catalog-update.service', 'systemd-journal-flush.service', 'systemd-random-seed.service'],
  ...['systemd-update-utmp.service', 'systemd-tpm2-setup.service', 'systemd-hwdb-update.service', 'systemd-machine-id-commit.service'],
];

/**
 * Reads scripts from the second serial port and runs one after another: a line with the bytes of a script, the script. Answers with a line of exit
 * status and bytes of output, and the output.
 */
const AGENT = `#!/bin/sh
stty -F /dev/ttyS1 raw -echo clocal
exec 3<>/dev/ttyS1
mkdir -p /exchange /tmp/agent
modprobe virtio_blk
until [ -b /dev/vda ]; do sleep 0.1; done
mount -o ro /dev/vda /exchange
echo ready >&3
while read -r size <&3; do
  head -c "$size" <&3 >/tmp/agent/script
  sh /tmp/agent/script </dev/null >/tmp/agent/output 2>&1 3>&-
  echo "$? $(stat -c %s /tmp/agent/output)" >&3
  cat /tmp/agent/output >&3
done
`;

const UNIT = `[Unit]
Description=Scripts of the tests
After=basic.target dbus.socket systemd-logind.service apparmor.service
Wants=systemd-logind.service
[Service]
ExecStart=/usr/local/sbin/agent
Environment=HOME=/root PATH=/exchange:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
KillMode=process
[Install]
WantedBy=multi-user.target
`;

const cache = join(process.env.BERTH_TEST_CACHE ?? join(import.meta.dirname, '../../.cache'), `virtual-machine-${VERSION}`);

/** True when the test may go on: torture is wanted, and what makes and runs a machine is there. */
export function requiresVirtualMachine(t: Skippable): boolean {
  if (TORTURE) return requiresRoot(t) && requiresProgram(t, 'qemu-system-x86_64', 'mmdebstrap', 'apt-get', 'mke2fs');
  t.skip('a virtual machine takes minutes');
  return false;
}

function shell(script: string, ...args: readonly string[]): void {
  execFileSync('sh', ['-euc', script, 'sh', ...args], {stdio: ['ignore', 'ignore', 'inherit']});
}

/** @returns the directory with `kernel` and `root.img`, made if it is not there */
function machineFiles(): string {
  if (existsSync(cache)) return cache;
  mkdirSync(join(cache, '..'), {recursive: true});
  const building = mkdtempSync(`${cache}.building-`);
  try {
    const {suite, mirror} = debianArchive();
    const tree = join(building, 'tree');
    const include = [...PACKAGES, KERNEL].join(',');
    // The kernel's own scripts would make an initial file system.
    const exclude = ['doc', 'man', 'info', 'locale', 'bug'].map((name) => `--dpkgopt=path-exclude=/usr/share/${name}/*`);
    execFileSync(
      'mmdebstrap',
      [...['--quiet', '--mode=root', '--variant=essential', '--skip=check/empty', `--include=${include}`], ...exclude, suite, tree, mirror],
      {stdio: ['ignore', 'ignore', 'inherit']},
    );
    const write = (path: string, text: string, mode = 0o644): void => writeFileSync(join(tree, path), text, {mode});
    write('usr/local/sbin/agent', AGENT, 0o755);
    write('etc/systemd/system/agent.service', UNIT);
    write('etc/fstab', '');
    write('etc/hostname', 'machine\n');
    const {name, uid, firstSubordinate} = MACHINE_USER;
    shell(
      `cd "$1"; shift
       ln -s ../agent.service etc/systemd/system/multi-user.target.wants/agent.service
       for unit; do ln -sf /dev/null "etc/systemd/system/$unit"; done
       ln -sf multi-user.target usr/lib/systemd/system/default.target
       chroot . useradd --create-home --shell /bin/sh --uid ${uid} ${name}
       printf '${name}:${firstSubordinate}:65536\\n' | tee etc/subuid >etc/subgid
       : >etc/machine-id
       # Compiling the profiles of programs that are not there takes a minute.
       for file in etc/apparmor.d/*; do
         case \${file##*/} in runc | crun | conmon) ;; *) test -d "$file" || rm "$file" ;; esac
       done
       cp -L vmlinuz ../kernel 2>/dev/null || cp boot/vmlinuz-* ../kernel
       rm -rf boot/* var/cache/apt var/lib/apt/lists`,
      tree,
      ...MASKED,
    );
    const image = join(building, 'root.img');
    shell('mke2fs -q -t ext4 -O ^has_journal -L root -d "$1" "$2" 1500M', tree, image);
    rmSync(tree, {recursive: true});
    if (!existsSync(cache)) renameSync(building, cache);
  } finally {
    rmSync(building, {recursive: true, force: true});
  }
  return cache;
}

export interface MachineResult {
  readonly status: number;
  /** Standard output and standard error. */
  readonly output: string;
}

export interface MachineOptions {
  /** Files by their names in /exchange of the machine, which comes first on its PATH. */
  readonly files?: Readonly<Record<string, string>>;
  /** An image of a disk, /dev/vdb, that survives the machine; what was synced to it does also when the machine is killed. */
  readonly disk?: string;
  /** Processors. Default 1. */
  readonly processors?: number;
  /** Words for the kernel. */
  readonly kernelOptions?: readonly string[];
}

/** An empty image of a disk. @param size bytes */
export function newDisk(path: string, size: number): void {
  const fd = openSync(path, 'wx');
  ftruncateSync(fd, size);
  closeSync(fd);
}

/** A running machine. */
export class VirtualMachine {
  readonly #process: ChildProcess;
  readonly #socket: Socket;
  readonly #console: string;
  #received = Buffer.alloc(0);
  #wake: () => void = () => {};

  constructor(child: ChildProcess, socket: Socket, console: string) {
    this.#process = child;
    this.#socket = socket;
    this.#console = console;
    socket.on('data', (chunk: Buffer) => {
      this.#received = Buffer.concat([this.#received, chunk]);
      this.#wake();
    });
    for (const event of ['close', 'error']) socket.on(event, () => this.#wake());
  }

  /** What the kernel and systemd have printed. */
  get console(): string {
    return readFileSync(this.#console, 'latin1');
  }

  async #receive(isEnough: () => boolean, timeoutMs: number): Promise<void> {
    const deadline = Date.now() + timeoutMs;
    while (!isEnough()) {
      const left = deadline - Date.now();
      if (left <= 0 || this.#socket.destroyed)
        assert.fail(`the machine ${left > 0 ? 'has ended' : 'does not answer'}:\n${this.console.slice(-3000)}`);
      const {promise, resolve} = Promise.withResolvers<void>();
      this.#wake = resolve;
      const timer = setTimeout(resolve, left);
      await promise;
      clearTimeout(timer);
    }
  }

  async #line(timeoutMs: number): Promise<string> {
    await this.#receive(() => this.#received.includes(0x0a), timeoutMs);
    const end = this.#received.indexOf(0x0a);
    const text = this.#received.subarray(0, end).toString();
    this.#received = this.#received.subarray(end + 1);
    return text;
  }

  /** Waits until scripts can run. */
  async ready(): Promise<void> {
    assert.equal(await this.#line(300_000), 'ready');
  }

  /** Runs a shell script as root. @throws AssertionError the machine has ended, or does not answer in time; default five minutes */
  async run(script: string, {timeoutMs = 300_000}: {readonly timeoutMs?: number} = {}): Promise<MachineResult> {
    const bytes = Buffer.from(script);
    this.#socket.write(Buffer.concat([Buffer.from(`${bytes.length}\n`), bytes]));
    const [status, size] = (await this.#line(timeoutMs)).split(' ').map(Number);
    await this.#receive(() => this.#received.length >= size!, timeoutMs);
    const output = this.#received.subarray(0, size).toString();
    this.#received = this.#received.subarray(size!);
    return {status: status!, output};
  }

  /** The same, but it must succeed. @returns its output */
  async ok(script: string, options: {readonly timeoutMs?: number} = {}): Promise<string> {
    const {status, output} = await this.run(`set -e\n${script}`, options);
    assert.equal(status, 0, `${script}\nended with ${status}:\n${output}`);
    return output;
  }

  /** Cuts the power. */
  async cut(): Promise<void> {
    const ended = this.#process.exitCode === null && this.#process.signalCode === null ? once(this.#process, 'exit') : undefined;
    this.#process.kill('SIGKILL');
    await ended;
    this.#socket.destroy();
  }
}

/** Boots a machine, which ends with the scope; its root begins anew each time. */
export async function bootVirtualMachine(scope: Scope, options: MachineOptions = {}): Promise<VirtualMachine> {
  const {files = {}, disk, processors = 1, kernelOptions = []} = options;
  const made = machineFiles();
  const directory = temporaryDirectory(scope, 'berth-machine-');
  const exchange = join(directory, 'exchange');
  mkdirSync(exchange);
  for (const [name, source] of Object.entries(files)) shell('cp -rL "$1" "$2"', source, join(exchange, name));
  shell(
    'size=$(du -sm "$1" | cut -f1); mke2fs -q -t ext4 -O ^has_journal -d "$1" "$2" "$((size + size / 10 + 16))M"',
    exchange,
    join(directory, 'exchange.img'),
  );
  rmSync(exchange, {recursive: true});
  const socketPath = join(directory, 'socket');
  const server = createServer();
  await new Promise<void>((resolve) => void server.listen(socketPath, resolve));
  const connected = once(server, 'connection');
  const log = join(directory, 'console');
  const drive = (id: string, device: string, file: string, more: string): readonly string[] => [
    ...['-drive', `file=${file},format=raw,if=none,id=${id},${more}`],
    ...['-device', `${device},drive=${id},serial=${id}`],
  ];
  const words = [
    ...['-accel', 'tcg,thread=multi,tb-size=512', '-machine', 'q35', '-cpu', 'max,la57=off', '-smp', String(processors), '-m', '2048'],
    ...['-nodefaults', '-no-user-config', '-display', 'none', '-nic', 'none', '-no-reboot', '-serial', `file:${log}`],
    ...['-kernel', join(made, 'kernel')],
    '-append',
    [
      ...['root=/dev/nvme0n1', 'rootfstype=ext4', 'rw', 'console=ttyS0', 'quiet', 'panic=-1', 'mitigations=off', 'random.trust_cpu=on'],
      ...['systemd.show_status=no', 'systemd.firstboot=off', 'fsck.mode=skip', 'tsc=reliable', ...kernelOptions],
    ].join(' '),
    // The kernel has a driver built in for this one.
    ...drive('root', 'nvme', join(made, 'root.img'), 'snapshot=on,cache=unsafe'),
    ...drive('exchange', 'virtio-blk-pci', join(directory, 'exchange.img'), 'readonly=on'),
    // What the machine was told is written is in the file, whatever becomes of qemu.
    ...(disk === undefined ? [] : drive('disk', 'virtio-blk-pci', disk, 'cache=writethrough')),
    ...['-chardev', `socket,id=agent,path=${socketPath}`, '-serial', 'chardev:agent'],
  ];
  const child = spawn('nice', ['-n', '10', 'qemu-system-x86_64', ...words], {stdio: ['ignore', 'ignore', 'inherit']});
  let machine: VirtualMachine | undefined;
  onEnd(scope, async () => {
    if (machine !== undefined) await machine.cut();
    else child.kill('SIGKILL');
    server.close();
  });
  const [socket] = (await Promise.race([connected, once(child, 'exit').then(() => assert.fail('qemu has ended'))])) as [Socket];
  machine = new VirtualMachine(child, socket, log);
  await machine.ready();
  return machine;
}
