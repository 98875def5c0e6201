/**
 * The program behaves the same from source and as built for either engine: every command is loaded, asked for its help,
 * misused, and run if it needs no more than an empty store. The outputs must be identical.
 */
import assert from 'node:assert/strict';
import {join} from 'node:path';
import {describe, it} from 'node:test';
import {processContext} from '../../src/cli/command-context.ts';
import {runCommandLine} from '../../src/cli/run-command-line.ts';
import {COMMANDS} from '../../src/commands/index.ts';
import {TORTURE, temporaryDirectory} from '../support/helpers.ts';
import {type Engine, engineEnvironment, type Result, root, run} from './harness.ts';

const ENGINES: readonly Engine[] = ['node', 'executable'];
/** Who is asked for the help of a command, and for its `--json`: everybody runs it once, Node does these under torture only. */
const MORE: readonly Engine[] = TORTURE ? ENGINES : ['executable'];

/** From source in this process: a process each would take longest of all. */
async function fromSource(argv: readonly string[], env: Readonly<Record<string, string>>): Promise<Result> {
  const before = {...process.env};
  let stdout = '';
  let stderr = '';
  Object.assign(process.env, env);
  try {
    const {open} = processContext('ctr');
    const {status} = await runCommandLine(argv, COMMANDS, {
      program: 'ctr',
      stdout: (data) => {
        stdout += Buffer.from(data as string).toString();
      },
      stderr: (text) => {
        stderr += text;
      },
      open,
    });
    return {status, stdout, stderr};
  } finally {
    for (const name of Object.keys(env)) delete process.env[name];
    Object.assign(process.env, before);
  }
}

/** @param engines besides the source */
async function everywhere(line: string, env: Readonly<Record<string, string>> = {}, engines: readonly Engine[] = ENGINES): Promise<Result> {
  const argv = line.split(' ').filter((word) => word !== '');
  const results = [await fromSource(argv, env)];
  for (const engine of engines) results.push(await run(join(root, 'bin/ctr'), argv, {env: {...engineEnvironment(engine), ...env}}));
  const [source, ...others] = results.map(({status, stdout, stderr}) => ({
    status,
    // The engine's name and version, which are meant to differ, and the commit, which source does not know.
    stdout: stdout
      .replaceAll(/(node|bun)([/ ]|",\s+"version": ")\d+\.\d+\.\d+/g, 'ENGINE')
      .replace(/^( *Revision: ).*$/m, '$1-')
      .replace(/,\s+"revision": "\w+"/, ''),
    stderr,
  }));
  for (const [i, other] of others.entries()) assert.deepEqual(other, source, `${engines[i]}: ctr ${line}`);
  return source!;
}

