/**
 * The system calls that a container may make: berth's own profile, and profiles from files.
 *
 * The profile is that of containers/common (seccomp.json, Apache-2.0) without what only other architectures have, with the capabilities
 * that moby's profile (profiles/seccomp/default.json, Apache-2.0) asks for namespaces and mounts, and without AF_ALG and AF_VSOCK:
 * docs/decisions/0036-seccomp.md. It names one architecture, since the runtime compiles the filter at each start.
 */
import {ErrdefsError} from '../errdefs.ts';

export interface SeccompCondition {
  readonly index: number;
  readonly value: number;
  readonly valueTwo?: number;
  readonly op: string;
}

export interface SeccompRule {
  readonly names: readonly string[];
  readonly action: string;
  readonly errnoRet?: number;
  readonly args?: readonly SeccompCondition[];
}

/** `linux.seccomp` of the OCI runtime specification. */
export interface SeccompFilter {
  readonly defaultAction: string;
  readonly defaultErrnoRet?: number;
  readonly architectures?: readonly string[];
  readonly flags?: readonly string[];
  readonly listenerPath?: string;
  readonly listenerMetadata?: string;
  readonly syscalls?: readonly SeccompRule[];
}

const words = (text: string): readonly string[] => text.split(' ');

/** Allowed to every container, in 64 bits. */
const ALLOWED = words(
  'accept accept4 access adjtimex alarm arch_prctl bind brk capget capset chdir chmod chown clock_adjtime clock_adjtime64 ' +
    'clock_getres clock_getres_time64 clock_gettime clock_gettime64 clock_nanosleep clock_nanosleep_time64 close ' +
    'close_range connect copy_file_range creat dup dup2 dup3 epoll_create epoll_create1 epoll_ctl epoll_pwait epoll_pwait2 ' +
    'epoll_wait eventfd eventfd2 execve execveat exit exit_group faccessat faccessat2 fadvise64 fadvise64_64 fallocate ' +
    'fanotify_mark fchdir fchmod fchmodat fchmodat2 fchown fchownat fcntl fcntl64 fdatasync fgetxattr flistxattr flock fork ' +
    'fremovexattr fsetxattr fstat fstat64 fstatat64 fstatfs fstatfs64 fsync ftruncate ftruncate64 futex futex_time64 ' +
    'futimesat get_robust_list get_thread_area getcpu getcwd getdents getdents64 getegid geteuid getgid getgroups getitimer ' +
    'getpeername getpgid getpgrp getpid getppid getpriority getrandom getresgid getresuid getrlimit getrusage getsid ' +
    'getsockname getsockopt gettid gettimeofday getuid getxattr inotify_add_watch inotify_init inotify_init1 ' +
    'inotify_rm_watch io_cancel io_destroy io_getevents io_setup io_submit ioctl ioprio_get ioprio_set kill ' +
    'landlock_add_rule landlock_create_ruleset landlock_restrict_self lchown lgetxattr link linkat listen listxattr ' +
    'llistxattr lremovexattr lseek lsetxattr lstat lstat64 madvise membarrier memfd_create memfd_secret mincore mkdir ' +
    'mkdirat mknod mknodat mlock mlock2 mlockall mmap mmap2 modify_ldt mprotect mq_getsetattr mq_notify mq_open ' +
    'mq_timedreceive mq_timedreceive_time64 mq_timedsend mq_timedsend_time64 mq_unlink mremap msgctl msgget msgrcv msgsnd ' +
    'msync munlock munlockall munmap name_to_handle_at nanosleep newfstatat open openat openat2 pause pidfd_getfd ' +
    'pidfd_open pidfd_send_signal pipe pipe2 pkey_alloc pkey_free pkey_mprotect poll ppoll ppoll_time64 prctl pread64 ' +
    'preadv preadv2 prlimit64 process_mrelease process_vm_readv process_vm_writev pselect6 pselect6_time64 ptrace pwrite64 ' +
    'pwritev pwritev2 read readahead readlink readlinkat readv recvfrom recvmmsg recvmmsg_time64 recvmsg remap_file_pages ' +
    'removexattr rename renameat renameat2 restart_syscall riscv_flush_icache rmdir rseq rt_sigaction rt_sigpending ' +
    'rt_sigprocmask rt_sigqueueinfo rt_sigreturn rt_sigsuspend rt_sigtimedwait rt_sigtimedwait_time64 rt_tgsigqueueinfo ' +
    'sched_get_priority_max sched_get_priority_min sched_getaffinity sched_getattr sched_getparam sched_getscheduler ' +
    'sched_rr_get_interval sched_rr_get_interval_time64 sched_setaffinity sched_setattr sched_setparam sched_setscheduler ' +
    'sched_yield seccomp select semctl semget semop semtimedop semtimedop_time64 sendfile sendfile64 sendmmsg sendmsg ' +
    'sendto set_robust_list set_thread_area set_tid_address setfsgid setfsuid setgid setgroups setitimer setpgid ' +
    'setpriority setregid setresgid setresuid setreuid setrlimit setsid setsockopt setuid setxattr shmat shmctl shmdt ' +
    'shmget shutdown sigaltstack signalfd signalfd4 socketpair splice stat stat64 statfs statfs64 statx symlink symlinkat ' +
    'sync sync_file_range syncfs sysinfo tee tgkill time timer_create timer_delete timer_getoverrun timer_gettime ' +
    'timer_gettime64 timer_settime timer_settime64 timerfd_create timerfd_gettime timerfd_gettime64 timerfd_settime ' +
    'timerfd_settime64 times tkill truncate truncate64 umask uname unlink unlinkat utime utimensat utimensat_time64 utimes ' +
    'vfork wait4 waitid write writev',
);

