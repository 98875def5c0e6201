/**
 * Checkpoints and their restoration, of which one process is killed: our command, the shell that it leaves the dump to, conmon, the runtime, criu.
 * The moments are those at which criu has written so many files, or opened so many. Afterwards the container has counted every number.
 */
import assert from 'node:assert/strict';
import {type ChildProcess, spawn} from 'node:child_process';
import {once} from 'node:events';
import {existsSync, readdirSync, readFileSync} from 'node:fs';
import {join} from 'node:path';
import {describe, it} from 'node:test';
import {hasCode} from '../../../src/lib/errdefs.ts';
import {TORTURE} from '../../support/helpers.ts';
import {checkStore} from '../../support/invariants.ts';
import {cgroupsOf, conmonsOf, requiresCriu, type TaskRig, taskRig, until} from '../../support/tasks.ts';
import type {CheckpointRequest} from './checkpoint-driver.ts';
import {assertCounted, counting, hasCheckpoint, logOf} from './counting-container.ts';

type Verb = CheckpointRequest['verb'];

const names = (path: string): readonly string[] => {
  try {
    return readdirSync(path);
  } catch {
    return [];
  }
};

const textOf = (path: string): string => {
  try {
    return readFileSync(path, 'utf8');
  } catch {
    return '';
  }
};

/** State, parent and session of a process; see proc_pid_stat(5). */
function statOf(pid: number): {readonly state: string; readonly parent: number; readonly session: number} | undefined {
  const fields = textOf(`/proc/${pid}/stat`).split(') ').at(-1)!.split(' ');
  return fields.length < 4 ? undefined : {state: fields[0]!, parent: Number(fields[1]), session: Number(fields[3])};
}

/** Processes that are one of `roots`, or come from one. */
function descendants(roots: readonly number[]): readonly number[] {
  const found = new Set<number>(roots);
  const all = names('/proc').filter((name) => /^\d+$/.test(name));
  for (let before = -1; before !== found.size; ) {
    before = found.size;
    for (const name of all) if (found.has(statOf(Number(name))?.parent ?? -1)) found.add(Number(name));
  }
  return [...found];
}

const VICTIMS = {
  checkpoint: ['command', 'shell', 'runc', 'criu'],
  restore: ['command', 'conmon', 'runc', 'criu'],
} as const satisfies Record<Verb, readonly string[]>;
type Victim = (typeof VICTIMS)[Verb][number];

/** How far a command has come: files that criu has written, or lines of its log. */
function progressOf(r: TaskRig, verb: Verb): number {
  if (verb === 'restore') {
    const log = textOf(join(r.state, 'runs', r.namespace, 'bundles', 'c', 'bundle', 'restore.log'));
    return log.split('\n').length - 1;
  }
  for (const name of names(join(r.root, 'work'))) {
    const work = join(r.root, 'work', name);
    const images = names(join(work, 'tree/images')).length;
    if (existsSync(join(work, 'log'))) return images;
  }
  return -1;
}

const commOf = (pid: number): string => textOf(`/proc/${pid}/comm`).trim();
/** Names of processes that do not outlive a dump or its restoration. */
const HELPERS = {checkpoint: ['sh', 'runc', 'criu'], restore: ['runc', 'criu']} as const satisfies Record<Verb, readonly string[]>;
const isHelper = (verb: Verb, pid: number): boolean => (HELPERS[verb] as readonly string[]).includes(commOf(pid));

/** The victim's pid; `undefined` where there is none just now. */
function find(command: number, victim: Victim): number | undefined {
  if (victim === 'command') return command;
  const comm = victim === 'shell' ? 'sh' : victim;
  return descendants([command]).find((pid) => commOf(pid) === comm && statOf(pid)?.state !== 'Z');
}

/** @returns whether it was there */
function kill(pid: number): boolean {
  try {
    return process.kill(pid, 'SIGKILL');
  } catch (err) {
    if ((err as NodeJS.ErrnoException).code === 'ESRCH') return false;
    throw err;
  }
}

