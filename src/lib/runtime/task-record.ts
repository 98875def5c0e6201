/**
 * What is known of a task: the process of a container, while it runs and after it has ended.
 *
 * `task.json` in a run's directory (run-directory.ts) says how it was started; it is written before the runtime starts. The rest is read from what
 * others keep: conmon the exit status, the runtime the state, the kernel whether processes live. All of it ends with the boot.
 */
import {existsSync, readFileSync, statSync, writeFileSync} from 'node:fs';
import {join} from 'node:path';
import {ErrdefsError} from '../errdefs.ts';
import {readIfPresent} from '../fs/durable.ts';
import type {Spec} from './spec.ts';

/** Where a task's standard streams lead. */
export interface TaskIO {
  /** `inherit`: to the process that started it. `log`: to conmon, which writes the log. `none`: to conmon, which keeps nothing. */
  readonly kind: 'inherit' | 'log' | 'none';
  /** The container has a terminal. */
  readonly terminal: boolean;
  /** Standard input is open for `attach`. */
  readonly stdin: boolean;
  /** Absolute path of the log, if the caller has named one. */
  readonly logFile?: string;
  /** Bytes after which conmon begins the log anew. */
  readonly maxLogSize?: number;
}

export interface TaskRecord {
  readonly version: 1;
  /** RFC 3339, UTC. */
  readonly createdAt: string;
  readonly runtime: {readonly name: string; readonly path: string};
  readonly cgroupsPath: string;
  readonly io: TaskIO;
  /** The container and its snapshot are removed when it ends. */
  readonly removeOnExit: boolean;
  /** Of the specification: what an exec starts from. */
  readonly process: Spec['process'];
}

const RECORD = 'task.json';
/** Name of the output of a detached task. */
const LOG = 'container.log';

/** @param run a run's directory */
export function writeTaskRecord(run: string, record: TaskRecord): void {
  writeFileSync(join(run, RECORD), JSON.stringify(record), {mode: 0o600});
}

/** @returns `undefined` if there is none that can be read: a command was killed while it wrote it, or the file is damaged */
export function readTaskRecord(run: string): TaskRecord | undefined {
  let text: string;
  try {
    text = readFileSync(join(run, RECORD), 'utf8');
  } catch (err) {
    if ((err as NodeJS.ErrnoException).code === undefined) throw err;
    return undefined;
  }
  try {
    const record = JSON.parse(text) as TaskRecord | null;
    const isWhole = record?.version === 1 && typeof record.runtime?.path === 'string' && typeof record.io?.kind === 'string';
    return isWhole ? record : undefined;
  } catch {
    return undefined;
  }
}

/** Files of a run's directory that outlive the container. */
export const taskFiles = (run: string, id: string) =>
  ({
    initPid: join(run, 'init.pid'),
    exitDirectory: join(run, 'exits'),
    exit: join(run, 'exits', id),
    log: join(run, LOG),
    runtimeLog: join(run, 'log.json'),
    oom: join(run, 'oom'),
    /** Made when a checkpoint ends the container. */
    checkpointed: join(run, 'checkpointed'),
    /** Made when the runtime has started the container; its time is that of the start. */
    started: join(run, 'started'),
  }) as const;

export interface TaskEnd {
  readonly exitStatus: number;
  readonly exitedAt: Date;
}

/** The end that conmon has recorded; `undefined` before that, and when nobody was there to record it. */
export function readTaskEnd(run: string, id: string): TaskEnd | undefined {
  const {exit} = taskFiles(run, id);
  const text = readIfPresent(exit)?.trim();
  const stat = statSync(exit, {throwIfNoEntry: false});
  // It is being written, or removed.
  if (text === undefined || text === '' || stat === undefined) return undefined;
  if (!/^\d{1,3}$/.test(text)) throw new ErrdefsError('data_loss', `exit status ${JSON.stringify(text)} in ${exit} is not a number`);
  return {exitStatus: Number(text), exitedAt: stat.mtime};
}

/** Whether the runtime has made the container: from then on there is a task. */
export const hasBeenCreated = (run: string): boolean => existsSync(join(run, 'init.pid'));