/**
 * Allowed to every container besides, where 32-bit programs run. On x86 libseccomp allows socketcall together with socket, and cannot
 * look at the family there: a 32-bit program reaches AF_ALG.
 */
const ALLOWED_32 = words(
  '_llseek _newselect chown32 fchown32 getegid32 geteuid32 getgid32 getgroups32 getresgid32 getresuid32 getuid32 ipc ' +
    'lchown32 recv send setfsgid32 setfsuid32 setgid32 setgroups32 setregid32 setresgid32 setresuid32 setreuid32 setuid32 ' +
    'signal sigprocmask sigreturn ugetrlimit waitpid',
);

/** Known and refused with EPERM; what is in no list fails with ENOSYS, which programs take for an older kernel. */
const REFUSED = words(
  'add_key cachestat futex_requeue futex_wait futex_waitv futex_wake io_pgetevents io_pgetevents_time64 kexec_file_load ' +
    'kexec_load keyctl map_shadow_stack migrate_pages move_pages nfsservctl request_key swapoff swapon sysfs uselib ' +
    'userfaultfd ustat vmsplice',
);

/** Allowed with any of the capabilities, else refused with EPERM. */
const GATED: readonly (readonly [names: string, ...capabilities: readonly string[]])[] = [
  ['bpf', 'CAP_SYS_ADMIN', 'CAP_BPF'],
  [
    'fanotify_init fsconfig fsmount fsopen fspick lookup_dcookie mount mount_setattr move_mount open_tree pivot_root quotactl quotactl_fd setdomainname sethostname setns umount umount2 unshare',
    'CAP_SYS_ADMIN',
  ],
  ['perf_event_open', 'CAP_PERFMON'],
  ['reboot', 'CAP_SYS_BOOT'],
  ['syslog', 'CAP_SYSLOG'],
  ['open_by_handle_at', 'CAP_DAC_READ_SEARCH'],
  ['chroot', 'CAP_SYS_CHROOT'],
  ['delete_module finit_module init_module query_module', 'CAP_SYS_MODULE'],
  ['acct', 'CAP_SYS_PACCT'],
  ['kcmp process_madvise', 'CAP_SYS_PTRACE'],
  ['ioperm iopl', 'CAP_SYS_RAWIO'],
  ['clock_settime settimeofday clock_settime64 stime', 'CAP_SYS_TIME'],
  ['vhangup', 'CAP_SYS_TTY_CONFIG'],
  ['get_mempolicy mbind set_mempolicy', 'CAP_SYS_NICE'],
];