describe('a process that is killed', () => {
  const drive = (r: TaskRig, verb: Verb): ChildProcess => {
    const {root, state, program, namespace} = r;
    const request: CheckpointRequest = {root, state, program, namespace, id: 'c', verb};
    const path = new URL('checkpoint-driver.ts', import.meta.url).pathname;
    return spawn(process.execPath, [path, JSON.stringify(request)], {stdio: ['ignore', 'ignore', 'pipe']});
  };
  const statusOf = async ({ns}: TaskRig): Promise<string> => (await ns.tasks.get('c')).status;

  for (const verb of ['checkpoint', 'restore'] as const)
    it(`in the middle leaves a container that goes on, or can be restored, and can be dumped again: ${verb}`, async (t) => {
      if (!requiresCriu(t)) return;
      const r = await taskRig(t);
      const {ns, client} = r;
      await counting(r, 'c');
      /** Brings the container to where the command begins. */
      const prepare = async (): Promise<void> => {
        const isRunning = (await statusOf(r)) === 'running';
        if (verb === 'checkpoint' && !isRunning) await ns.containers.restore('c');
        if (verb === 'restore' && isRunning) await ns.containers.checkpoint('c');
      };
      /** Of the last kill; their pids are not given anew so soon. */
      let helpers: readonly number[] = [];
      const attempt = async (victim: Victim | undefined, from: number): Promise<{last: number; isKilled: boolean}> => {
        await prepare();
        const child = drive(r, verb);
        let said = '';
        child.stderr!.setEncoding('utf8').on('data', (text: string) => (said += text));
        const exit = once(child, 'exit');
        let last = -1;
        let isKilled = false;
        helpers = [];
        while (child.exitCode === null && child.signalCode === null) {
          const at = progressOf(r, verb);
          last = Math.max(last, at);
          if (victim !== undefined && !isKilled && at >= from) {
            const pid = find(child.pid!, victim);
            if (pid !== undefined) {
              helpers = descendants([child.pid!]).filter((one) => isHelper(verb, one));
              isKilled = kill(pid);
            }
          }
          await new Promise(setImmediate);
        }
        await exit;
        assert.ok(child.exitCode !== 0 || !isKilled || victim !== 'command', said);
        if (victim === 'criu' && child.exitCode === 1) assert.match(said, /: (aborted|failed precondition)/);
        return {last, isKilled};
      };
      const {last} = await attempt(undefined, 0);
      assert.ok(last > 5, `${last}`);
      const moments = (v: number): readonly number[] =>
        TORTURE ? Array.from({length: 25}, (_, n) => Math.round((last * n) / 24) - 1) : [Math.round((last * (v + 0.5)) / 4)];
      for (const [v, victim] of VICTIMS[verb].entries())
        for (const from of moments(v)) {
          const {isKilled} = await attempt(victim, from);
          const when = `${verb}: ${victim} ${isKilled ? 'killed' : 'not met'} at ${from} of ${last}`;
          await until(
            () => `it has settled, ${when}: ${r.left().join('\n')}`,
            async () =>
              helpers.every((pid) => !isHelper(verb, pid)) &&
              r.left().every((line) => !/^\d+: /.test(line) || /^\d+: (?:\S*\/)?conmon /.test(line)) &&
              ['running', 'stopped'].includes(await statusOf(r)),
          );
          const status = await statusOf(r);
          if (victim === 'conmon' && status === 'running' && conmonsOf(r.state).length === 0) {
            // It had made the container, whose output nobody reads any more.
            await ns.containers.delete('c', {force: true});
            await counting(r, 'c');
            continue;
          }
          assert.ok(status === 'running' || (await hasCheckpoint(r, 'c')), `${status}, ${when}`);
          assertCounted(await logOf(r, 'c'), when);
          if (status !== 'running') await ns.containers.restore('c');
          const {length} = await logOf(r, 'c');
          await until(`it goes on, ${when}`, async () => (await logOf(r, 'c')).length > length + 3);
          assertCounted(await logOf(r, 'c'), when);
          assert.equal((await client.check()).damage, 0, when);
          await client.gc();
          assert.deepEqual(names(join(r.root, 'work')), [], when);
        }
      await prepare();
      await ns.containers.checkpoint('c').catch((err: unknown) => assert.ok(hasCode(err, 'failed_precondition')));
      await ns.containers.delete('c');
      await client.gc();
      await until(
        () => `nothing is left: ${r.left().join('\n')}`,
        () => r.left().length === 0,
      );
      assert.deepEqual(
        cgroupsOf(r.namespace).flatMap((path) => names(path).filter((name) => name.includes('~'))),
        [],
      );
      checkStore(r.root);
    });
});
