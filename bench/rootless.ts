/** What an ordinary user waits for, beside rootless podman: pull, start to end, start detached, exec. */
import {spawn} from 'node:child_process';
import {once} from 'node:events';
import {chmodSync} from 'node:fs';
import {join} from 'node:path';
import {buildImage} from '../test/support/cached-images.ts';
import {ordinaryUser} from '../test/support/ordinary-user.ts';
import {type Command, type Contender, compare, prepareBy, type Result} from './measure.ts';
import {faster, type Goal, type Report, type Table} from './report.ts';
import type {Site} from './workplace.ts';

const PULL_ROUNDS = 7;
const RUN_ROUNDS = 21;
const PULL_OVER_PODMAN = 3;
const RUN_OVER_PODMAN = 2;
const NAME = 'bench';

interface User {
  readonly berth: (...words: readonly string[]) => Command;
  readonly podman: (...words: readonly string[]) => Command;
  /** Ends what stays for this user. */
  leave(): Promise<void>;
}

type NewUser = (home?: string) => Promise<User>;

/** An ordinary user; each time in a mount namespace that is there before anything is timed. */
function makeUser(site: Site): NewUser {
  const user = ordinaryUser({after: (fn) => site.after(fn)});
  chmodSync(site.dir, 0o711);
  return async (home = user.home) => {
    const [program, ...words] = user.argv('sh', '-c', 'echo ready; read -r end');
    // An interrupt of the bench is none of it.
    const holder = spawn(program, words, {stdio: ['pipe', 'pipe', 'inherit'], env: {...process.env, ...user.env}, detached: true});
    await once(holder.stdout, 'data');
    const env = {...user.env, HOME: home, PODMAN_IGNORE_CGROUPSV1_WARNING: '1'};
    const place = [`--target=${holder.pid}`, '--mount', `--setuid=${user.uid}`, `--setgid=${user.uid}`, '--wdns=/'];
    const as = (command: readonly string[]): Command => ({command: ['nsenter', ...place, '--', ...command], env});
    const podman: User['podman'] = (...args) => as(['podman', '--log-level=error', ...args]);
    return {
      berth: (...args) => as([join(user.home, '../package/bin/berth'), ...args]),
      podman,
      leave: async () => {
        try {
          prepareBy(podman('system', 'migrate')); // ends the process that keeps podman's user namespace
        } finally {
          const exit = once(holder, 'exit');
          holder.stdin.end();
          await exit;
        }
      },
    };
  };
}

/** Each on a disk that is new. On one where many files were removed a minute ago ext4 looks at each of their inodes for every new file. */
async function pullOf(site: Site, newUser: NewUser, image: 'busybox' | 'redis'): Promise<readonly Result[]> {
  const ref = await site.push(image, buildImage(image).layout);
  const disk = site.disk();
  const contender = (name: string, pull: (user: User) => Command): Contender => {
    let user: User | undefined;
    return {
      name,
      prepare: async () => {
        const home = await disk.fresh();
        chmodSync(home, 0o777);
        user = await newUser(home);
        return pull(user);
      },
      cleanUp: async () => user?.leave(),
    };
  };
  return compare(
    [
      contender('berth pull', ({berth}) => berth('pull', '--plain-http', ref)),
      contender('podman pull', ({podman}) => podman('pull', '--tls-verify=false', ref)),
    ],
    {rounds: site.rounds(PULL_ROUNDS)},
  );
}

async function startsOf(
  site: Site,
  {berth, podman}: User,
): Promise<{ended: readonly Result[]; left: readonly Result[]; execs: readonly Result[]}> {
  const rounds = site.rounds(RUN_ROUNDS);
  const ref = await site.push('busybox', buildImage('busybox').layout);
  prepareBy(berth('pull', '--plain-http', ref));
  prepareBy(podman('pull', '--tls-verify=false', ref));
  const none = ['--network', 'none'];
  const detached = (name: string): readonly [Command, Command] => [
    berth('run', '--detach', ref, name, 'sleep', '100000'),
    podman('run', '--detach', '--name', name, ...none, ref, 'sleep', '100000'),
  ];
  const remove = [
    (): void => {
      prepareBy(berth('tasks', 'rm', '--force', NAME));
      prepareBy(berth('containers', 'rm', NAME));
    },
    (): void => void prepareBy(podman('rm', '--force', '--time', '0', NAME)),
  ] as const;
  const both = (mine: Command, theirs: Command, cleanUp?: readonly [() => void, () => void]): readonly Contender[] => [
    {name: 'berth', prepare: () => mine, ...(cleanUp === undefined ? {} : {cleanUp: cleanUp[0]})},
    {name: 'podman', prepare: () => theirs, ...(cleanUp === undefined ? {} : {cleanUp: cleanUp[1]})},
  ];
  const ended = await compare(both(berth('run', '--rm', ref, NAME, 'true'), podman('run', '--rm', ...none, ref, 'true')), {rounds});
  const left = await compare(both(...detached(NAME), remove), {rounds});
  for (const command of detached(NAME)) prepareBy(command);
  try {
    const execs = await compare(both(berth('exec', NAME, 'true'), podman('exec', NAME, 'true')), {rounds});
    return {ended, left, execs};
  } finally {
    for (const one of remove) one();
  }
}

export async function rootless(site: Site): Promise<Report> {
  const newUser = makeUser(site);
  const tables: Table[] = [];
  const goals: Goal[] = [];
  for (const image of site.tiny ? (['busybox'] as const) : (['busybox', 'redis'] as const)) {
    const results = await pullOf(site, newUser, image);
    tables.push({title: `Pull of ${image} by an ordinary user`, results});
    if (image === 'redis') goals.push(faster('rootless pull of redis, faster than podman', PULL_OVER_PODMAN, results[0]!, results[1]!));
  }
  const user = await newUser();
  site.after(() => user.leave());
  const {ended, left, execs} = await startsOf(site, user);
  tables.push(
    {title: 'run --rm by an ordinary user', results: ended},
    {title: 'run --detach by an ordinary user', results: left},
    {title: 'exec by an ordinary user', results: execs},
  );
  goals.push(faster('rootless run --rm, faster than podman', RUN_OVER_PODMAN, ended[0]!, ended[1]!));
  return {tables, goals};
}
