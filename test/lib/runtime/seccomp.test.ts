/** System calls of containers: the profile against the one it was made from, and in a container that runs. */
import assert from 'node:assert/strict';
import {existsSync, mkdirSync, readFileSync} from 'node:fs';
import {join} from 'node:path';
import {describe, it} from 'node:test';
import {defaultSeccomp, parseSeccomp, type SeccompFilter} from '../../../src/lib/runtime/seccomp.ts';
import {CAPABILITIES} from '../../../src/lib/runtime/spec.ts';
import {is, requiresProgram} from '../../support/helpers.ts';
import {newHarness, requiresRuntime} from './run-harness.ts';

/** Of containers/common, where podman is installed. */
const SOURCE = '/usr/share/containers/seccomp.json';
const AMD64 = {architecture: 'amd64', kernel: '6.12.0'};

interface Call {
  readonly name: string;
  readonly args?: readonly number[];
}

/** What the kernel does with a call, as libseccomp compiles a filter: rules of one action for one call are alternatives. */
function decide({defaultAction, defaultErrnoRet = 1, syscalls = []}: SeccompFilter, {name, args = []}: Call): 'allowed' | number {
  const holds = ({index, op, value, valueTwo = 0}: {index: number; op: string; value: number; valueTwo?: number}): boolean => {
    const given = BigInt(args[index] ?? 0);
    const [a, b] = [BigInt(value), BigInt(valueTwo)];
    switch (op) {
      case 'SCMP_CMP_EQ':
        return given === a;
      case 'SCMP_CMP_NE':
        return given !== a;
      case 'SCMP_CMP_LT':
        return given < a;
      case 'SCMP_CMP_GT':
        return given > a;
      case 'SCMP_CMP_MASKED_EQ':
        return (given & a) === b;
      default:
        throw new Error(op);
    }
  };
  const found = syscalls.filter((rule) => rule.names.includes(name) && (rule.args ?? []).every(holds));
  const actions = new Set(found.map(({action, errnoRet}) => (action === 'SCMP_ACT_ALLOW' ? 'allowed' : (errnoRet ?? 1))));
  // The source has these in two lists.
  const isTwofold = ['perf_event_open', 'setns'].includes(name);
  if (actions.has('allowed')) assert.ok(actions.size === 1 || isTwofold, `${name}: rules contradict each other`);
  assert.notEqual(defaultAction, 'SCMP_ACT_ALLOW');
  return actions.has('allowed') ? 'allowed' : ([...actions][0] ?? defaultErrnoRet);
}

/** Calls that the source allows to everybody and berth to those with a capability, as moby does, or to nobody. */
const STRICTER: Readonly<Record<string, readonly string[]>> = {
  CAP_SYS_ADMIN:
    'clone3 fsconfig fsmount fsopen fspick mount mount_setattr move_mount open_tree pivot_root setns umount umount2 unshare'.split(' '),
  CAP_SYS_BOOT: ['reboot'],
  CAP_SYSLOG: ['syslog'],
  CAP_SYS_NICE: ['get_mempolicy', 'mbind', 'set_mempolicy'],
  nobody: ['keyctl', 'epoll_ctl_old', 'epoll_wait_old'],
};

/** Capability sets: none, each alone, containerd's default, all. */
const DEFAULT = 'CHOWN DAC_OVERRIDE FSETID FOWNER MKNOD NET_RAW SETGID SETUID SETFCAP SETPCAP NET_BIND_SERVICE SYS_CHROOT KILL AUDIT_WRITE'
  .split(' ')
  .map((name) => `CAP_${name}`);
const SETS: readonly (readonly string[])[] = [[], DEFAULT, CAPABILITIES, ...CAPABILITIES.map((name) => [name])];

