/**
 * `push` into a registry on loopback, from stores that have the image: into an empty registry, into another repository of the registry that
 * it came from, and once more to where it is already.
 */
import {join} from 'node:path';
import {buildImage} from '../test/support/cached-images.ts';
import {startRegistry} from '../test/support/registry.ts';
import {type Command, type Contender, compare, prepareBy, type Result} from './measure.ts';
import {containerdPull, ours, podman, startContainerd} from './peers.ts';
import {faster, merge, type Report} from './report.ts';
import {LAUNCHER, type Site} from './workplace.ts';

const ROUNDS = 7;

/** How many times faster than containerd a push is wanted to be whose blobs another repository has. */
const WANTED_MOUNTED = 2;
/** The same for bytes that have to be sent: the registry is what takes the time. */
const WANTED_SENT = 1;

/** One with the image in a store of its own. */
interface Pusher {
  readonly name: string;
  command(target: string): Command;
  daemon?(): number | undefined;
}

async function pushers(site: Site, ref: string, name: string): Promise<Pusher[]> {
  const [mine, theirs, podmans] = [await site.disk().fresh(), await site.disk().fresh(), await site.disk().fresh()];
  const env = ours(site, mine);
  prepareBy({command: [LAUNCHER, 'pull', '--no-unpack', '--progress', 'none', ref], env});
  const containerd = await startContainerd(theirs);
  site.after(containerd.stop);
  prepareBy({command: containerdPull(containerd.ctr, ref)});
  prepareBy({command: [...podman(podmans), 'pull', '--tls-verify=false', ref]});
  // It has no store; and of layouts it reads no docker manifests.
  const directory = `dir:${join(site.dir, `${name}-dir`)}`;
  const skopeo = ['skopeo', 'copy', '--insecure-policy', '--all'];
  prepareBy({command: [...skopeo, '--src-tls-verify=false', `docker://${ref}`, directory]});
  return [
    {name: 'berth: ctr push', command: (target) => ({command: [LAUNCHER, 'push', '--progress', 'none', target, ref], env})},
    {
      name: 'containerd: ctr images push',
      command: (target) => ({command: [...containerd.ctr, 'images', 'push', '--plain-http', target, ref]}),
      daemon: () => containerd.pid,
    },
    {
      name: 'skopeo copy',
      command: (target) => ({command: [...skopeo, '--dest-tls-verify=false', directory, `docker://${target}`]}),
    },
    {name: 'podman push', command: (target) => ({command: [...podman(podmans), 'push', '--tls-verify=false', ref, target]})},
  ];
}

/** Into a registry that is new for every run. */
function intoEmpty({name, command, daemon}: Pusher): Contender {
  let stop: (() => Promise<void>) | undefined;
  return {
    name,
    prepare: async () => {
      const registry = await startRegistry({after: () => undefined});
      ({stop} = registry);
      return command(`${registry.host}/bench/app:latest`);
    },
    cleanUp: () => stop?.(),
    ...(daemon === undefined ? {} : {daemon}),
  };
}

/** Into a repository that is new for every run. */
function intoAnother({name, command, daemon}: Pusher, host: string, who: number): Contender {
  let count = 0;
  return {
    name,
    prepare: () => command(`${host}/bench${who}/app${count++}:latest`),
    ...(daemon === undefined ? {} : {daemon}),
  };
}

function again({name, command, daemon}: Pusher, host: string, who: number): Contender {
  const push = command(`${host}/again${who}/app:latest`);
  return {
    name,
    prepare: () => {
      prepareBy(push);
      return push;
    },
    ...(daemon === undefined ? {} : {daemon}),
  };
}

async function pushOf(site: Site, name: 'busybox' | 'redis' | 'toolchain'): Promise<Report> {
  const rounds = site.rounds(ROUNDS);
  const {layout} = buildImage(name);
  const ref = await site.push(name, layout);
  const {host} = await site.registry();
  const all = await pushers(site, ref, name);
  const title = `Push of ${name}`;
  const sent = await compare(all.map(intoEmpty), {rounds, memory: true});
  const mounted = await compare(
    all.map((one, i) => intoAnother(one, host, i)),
    {rounds},
  );
  const nothing = await compare(
    all.map((one, i) => again(one, host, i)),
    {rounds},
  );
  const over = (what: string, bound: number, [berth, containerd]: readonly Result[]) =>
    faster(`push of ${name}, ${what}, faster than ctr images push`, bound, berth!, containerd!);
  return {
    tables: [
      {title: `${title} into an empty registry`, results: sent},
      {title: `${title}, its blobs in another repository`, results: mounted},
      {title: `${title}, all of it there`, results: nothing},
    ],
    goals: [over('into an empty registry', WANTED_SENT, sent), over('its blobs in another repository', WANTED_MOUNTED, mounted)],
  };
}

export async function push(site: Site): Promise<Report> {
  const names = site.tiny ? (['busybox'] as const) : (['redis', 'toolchain'] as const);
  const reports: Report[] = [];
  for (const name of names) if (site.measures(name)) reports.push(await pushOf(site, name));
  return merge(...reports);
}
