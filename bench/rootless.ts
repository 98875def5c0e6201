/** What an ordinary user waits for, beside rootless podman: pull, start to end, start detached, exec. */
import {spawn} from 'node:child_process';
import {once} from 'node:events';
import {join} from 'node:path';
import {buildImage} from '../test/support/images.ts';
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
}

/** An ordinary user, in a mount namespace that is there before anything is timed. */
async function makeUser(site: Site): Promise<User> {
  const user = ordinaryUser({after: (fn) => site.after(fn)});
  const [program, ...words] = user.argv('sh', '-c', 'echo ready; read -r end');
  // An interrupt of the bench is none of it.
  const holder = spawn(program, words, {stdio: ['pipe', 'pipe', 'inherit'], env: {...process.env, ...user.env}, detached: true});
  await once(holder.stdout, 'data');
  const env = {...user.env, PODMAN_IGNORE_CGROUPSV1_WARNING: '1'};
  const enter = [
    'nsenter',
    `--target=${holder.pid}`,
    '--mount',
    `--setuid=${user.uid}`,
    `--setgid=${user.uid}`,
    `--wdns=${user.home}`,
    '--',
  ];
  const as = (command: readonly string[]): Command => ({command: [...enter, ...command], env});
  const self: User = {
    berth: (...args) => as([join(user.home, '../package/bin/berth'), ...args]),
    podman: (...args) => as(['podman', '--log-level=error', ...args]),
  };
  site.after(async () => {
    prepareBy(self.podman('system', 'migrate')); // ends the process that keeps podman's user namespace
    holder.stdin.end();
    await once(holder, 'exit');
  });
  return self;
}

async function pullOf(site: Site, {berth, podman}: User, image: 'busybox' | 'redis'): Promise<readonly Result[]> {
  const ref = await site.push(image, buildImage(image).layout);
  const contenders: readonly Contender[] = [
    {
      name: 'berth pull',
      prepare: () => {
        prepareBy(berth('images', 'prune', '--all'));
        return berth('pull', '--plain-http', ref);
      },
    },
    {
      name: 'podman pull',
      prepare: () => {
        prepareBy(podman('rmi', '--all', '--force'));
        return podman('pull', '--tls-verify=false', ref);
      },
    },
  ];
  return compare(contenders, {rounds: site.rounds(PULL_ROUNDS)});
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
  const user = await makeUser(site);
  const tables: Table[] = [];
  const goals: Goal[] = [];
  for (const image of site.tiny ? (['busybox'] as const) : (['busybox', 'redis'] as const)) {
    const results = await pullOf(site, user, image);
    tables.push({title: `Pull of ${image} by an ordinary user`, results});
    if (image === 'redis') goals.push(faster('rootless pull of redis, faster than podman', PULL_OVER_PODMAN, results[0]!, results[1]!));
  }
  const {ended, left, execs} = await startsOf(site, user);
  tables.push(
    {title: 'run --rm by an ordinary user', results: ended},
    {title: 'run --detach by an ordinary user', results: left},
    {title: 'exec by an ordinary user', results: execs},
  );
  goals.push(faster('rootless run --rm, faster than podman', RUN_OVER_PODMAN, ended[0]!, ended[1]!));
  return {tables, goals};
}
