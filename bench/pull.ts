/**
 * `pull` to ready, from a registry on loopback into an empty store: real images of three sizes, and shapes that are hard on one part
 * of it. Real images also into a second namespace.
 */
import {buildImage, type ImageName} from '../test/support/cached-images.ts';
import {type Contender, compare, prepareBy, type Result, ratios, type Samples} from './measure.ts';
import {
  berthPull,
  containerdPull,
  containerdPullAfresh,
  floorOfPull,
  ours,
  podmanPull,
  shellTools,
  skopeoAndUmoci,
  startContainerd,
} from './peers.ts';
import {atLeast, atMost, faster, type Goal, merge, type Report} from './report.ts';
import {flatImage, layeredImage, zstdImage} from './synthetic.ts';
import {LAUNCHER, type Site} from './workplace.ts';

const ROUNDS = 5;

/** How many times faster the second namespace's pull is wanted to be than containerd's. */
const WANTED_AGAIN = 10;
/** Of a pull's processor time, the part that the same work takes by itself. */
const WANTED_FLOOR = 0.8;
/** How much longer an index may take than an extraction. */
const OVER_OVERLAYFS = 1.5;

/** Bounds for the peers' times over ours. */
interface Wanted {
  readonly containerd?: number;
  readonly podman?: number;
  readonly skopeo?: number;
  readonly shell?: number;
  /** Ours and containerd's both by overlayfs. */
  readonly alike?: number;
  /** That our memory is no more than podman's. */
  readonly memory?: true;
  readonly floor?: true;
  /** That an index takes not much longer than an extraction, theirs or ours. */
  readonly flat?: true;
}

interface Image {
  readonly title: string;
  /** @returns the layout */
  make(site: Site): string;
  readonly wanted: Wanted;
  /** Skopeo with umoci, and the shell tools, for which some layers are too much. */
  readonly pipes: boolean;
  /** Pulled again, into a second namespace. */
  readonly again?: boolean;
}

const real = (name: ImageName, wanted: Wanted): Image => ({
  title: name,
  make: () => buildImage(name).layout,
  wanted,
  pipes: true,
  again: true,
});

const shape = (title: string, wanted: Wanted, pipes: boolean, make: (layout: string, site: Site) => void): Image => ({
  title,
  make: (site) => {
    const layout = site.directory('layout');
    make(layout, site);
    return layout;
  },
  wanted,
  pipes,
});

const IMAGES = {
  busybox: real('busybox', {}),
  redis: real('redis', {containerd: 2.8, podman: 4, skopeo: 2.2, alike: 1, memory: true, floor: true}),
  toolchain: real('toolchain', {containerd: 4, podman: 5, skopeo: 3.5, shell: 1, alike: 1, memory: true, floor: true}),
  // mkfs.erofs takes 100 s for a directory of that size.
  flat: shape('a flat directory of 100,000 files', {alike: 1, flat: true}, false, (layout, {tiny}) =>
    flatImage(layout, tiny ? 50 : 100_000),
  ),
  layers: shape('60 small layers', {containerd: 1, alike: 1}, true, (layout, {tiny}) => layeredImage(layout, tiny ? 3 : 60)),
  // umoci 0.4 knows no zstd.
  zstd: shape('redis, its layers compressed by zstd', {containerd: 1, alike: 1, floor: true}, false, (layout, {tiny}) =>
    zstdImage(layout, buildImage(tiny ? 'busybox' : 'redis').layout),
  ),
} as const satisfies Readonly<Record<string, Image>>;

export const IMAGE_NAMES: readonly string[] = Object.keys(IMAGES);

/** Of the contenders' results. */
interface Pulls {
  readonly berth: Result;
  readonly extracted: Result;
  readonly containerd: Result;
  readonly podman: Result;
  readonly skopeo?: Result;
  readonly shell?: Result;
}

