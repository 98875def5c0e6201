/** What it takes to start a command and to print a short list, against peers and against what the engines themselves take. */
import {execFileSync} from 'node:child_process';
import {writeFileSync} from 'node:fs';
import {join} from 'node:path';
import {bunOf, ownTarget} from '../scripts/targets.ts';
import {buildImage} from '../test/support/cached-images.ts';
import {type Command, type Contender, compare, differences, prepareBy, ratios} from './measure.ts';
import {containerdPull, ours, podman, startContainerd} from './peers.ts';
import {atLeast, atMost, merge, type Report} from './report.ts';
import {EXECUTABLE, LAUNCHER, NODE_MAIN, type Site} from './workplace.ts';

const ROUNDS = 31;

const LAUNCHER_MS = 3;
const ABOVE_NODE_MS = 35;

/** A program that does nothing, compiled as ours is. */
function emptyExecutable(dir: string): string {
  const [source, outfile] = [join(dir, 'empty.js'), join(dir, 'empty')];
  writeFileSync(source, '');
  execFileSync(bunOf(ownTarget()), ['build', '--compile', '--minify', '--bytecode', '--format=esm', source, '--outfile', outfile], {
    stdio: 'ignore',
  });
  return outfile;
}

export async function startup(site: Site): Promise<Report> {
  const ref = await site.push('busybox', buildImage('busybox').layout);
  const dir = site.directory('startup');
  const containerd = await startContainerd(join(dir, 'containerd'));
  site.after(containerd.stop);
  const pod = podman(join(dir, 'podman'));
  const env = {...ours(site, join(dir, 'berth')), BERTH_PROGRAM: 'ctr'};
  prepareBy({command: containerdPull(containerd.ctr, ref)});
  prepareBy({command: [LAUNCHER, 'pull', ref], env});
  prepareBy({command: [...pod, 'pull', '--quiet', '--tls-verify=false', ref]});

  const as = (name: string, command: readonly string[], more?: Command['env']): Contender => ({
    name,
    prepare: () => ({command, ...(more === undefined ? {} : {env: more})}),
  });
  const empty = join(dir, 'empty.mjs');
  writeFileSync(empty, '');
  const floors = [
    as('an empty program, compiled by Bun', [emptyExecutable(dir)]),
    as('an empty program on Node', [process.execPath, empty]),
  ];
  const listing = async (line: string, peers: readonly Contender[]): Promise<Report> => {
    const args = line.split(' ');
    const results = await compare(
      [
        as('berth, executable', [EXECUTABLE, ...args], env),
        as('berth, executable by its launcher', [LAUNCHER, ...args], env),
        as('berth on Node', [process.execPath, NODE_MAIN, ...args], env),
        as('containerd: ctr', [...containerd.ctr, ...args]),
        ...peers,
        ...floors,
      ],
      {rounds: site.rounds(ROUNDS)},
    );
    const [executable, launcher, node, peer] = results;
    const bare = results.at(-1)!;
    return {
      tables: [{title: `ctr ${line}`, results}],
      goals: [
        atLeast(`ctr ${line}, containerd's over our executable's`, 1, ratios(peer!, executable!)),
        atMost(`ctr ${line}, what the launcher adds`, LAUNCHER_MS, 'ms', differences(launcher!, executable!)),
        atMost(`ctr ${line} on Node, above an empty program`, ABOVE_NODE_MS, 'ms', differences(node!, bare)),
      ],
    };
  };
  return merge(await listing('namespaces ls', []), await listing('images ls', [as('podman images', [...pod, 'images'])]));
}
