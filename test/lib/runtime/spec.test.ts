import assert from 'node:assert/strict';
import {describe, it} from 'node:test';
import type {ExecConfig} from '../../../src/lib/oci/manifest.ts';
import {CAPABILITIES, createSpec, type HostFacts, mergeEnv, type Spec, type SpecInput} from '../../../src/lib/runtime/spec.ts';
import type {SpecOptions} from '../../../src/lib/runtime/spec-option-types.ts';
import {is} from '../../support/helpers.ts';

const host: HostFacts = {
  hostname: 'machine',
  files: ['/etc/hosts', '/etc/resolv.conf'],
  capabilities: ['CAP_CHOWN', 'CAP_SYS_ADMIN'],
  devices: [{path: '/dev/fuse', type: 'c', major: 10, minor: 229, fileMode: 0o666, uid: 0, gid: 0}],
};
const user = {uid: 0, gid: 0, additionalGids: [0]};

const spec = (options: SpecOptions = {}, image: ExecConfig = {}, more: Partial<SpecInput> = {}): Spec =>
  createSpec({cgroupsPath: '/ns/id', image, options: {args: ['true'], ...options}, envFile: [], user, host, ...more});

const PATH = 'PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin';

describe('the default specification', () => {
  it("is containerd's", () => {
    const caps = [
      'CAP_CHOWN',
      'CAP_DAC_OVERRIDE',
      'CAP_FSETID',
      'CAP_FOWNER',
      'CAP_MKNOD',
      'CAP_NET_RAW',
      'CAP_SETGID',
      'CAP_SETUID',
      'CAP_SETFCAP',
      'CAP_SETPCAP',
      'CAP_NET_BIND_SERVICE',
      'CAP_SYS_CHROOT',
      'CAP_KILL',
      'CAP_AUDIT_WRITE',
    ];
    const device = (major: number, minor?: number) => ({
      allow: true,
      type: 'c',
      major,
      ...(minor === undefined ? {} : {minor}),
      access: 'rwm',
    });
    assert.deepEqual(spec(), {
      ociVersion: '1.1.0',
      process: {
        user,
        args: ['true'],
        env: [PATH],
        cwd: '/',
        capabilities: {bounding: caps, effective: caps, permitted: caps},
        rlimits: [{type: 'RLIMIT_NOFILE', hard: 1024, soft: 1024}],
        noNewPrivileges: true,
      },
      root: {path: 'rootfs'},
      mounts: [
        {destination: '/proc', type: 'proc', source: 'proc', options: ['nosuid', 'noexec', 'nodev']},
        {destination: '/dev', type: 'tmpfs', source: 'tmpfs', options: ['nosuid', 'strictatime', 'mode=755', 'size=65536k']},
        {
          destination: '/dev/pts',
          type: 'devpts',
          source: 'devpts',
          options: ['nosuid', 'noexec', 'newinstance', 'ptmxmode=0666', 'mode=0620', 'gid=5'],
        },
        {destination: '/dev/shm', type: 'tmpfs', source: 'shm', options: ['nosuid', 'noexec', 'nodev', 'mode=1777', 'size=65536k']},
        {destination: '/dev/mqueue', type: 'mqueue', source: 'mqueue', options: ['nosuid', 'noexec', 'nodev']},
        {destination: '/sys', type: 'sysfs', source: 'sysfs', options: ['nosuid', 'noexec', 'nodev', 'ro']},
        {destination: '/run', type: 'tmpfs', source: 'tmpfs', options: ['nosuid', 'strictatime', 'mode=755', 'size=65536k']},
      ],
      linux: {
        cgroupsPath: '/ns/id',
        namespaces: [{type: 'pid'}, {type: 'ipc'}, {type: 'uts'}, {type: 'mount'}, {type: 'network'}],
        resources: {
          devices: [
            {allow: false, access: 'rwm'},
            device(1, 3),
            device(1, 8),
            device(1, 7),
            device(5, 0),
            device(1, 5),
            device(1, 9),
            device(5, 1),
            device(136),
            device(5, 2),
          ],
        },
        maskedPaths: [
          '/proc/acpi',
          '/proc/asound',
          '/proc/kcore',
          '/proc/keys',
          '/proc/latency_stats',
          '/proc/timer_list',
          '/proc/timer_stats',
          '/proc/sched_debug',
          '/sys/firmware',
          '/sys/devices/virtual/powercap',
          '/proc/scsi',
        ],
        readonlyPaths: ['/proc/bus', '/proc/fs', '/proc/irq', '/proc/sys', '/proc/sysrq-trigger'],
      },
    });
  });
});

