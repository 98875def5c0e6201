/** The tools that we are compared with, each on state of its own below a directory. */
import {execFileSync, spawn} from 'node:child_process';
import {once} from 'node:events';
import {mkdirSync, writeFileSync} from 'node:fs';
import {join} from 'node:path';
import {setTimeout as sleep} from 'node:timers/promises';

const READY_TIMEOUT_MS = 10_000;

export interface Containerd {
  /** ctr and the flags that reach it. */
  readonly ctr: readonly string[];
  stop(): Promise<void>;
}

export async function startContainerd(dir: string): Promise<Containerd> {
  mkdirSync(dir, {recursive: true});
  const [config, socket] = [join(dir, 'config.toml'), join(dir, 'sock')];
  writeFileSync(
    config,
    [
      'version = 2',
      `root = "${dir}/root"`,
      `state = "${dir}/state"`,
      'disabled_plugins = ["io.containerd.grpc.v1.cri"]',
      `[grpc]\n  address = "${socket}"`,
      `[ttrpc]\n  address = "${socket}.ttrpc"\n`,
    ].join('\n'),
  );
  const daemon = spawn('setpriv', ['--pdeathsig', 'TERM', 'containerd', '--config', config, '--log-level', 'error'], {stdio: 'ignore'});
  const stop = async (): Promise<void> => {
    const exit = once(daemon, 'exit');
    if (daemon.kill('SIGTERM')) await exit;
  };
  const ctr = ['/usr/bin/ctr', '--address', socket];
  for (const deadline = Date.now() + READY_TIMEOUT_MS; ; await sleep(20)) {
    try {
      execFileSync(ctr[0]!, [...ctr.slice(1), 'version'], {stdio: 'ignore'});
      return {ctr, stop};
    } catch (err) {
      if (Date.now() < deadline) continue;
      await stop();
      throw new Error('containerd did not become ready', {cause: err});
    }
  }
}

export const podman = (dir: string): string[] => [
  'podman',
  '--root',
  join(dir, 'root'),
  '--runroot',
  join(dir, 'run'),
  '--storage-driver',
  'overlay',
];

/** First line of what each program says of its version. */
export function versions(): string {
  const programs = [['node'], ['containerd'], ['podman'], ['skopeo'], ['umoci'], ['runc']];
  const line = ([program]: string[]): string =>
    `- ${program}: ${execFileSync(program!, ['--version'], {encoding: 'utf8'}).split('\n')[0]!.trim()}`;
  return [...programs.map(line), `- Linux ${execFileSync('uname', ['-r'], {encoding: 'utf8'}).trim()}`].join('\n');
}
