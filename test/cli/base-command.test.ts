import assert from 'node:assert/strict';
import {describe, it} from 'node:test';
import {setTimeout as sleep} from 'node:timers/promises';
import {BrokenPipe} from '../../src/cli/command-context.ts';
import type {MaybePiped} from '../../src/lib/client/tasks/with-streams.ts';
import type {NamespaceClient, NamespaceRecord, PullOptions, RunOptions} from '../../src/lib/client/types/index.ts';
import {CLASSES, CODES, ErrdefsError} from '../../src/lib/errdefs.ts';
import {onEnd} from '../support/helpers.ts';
import {runOnFakes} from './fake-client.ts';

const FOO: NamespaceRecord = {name: 'foo', labels: {mylabel: 'bar'}, createdAt: '2026-01-01T00:00:00Z', updatedAt: '2026-01-01T00:00:00Z'};

const listing = {client: {namespaces: {list: async () => [FOO]}}};
const failing = (err: unknown) => ({
  client: {
    namespaces: {
      list: async () => {
        throw err;
      },
    },
  },
});

describe('results', () => {
  it('are a table for people', async () => {
    const {status, stdout, stderr} = await runOnFakes('ns ls', listing);
    assert.deepEqual({status, stdout, stderr}, {status: 0, stdout: 'NAME LABELS\nfoo  mylabel=bar\n', stderr: ''});
  });
  it('are what the command returns, with --json', async () => {
    const {status, stdout} = await runOnFakes('ns ls --json', listing);
    assert.equal(status, 0);
    assert.deepEqual(JSON.parse(stdout), [FOO]);
  });
  it('are keys only, with -q', async () => assert.equal((await runOnFakes('ns ls -q', listing)).stdout, 'foo\n'));
});

describe('global flags', () => {
  it('choose the store, the namespace and the lock', async () => {
    const namespace = {leases: {list: async () => []}};
    const got = await runOnFakes('--root /r -n foo leases ls --state /s --lock-timeout 5s', {namespace});
    assert.deepEqual(got.opened, [{root: '/r', state: '/s', lockTimeoutMs: 5000}]);
    assert.deepEqual(got.namespaces, ['foo']);
    assert.equal(got.closed, 1);
  });
  it('leave what is not given to the library', async () =>
    assert.deepEqual((await runOnFakes('ns ls', listing)).opened, [{lockTimeoutMs: 10_000}]));
  it('a lock time-out of 0 is no bound', async () =>
    assert.deepEqual((await runOnFakes('ns ls --lock-timeout 0', listing)).opened, [{lockTimeoutMs: 2 ** 31 - 1}]));
  it('the namespace comes from CONTAINERD_NAMESPACE, and is default when that is empty', async (t) => {
    const namespace = {leases: {list: async () => []}};
    onEnd(t, () => delete process.env.CONTAINERD_NAMESPACE);
    process.env.CONTAINERD_NAMESPACE = 'bar';
    assert.deepEqual((await runOnFakes('leases ls', {namespace})).namespaces, ['bar']);
    assert.deepEqual((await runOnFakes('-n foo leases ls', {namespace})).namespaces, ['foo']);
    process.env.CONTAINERD_NAMESPACE = '';
    assert.deepEqual((await runOnFakes('leases ls', {namespace})).namespaces, ['default']);
  });
});

describe('errors', () => {
  for (const code of CODES)
    it(`of class ${code} are one line and exit with ${CLASSES[code].exit}`, async () => {
      const {status, stdout, stderr} = await runOnFakes('ns ls', failing(new ErrdefsError(code, 'store "x"')));
      assert.equal(status, CLASSES[code].exit);
      assert.deepEqual([stdout, stderr], ['', `ctr: store "x": ${CLASSES[code].text}\n`]);
    });

  it('have the next step on a second line', async () => {
    const {stderr} = await runOnFakes('ns ls', failing(new ErrdefsError('not_found', 'image "x"', {hint: 'pull it'})));
    assert.equal(stderr, 'ctr: image "x": not found\nhint: pull it\n');
  });

  it('stay one line whatever they quote', async () => {
    const {stderr} = await runOnFakes('ns ls', failing(new ErrdefsError('internal', 'a\n  b\u001b[2J', {hint: 'c\nd'})));
    assert.equal(stderr, 'ctr: a b\\x1b[2J: internal\nhint: c d\n');
  });

  it('are one object on standard error, with --json', async () => {
    const err = new ErrdefsError('not_found', 'image "x"', {hint: 'pull it', details: {namespace: 'foo'}});
    const {status, stdout, stderr} = await runOnFakes('ns ls --json', failing(err));
    assert.deepEqual([status, stdout], [5, '']);
    assert.equal(stderr.indexOf('\n'), stderr.length - 1);
    assert.deepEqual(JSON.parse(stderr), {
      error: {kind: 'not_found', code: 5, message: 'image "x": not found', hint: 'pull it', details: {namespace: 'foo'}},
    });
  });

  it('show a stack with --debug only', async () => {
    const err = new ErrdefsError('not_found', 'image "x"', {cause: new Error('beneath')});
    assert.doesNotMatch((await runOnFakes('ns ls', failing(err))).stderr, /beneath/);
    assert.match((await runOnFakes('--debug ns ls', failing(err))).stderr, /^ctr: image "x": not found\n.*at .*beneath/s);
    assert.match(JSON.parse((await runOnFakes('--debug ns ls --json', failing(err))).stderr).error.stack, /beneath/);
  });

  it('that nobody foresaw are called a bug', async () => {
    const {status, stderr} = await runOnFakes('ns ls', failing(new TypeError('x is not a function')));
    assert.deepEqual(
      [status, stderr],
      [1, 'ctr: x is not a function: this is a bug\nhint: run it again with --debug and report the stack\n'],
    );
  });
  it('of the system that nobody mapped are not', async () => {
    const err = Object.assign(new Error('EXFULL: exchange full'), {code: 'EXFULL'});
    assert.deepEqual((await runOnFakes('ns ls', failing(err))).stderr, 'ctr: EXFULL: exchange full\n');
  });
});