describe('environment', () => {
  it('is replaced in place, appended, and removed by a bare key', () => {
    // The table of containerd, pkg/oci/spec_opts_test.go (TestReplaceOrAppendEnvValues).
    assert.deepEqual(mergeEnv(['o=ups', 'p=$e', 'x=foo', 'y=boo', 'z', 't='], ['x=bar', 'y', 'a=42', 'o=', 'e', 's=']), [
      'o=',
      'p=$e',
      'x=bar',
      'z',
      't=',
      'a=42',
      's=',
    ]);
  });

  it('of the image comes first, then env files, then env', () => {
    const env = spec(
      {env: ['c=env', 'd']},
      {Env: ['PATH=/bin', 'a=image', 'b=image', 'c=image', 'd=image']},
      {envFile: ['b=file', 'c=file']},
    ).process.env;
    assert.deepEqual(env, ['PATH=/bin', 'a=image', 'b=file', 'c=env']);
  });

  it('of the image never takes a value from this machine', () => {
    assert.deepEqual(spec({}, {Env: ['HOME', '=x', '', 'a=1']}).process.env, ['a=1']);
  });

  it('gets PATH only when the image has none of its own', () => {
    assert.deepEqual(spec({}, {Env: []}).process.env, [PATH]);
    assert.deepEqual(spec({}, {Env: ['a=1']}).process.env, ['a=1']);
  });

  it('has TERM with a terminal, unless somebody said which', () => {
    assert.deepEqual(spec({tty: true}).process.env, [PATH, 'TERM=xterm']);
    assert.deepEqual(spec({tty: true, env: ['TERM=dumb']}).process.env, [PATH, 'TERM=dumb']);
    assert.equal(spec({tty: true}).process.terminal, true);
  });

  it('refuses an entry without a name', () => {
    for (const env of ['=x', '']) assert.throws(() => spec({env: [env]}), is('invalid_argument'));
  });
});

describe('command', () => {
  const image = {Entrypoint: ['entry', '-e'], Cmd: ['cmd', '-c']};
  for (const [what, options, args] of [
    ['is Entrypoint and Cmd', {args: []}, ['entry', '-e', 'cmd', '-c']],
    ['words replace both', {args: ['a', 'b']}, ['a', 'b']],
    ['entrypoint replaces Entrypoint, words Cmd', {args: ['a'], entrypoint: 'e'}, ['e', 'a']],
    ['entrypoint alone drops Cmd', {args: [], entrypoint: 'e'}, ['e']],
    ['empty entrypoint leaves the words', {args: ['a'], entrypoint: ''}, ['a']],
  ] as const)
    it(what, () => assert.deepEqual(spec(options, image).process.args, args));

  it('is needed', () => assert.throws(() => spec({args: []}, {}), is('invalid_argument')));
});

describe('working directory', () => {
  for (const [options, image, cwd] of [
    [{}, {}, '/'],
    [{}, {WorkingDir: ''}, '/'],
    [{}, {WorkingDir: '/srv'}, '/srv'],
    [{cwd: '/opt/'}, {WorkingDir: '/srv'}, '/opt'],
    [{cwd: ''}, {WorkingDir: '/srv'}, '/srv'],
    [{cwd: 'relative/../x'}, {}, '/x'],
    [{cwd: '/../../etc'}, {}, '/etc'],
  ] as const)
    it(`of ${JSON.stringify([options, image])} is ${cwd}`, () => assert.equal(spec(options, image).process.cwd, cwd));

  for (const cwd of ['/proc/self/fd/8', '/proc/1/fd/3/../..', '/x/../proc/thread-self/cwd', '/proc', '//proc/self'])
    it(`is not ${cwd}`, () => {
      assert.throws(() => spec({cwd}), is('invalid_argument'));
      assert.throws(() => spec({}, {WorkingDir: cwd}), is('invalid_argument'));
    });
  it('may begin like /proc', () => assert.equal(spec({cwd: '/processes'}).process.cwd, '/processes'));
});

describe('mounts', () => {
  const destinations = (s: Spec): readonly string[] => s.mounts.map((mount) => mount.destination);

  it('of the caller come last, and replace a default of the same destination', () => {
    const mounts = spec({
      mounts: [
        {type: 'tmpfs', source: 'tmpfs', destination: '/run/', options: []},
        {type: 'bind', source: '/a', destination: '/b', options: ['ro']},
        {type: 'bind', source: '/a', destination: '/c', options: ['bind', 'ro']},
      ],
    }).mounts;
    assert.deepEqual(destinations({mounts} as unknown as Spec), [
      '/proc',
      '/dev',
      '/dev/pts',
      '/dev/shm',
      '/dev/mqueue',
      '/sys',
      '/run',
      '/b',
      '/c',
    ]);
    assert.deepEqual(
      mounts.slice(-3).map((mount) => mount.options),
      [[], ['rbind', 'ro'], ['bind', 'ro']],
    );
  });

  it('have absolute destinations', () => {
    assert.throws(() => spec({mounts: [{type: 'bind', source: '/a', destination: 'b', options: []}]}), is('invalid_argument'));
  });
});

