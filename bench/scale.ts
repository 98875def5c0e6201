/** Commands on stores with few and with very many images and namespaces. */
import {spawnSync} from 'node:child_process';
import {rmSync, writeFileSync} from 'node:fs';
import {join} from 'node:path';
import {buildImage} from '../test/support/cached-images.ts';
import {fill, imageName} from './fill-store.ts';
import {type Command, compare, prepareBy, type Result, ratios, times} from './measure.ts';
import {ours} from './peers.ts';
import {atMost, type Curve, type Goal, merge, point, type Report, type Table} from './report.ts';
import {LAUNCHER, type Site} from './workplace.ts';

const ROUNDS = 11;

const LISTING_MS = 60;
const GC_MS = 1500;
/** What does not grow may still be measured a little longer. */
const GROWTH = 1.25;

interface Crowded {
  /** In the namespace `default`; the others have one each. */
  readonly images: number;
  readonly namespaces: number;
  readonly env: Readonly<Record<string, string>>;
  /** Reference of an image that can run. */
  readonly ref: string;
}

async function crowded(site: Site, ref: string, images: number, namespaces: number): Promise<Crowded> {
  const dir = await site.disk().fresh();
  const env = ours(site, dir);
  prepareBy({command: [LAUNCHER, 'pull', ref], env});
  await fill({
    root: env.BERTH_ROOT!,
    like: ref,
    from: 0,
    count: images + namespaces - 1,
    namespace: (i) => (i < images ? 'default' : `namespace${i - images}`),
  });
  prepareBy({command: ['sync']});
  return {images, namespaces, env, ref};
}

interface Measure {
  readonly title: string;
  args(store: Crowded, run: number): readonly string[];
  /** Untimed, before each run. */
  before?(store: Crowded, run: number): void | Promise<void>;
  /** It must not take longer where there is more. */
  readonly steady?: boolean;
}

const dropPageCache = (): void => {
  prepareBy({command: ['sync']});
  writeFileSync('/proc/sys/vm/drop_caches', '3\n');
};

const dropListings = ({env}: Crowded): void => rmSync(join(env.BERTH_ROOT!, 'cache'), {recursive: true, force: true});

const LISTINGS: readonly Measure[] = [
  {title: 'images ls', args: () => ['images', 'ls']},
  {title: 'images ls, without its cache', args: () => ['images', 'ls'], before: dropListings},
  {title: 'images ls, nothing in the page cache', args: () => ['images', 'ls'], before: dropPageCache},
  {title: 'images ls -q', args: () => ['images', 'ls', '-q']},
];

/** Number of an image beyond all others. */
const removable = (run: number): number => 1_000_000 + run;

const CHANGES: readonly Measure[] = [
  {title: 'images inspect', args: () => ['images', 'inspect', imageName(0)], steady: true},
  {title: 'images tag', args: (_, run) => ['images', 'tag', imageName(0), `registry.example/tag:${run}`], steady: true},
  {title: 'run --rm', args: ({ref}) => ['run', '--rm', ref, 'bench', 'true'], steady: true},
  {
    title: 'images rm',
    before: ({env, ref}, run) => fill({root: env.BERTH_ROOT!, like: ref, from: removable(run), count: 1, namespace: () => 'default'}),
    args: (_, run) => ['images', 'rm', imageName(removable(run))],
    steady: true,
  },
];

async function measureAll(
  stores: readonly Crowded[],
  measures: readonly Measure[],
  name: (store: Crowded) => string,
  rounds: number,
): Promise<Map<string, Result[]>> {
  const found = new Map<string, Result[]>();
  for (const {title, args, before} of measures) {
    const contenders = stores.map((store) => {
      let run = 0;
      return {
        name: name(store),
        prepare: async (): Promise<Command> => {
          await before?.(store, run);
          return {command: [LAUNCHER, ...args(store, run++)], env: store.env};
        },
      };
    });
    found.set(title, await compare(contenders, {rounds}));
  }
  return found;
}

const tables = (found: ReadonlyMap<string, readonly Result[]>, of: string): Table[] =>
  [...found].map(([title, results]) => ({title: `${title}, ${of}`, results}));

const count = (n: number, noun: string): string => `${n.toLocaleString('en')} ${noun}${n === 1 ? '' : 's'}`;

/** What grows no more from `few` to the last one. */
function steady(found: ReadonlyMap<string, readonly Result[]>, measures: readonly Measure[], few: number): Goal[] {
  return measures
    .filter((measure) => measure.steady === true)
    .map(({title}) => {
      const results = found.get(title)!;
      const [less, more] = [results[few]!, results.at(-1)!];
      return atMost(`${title} with ${more.name}, over ${less.name}`, GROWTH, '×', ratios(more, less));
    });
}

const curve = (found: ReadonlyMap<string, readonly Result[]>, sizes: readonly number[]): Curve => ({
  id: 'images',
  title: 'Time against the number of images',
  x: 'images in the namespace',
  series: [...found].map(([name, results]) => ({
    name,
    points: results.flatMap((result, i) => {
      const samples = times(result);
      return samples === undefined ? [] : [point(sizes[i]!, samples)];
    }),
  })),
});

async function byImages(site: Site, ref: string): Promise<Report> {
  const sizes = site.tiny ? [1, 20] : [1, 10, 100, 1000, 10_000];
  const stores: Crowded[] = [];
  for (const size of sizes) stores.push(await crowded(site, ref, size, 1));
  const measures = [...LISTINGS, ...CHANGES];
  const rounds = site.rounds(ROUNDS);
  const found = await measureAll(stores, measures, ({images}) => count(images, 'image'), rounds);
  const many = found.get('images ls')!.at(-1)!;
  return {
    tables: tables(found, 'by images'),
    curves: [curve(found, sizes)],
    goals: [
      atMost(`images ls with ${many.name}`, LISTING_MS, 'ms', times(many)),
      ...steady(found, measures, Math.max(0, sizes.indexOf(100))),
    ],
  };
}

async function byNamespaces(site: Site, ref: string): Promise<Report> {
  const rounds = site.rounds(ROUNDS);
  const many = site.tiny ? 10 : 1000;
  const stores = [await crowded(site, ref, 1, 1), await crowded(site, ref, 1, many)];
  const measures: Measure[] = [
    {title: 'namespaces ls', args: () => ['namespaces', 'ls']},
    {title: 'images ls of one', args: () => ['images', 'ls'], steady: true},
    ...CHANGES,
  ];
  const found = await measureAll(stores, measures, ({namespaces}) => count(namespaces, 'namespace'), rounds);
  return {tables: tables(found, 'by namespaces'), goals: steady(found, measures, 0)};
}

/** A collection that has everything to look at and nothing to remove. */
async function collection(site: Site, ref: string): Promise<Report> {
  if (spawnSync(LAUNCHER, ['gc', '--help']).status !== 0) return {};
  const blobs = site.tiny ? 20 : 10_000;
  const store = await crowded(site, ref, blobs / 2, 1);
  const results = await compare([{name: count(blobs, 'blob'), prepare: () => ({command: [LAUNCHER, 'gc'], env: store.env})}], {
    rounds: site.rounds(ROUNDS),
  });
  return {
    tables: [{title: 'gc', results}],
    goals: [atMost(`gc with ${count(blobs, 'blob')}`, GC_MS, 'ms', times(results[0]!))],
  };
}

export async function scale(site: Site): Promise<Report> {
  const ref = await site.push('busybox', buildImage('busybox').layout);
  return merge(await byImages(site, ref), await byNamespaces(site, ref), await collection(site, ref));
}
