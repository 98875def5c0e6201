/** A private containerd to compare with. Its directories, socket and mounts belong to the test and end with the scope. */
import assert from 'node:assert/strict';
import {type ChildProcess, execFileSync, spawn} from 'node:child_process';
import {once} from 'node:events';
import {closeSync, existsSync, mkdirSync, openSync, readFileSync, writeFileSync} from 'node:fs';
import {join} from 'node:path';
import {findProgram, onEnd, type Scope, temporaryDirectory} from '../support/helpers.ts';
import {eventually} from './fixtures.ts';

export interface Containerd {
  /** Path of its socket. */
  readonly socket: string;
  /** Runs containerd's own ctr. @returns what it printed */
  ctr(...args: readonly string[]): string;
  /** Pulls an image over plain http. */
  pull(ref: string): void;
  /** Mounts an image as `ctr images mount` does, in a mount namespace that ends with the look. */
  withImage<T>(ref: string, look: (root: string) => T | Promise<T>): Promise<T>;
}

/** Command in front of a process, so that it and its mounts end with this process. */
const OWN_NAMESPACE = ['--pdeathsig', 'KILL', 'unshare', '--mount', '--propagation', 'private'];

export async function startContainerd(scope: Scope): Promise<Containerd> {
  let daemon: ChildProcess | undefined;
  const dir = temporaryDirectory(scope, 'berth-containerd-');
  onEnd(scope, async () => {
    if (daemon === undefined || daemon.exitCode !== null || daemon.signalCode !== null) return;
    daemon.ref();
    const exit = once(daemon, 'exit');
    daemon.kill('SIGKILL');
    await exit;
  });
  const [config, socket, log, tmp] = ['config.toml', 'socket', 'log', 'tmp'].map((name) => join(dir, name)) as [
    string,
    string,
    string,
    string,
  ];
  mkdirSync(tmp);
  const quoted = (name: string): string => JSON.stringify(join(dir, name));
  writeFileSync(
    config,
    `version = 2
root = ${quoted('root')}
state = ${quoted('state')}
disabled_plugins = ["io.containerd.grpc.v1.cri"]
[grpc]
address = ${JSON.stringify(socket)}
[plugins."io.containerd.internal.v1.opt"]
path = ${quoted('opt')}
`,
  );
  const fd = openSync(log, 'a');
  const env = {PATH: process.env.PATH ?? '/usr/bin:/bin', TMPDIR: tmp, OTEL_TRACES_EXPORTER: 'none'};
  daemon = spawn('setpriv', [...OWN_NAMESPACE, findProgram('containerd')!, '--config', config], {env, stdio: ['ignore', fd, fd]});
  closeSync(fd);
  const own = findProgram('ctr')!;
  const ctr = (...args: readonly string[]): string =>
    execFileSync(own, ['--address', socket, ...args], {env, encoding: 'utf8', stdio: ['ignore', 'pipe', 'pipe']});
  await eventually('a containerd that answers', () => {
    assert.ok(daemon?.exitCode === null, readFileSync(log, 'utf8'));
    if (!existsSync(socket)) return false;
    try {
      return ctr('version');
    } catch {
      return false; // not yet
    }
  });
  daemon.unref();

  let mounts = 0;
  return {
    socket,
    ctr,
    pull: (ref) => void ctr('images', 'pull', '--plain-http', '--snapshotter', 'overlayfs', ref),
    withImage: async (ref, look) => {
      const target = join(dir, `mounted-${++mounts}`);
      mkdirSync(target);
      const script = '"$0" --address "$1" images mount --snapshotter overlayfs "$2" "$3" >&2 && cd "$3" && echo mounted && read -r _';
      const child = spawn('setpriv', [...OWN_NAMESPACE, 'sh', '-c', script, own, socket, ref, target], {env});
      let errors = '';
      child.stderr.on('data', (text: Buffer) => {
        errors += text.toString();
      });
      const ended = once(child, 'exit');
      try {
        const mounted = await Promise.race([once(child.stdout, 'data'), ended]);
        assert.equal(String(mounted[0]), 'mounted\n', errors);
        return await look(`/proc/${child.pid}/cwd/.`);
      } finally {
        child.stdin.end('\n');
        await ended;
      }
    },
  };
}