describe("the machine's network", () => {
  it('comes with its names: no network namespace, hosts and resolv.conf read-only, HOSTNAME', () => {
    const shared = spec({netHost: true}, {Env: ['HOSTNAME=image', 'PATH=/bin']});
    assert.deepEqual(
      shared.linux.namespaces.map(({type}) => type),
      ['pid', 'ipc', 'uts', 'mount'],
    );
    assert.deepEqual(shared.mounts.slice(-2), [
      {destination: '/etc/hosts', type: 'bind', source: '/etc/hosts', options: ['rbind', 'ro']},
      {destination: '/etc/resolv.conf', type: 'bind', source: '/etc/resolv.conf', options: ['rbind', 'ro']},
    ]);
    assert.deepEqual(shared.process.env, ['HOSTNAME=machine', 'PATH=/bin']);
  });

  it('leaves what the caller asked for', () => {
    const own = {type: 'bind', source: '/mine', destination: '/etc/hosts', options: ['rbind']};
    const shared = spec({netHost: true, mounts: [own], env: ['HOSTNAME=mine']});
    assert.deepEqual(
      shared.mounts.filter((mount) => mount.destination === '/etc/hosts'),
      [own],
    );
    assert.ok(shared.process.env.includes('HOSTNAME=mine'));
  });

  it('does without files that the machine does not have', () => {
    assert.equal(spec({netHost: true}, {}, {host: {...host, files: []}}).mounts.length, spec().mounts.length);
  });
});

describe('capabilities', () => {
  const granted = (options: SpecOptions): readonly string[] => {
    const {bounding, effective, permitted, ...others} = spec(options).process.capabilities as Spec['process']['capabilities'] & object;
    assert.deepEqual(others, {}, 'no inheritable or ambient set');
    assert.deepEqual([effective, permitted], [bounding, bounding]);
    return bounding;
  };

  it('are added once and dropped', () => {
    const caps = granted({capAdd: ['CAP_SYS_ADMIN', 'CAP_CHOWN'], capDrop: ['CAP_KILL', 'CAP_BPF']});
    assert.equal(caps.filter((name) => name === 'CAP_CHOWN').length, 1);
    assert.ok(caps.includes('CAP_SYS_ADMIN') && !caps.includes('CAP_KILL'));
  });

  it('ALL is what the caller itself has, or what is taken before anything is added', () => {
    assert.deepEqual(granted({capAdd: ['ALL']}), host.capabilities);
    assert.deepEqual(granted({capAdd: ['ALL'], capDrop: ['CAP_CHOWN']}), ['CAP_SYS_ADMIN']);
    assert.deepEqual(granted({capDrop: ['ALL']}), []);
    assert.deepEqual(granted({capDrop: ['ALL'], capAdd: ['CAP_NET_RAW']}), ['CAP_NET_RAW']);
  });

  it('have the prefix and are known', () => {
    assert.throws(() => spec({capAdd: ['SYS_ADMIN']}), /capabilities must be specified with 'CAP_' prefix/);
    assert.throws(() => spec({capDrop: ['chown']}), is('invalid_argument'));
    assert.throws(() => spec({capAdd: ['CAP_NONSENSE']}), /"CAP_NONSENSE" is not known/);
  });

  it('are counted as the kernel counts them', () => {
    assert.deepEqual(
      [CAPABILITIES[0], CAPABILITIES[12], CAPABILITIES[21], CAPABILITIES[27], CAPABILITIES[40], CAPABILITIES.length],
      ['CAP_CHOWN', 'CAP_NET_ADMIN', 'CAP_SYS_ADMIN', 'CAP_MKNOD', 'CAP_CHECKPOINT_RESTORE', 41],
    );
  });
});

describe('a privileged container', () => {
  const privileged = spec({privileged: true});
  it("has the caller's capabilities and the machine's devices", () => {
    assert.deepEqual(privileged.process.capabilities.bounding, host.capabilities);
    assert.deepEqual(privileged.linux.devices, host.devices);
    assert.deepEqual(privileged.linux.resources.devices, [{allow: true, access: 'rwm'}]);
  });
  it('has a writable /sys and nothing masked', () => {
    assert.deepEqual(privileged.mounts.find((mount) => mount.type === 'sysfs')?.options, ['nosuid', 'noexec', 'nodev', 'rw']);
    assert.equal(privileged.linux.maskedPaths, undefined);
    assert.equal(privileged.linux.readonlyPaths, undefined);
  });
});

