/** What a pull takes as layers, files and bytes grow; and a run as layers grow. Images are made for it. */
import {mkdirSync, writeFileSync} from 'node:fs';
import {join} from 'node:path';
import {build} from 'esbuild';
import {type Contender, compare, prepareBy, type Result, ratios, type Samples, times} from './measure.ts';
import {berthPull, containerdPull, containerdPullAfresh, curlAndTar, ours, shellTools, skopeoAndUmoci, startContainerd} from './peers.ts';
import {atMost, type Curve, merge, point, type Report, type Series} from './report.ts';
import {bytesImage, filesImage, layeredImage, packagesTar} from './synthetic.ts';
import {type Disk, LAUNCHER, type Site} from './workplace.ts';

const ROUNDS = 3;
const SNAPSHOTTERS = ['erofs', 'overlayfs'] as const;

/** As many entries as the tree of packages has that extraction was first measured with. */
const EXTRACTED_FILES = 24_000;
const OVER_TAR = 1.3;

interface Sweep {
  readonly id: string;
  readonly title: string;
  readonly x: string;
  readonly sizes: readonly number[];
  contenders(size: number): Contender[] | Promise<Contender[]>;
  /** Untimed, after each size. */
  cleanUp?(): void | Promise<void>;
}

async function sweep(site: Site, {id, title, x, sizes, contenders, cleanUp}: Sweep): Promise<Report> {
  const points = new Map<string, Series['points'][number][]>();
  const notes: string[] = [];
  for (const size of sizes) {
    process.stderr.write(`bench: ${title}: ${size}\n`);
    const results = await compare(await contenders(size), {rounds: site.rounds(ROUNDS)});
    await cleanUp?.();
    for (const result of results) {
      const samples = times(result);
      const line = points.get(result.name) ?? [];
      points.set(result.name, line);
      if (samples === undefined) notes.push(`${title}, ${result.name} at ${size.toLocaleString('en')}: failed: ${result.failure}`);
      else line.push(point(size, samples));
    }
  }
  const curve: Curve = {id, title, x, series: [...points].map(([name, line]) => ({name, points: line}))};
  return {curves: [curve], notes};
}

interface Pulls extends Omit<Sweep, 'contenders'> {
  make(layout: string, size: number): void | Promise<void>;
}

/** Pulls of images of growing size into new stores. */
function pulls(site: Site, disk: Disk, {make, ...rest}: Pulls): Promise<Report> {
  return sweep(site, {
    ...rest,
    contenders: async (size) => {
      const layout = site.directory('layout');
      await make(layout, size);
      const ref = await site.push(`${rest.id}-${size}`, layout);
      return [
        ...SNAPSHOTTERS.map((snapshotter) => berthPull(site, disk, ref, snapshotter)),
        containerdPullAfresh(disk, ref),
        skopeoAndUmoci(disk, ref),
        shellTools(disk, ref, layout),
        curlAndTar(disk, ref, layout),
      ];
    },
  });
}

/** `run --rm` of an image of growing depth. */
function runs(site: Site, sizes: readonly number[]): Promise<Report> {
  let stop: (() => Promise<void>) | undefined;
  return sweep(site, {
    id: 'run-layers',
    title: 'run --rm, against layers',
    x: 'layers',
    sizes,
    contenders: async (size) => {
      const layout = site.directory('layout');
      layeredImage(layout, size);
      const ref = await site.push(`run-${size}`, layout);
      const containerd = await startContainerd(site.path('containerd'));
      ({stop} = containerd);
      site.after(containerd.stop);
      prepareBy({command: containerdPull(containerd.ctr, ref)});
      return [
        ...SNAPSHOTTERS.map((snapshotter): Contender => {
          const env = ours(site, site.path('berth'));
          prepareBy({command: [LAUNCHER, 'pull', '--snapshotter', snapshotter, ref], env});
          const command = [LAUNCHER, 'run', '--rm', '--snapshotter', snapshotter, ref, 'bench', 'true'];
          return {name: `berth: ctr run --rm, ${snapshotter}`, prepare: () => ({command, env})};
        }),
        {
          name: 'containerd: ctr run --rm',
          prepare: () => ({command: [...containerd.ctr, 'run', '--rm', ref, 'bench', 'true']}),
        },
      ];
    },
    cleanUp: () => stop?.(),
  });
}

