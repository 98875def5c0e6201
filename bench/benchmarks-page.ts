/** docs/BENCHMARKS.md and its plots, from what the benches found. */
import {existsSync, mkdirSync, readdirSync, readFileSync, rmSync, writeFileSync} from 'node:fs';
import {join} from 'node:path';
import {BENCHES, type BenchName, isBench} from './benches.ts';
import {formatGoals, formatReport, type Report} from './report.ts';
import {plot} from './svg.ts';

/** One bench's report, with when and on what it was found. */
export interface Recorded extends Report {
  readonly date: string;
  readonly environment: readonly string[];
}

export type Findings = Partial<Readonly<Record<BenchName, Recorded>>>;

const docs = join(import.meta.dirname, '../docs');
const plots = join(docs, 'benchmarks');
const results = join(plots, 'results.json');

export const readFindings = (): Findings => (existsSync(results) ? (JSON.parse(readFileSync(results, 'utf8')) as Findings) : {});

const HEAD = `# Benchmarks

Generated from \`benchmarks/results.json\` by \`npm run bench -- --write\`; the text comes from \`bench/benchmarks-page.ts\`.

## To repeat it

On Debian 13 as root, with loop devices and 40 GB of disk free, and nothing else running:

    npm run bench                                # everything but what is asked for by name only: half an hour on two cores
    npm run bench -- pull run startup            # some of it
    npm run bench -- layers-4g                   # asked for by name only: it writes much
    npm run bench -- --write                     # and writes this page; benches that did not run keep their results
    npm run bench -- --rounds 9 run              # more rounds
    npm run bench -- --image redis pull          # of the pulls, those of one image
    npm run bench -- --help                      # all names and options

It installs what is missing, builds, makes the images, starts a registry on loopback and the peers, and ends all of it.

## How it is measured

- Whole processes, from start to exit, as a user would start them: ours by its \`sh\` launcher where nothing else is said. A small
  shell starts them and holds the clock, because a large process takes longer to start another.
- All contenders of a table in turn within a round, after one round to warm up; the median of the rounds, and in brackets the
  quartiles. *Ratio* is the median over the rounds of a contender's time over that of the table's first in the same round: above 1,
  the first is faster. *Range* is the fastest and the slowest round. A goal is met when the median meets it; where its quartiles
  reach over the bound, the next run may say otherwise.
- *Processor time* is that of the command and its children, user and system, and of containerd while it runs. It depends less on
  what else the machine does.
- *The work by itself* is a floor of the machine's own: each layer inflated, the blob and what it inflates to hashed, and both
  written, by igzip (or zstd), sha256sum and cat, one after the other, each over the same bytes from the page cache, in the same
  rounds. Its processor time over ours says, on any machine, how near a pull comes to the work that no pull can leave out.
- Every pull starts from an empty store on an ext4 made for that run, on a loop device with direct I/O over a file that is kept.
  Everything is flushed before the clock starts, and what a run leaves dirty, and in the page cache, is gone before the next.
- Peak memory is watched in the round that warms up: of all processes together, containerd's included, pages that they share
  counted once; and the most that one process ever had.
- A contender that fails is named as such and takes no further part.

Traps, for whoever measures something here by hand:

- *Deleted inodes.* ext4 without a journal does not give an inode out again for minutes after it was deleted, and looks for another
  one by one. Extracting ten thousands of files where as many were just removed can take ten times as long as in a new place. A
  store that is removed and made again between runs measures this. Hence a new filesystem for each run.
- *A full page cache.* Pulls into ever new directories of one disk soon measure how the kernel finds memory.
- *\`NODE_EXTRA_CA_CERTS\`.* Node 20 reads that file at each start, which takes several times as long as starting. It is taken
  out of the environment of everything that is measured.

## What is not like for like

- *containerd* is running already and answers from memory; starting it is not counted. It comes without its part for Kubernetes.
  Where \`unpigz\` is installed it inflates by that, which is faster than what is built in.
- *podman* runs containers with \`--network none\`, because ours and containerd's have no network either.
- Our layers are not extracted: with the \`erofs\` snapshotter the inflated layer is kept as one file and indexed. The peers make
  every file. The tree that a container sees is the same (\`test/e2e/unpacked-trees.test.ts\`). Ours with \`--snapshotter overlayfs\`
  extracts as they do and stands beside it: that one and containerd's overlayfs are like for like.
- *The work by itself* has no network, does not look at what a layer contains, and keeps no records.
- *Syncing.* We bring blobs and records to the disk before they are visible, and treat unpacked layers as a cache that is made
  anew after a power loss. containerd syncs blobs and its database, skopeo blobs, podman its database; nobody syncs a tree.
- *Shell tools* are what the same work takes with one program for each step: they check the layers' digests, and neither the
  blobs' nor what hostile layers need checked; they keep no records and sync nothing; and they are told the layers' digests.
  Their index is mkfs.erofs's, which takes 100 s for a directory of 100,000 files: they have no part in that table.
  \`curl | tar\` takes whiteouts for files, checks no digest, and takes one layer after another.
- \`unshare, mount, runc run\` has its root prepared, and removes nothing afterwards; \`run --rm\` makes and removes a snapshot and
  a container. It filters no system calls, as containerd's \`ctr run\`; ours and podman's do, which costs a few milliseconds of runc's.
- *Detached*: it keeps no output and no exit status, so nothing but the container stays. Ours and podman's keep both, by conmon;
  containerd's \`ctr\` keeps the exit status, by a shim. Memory is that of those processes and of the container's own.
- *Locks:* the crowd under flock(2) makes the same system calls for its changes and nothing besides, in Perl; ours also reads,
  checks and counts references.
`;