describe('the seccomp profile', () => {
  it('allows nothing that its source refuses, and refuses nothing that its source allows but what is listed', (t) => {
    if (!existsSync(SOURCE)) return t.skip(`needs ${SOURCE}`);
    const text = readFileSync(SOURCE, 'utf8');
    // Names that only other architectures have never reach a filter.
    const header = '/usr/include/x86_64-linux-gnu/asm/unistd_64.h';
    const own = existsSync(header)
      ? new Set([...readFileSync(header, 'utf8').matchAll(/__NR_(\w+)/g)].map(([, name]) => name!))
      : undefined;
    const all = (JSON.parse(text) as {syscalls: {names: string[]}[]}).syscalls.flatMap(({names}) => names);
    const names = [...new Set(all)].filter((name) => own?.has(name) ?? false).filter((name) => name !== 'socket');
    if (own === undefined) return t.skip(`needs ${header}`);
    assert.ok(names.length > 300);
    for (const capabilities of SETS) {
      const ours = defaultSeccomp(capabilities, 'amd64');
      const source = parseSeccomp(text, 'source', {...AMD64, capabilities});
      for (const name of names)
        for (const first of [0, 0x20000, 0x10000000, 0x7e020000, 0xffffffff]) {
          const call = {name, args: [first]};
          const what = `${name}(${first}) with ${capabilities.join(' ')}`;
          const [mine, theirs] = [decide(ours, call), decide(source, call)];
          const gate = Object.keys(STRICTER).find((capability) => STRICTER[capability]!.includes(name));
          if (name === 'clone') {
            const isNamespace = (first & 0x7e020000) !== 0 && !capabilities.includes('CAP_SYS_ADMIN');
            assert.equal(mine, isNamespace ? 38 : 'allowed', what);
          } else if (gate !== undefined) {
            if (mine === 'allowed') assert.equal(theirs, 'allowed', what);
            assert.equal(mine === 'allowed', capabilities.includes(gate) && theirs === 'allowed', what);
          } else if (theirs === 'allowed' || mine === 'allowed') assert.equal(mine, theirs, what);
        }
    }
  });

  it('lets no container make a socket of AF_ALG or AF_VSOCK, and every other', () => {
    for (const capabilities of SETS)
      for (let family = 0; family < 64; family++)
        for (const architecture of ['amd64', '386', 'arm64', 'arm']) {
          const decision = decide(defaultSeccomp(capabilities, architecture), {name: 'socket', args: [family, 1, 0]});
          const refused = architecture === '386' ? 38 : 97;
          assert.equal(decision, family === 38 || family === 40 ? refused : 'allowed', `family ${family}`);
        }
  });

  it('names 32-bit architectures only for images of them', () => {
    assert.equal(defaultSeccomp([], 'amd64').architectures, undefined);
    assert.deepEqual(defaultSeccomp([], '386').architectures, ['SCMP_ARCH_X86_64', 'SCMP_ARCH_X86']);
  });
});

describe('a seccomp profile from a file', () => {
  const target = {...AMD64, capabilities: ['CAP_CHOWN']};

  it('of the runtime specification stays as it is', () => {
    const filter = {
      defaultAction: 'SCMP_ACT_ALLOW',
      architectures: ['SCMP_ARCH_X86'],
      syscalls: [{names: ['mkdir'], action: 'SCMP_ACT_ERRNO', errnoRet: 5, args: [{index: 1, value: 7, op: 'SCMP_CMP_EQ'}]}],
    };
    assert.deepEqual(parseSeccomp(JSON.stringify(filter), 'file', target), filter);
  });

  it('of docker is opened by capabilities, architecture and kernel', () => {
    const rule = (name: string, gates: object): object => ({names: [name], action: 'SCMP_ACT_ALLOW', ...gates});
    const profile = {
      defaultAction: 'SCMP_ACT_ERRNO',
      archMap: [{architecture: 'SCMP_ARCH_X86_64', subArchitectures: ['SCMP_ARCH_X86']}, {architecture: 'SCMP_ARCH_AARCH64'}],
      syscalls: [
        rule('a', {includes: {caps: ['CAP_CHOWN']}}),
        rule('b', {includes: {caps: ['CAP_CHOWN', 'CAP_KILL']}}),
        rule('c', {excludes: {caps: ['CAP_CHOWN']}}),
        rule('d', {includes: {arches: ['arm64']}}),
        rule('e', {includes: {arches: ['amd64', 'arm64']}}),
        rule('f', {includes: {minKernel: '4.8'}}),
        rule('g', {includes: {minKernel: '6.13'}}),
        rule('h', {excludes: {arches: ['amd64']}}),
        {name: 'i', action: 'SCMP_ACT_ALLOW', args: null},
      ],
    };
    const {architectures, syscalls} = parseSeccomp(JSON.stringify(profile), 'file', target);
    assert.deepEqual(architectures, ['SCMP_ARCH_X86_64', 'SCMP_ARCH_X86']);
    assert.deepEqual(
      syscalls!.flatMap(({names}) => names),
      ['a', 'e', 'f', 'i'],
    );
  });

  it('that is none is refused by name', () => {
    for (const text of [
      '',
      '{',
      '[]',
      'null',
      '{}',
      '{"defaultAction":"X","syscalls":1}',
      '{"defaultAction":"X","syscalls":[{"names":["a"]}]}',
    ])
      assert.throws(() => parseSeccomp(text, 'profile "p"', target), is('invalid_argument'), text);
  });
});