function goals(title: string, wanted: Wanted, {berth, extracted, containerd, podman, skopeo, shell}: Pulls, overFloor: Samples): Goal[] {
  const pull = `pull of ${title}`;
  const peers: readonly (readonly [what: string, bound: number | undefined, mine: Result, theirs: Result | undefined])[] = [
    ['faster than ctr images pull', wanted.containerd, berth, containerd],
    ['by overlayfs, faster than ctr images pull by overlayfs', wanted.alike, extracted, containerd],
    ['faster than podman pull', wanted.podman, berth, podman],
    ['faster than skopeo copy and umoci unpack', wanted.skopeo, berth, skopeo],
    ['no slower than shell tools', wanted.shell, berth, shell],
  ];
  const [mine, theirs] = [berth.memory, podman.memory];
  return [
    ...peers.flatMap(([what, bound, one, other]) =>
      bound === undefined || other === undefined ? [] : [faster(`${pull}, ${what}`, bound, one, other)],
    ),
    ...(wanted.floor ? [atLeast(`${pull}, processor time of the work by itself over ours`, WANTED_FLOOR, overFloor)] : []),
    ...(wanted.memory ? [atLeast(`${pull}, podman's peak memory over ours`, 1, mine && theirs && [theirs.together / mine.together])] : []),
    ...(wanted.flat
      ? [
          atMost(`${pull}, over ours by overlayfs`, OVER_OVERLAYFS, '×', ratios(berth, extracted)),
          atMost(`${pull}, over ctr images pull`, OVER_OVERLAYFS, '×', ratios(berth, containerd)),
        ]
      : []),
  ];
}

async function again(site: Site, ref: string, {title, wanted}: Image, rounds: number): Promise<Report> {
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
    tables: [{title: `Pull of ${title} in a second namespace`, results}],
    goals:
      wanted.containerd === undefined
        ? []
        : [faster(`pull of ${title} in a second namespace, faster than ctr images pull`, WANTED_AGAIN, results[0]!, results[1]!)],
  };
}

/** The same results by their processor time. */
const byProcessor = (results: readonly Result[]): Result[] =>
  results.map(({name, processor, failure}) => ({
    name,
    times: processor!,
    ...(failure === undefined ? {} : {failure}),
  }));

/** For each round, what the steps take together over what we take. */
function overFloor([berth, ...steps]: readonly Result[]): Samples {
  if ([berth!, ...steps].some(({failure}) => failure !== undefined)) return undefined;
  return berth!.times.map((ms, round) => steps.reduce((sum, {times}) => sum + times[round]!, 0) / ms);
}

async function pullOf(site: Site, name: string, image: Image): Promise<Report> {
  const rounds = site.rounds(ROUNDS);
  const layout = image.make(site);
  const ref = await site.push(name, layout);
  const disk = site.disk();
  const all = {
    berth: berthPull(site, disk, ref),
    extracted: berthPull(site, disk, ref, 'overlayfs'),
    containerd: containerdPullAfresh(disk, ref),
    podman: podmanPull(disk, ref),
    ...(image.pipes ? {skopeo: skopeoAndUmoci(disk, ref), shell: shellTools(disk, ref, layout)} : {}),
  };
  const steps = floorOfPull(site, disk, layout);
  const results = await compare([...Object.values(all), ...steps], {rounds, memory: true});
  const pulls = results.slice(0, -steps.length);
  const processor = byProcessor([results[0]!, ...results.slice(-steps.length)]);
  const byName = Object.fromEntries(Object.keys(all).map((key, i) => [key, pulls[i]!])) as unknown as Pulls;
  const title = `Pull of ${image.title}`;
  return merge(
    {
      tables: [
        {title, results: pulls},
        {title: `${title}, processor time beside that of the work by itself`, results: processor},
      ],
      goals: goals(image.title, image.wanted, byName, overFloor(processor)),
    },
    image.again === true ? await again(site, ref, image, rounds) : {},
  );
}

export async function pull(site: Site): Promise<Report> {
  const reports: Report[] = [];
  for (const [name, image] of Object.entries<Image>(IMAGES))
    if (site.measures(name) && !(site.tiny && ['redis', 'toolchain'].includes(name))) reports.push(await pullOf(site, name, image));
  return merge(...reports);
}