/** What a command says of a store that is empty; with arguments where it needs them. */
const ON_EMPTY: Readonly<Record<string, readonly [line: string, status: number]>> = {
  attach: ['attach --progress none --artifact-type a/b --connect-timeout 5s --plain-http 127.0.0.1:1/x', 14],
  completion: ['completion bash', 0],
  'config explain': ['config explain --authfile /nowhere/auth.json 127.0.0.1:80/x', 0],
  login: ['login --user me:x --authfile /nowhere/auth.json --connect-timeout 5s --plain-http 127.0.0.1:1', 14],
  logout: ['logout --authfile /nowhere/auth.json 127.0.0.1:1', 5],
  catalog: ['catalog --connect-timeout 5s --plain-http 127.0.0.1:1', 14],
  check: ['check', 0],
  'containers checkpoint': ['containers checkpoint --progress none a', 5],
  'containers cp': ['containers cp c1:/x /nowhere', 5],
  'containers create': ['containers create nope a', 5],
  'containers info': ['containers info c1', 5],
  'containers label': ['containers label a b=c', 5],
  'containers ls': ['containers ls', 0],
  'containers systemd': ['containers systemd c', 5],
  'containers restart': ['containers restart a', 5],
  'containers restore': ['containers restore --progress none a', 5],
  'containers rm': ['containers rm c1 c2', 5],
  'containers start': ['containers start a b', 5],
  'containers update': ['containers update --pids-limit 5 a', 5],
  'content active': ['content active', 0],
  'content fetch-blob': [`content fetch-blob --connect-timeout 5s --plain-http 127.0.0.1:1/x sha256:${'0'.repeat(64)}`, 14],
  'content fetch-object': ['content fetch-object --connect-timeout 5s --plain-http 127.0.0.1:1/x', 14],
  'content edit': [`content edit --editor true sha256:${'0'.repeat(64)}`, 5],
  'content fetch': ['content fetch --progress none --connect-timeout 5s --plain-http 127.0.0.1:1/x:latest', 14],
  'content get': [`content get sha256:${'0'.repeat(64)}`, 5],
  'content label': [`content label sha256:${'0'.repeat(64)} a=b`, 5],
  'content ls': ['content ls', 0],
  'config show': ['config show', 0],
  events: ['events', 0],
  info: ['info', 0],
  commit: ['commit c1 app:1', 5],
  diff: ['diff c1', 5],
  'snapshots diff': ['snapshots diff s1', 5],
  'content prune': ['content prune references', 0],
  'content push-object': [`content push-object 127.0.0.1:1/x sha256:${'0'.repeat(64)}`, 5],
  'content rm': [`content rm sha256:${'0'.repeat(64)}`, 5],
  copy: ['copy --progress none --connect-timeout 5s --plain-http 127.0.0.1:1/x oci:/nowhere/layout', 14],
  df: ['df', 0],
  gc: ['gc', 0],
  'images append': ['images append redis other /nowhere', 5],
  'images check': ['images check', 0],
  'images convert': ['images convert redis other', 5],
  'images flatten': ['images flatten redis other', 5],
  'images export': ['images export /nowhere/images.tar redis', 5],
  'images import': ['images import /nowhere/images.tar', 5],
  'images inspect': ['images inspect redis', 5],
  'images label': ['images label redis a=b', 5],
  'images ls': ['images ls', 0],
  'images mount': ['images mount', 0],
  'images mutate': ['images mutate redis other', 5],
  'images rebase': ['images rebase --old-base a --new-base b redis other', 5],
  'images prune': ['images prune --all', 0],
  'images rm': ['images rm redis', 5],
  'images tag': ['images tag redis other', 5],
  'images unmount': ['images unmount /nowhere', 5],
  'images usage': ['images usage redis', 5],
  'images verify': ['images verify redis', 5],
  inspect: ['inspect --connect-timeout 5s --plain-http 127.0.0.1:1/x', 14],
  'leases create': ['leases create --expires 5x', 3],
  'leases ls': ['leases ls', 0],
  'leases rm': ['leases rm l1', 5],
  'namespaces create': ['namespaces create -- -bad', 3],
  'namespaces label': ['namespaces label foo a=b', 5],
  'namespaces ls': ['namespaces ls', 0],
  'namespaces rm': ['namespaces rm foo', 5],
  'oci spec': ['oci spec', 0],
  prune: ['prune', 0],
  pull: ['pull --progress none --connect-timeout 5s --plain-http 127.0.0.1:1/x:latest', 14],
  push: ['push --progress none --plain-http 127.0.0.1:1/x:latest', 5],
  referrers: ['referrers --connect-timeout 5s --plain-http 127.0.0.1:1/x', 14],
  'registry rm': ['registry rm --connect-timeout 5s --plain-http 127.0.0.1:1/x', 14],
  repack: ['repack /nowhere app:1', 9],
  unpack: ['unpack app:1 /nowhere/bundle', 5],
  resolve: ['resolve --connect-timeout 5s --plain-http 127.0.0.1:1/x', 14],
  run: ['run --rm nope r1 true', 125],
  'snapshots commit': ['snapshots commit a b', 5],
  'snapshots info': ['snapshots info a', 5],
  'snapshots label': ['snapshots label a b=c', 5],
  'snapshots ls': ['snapshots ls', 0],
  'snapshots mounts': ['snapshots mounts /t a', 5],
  'snapshots prepare': ['snapshots prepare a nope', 5],
  'snapshots rm': ['snapshots rm a', 5],
  'snapshots tree': ['snapshots tree', 0],
  'snapshots unpack': [`snapshots unpack sha256:${'0'.repeat(64)}`, 5],
  'snapshots usage': ['snapshots usage', 0],
  'snapshots view': ['snapshots view a nope', 5],
  sync: ['sync --progress none /nowhere/list.yaml 127.0.0.1:1/x', 5],
  tags: ['tags --connect-timeout 5s --plain-http 127.0.0.1:1/x', 14],
  'tasks exec': ['tasks exec a true', 125],
  'tasks kill': ['tasks kill a', 5],
  'tasks attach': ['tasks attach a', 125],
  'tasks logs': ['tasks logs a', 5],
  'tasks ls': ['tasks ls', 0],
  'tasks metrics': ['tasks metrics a', 5],
  'tasks checkpoint': ['tasks checkpoint --progress none a', 5],
  'tasks pause': ['tasks pause a', 5],
  'tasks ps': ['tasks ps a', 5],
  'tasks resume': ['tasks resume a', 5],
  'tasks rm': ['tasks rm a', 5],
  'tasks start': ['tasks start a', 125],
  'tasks stats': ['tasks stats --no-stream a', 5],
  'tasks stop': ['tasks stop a', 5],
  'tasks wait': ['tasks wait a', 5],
  unshare: ['unshare true', 125],
  version: ['version', 0],
  'volumes create': ['volumes create -- -bad', 3],
  'volumes inspect': ['volumes inspect v', 5],
  'volumes ls': ['volumes ls', 0],
  'volumes prune': ['volumes prune', 0],
  'volumes rm': ['volumes rm v', 5],
};

