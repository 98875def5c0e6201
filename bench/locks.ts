/**
 * Many processes that change one store at once, each again and again: through our store, and through the same system calls
 * under flock(2). What is counted begins when all of them are up.
 */
import {type ChildProcess, spawn} from 'node:child_process';
import {once} from 'node:events';
import {mkdirSync} from 'node:fs';
import {join} from 'node:path';
import {text} from 'node:stream/consumers';
import {median, type Result, ratios} from './measure.ts';
import {atMost, type Report} from './report.ts';
import type {Site} from './workplace.ts';

const ROUNDS = 5;
const PROCESSES = 32;
const CHANGES = 20;

const OVER_FLOCK = 2;
const WORST_WAIT_MS = 1000;

/**
 * As a change of ours: a record of the journal, synced, linked to its name, its directory synced; the document, replaced.
 * Prints the milliseconds that each change had to wait.
 */
const FLOCK = `
use strict; use Fcntl qw(:flock O_WRONLY O_CREAT O_EXCL O_RDONLY); use IO::Handle; use Time::HiRes qw(time);
my ($dir, $name, $changes) = @ARGV;
$| = 1; print "ready\\n"; <STDIN>;
sub put { my ($path, $text, $sync) = @_;
  sysopen(my $file, $path, O_WRONLY | O_CREAT | O_EXCL, 0600) or die $!; syswrite($file, $text) or die $!;
  $sync and ($file->sync or die $!); close($file); }
for my $change (1 .. $changes) {
  my $begun = time();
  sysopen(my $lock, "$dir/lock", O_WRONLY | O_CREAT, 0600) or die $!; flock($lock, LOCK_EX) or die $!;
  printf "%.3f\\n", 1000 * (time() - $begun);
  my $text = sprintf('{"name":"%s","change":%d,"padding":"%s"}', $name, $change, 'x' x 600);
  put("$dir/journal/.$name", $text, 1); link("$dir/journal/.$name", "$dir/journal/$name-$change") or die $!; unlink("$dir/journal/.$name");
  sysopen(my $journal, "$dir/journal", O_RDONLY) or die $!; $journal->sync or die $!; close($journal);
  put("$dir/.$name", $text, 0); rename("$dir/.$name", "$dir/$name") or die $!;
  close($lock);
}
`;

interface Crowd {
  /** From the start signal to the last end, in milliseconds. */
  readonly total: number;
  /** Of every change, in milliseconds. */
  readonly waits: readonly number[];
}

/** Starts the processes, lets them go at once when all are ready, and reads what each change waited. */
async function gather(commands: readonly (readonly string[])[]): Promise<Crowd> {
  const members = commands.map((command) => {
    const child: ChildProcess = spawn(command[0]!, command.slice(1), {stdio: ['pipe', 'pipe', 'inherit']});
    const ready = new Promise<void>((resolve, reject) => {
      child.once('error', reject);
      child.once('exit', () => reject(new Error(`${command.join(' ').slice(0, 200)} ended early`)));
      child.stdout!.once('readable', () => resolve());
    });
    return {child, ready, exit: once(child, 'exit') as Promise<[number | null]>};
  });
  await Promise.all(members.map(({ready}) => ready));
  const outputs = members.map(({child}) => text(child.stdout!));
  const start = performance.now();
  for (const {child} of members) child.stdin!.end('go\n');
  const statuses = await Promise.all(members.map(({exit}) => exit));
  const total = performance.now() - start;
  if (statuses.some(([status]) => status !== 0)) throw new Error('a process of the crowd failed');
  const waits = (await Promise.all(outputs)).flatMap((output) => output.trim().split('\n').slice(1).map(Number));
  return {total, waits};
}

export async function locks(site: Site): Promise<Report> {
  const [processes, changes] = site.tiny ? [4, 3] : [PROCESSES, CHANGES];
  const members = Array.from({length: processes}, (_, i) => `member${i}`);
  const disk = site.disk();
  const contenders = [
    {
      name: 'berth: Store.update',
      command: (dir: string, name: string) => [process.execPath, join(import.meta.dirname, 'locks-member.ts'), dir, name, String(changes)],
    },
    {name: 'the same under flock', command: (dir: string, name: string) => ['perl', '-e', FLOCK, dir, name, String(changes)]},
  ];
  const crowds = contenders.map((): Crowd[] => []);
  for (let round = 0; round <= site.rounds(ROUNDS); round++)
    for (const [i, {command}] of contenders.entries()) {
      const dir = join(await disk.fresh(), 'store');
      mkdirSync(dir);
      if (i === 1) mkdirSync(join(dir, 'journal'));
      const crowd = await gather(members.map((name) => command(dir, name)));
      if (crowd.waits.length !== processes * changes)
        throw new Error(`${crowd.waits.length} changes were made instead of ${processes * changes}`);
      if (round > 0) crowds[i]!.push(crowd);
    }
  const results = (of: (crowd: Crowd) => number): Result[] => contenders.map(({name}, i) => ({name, times: crowds[i]!.map(of)}));
  const title = `${processes} processes × ${changes} changes`;
  const total = results(({total}) => total);
  const worst = results(({waits}) => Math.max(...waits));
  return {
    tables: [
      {title: `${title}, all of it`, results: total},
      {title: `${title}, median wait for the lock`, results: results(({waits}) => median(waits))},
      {title: `${title}, longest wait for the lock`, results: worst},
    ],
    goals: [
      atMost(`${title}, over the same under flock`, OVER_FLOCK, '×', ratios(total[0]!, total[1]!)),
      atMost(`${title}, longest wait for the lock`, WORST_WAIT_MS, 'ms', [Math.max(...worst[0]!.times)]),
    ],
  };
}