const EPERM = 1;
const ENOSYS = 38;
const EAFNOSUPPORT = 97;
const AF_ALG = 38;
const AF_VSOCK = 40;
/** CLONE_NEW…: of each kind of namespace. */
const NAMESPACE_FLAGS = 0x7e020000;
/** Those of personality(2) that change no protection: PER_LINUX, PER_LINUX32, both with UNAME26, and asking. */
const PERSONALITIES = [0x0, 0x8, 0x20000, 0x20008, 0xffffffff];

const allow = (names: readonly string[], ...args: readonly SeccompCondition[]): SeccompRule => ({
  names,
  action: 'SCMP_ACT_ALLOW',
  ...(args.length === 0 ? {} : {args}),
});
const refuse = (names: readonly string[], errnoRet: number, ...args: readonly SeccompCondition[]): SeccompRule => ({
  names,
  action: 'SCMP_ACT_ERRNO',
  errnoRet,
  ...(args.length === 0 ? {} : {args}),
});
const when = (op: string, value: number, valueTwo?: number): SeccompCondition => ({
  index: 0,
  value,
  ...(valueTwo === undefined ? {} : {valueTwo}),
  op: `SCMP_CMP_${op}`,
});

/** Name of the architecture in libseccomp of 32-bit programs, by the image's. The runtime adds its own. */
const ARCHITECTURES_32: Readonly<Record<string, readonly string[]>> = {
  '386': ['SCMP_ARCH_X86_64', 'SCMP_ARCH_X86'],
  arm: ['SCMP_ARCH_AARCH64', 'SCMP_ARCH_ARM'],
};

/**
 * berth's profile.
 *
 * @param capabilities those that the container's processes may have
 * @param architecture the image's; 32-bit programs run only in images of `386` and `arm`
 */
export function defaultSeccomp(capabilities: readonly string[], architecture: string): SeccompFilter {
  const architectures = ARCHITECTURES_32[architecture];
  const isGranted = (needed: readonly string[]): boolean => needed.some((name) => capabilities.includes(name));
  const granted = GATED.filter(([, ...needed]) => isGranted(needed)).flatMap(([names]) => words(names));
  const denied = GATED.filter(([, ...needed]) => !isGranted(needed)).flatMap(([names]) => words(names));
  const isAdmin = isGranted(['CAP_SYS_ADMIN']);
  return {
    defaultAction: 'SCMP_ACT_ERRNO',
    defaultErrnoRet: ENOSYS,
    ...(architectures === undefined ? {} : {architectures}),
    syscalls: [
      allow([...ALLOWED, ...(architectures === undefined ? [] : ALLOWED_32), ...granted, ...(isAdmin ? ['clone', 'clone3'] : [])]),
      refuse([...REFUSED, ...denied], EPERM),
      // ENOSYS for clone3 makes libraries use clone, whose flags can be seen.
      ...(isAdmin ? [] : [allow(['clone'], when('MASKED_EQ', NAMESPACE_FLAGS, 0)), refuse(['clone3'], ENOSYS)]),
      ...PERSONALITIES.map((value) => allow(['personality'], when('EQ', value))),
      allow(['socket'], when('LT', AF_ALG)),
      allow(['socket'], when('EQ', AF_ALG + 1)),
      allow(['socket'], when('GT', AF_VSOCK)),
      // libseccomp takes no second action for socketcall.
      ...(architecture === '386' ? [] : [AF_ALG, AF_VSOCK].map((family) => refuse(['socket'], EAFNOSUPPORT, when('EQ', family)))),
    ],
  };
}

interface Gate {
  readonly caps?: readonly string[];
  readonly arches?: readonly string[];
  readonly minKernel?: string;
}

/** A profile of docker; one of the runtime specification has `architectures` and no gates. */
interface Profile extends SeccompFilter {
  readonly archMap?: readonly {readonly architecture: string; readonly subArchitectures?: readonly string[] | null}[];
  readonly syscalls?: readonly (SeccompRule & {readonly name?: string; readonly includes?: Gate; readonly excludes?: Gate})[];
}