/** What they answer is the machine's, or standard input's. */
const NOT_REPEATABLE = ['content ingest', 'doctor', 'ping'];

describe('source, build and executable agree', () => {
  it('on the commands there are', () =>
    assert.deepEqual([...Object.keys(ON_EMPTY), ...NOT_REPEATABLE].sort(), Object.keys(COMMANDS.commands).sort()));

  for (const line of [
    '',
    '--version',
    'nope',
    'images nope',
    '--nope ns ls',
    'ns ls --no-such-flag',
    'images rm',
    'version x',
    'run --no-such-flag',
    ...Object.keys(COMMANDS.topics).map((topic) => `${topic} --help`),
  ])
    it(`on "${line}"`, async (t) => {
      await everywhere(line, {BERTH_ROOT: temporaryDirectory(t), BERTH_STATE: temporaryDirectory(t)});
    });

  for (const id of Object.keys(COMMANDS.commands)) {
    it(`on the help of ${id}`, async () => {
      const {status, stdout, stderr} = await everywhere(`${id} --help`, {}, MORE);
      assert.deepEqual([status, stderr], [0, '']);
      assert.match(stdout, new RegExp(`\\$ ctr ${id} \\[FLAGS\\]`));
    });
  }

  for (const [id, [line, expected]] of Object.entries(ON_EMPTY))
    for (const json of ['', ' --json'])
      it(`on "${id}"${json} of an empty store`, async (t) => {
        const [head, ...tail] = line.split(' -- ');
        const whole = [`${head}${json}`, ...tail].join(' -- ').replace(/^(run|containers create) (.*) --json$/, '$1 --json $2');
        const {status, stderr} = await everywhere(
          whole,
          {BERTH_ROOT: temporaryDirectory(t), BERTH_STATE: temporaryDirectory(t)},
          json === '' ? ENGINES : MORE,
        );
        assert.equal(status, expected, stderr);
      });
});
