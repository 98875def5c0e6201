/**
 * Times berth and its peers on this machine: `npm run bench [-- startup|run|pull…]`, by default all. Prints Markdown.
 *
 * A pull starts from an empty store in a directory that no run has used before. Peers have their default settings, but: containerd
 * is running already, podman runs containers without a network (ours and ctr's have none either), and plain http is allowed.
 */
import {execFileSync} from 'node:child_process';
import {mkdtempSync, rmSync} from 'node:fs';
import {tmpdir} from 'node:os';
import {join} from 'node:path';
import {type Scope, unmountBelow} from '../test/helpers.ts';
import {buildImage, type ImageName} from '../test/images.ts';
import {pushImage, startRegistry} from '../test/registry.ts';
import {type Contender, compare, report} from './measure.ts';
import {type Containerd, podman, startContainerd, versions} from './peers.ts';

const QUICK_ROUNDS = 21;
const PULL_ROUNDS = 5;

const ctr = join(import.meta.dirname, '../bin/ctr');

interface Bench extends Scope {
  readonly dir: string;
  /** A path that nothing has used. */
  fresh(): string;
  /** Pushes an image. @returns its reference */
  push(name: ImageName): Promise<string>;
}

const ours = (dir: string): Record<string, string> => ({BERTH_ROOT: join(dir, 'root'), BERTH_STATE: join(dir, 'state')});

async function startup({dir, after}: Bench): Promise<string> {
  const {ctr: peer, stop} = await startContainerd(join(dir, 'startup'));
  after(stop);
  execFileSync(peer[0]!, [...peer.slice(1), 'namespaces', 'create', 'bench']);
  const env = ours(join(dir, 'startup-berth'));
  execFileSync(ctr, ['namespaces', 'create', 'bench'], {env: {...process.env, ...env}});
  const contenders: Contender[] = [
    {name: 'ctr namespaces ls (berth)', prepare: () => ({command: [ctr, 'namespaces', 'ls'], env})},
    {name: 'ctr namespaces ls (containerd)', prepare: () => ({command: [...peer, 'namespaces', 'ls']})},
    {name: 'podman images', prepare: () => ({command: [...podman(join(dir, 'startup-podman')), 'images']})},
  ];
  return report('Start-up', await compare(contenders, QUICK_ROUNDS));
}

async function run({dir, after, push}: Bench): Promise<string> {
  const ref = await push('busybox');
  const base = join(dir, 'run');
  const {ctr: peer, stop} = await startContainerd(join(base, 'containerd'));
  after(stop);
  const pod = podman(join(base, 'podman'));
  const env = ours(join(base, 'berth'));
  execFileSync(peer[0]!, [...peer.slice(1), 'images', 'pull', '--plain-http', ref], {stdio: 'ignore'});
  execFileSync(pod[0]!, [...pod.slice(1), 'pull', '--quiet', '--tls-verify=false', ref], {stdio: 'ignore'});
  execFileSync(ctr, ['pull', ref], {env: {...process.env, ...env}, stdio: 'ignore'});
  const contenders: Contender[] = [
    {name: 'ctr run --rm (berth)', prepare: () => ({command: [ctr, 'run', '--rm', ref, 'bench', 'true'], env})},
    {name: 'ctr run --rm (containerd)', prepare: () => ({command: [...peer, 'run', '--rm', ref, 'bench', 'true']})},
    {name: 'podman run --rm', prepare: () => ({command: [...pod, 'run', '--rm', '--network', 'none', ref, 'true']})},
  ];
  return report('Running `true` in busybox', await compare(contenders, QUICK_ROUNDS));
}

async function pull({after, fresh, push}: Bench, name: ImageName): Promise<string> {
  const ref = await push(name);
  const pullBy = (...containerd: readonly string[]): string[] => [...containerd, 'images', 'pull', '--plain-http', ref];
  const skopeo = ['skopeo', 'copy', '--insecure-policy', '--src-tls-verify=false', `docker://${ref}`];
  const unpack = 'dir=$1; shift; mkdir "$dir"; "$@" "oci:$dir/layout:latest"; umoci unpack --image "$dir/layout:latest" "$dir/bundle"';
  // Namespaces of one containerd share its content, so nothing less than a new one starts with nothing.
  let running: Containerd | undefined;
  const first = await compare(
    [
      {name: 'berth', prepare: () => ({command: [ctr, 'pull', ref], env: ours(fresh())})},
      {
        name: 'ctr images pull',
        prepare: async () => {
          running = await startContainerd(fresh());
          return {command: pullBy(...running.ctr)};
        },
        cleanUp: () => running?.stop(),
      },
      {name: 'podman pull', prepare: () => ({command: [...podman(fresh()), 'pull', '--tls-verify=false', ref]})},
      {name: 'skopeo copy, umoci unpack', prepare: () => ({command: ['sh', '-ec', unpack, 'sh', fresh(), ...skopeo]})},
    ],
    PULL_ROUNDS,
  );

  const {ctr: peer, stop} = await startContainerd(fresh());
  after(stop);
  const env = ours(fresh());
  execFileSync(peer[0]!, pullBy(...peer).slice(1), {stdio: 'ignore'});
  execFileSync(ctr, ['pull', ref], {env: {...process.env, ...env}, stdio: 'ignore'});
  let count = 0;
  const again = await compare(
    [
      {name: 'berth', prepare: () => ({command: [ctr, '-n', `bench${count++}`, 'pull', ref], env})},
      {name: 'ctr images pull', prepare: () => ({command: pullBy(...peer, '-n', `bench${count++}`)})},
    ],
    PULL_ROUNDS,
  );
  return `${report(`Pull of ${name}`, first)}\n${report(`Pull of ${name} in a second namespace`, again)}`;
}

const BENCHES: Readonly<Record<string, (bench: Bench) => Promise<string>>> = {
  startup,
  run,
  pull: (bench) => pull(bench, 'redis'),
  'pull-toolchain': (bench) => pull(bench, 'toolchain'),
};

async function main(asked: readonly string[]): Promise<void> {
  const names = asked.length === 0 ? Object.keys(BENCHES) : asked;
  const unknown = names.filter((name) => !Object.hasOwn(BENCHES, name));
  if (unknown.length > 0) throw new Error(`no bench is called ${unknown.join(', ')}; there are ${Object.keys(BENCHES).join(', ')}`);
  const hooks: (() => void | Promise<void>)[] = [];
  const after = (fn: () => void | Promise<void>): void => {
    hooks.unshift(fn);
  };
  const dir = mkdtempSync(join(tmpdir(), 'berth-bench-'));
  after(() => {
    // podman leaves one.
    unmountBelow(dir);
    rmSync(dir, {recursive: true, force: true});
  });
  try {
    const registry = await startRegistry({after});
    let count = 0;
    const bench: Bench = {
      dir,
      after,
      fresh: () => join(dir, `fresh${count++}`),
      push: async (name) => {
        await pushImage(registry, `library/${name}:latest`, buildImage(name).layout);
        return `${registry.host}/library/${name}:latest`;
      },
    };
    process.stdout.write(`${versions()}\n\n`);
    for (const name of names) process.stdout.write(`${await BENCHES[name]!(bench)}\n`);
  } finally {
    for (const hook of hooks) await hook();
  }
}

await main(process.argv.slice(2));