describe('usage errors', () => {
  const lines: readonly [string, RegExp][] = [
    ['ns ls --nope', /^ctr: unknown flag --nope: invalid argument\nhint: see "ctr namespaces ls --help"\n$/],
    ['ns rm --recursiv x', /^ctr: unknown flag --recursiv: invalid argument\nhint: did you mean --recursive\?\n$/],
    ['ns rm', /^ctr: missing argument: NAME: invalid argument\nhint: see "ctr namespaces rm --help"\n$/],
    ['images tag', /^ctr: missing arguments: SOURCE, TARGET: invalid argument\nhint: [^\n]*\n$/],
    ['version x', /^ctr: unexpected argument "x": invalid argument\nhint: [^\n]*\n$/],
    ['prune x', /^ctr: KIND: "x" is not one of images, snapshots, content, ingests, leases: invalid argument\nhint: [^\n]*\n$/],
    ['ns ls --progress bars', /^ctr: --progress: "bars" is not one of auto, tty, plain, json, none: invalid argument\nhint: [^\n]*\n$/],
    ['ns ls --timeout 5', /^ctr: --timeout: "5" is not a duration \(try 5s\): invalid argument\nhint: [^\n]*\n$/],
    ['ns ls --timeout', /^ctr: flag --timeout needs a value: invalid argument\nhint: [^\n]*\n$/],
    ['ns ls -n', /^ctr: flag --namespace \(-n\) needs a value: invalid argument\nhint: [^\n]*\n$/],
    ['-n', /^ctr: flag --namespace \(-n\) needs a value: invalid argument\nhint: [^\n]*\n$/],
    ['-n images ls', /^ctr: unknown command "ls": invalid argument\nhint: -n has taken "images" as its value\n$/],
    ['ns ls -n --json', /^{"error":{"kind":"invalid_argument",.*--namespace \(-n\) needs a value.*"hint":"--json is a flag;.*\n$/],
    ['ns ls -n a -n b', /^ctr: flag --namespace is given more than once: invalid argument\nhint: [^\n]*\n$/],
    ['pull --all-platforms --platform x y', /^ctr: --all-platforms and --platform exclude each other: invalid argument\nhint: [^\n]*\n$/],
    ['pull --password-stdin y', /^ctr: --password-stdin needs --user: invalid argument\nhint: [^\n]*\n$/],
    [
      'pull --max-concurrent-downloads 0 y',
      /^ctr: --max-concurrent-downloads: "0" is not a whole number above 0: invalid argument\nhint: [^\n]*\n$/,
    ],
    ['nope', /^ctr: unknown command "nope": invalid argument\nhint: see "ctr --help"\n$/],
    ['images ls --quiet=maybe', /^ctr: flag --quiet takes no value but true or false, not "maybe": invalid argument\nhint: [^\n]*\n$/],
    [
      '--user me:secret pull x',
      /^ctr: unknown flag --user: invalid argument\nhint: only global flags may stand before the command[^\n]*\n$/,
    ],
  ];
  for (const [line, stderr] of lines)
    it(`"${line}" exits with 3, one line and a hint`, async () => {
      const got = await runOnFakes(line);
      assert.equal(got.status, 3);
      assert.equal(got.stdout, '');
      assert.match(got.stderr, stderr);
    });
  for (const line of ['ns ls --nope --json', 'nope --json', '--json images nope', 'images ls --quiet=maybe --json'])
    it(`"${line}" is JSON`, async () => assert.equal(JSON.parse((await runOnFakes(line)).stderr).error.kind, 'invalid_argument'));
  it('a missing argument is not read from standard input', async () => assert.equal((await runOnFakes('images rm')).status, 3));
});

describe('the same for several names', () => {
  const world = () => {
    const tried: string[] = [];
    const client = {
      namespaces: {
        delete: async (name: string) => {
          tried.push(name);
          if (name === 'gone') throw new ErrdefsError('not_found', 'namespace "gone"');
          if (name === 'full') throw new ErrdefsError('failed_precondition', 'namespace "full" must be empty');
        },
      },
    };
    return {client, tried};
  };
  it('tries each, prints what succeeded, and ends with the first failure', async () => {
    const {client, tried} = world();
    const {status, stdout, stderr} = await runOnFakes('ns rm a gone full b b', {client});
    assert.deepEqual(tried, ['a', 'gone', 'full', 'b', 'b']);
    assert.equal(status, 5);
    assert.equal(stdout, 'a\nb\nb\n');
    assert.equal(
      stderr,
      'ctr: unable to delete gone: namespace "gone": not found\nctr: unable to delete full: namespace "full" must be empty: failed precondition\n',
    );
  });
  it('with --json tells what succeeded and each failure', async () => {
    const {client} = world();
    const {status, stdout, stderr} = await runOnFakes('ns rm --json full a gone', {client});
    assert.equal(status, 9);
    assert.deepEqual(JSON.parse(stdout), {removed: ['a']});
    assert.deepEqual(
      stderr
        .trim()
        .split('\n')
        .map((line) => JSON.parse(line).error.kind),
      ['failed_precondition', 'not_found'],
    );
  });
});

describe('time', () => {
  const never = (options: {signal?: AbortSignal} = {}) =>
    new Promise<never>((_, reject) => options.signal?.addEventListener('abort', () => reject(options.signal!.reason)));

  it('--timeout ends a command that cannot be interrupted', async () => {
    const {status, stderr} = await runOnFakes('--timeout 20ms ns ls', {client: {namespaces: {list: () => never()}}});
    assert.deepEqual([status, stderr], [4, 'ctr: not done after 20 ms: deadline exceeded\n']);
  });
  it('--timeout aborts, and lets it clean up', async () => {
    let cleaned = false;
    const pull = async (_ref: string, options?: PullOptions) => {
      try {
        return await never(options);
      } finally {
        await sleep(50);
        cleaned = true;
      }
    };
    const {status, stderr} = await runOnFakes('--timeout 20ms --progress none pull x', {namespace: {pull}});
    assert.deepEqual([status, stderr, cleaned], [4, 'ctr: not done after 20 ms: deadline exceeded\n', true]);
  });
  it('--timeout reaches a container that runs', async () => {
    const {status, stderr} = await runOnFakes('--timeout 20ms run x y', {
      namespace: {run: (_ref: string, _id: string, options?: MaybePiped<RunOptions>) => never(options)},
    });
    assert.deepEqual([status, stderr], [125, 'ctr: not done after 20 ms: deadline exceeded\n']);
  });
  it('--timeout of a year is no time-out at once', async () =>
    assert.equal((await runOnFakes('--timeout 9000h ns ls', listing)).status, 0));
  it('the first signal lets a command clean up, the second ends it', async () => {
    const pull = async (_ref: string, options?: PullOptions) => {
      await never(options).catch(() => {});
      return never();
    };
    // Only this command's own listener: others' are not to be told of signals that never came.
    const interrupt = () => (process.listeners('SIGINT').at(-1) as (name: string) => void)('SIGINT');
    const before = process.listenerCount('SIGINT');
    const running = runOnFakes('--progress none pull x', {namespace: {pull}});
    while (process.listenerCount('SIGINT') === before) await sleep(1);
    interrupt();
    assert.equal(await Promise.race([running, sleep(50, 'cleans up')]), 'cleans up');
    interrupt();
    const {status, signal, stderr, closed} = await running;
    assert.deepEqual([status, signal, stderr, closed], [130, 'SIGINT', 'ctr: interrupted by SIGINT: canceled\n', 0]);
    assert.equal(process.listenerCount('SIGINT'), before);
  });
  it('a command that is done in time is not disturbed', async () =>
    assert.equal((await runOnFakes('--timeout 5s ns ls', listing)).status, 0));
});

describe('a reader that went away', () => {
  it('ends the command quietly, as SIGPIPE would', async () => {
    const {status, stderr} = await runOnFakes('ns ls', {
      ...listing,
      stdout: () => {
        throw new BrokenPipe();
      },
    });
    assert.deepEqual([status, stderr], [141, '']);
  });
  it('also in the help', async () => {
    const {status, stderr} = await runOnFakes('--help', {
      stdout: () => {
        throw new BrokenPipe();
      },
    });
    assert.deepEqual([status, stderr], [141, '']);
  });
});

describe('run', () => {
  const running = (exitStatus: number) => {
    const calls: unknown[] = [];
    return {
      calls,
      namespace: {
        run: (async (ref: string, id: string, {signal: _, ...options}: RunOptions = {}) => {
          calls.push([ref, id, options]);
          return {id, exitStatus};
        }) as NamespaceClient['run'],
      },
    };
  };
  it("ends with the container's status and prints nothing of its own", async () => {
    const {namespace} = running(7);
    const {status, stdout, stderr} = await runOnFakes('run --rm redis r1', {namespace});
    assert.deepEqual([status, stdout, stderr], [7, '', '']);
  });
  it("with --json has its result as the last line of standard error: standard output is the container's", async () => {
    const {namespace} = running(7);
    const {status, stdout, stderr} = await runOnFakes('run --json --rm redis r1', {namespace});
    assert.deepEqual([status, stdout, stderr], [7, '', '{"result":{"id":"r1","exitStatus":7}}\n']);
  });
  for (const flags of ['--gpus 1', '--log-opt x', '--health-cmd true', '--subuidname x'])
    it(`says what docker's ${flags} is here`, async () => {
      const {status, stderr} = await runOnFakes(`run ${flags} img id`);
      assert.equal(status, 125);
      assert.match(stderr, /^ctr: unknown flag --[\w-]+: invalid argument\nhint: (?!see|did)[^\n]+\n$/);
    });
  it('restarts nothing, and says what does', async () => {
    const {namespace} = running(0);
    assert.equal((await runOnFakes('run --restart no redis r1', {namespace})).status, 0);
    for (const value of ['always', 'on-failure:3', '']) {
      const {status, stderr} = await runOnFakes(['run', `--restart=${value}`, 'redis', 'r1'], {namespace});
      assert.equal(status, 125);
      assert.match(stderr, /^ctr: --restart: ".*" is not supported: invalid argument\nhint: .*containers systemd ID"\n$/);
    }
  });
  it('passes everything after the name to the container', async () => {
    const {namespace, calls} = running(0);
    await runOnFakes(['run', '--rm', 'redis', 'r1', 'sh', '-c', 'exit 7', '--json', '-h', 'sh'], {namespace});
    assert.deepEqual((calls[0] as [string, string, RunOptions])[2].args, ['sh', '-c', 'exit 7', '--json', '-h', 'sh']);
  });
  it('hands every flag over in the units of the library', async () => {
    const {namespace, calls} = running(0);
    const line =
      'run -t -e A=b --env C --env-file f --cwd /w -u 1:2 --mount type=tmpfs,dst=/t --net-host --read-only --privileged --cap-add CAP_A --cap-drop CAP_B --hostname h --label l=1 --annotation a=2 --memory-limit 1k --cpus 1.5 --pid-file p --entrypoint e --platform linux/arm64 --snapshotter native img id';
    await runOnFakes(line, {namespace});
    assert.deepEqual(calls, [
      [
        'img',
        'id',
        {
          args: [],
          entrypoint: 'e',
          env: ['A=b', 'C'],
          envFiles: ['f'],
          cwd: '/w',
          user: '1:2',
          mounts: [{type: 'tmpfs', source: '', destination: '/t', options: []}],
          capAdd: ['CAP_A'],
          capDrop: ['CAP_B'],
          hostname: 'h',
          memoryLimit: 1024,
          cpus: 1.5,
          pidFile: 'p',
          platform: 'linux/arm64',
          snapshotter: 'native',
          rm: false,
          detach: false,
          rootfs: false,
          init: false,
          privilegedWithoutHostDevices: false,
          tty: true,
          netHost: true,
          readOnly: true,
          privileged: true,
          labels: {l: '1'},
          annotations: {a: '2'},
        },
      ],
    ]);
  });
  for (const line of ['run img', 'run --nope img id', 'run --cpus x img id', 'run --mount x img id'])
    it(`"${line}" ends with 125`, async () => assert.equal((await runOnFakes(line)).status, 125));
  it('a bug ends with 125', async () => {
    const namespace = {
      run: async () => {
        throw new TypeError('x');
      },
    };
    assert.equal((await runOnFakes('run img id', {namespace})).status, 125);
  });
  it('has the class of an error in the JSON', async () => {
    const namespace = {
      run: async () => {
        throw new ErrdefsError('not_found', 'command "x"', {details: {runExit: 127}});
      },
    };
    const {status, stderr} = await runOnFakes('run --json img id', {namespace});
    const {error} = JSON.parse(stderr);
    assert.deepEqual([status, error.kind, error.code], [127, 'not_found', 5]);
  });
});
