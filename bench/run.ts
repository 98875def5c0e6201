/** `run --rm` of a program that does nothing, against peers and against the fewest steps that run it; and how long we take to reach runc. */
import {chmodSync, mkdirSync, readFileSync, rmSync, writeFileSync} from 'node:fs';
import {join} from 'node:path';
import {findProgram} from '../test/support/helpers.ts';
import {buildImage} from '../test/support/images.ts';
import {type Contender, compare, differences, prepareBy, ratios} from './measure.ts';
import {containerdPull, ours, podman, startContainerd} from './peers.ts';
import {atMost, faster, type Report} from './report.ts';
import {LAUNCHER, type Site} from './workplace.ts';

const ROUNDS = 31;

const OVER_CONTAINERD = 2.2;
const OVER_PODMAN = 2.6;
const ABOVE_FLOOR = 1.4;
const TO_RUNC_MS = 12;

interface Mount {
  readonly type: string;
  readonly source: string;
  readonly options: readonly string[];
}

/** Commands that mount what a snapshot is made of below `dir`, and itself at `target`. */
function mountScript(mounts: readonly Mount[], dir: string, target: string): string {
  const lines = mounts.map(({type, source, options}, i) => {
    const at = i === mounts.length - 1 ? target : join(dir, String(i));
    if (at !== target) mkdirSync(at, {recursive: true});
    const words = options.join(',').replaceAll(/\{\{ mount (\d+) \}\}/g, (_, n: string) => join(dir, n));
    return `mount -t ${type} ${source} ${at} -o ${words}`;
  });
  return lines.join('\n');
}

/** The same root, mounted in a namespace of its own, and runc in it. */
function floor(site: Site, dir: string, env: Readonly<Record<string, string>>, chainID: string): Contender {
  const bundle = join(dir, 'bundle');
  mkdirSync(join(bundle, 'rootfs'), {recursive: true});
  prepareBy({command: ['runc', 'spec', '--bundle', bundle]});
  const file = join(bundle, 'config.json');
  const spec = JSON.parse(readFileSync(file, 'utf8'));
  spec.process = {...spec.process, terminal: false, args: ['true']};
  spec.root.readonly = false;
  writeFileSync(file, JSON.stringify(spec));
  let count = 0;
  return {
    name: 'unshare, mount, runc run',
    prepare: () => {
      const key = `floor${count++}`;
      const mounts = prepareBy({command: [LAUNCHER, 'snapshots', 'prepare', '--json', key, chainID], env});
      const script = `${mountScript(JSON.parse(mounts) as Mount[], join(dir, 'lower'), join(bundle, 'rootfs'))}\nexec "$@"`;
      const runc = ['runc', '--root', join(site.dir, 'runc'), 'run', '--bundle', bundle, key];
      return {command: ['unshare', '--mount', '--propagation', 'private', 'sh', '-ec', script, 'sh', ...runc]};
    },
  };
}

/** Stands in runc's place and notes when it was started. */
function stamper(dir: string): {readonly path: string; elapsed(start: number): number} {
  const [path, file] = [join(dir, 'runc'), join(dir, 'stamps')];
  writeFileSync(path, `#!/bin/bash\necho "$EPOCHREALTIME" >>${file}\nexec ${findProgram('runc')} "$@"\n`);
  chmodSync(path, 0o755);
  return {
    path,
    elapsed: (start) => {
      const [first] = readFileSync(file, 'utf8').split('\n');
      rmSync(file);
      return Number(first) * 1000 - start;
    },
  };
}

export async function run(site: Site): Promise<Report> {
  const rounds = site.rounds(ROUNDS);
  const ref = await site.push('busybox', buildImage('busybox').layout);
  const dir = site.directory('run');
  const containerd = await startContainerd(join(dir, 'containerd'));
  site.after(containerd.stop);
  const pod = podman(join(dir, 'podman'));
  const env = ours(site, join(dir, 'berth'));
  prepareBy({command: containerdPull(containerd.ctr, ref)});
  prepareBy({command: [...pod, 'pull', '--quiet', '--tls-verify=false', ref]});
  const chainID = prepareBy({command: [LAUNCHER, 'pull', '--quiet', '--print-chainid', ref], env})
    .trim()
    .split('\n')
    .at(-1)!;

  const results = await compare(
    [
      {name: 'berth: ctr run --rm', prepare: () => ({command: [LAUNCHER, 'run', '--rm', ref, 'bench', 'true'], env})},
      {name: 'containerd: ctr run --rm', prepare: () => ({command: [...containerd.ctr, 'run', '--rm', ref, 'bench', 'true']})},
      {name: 'podman run --rm --network none', prepare: () => ({command: [...pod, 'run', '--rm', '--network', 'none', ref, 'true']})},
      floor(site, join(dir, 'floor'), env, chainID),
    ],
    {rounds},
  );
  const [mine, ctr, podmanRun, plain] = results as [(typeof results)[0], (typeof results)[0], (typeof results)[0], (typeof results)[0]];

  const {path, elapsed} = stamper(dir);
  const reached = await compare(
    [
      {
        name: 'berth: ctr run --rm, until runc starts',
        prepare: () => ({command: [LAUNCHER, 'run', '--rm', ref, 'bench', 'true'], env: {...env, RUNC: path}}),
        elapsed,
      },
      {name: 'what stands in runc’s place, by itself', prepare: () => ({command: [path, '--version']}), elapsed},
    ],
    {rounds},
  );
  return {
    tables: [
      {title: 'Running `true` in busybox', results},
      {title: 'From the command to runc', results: reached},
    ],
    goals: [
      faster('run --rm, faster than ctr run --rm', OVER_CONTAINERD, mine, ctr),
      faster('run --rm, faster than podman run --rm', OVER_PODMAN, mine, podmanRun),
      atMost('run --rm, over unshare, mount and runc run', ABOVE_FLOOR, '×', ratios(mine, plain)),
      atMost('run --rm, until runc starts', TO_RUNC_MS, 'ms', differences(reached[0]!, reached[1]!)),
    ],
  };
}