const heading = (title: string): string => `## ${title}\n`;

/** Day and revision. */
const revisionOf = ({environment, date}: Recorded): string => `${date}, ${/revision (\w+)/.exec(environment[0]!)?.[1] ?? environment[0]!}`;

/** Writes what is known down. */
export function writePage(record: Findings): void {
  mkdirSync(plots, {recursive: true});
  writeFileSync(results, `${JSON.stringify(record, null, 1)}\n`);
  const known = Object.keys(BENCHES)
    .filter(isBench)
    .flatMap((name) => {
      const recorded = record[name];
      return recorded === undefined ? [] : [{name, recorded}];
    });
  if (known.length === 0) throw new Error(`there are no results in ${results}`);
  const curves = known.flatMap(({recorded}) => recorded.curves ?? []);
  for (const file of readdirSync(plots)) if (file.endsWith('.svg')) rmSync(join(plots, file));
  for (const curve of curves) writeFileSync(join(plots, `${curve.id}.svg`), plot(curve));
  const from = new Map(known.flatMap(({recorded}) => (recorded.goals ?? []).map((goal) => [goal, revisionOf(recorded)] as const)));
  const goals = [...from.keys()];
  const absent = Object.keys(BENCHES).filter((name) => isBench(name) && record[name] === undefined);
  writeFileSync(
    join(docs, 'BENCHMARKS.md'),
    [
      HEAD,
      heading('Goals'),
      'Each is measured on the day and at the revision that its line names; each bench below says on what machine.\n',
      formatGoals(goals, (goal) => from.get(goal)!),
      ...(absent.length === 0 ? [] : [`Not measured: ${absent.join(', ')}.\n`]),
      ...(goals.every(({met}) => met) ? [] : [missed()]),
      ...known.flatMap(({name, recorded}) => [
        heading(BENCHES[name].title),
        `Measured on ${recorded.date}, with ${recorded.environment.join('; ')}.\n`,
        formatReport({...recorded, goals: []}, 'benchmarks'),
      ]),
    ].join('\n'),
  );
}

/** Why goals are missed, and what was tried: written by hand. */
function missed(): string {
  const file = join(plots, 'missed.md');
  return existsSync(file) ? readFileSync(file, 'utf8') : 'Some are missed: why, and what was tried, belongs into `benchmarks/missed.md`.\n';
}
