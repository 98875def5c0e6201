/** `pull` to ready: real images of three sizes from a registry on loopback into an empty store, and again into a second namespace. */
import {buildImage, type ImageName} from '../test/support/images.ts';
import {type Contender, compare, prepareBy, type Result} from './measure.ts';
import {berthPull, containerdPull, containerdPullAfresh, ours, podmanPull, shellTools, skopeoAndUmoci, startContainerd} from './peers.ts';
import {atLeast, faster, type Goal, merge, type Report} from './report.ts';
import {LAUNCHER, type Site} from './site.ts';

const ROUNDS = 5;

interface Wanted {
  readonly containerd: number;
  readonly podman: number;
  readonly skopeo: number;
  readonly shell?: number;
}

const WANTED: Partial<Readonly<Record<ImageName, Wanted>>> = {
  redis: {containerd: 2.8, podman: 4, skopeo: 2.2},
  toolchain: {containerd: 4, podman: 5, skopeo: 3.5, shell: 1},
};

/** How many times faster the second namespace's pull is wanted to be than containerd's. */
const WANTED_AGAIN = 10;

function goals(name: ImageName, [berth, containerd, podman, skopeo, shell]: readonly Result[]): Goal[] {
  const wanted = WANTED[name];
  if (wanted === undefined) return [];
  const [ours, theirs] = [berth!.memory, podman!.memory];
  return [
    faster(`pull of ${name}, faster than ctr images pull`, wanted.containerd, berth!, containerd!),
    faster(`pull of ${name}, faster than podman pull`, wanted.podman, berth!, podman!),
    faster(`pull of ${name}, faster than skopeo copy and umoci unpack`, wanted.skopeo, berth!, skopeo!),
    ...(wanted.shell === undefined ? [] : [faster(`pull of ${name}, no slower than shell tools`, wanted.shell, berth!, shell!)]),
    atLeast(`pull of ${name}, podman's peak memory over ours`, 1, ours && theirs && theirs.together / ours.together),
  ];
}

async function again(site: Site, ref: string, name: ImageName, rounds: number): Promise<Report> {
  const [mine, theirs] = [await site.disk().fresh(), await site.disk().fresh()];
  const containerd = await startContainerd(theirs);
  site.after(containerd.stop);
  const env = ours(site, mine);
  prepareBy({command: containerdPull(containerd.ctr, ref)});
  prepareBy({command: [LAUNCHER, 'pull', ref], env});
  let count = 0;
  const contenders: Contender[] = [
    {name: 'berth: ctr pull', prepare: () => ({command: [LAUNCHER, '-n', `bench${count++}`, 'pull', ref], env})},
    {name: 'containerd: ctr images pull', prepare: () => ({command: containerdPull(containerd.ctr, ref, '-n', `bench${count++}`)})},
  ];
  const results = await compare(contenders, {rounds});
  return {
    tables: [{title: `Pull of ${name} in a second namespace`, results}],
    goals:
      WANTED[name] === undefined
        ? []
        : [faster(`pull of ${name} in a second namespace, faster than ctr images pull`, WANTED_AGAIN, results[0]!, results[1]!)],
  };
}

async function pullOf(site: Site, name: ImageName): Promise<Report> {
  const rounds = site.rounds(ROUNDS);
  const {layout} = buildImage(name);
  const ref = await site.push(name, layout);
  const disk = site.disk();
  const results = await compare(
    [
      berthPull(site, disk, ref),
      containerdPullAfresh(disk, ref),
      podmanPull(disk, ref),
      skopeoAndUmoci(disk, ref),
      shellTools(disk, ref, layout),
    ],
    {rounds, memory: true},
  );
  return merge({tables: [{title: `Pull of ${name}`, results}], goals: goals(name, results)}, await again(site, ref, name, rounds));
}

export async function pull(site: Site): Promise<Report> {
  const names: readonly ImageName[] = site.tiny ? ['busybox'] : ['busybox', 'redis', 'toolchain'];
  const reports: Report[] = [];
  for (const name of names) reports.push(await pullOf(site, name));
  return merge(...reports);
}