describe('other options', () => {
  it('read-only is the root alone', () => assert.deepEqual(spec({readOnly: true}).root, {path: 'rootfs', readonly: true}));
  it('refuses a mount with mapped owners, which the runtime would leave as they are', () => {
    for (const option of ['idmap', 'ridmap', 'idmap=uids=0-1-10']) {
      assert.throws(
        () => spec({mounts: [{type: 'bind', source: '/a', destination: '/b', options: ['rbind', option]}]}),
        is('not_implemented'),
      );
      assert.throws(() => spec({volumes: [{source: '/a', destination: '/b', options: [option]}]}), is('not_implemented'));
    }
  });

  it('hostname', () => {
    assert.equal(spec({hostname: 'h'}).hostname, 'h');
    for (const name of [
      'h'.repeat(65),
      '-',
      'h-',
      '.h',
      ...[' ', '\t', '\n', '\r', '\0', '\x1b', '#', ';', '/', ':', 'é', '\u2028'].flatMap((odd) => [odd, `a${odd}b`, `a${odd}`]),
    ])
      assert.throws(() => spec({hostname: name}), is('invalid_argument'), JSON.stringify(name));
    for (const name of ['h', '1', 'a-b.c_d', 'h'.repeat(64)]) assert.equal(spec({hostname: name}).hostname, name);
  });
  it('labels become annotations, over those of the same name', () => {
    assert.deepEqual(spec({annotations: {a: '1', b: '1'}, labels: {b: '2', c: '2'}}).annotations, {a: '1', b: '2', c: '2'});
    assert.equal(spec().annotations, undefined);
  });
  it('limits', () => {
    assert.deepEqual(spec({memoryLimit: 4096}).linux.resources.memory, {limit: 4096});
    assert.deepEqual(spec({cpus: 1.5}).linux.resources.cpu, {quota: 150_000, period: 100_000});
    assert.equal(spec({memoryLimit: 0, cpus: 0}).linux.resources.memory, undefined);
    for (const options of [{memoryLimit: -1}, {memoryLimit: 1.5}, {cpus: -1}, {cpus: Number.NaN}, {cpus: 0.001}])
      assert.throws(() => spec(options), is('invalid_argument'));
  });
});

describe('namespaces', () => {
  const of = (options: SpecOptions): readonly string[] =>
    spec(options).linux.namespaces.map(({type, path}) => (path === undefined ? type : `${type}:${path}`));

  it('are its own, those of the host, or joined', () => {
    const own = ['pid', 'ipc', 'uts', 'mount', 'network'];
    for (const type of ['pid', 'ipc', 'uts'] as const) {
      assert.deepEqual(of({namespaces: {[type]: 'private'}}), own);
      assert.deepEqual(
        of({namespaces: {[type]: 'host'}}),
        own.filter((one) => one !== type),
      );
      assert.deepEqual(
        of({joinNamespaces: [{type, path: '/x'}]}),
        own.map((one) => (one === type ? `${type}:/x` : one)),
      );
      assert.throws(() => of({namespaces: {[type]: 'host'}, joinNamespaces: [{type, path: '/x'}]}), is('invalid_argument'));
    }
    assert.deepEqual(of({namespaces: {cgroup: 'private'}}), [...own, 'cgroup']);
    assert.deepEqual(of({namespaces: {cgroup: 'host'}}), own);
    assert.deepEqual(of({joinNamespaces: [{type: 'user', path: '/x'}]}), [...own, 'user:/x']);
    for (const odd of [
      {type: 'net', path: '/x'},
      {type: 'pid', path: 'x'},
    ])
      assert.throws(() => of({joinNamespaces: [odd]}), is('invalid_argument'));
  });

  it("with the host's come its shared memory, and not its name", () => {
    const shm = (options: SpecOptions) => spec(options).mounts.find(({destination}) => destination === '/dev/shm');
    assert.deepEqual(shm({namespaces: {ipc: 'host'}}), {destination: '/dev/shm', type: 'bind', source: '/dev/shm', options: ['rbind']});
    assert.equal(shm({namespaces: {ipc: 'private'}})?.type, 'tmpfs');
    assert.throws(() => spec({namespaces: {uts: 'host'}, hostname: 'h'}), is('invalid_argument'));
    assert.equal(spec({namespaces: {uts: 'private'}, hostname: 'h'}).hostname, 'h');
  });
});
