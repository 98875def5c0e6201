/** `tasks logs`: the output of detached tasks. */
import {ErrdefsError} from '../../errdefs.ts';
import {readLog} from '../../runtime/read-conmon-log.ts';
import {isClaimed} from '../../runtime/run-directory.ts';
import {taskFiles} from '../../runtime/task-record.ts';
import type {Context} from '../context.ts';
import {runDirectory} from '../running-containers.ts';
import type {LogEntry, LogOptions} from '../types/index.ts';
import {findTask} from './find-task.ts';

function timeOf(value: string | undefined, what: string): number | undefined {
  if (value === undefined) return undefined;
  const ms = Date.parse(value);
  if (Number.isNaN(ms)) throw new ErrdefsError('invalid_argument', `${what} ${JSON.stringify(value)} is not a time of RFC 3339`);
  return ms;
}

export async function taskLogs(context: Context, namespace: string, id: string, options: LogOptions): Promise<AsyncIterable<LogEntry>> {
  const {since, until, ...rest} = options;
  const times = {since: timeOf(since, 'since'), until: timeOf(until, 'until')};
  const {record, directory} = await findTask(context, namespace, id);
  if (record === undefined || record.io.kind !== 'log')
    throw new ErrdefsError('failed_precondition', `no log is kept of task ${JSON.stringify(id)}`, {
      hint:
        record?.io.kind === 'none'
          ? 'it was started with --null-io or --log-uri none'
          : 'its output went to the command that ran it: --detach keeps a log',
    });
  const stateDir = runDirectory(context, namespace);
  return readLog(record.io.logFile ?? taskFiles(directory, id).log, {
    ...rest,
    ...(times.since === undefined ? {} : {since: times.since}),
    ...(times.until === undefined ? {} : {until: times.until}),
    isLive: () => isClaimed(stateDir, id),
  });
}