export interface SeccompTarget {
  readonly capabilities: readonly string[];
  /** Go's name, such as `amd64`. */
  readonly architecture: string;
  /** Such as `6.12.0`. */
  readonly kernel: string;
}

const NATIVE: Readonly<Record<string, string>> = {
  amd64: 'SCMP_ARCH_X86_64',
  '386': 'SCMP_ARCH_X86',
  arm64: 'SCMP_ARCH_AARCH64',
  arm: 'SCMP_ARCH_ARM',
  ppc64le: 'SCMP_ARCH_PPC64LE',
  s390x: 'SCMP_ARCH_S390X',
  riscv64: 'SCMP_ARCH_RISCV64',
};

const isKernelAtLeast = (kernel: string, wanted: string): boolean => {
  const [a = [], b = []] = [kernel, wanted].map((text) => text.split(/[.-]/).slice(0, 2).map(Number));
  return a[0]! > b[0]! || (a[0] === b[0] && a[1]! >= (b[1] ?? 0));
};

/**
 * The filter of a profile's text, for one container.
 *
 * @param what names the file
 * @throws invalid_argument not a profile
 *
 * Gates after moby, profiles/seccomp/seccomp_linux.go (setupSeccomp).
 */
export function parseSeccomp(text: string, what: string, {capabilities, architecture, kernel}: SeccompTarget): SeccompFilter {
  const invalid = (why: string, cause?: unknown): ErrdefsError => new ErrdefsError('invalid_argument', `${what}: ${why}`, {cause});
  let profile: Profile;
  try {
    profile = JSON.parse(text) as Profile;
  } catch (err) {
    throw invalid('not JSON', err);
  }
  const isStrings = (value: unknown): boolean => Array.isArray(value) && value.every((one) => typeof one === 'string');
  if (typeof profile !== 'object' || profile === null || typeof profile.defaultAction !== 'string')
    throw invalid('it has no defaultAction');
  const {archMap = [], syscalls = [], defaultAction, defaultErrnoRet, architectures, flags, listenerPath, listenerMetadata} = profile;
  if (!Array.isArray(syscalls) || !Array.isArray(archMap)) throw invalid('syscalls and archMap must be arrays');
  const isOpen = ({includes = {}, excludes = {}}: {readonly includes?: Gate; readonly excludes?: Gate}): boolean =>
    (includes.caps ?? []).every((name) => capabilities.includes(name)) &&
    (includes.arches === undefined || includes.arches.length === 0 || includes.arches.includes(architecture)) &&
    (includes.minKernel === undefined || isKernelAtLeast(kernel, includes.minKernel)) &&
    !(excludes.caps ?? []).some((name) => capabilities.includes(name)) &&
    !(excludes.arches ?? []).includes(architecture) &&
    !(excludes.minKernel !== undefined && isKernelAtLeast(kernel, excludes.minKernel));
  const mapped = archMap.filter((entry) => entry.architecture === NATIVE[architecture]);
  const all = architectures ?? mapped.flatMap((entry) => [entry.architecture, ...(entry.subArchitectures ?? [])]);
  return {
    defaultAction,
    ...(defaultErrnoRet === undefined ? {} : {defaultErrnoRet}),
    ...(all.length === 0 ? {} : {architectures: all}),
    ...(flags === undefined ? {} : {flags}),
    ...(listenerPath === undefined ? {} : {listenerPath}),
    ...(listenerMetadata === undefined ? {} : {listenerMetadata}),
    syscalls: syscalls.filter(isOpen).map(({names, name, action, errnoRet, args}) => {
      const called = names ?? (name === undefined ? [] : [name]);
      if (!isStrings(called) || typeof action !== 'string') throw invalid('a rule has no names or no action');
      return {
        names: called,
        action,
        ...(errnoRet === undefined ? {} : {errnoRet}),
        ...(args === undefined || args === null || args.length === 0 ? {} : {args}),
      };
    }),
  };
}
