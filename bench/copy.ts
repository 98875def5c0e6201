/**
 * `copy` beside skopeo: from a registry on loopback into an empty one, into a new layout, and from a layout into an empty registry. Every byte
 * is read, hashed and written once by both.
 */
import {rmSync} from 'node:fs';
import {join} from 'node:path';
import {buildImage} from '../test/support/cached-images.ts';
import {startRegistry} from '../test/support/registry.ts';
import {type Command, type Contender, compare, prepareBy, type Result} from './measure.ts';
import {atMost, faster, merge, type Report} from './report.ts';
import {LAUNCHER, type Site} from './workplace.ts';

const ROUNDS = 7;

/** Copies from a place to a place, as skopeo names them. */
interface Copier {
  readonly name: string;
  command(from: string, to: string): Command;
}

const COPIERS: readonly Copier[] = [
  {name: 'berth: ctr copy', command: (from, to) => ({command: [LAUNCHER, 'copy', '--progress', 'none', from, to]})},
  {
    name: 'skopeo copy',
    command: (from, to) => ({
      command: ['skopeo', 'copy', '--quiet', '--insecure-policy', '--src-tls-verify=false', '--dest-tls-verify=false', from, to],
    }),
  },
];

/** Into a registry that is new for every run. */
function intoRegistry({name, command}: Copier, from: string): Contender {
  let stop: (() => Promise<void>) | undefined;
  return {
    name,
    prepare: async () => {
      const registry = await startRegistry({after: () => undefined});
      ({stop} = registry);
      return command(from, `docker://${registry.host}/bench/app:latest`);
    },
    cleanUp: () => stop?.(),
  };
}

/** Into a layout that is new for every run. */
function intoLayout({name, command}: Copier, from: string, path: string): Contender {
  return {
    name,
    prepare: () => command(from, `oci:${path}:latest`),
    cleanUp: () => rmSync(path, {recursive: true, force: true}),
  };
}

async function copyOf(site: Site, name: 'busybox' | 'redis' | 'toolchain'): Promise<Report> {
  const {layout} = buildImage(name);
  const registry = `docker://${await site.push(name, layout)}`;
  const path = join(site.dir, 'copied');
  // skopeo reads no docker manifests in layouts.
  const oci = `oci:${join(site.dir, `${name}-oci`)}:latest`;
  prepareBy(COPIERS[0]!.command(`oci:${layout}:latest`, oci));
  const ways = [
    ['from a registry to a registry', (one: Copier) => intoRegistry(one, registry)],
    ['from a registry to a layout', (one: Copier) => intoLayout(one, registry, path)],
    ['from a layout to a registry', (one: Copier) => intoRegistry(one, oci)],
  ] as const;
  const reports: Report[] = [];
  for (const [way, contender] of ways) {
    const results = await compare(COPIERS.map(contender), {rounds: site.rounds(ROUNDS), memory: true});
    const [berth, skopeo] = results as [Result, Result];
    const what = `copy of ${name} ${way}`;
    const share = berth.memory === undefined || skopeo.memory === undefined ? undefined : [berth.memory.together / skopeo.memory.together];
    reports.push({
      tables: [{title: `Copy of ${name} ${way}`, results}],
      goals: [faster(`${what}, no slower than skopeo`, 1, berth, skopeo), atMost(`${what}, memory by skopeo's`, 1, '×', share)],
    });
  }
  return merge(...reports);
}

export async function copy(site: Site): Promise<Report> {
  const names = site.tiny ? (['busybox'] as const) : (['redis', 'toolchain'] as const);
  const reports: Report[] = [];
  for (const name of names) if (site.measures(name)) reports.push(await copyOf(site, name));
  return merge(...reports);
}