/** Numbers of system calls, by Node's name of the architecture. */
const NUMBERS: Readonly<Record<string, Readonly<Record<string, number>>>> = {
  x64: {socket: 41, keyctl: 250, mount: 165, unshare: 272, bpf: 321, clone3: 435, userfaultfd: 323, init_module: 175, getpid: 39},
  arm64: {socket: 198, keyctl: 219, mount: 40, unshare: 97, bpf: 280, clone3: 435, userfaultfd: 282, init_module: 105, getpid: 172},
};

describe('a container', () => {
  it('cannot make the calls that the profile refuses, unless it is unconfined, and runs ordinary programs', async (t) => {
    const numbers = NUMBERS[process.arch];
    if (numbers === undefined) return t.skip(`no numbers of ${process.arch}`);
    if (!requiresRuntime(t) || !requiresProgram(t, 'perl')) return;
    const harness = newHarness(t);
    mkdirSync(join(harness.lower, 'host'), {recursive: true});
    const calls = [
      ['keyctl', [0, -3, 0]],
      ['mount', [0, 0, 0, 0]],
      ['unshare', [0x10000000]],
      ['bpf', [0, 0, 0]],
      ['clone3', [0, 0]],
      ['userfaultfd', [0]],
      ['init_module', [0, 0, 0]],
      ['socket', [38, 5, 0]],
      ['socket', [40, 1, 0]],
      ['socket', [1, 1, 0]],
      ['socket', [16, 3, 0]],
      ['getpid', []],
    ] as const;
    const script = calls
      .map(
        ([name, args]) =>
          `$r = syscall(${[numbers[name], ...args].join(', ')}); print "${name}(${args[0] ?? ''}) ", ($r < 0 ? $!+0 : "ok"), "\\n";`,
      )
      .join(' ');
    const mounts = [{type: 'bind', source: '/', destination: '/host', options: ['rbind', 'ro']}];
    const made = async (seccomp?: string): Promise<Map<string, string>> => {
      const {stdout, exitStatus} = await harness.run({
        args: ['busybox', 'chroot', '/host', '/usr/bin/perl', '-e', script],
        mounts,
        ...(seccomp === undefined ? {} : {seccomp}),
      });
      assert.equal(exitStatus, 0);
      return new Map(
        stdout
          .trim()
          .split('\n')
          .map((line) => line.split(' ') as [string, string]),
      );
    };
    const [EPERM, ENOSYS, EAFNOSUPPORT] = ['1', '38', '97'];
    assert.deepEqual(Object.fromEntries(await made()), {
      'keyctl(0)': EPERM,
      'mount(0)': EPERM,
      'unshare(268435456)': EPERM,
      'bpf(0)': EPERM,
      'clone3(0)': ENOSYS,
      'userfaultfd(0)': EPERM,
      'init_module(0)': EPERM,
      'socket(38)': EAFNOSUPPORT,
      'socket(40)': EAFNOSUPPORT,
      'socket(1)': 'ok',
      'socket(16)': 'ok',
      'getpid()': 'ok',
    });
    const free = await made('unconfined');
    // EINVAL of the kernel itself: the call was made.
    assert.equal(free.get('clone3(0)'), '22');
    await harness.assertNothingLeft();
  });
});