/** Our extraction beside GNU tar's, both from a file that is there. */
async function extraction(site: Site, disk: Disk): Promise<Report> {
  const files = site.tiny ? 200 : EXTRACTED_FILES;
  const archive = site.path('layer.tar');
  writeFileSync(archive, packagesTar(files));
  const program = site.path('extract.mjs');
  await build({
    entryPoints: [join(import.meta.dirname, 'apply-layer-program.ts')],
    outfile: program,
    bundle: true,
    platform: 'node',
    format: 'esm',
  });
  const into = async (): Promise<string> => {
    const dir = join(await disk.fresh(), 'fs');
    mkdirSync(dir);
    return dir;
  };
  const results: readonly Result[] = await compare(
    [
      {name: 'berth’s extraction, on Node', prepare: async () => ({command: [process.execPath, program, archive, await into()]})},
      {name: 'tar -xp', prepare: async () => ({command: ['tar', '-xpf', archive, '-C', await into()]})},
    ],
    {rounds: site.rounds(2 * ROUNDS + 1)},
  );
  const what = `extraction of ${files.toLocaleString('en')} files`;
  return {
    tables: [{title: `${what[0]!.toUpperCase()}${what.slice(1)}`, results}],
    goals: [atMost(`${what}, over tar -xp`, OVER_TAR, '×', ratios(results[0]!, results[1]!))],
  };
}

export async function layers(site: Site): Promise<Report> {
  const disk = site.disk();
  const sizes = (usual: readonly number[], tiny: readonly number[]): readonly number[] => (site.tiny ? tiny : usual);
  const depths = sizes([1, 2, 4, 8, 16, 32, 64, 127], [1, 3]);
  return merge(
    await pulls(site, disk, {id: 'pull-layers', title: 'Pull, against layers', x: 'layers', sizes: depths, make: layeredImage}),
    await runs(site, depths),
    await pulls(site, disk, {
      id: 'pull-files',
      title: 'Pull, against files in one layer',
      x: 'files of 200 bytes',
      sizes: sizes([1, 10, 100, 1000, 10_000, 100_000], [1, 50]),
      make: filesImage,
    }),
    await pulls(site, disk, {
      id: 'pull-bytes',
      title: 'Pull, against bytes in one layer',
      x: 'bytes, uncompressed',
      sizes: sizes([1e6, 1e7, 1e8, 5e8, 2e9], [1e6, 3e6]),
      make: bytesImage,
    }),
    await extraction(site, disk),
  );
}

const HUGE = 4e9;
const HUGE_MB = 200;

/** The memory that a pull of a very large layer takes. */
export async function hugeLayer(site: Site): Promise<Report> {
  const layout = site.directory('layout');
  await bytesImage(layout, site.tiny ? 1e7 : HUGE);
  const ref = await site.push('huge', layout);
  const disk = site.disk();
  const results = await compare(
    [
      ...SNAPSHOTTERS.map((snapshotter) => berthPull(site, disk, ref, snapshotter)),
      containerdPullAfresh(disk, ref),
      shellTools(disk, ref, layout),
    ],
    {rounds: 1, memory: true},
  );
  const megabytes = ({memory}: Result): Samples => (memory === undefined ? undefined : [Math.max(memory.largest, memory.together) / 1e6]);
  return {
    tables: [{title: 'Pull of one layer of 4 GB', results}],
    goals: SNAPSHOTTERS.map((name, i) =>
      atMost(`pull of one layer of 4 GB by ${name}, peak memory`, HUGE_MB, 'MB', megabytes(results[i]!)),
    ),
  };
}
