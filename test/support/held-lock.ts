/** Locks that another process holds. */
import {spawn} from 'node:child_process';
import {once} from 'node:events';
import {mkdirSync, readdirSync, renameSync, rmdirSync, rmSync, unlinkSync, writeFileSync} from 'node:fs';
import {basename, dirname, join} from 'node:path';
import {formatIdentity, identityOf} from '../../src/lib/fs/process.ts';
import {onEnd, type Scope} from './helpers.ts';

export interface OtherProcess {
  /** Takes the lock at a path. @returns gives it back; `undefined` when somebody has the lock */
  take(path: string): (() => void) | undefined;
}

let taken = 0;

/** A process that does nothing, in whose name locks are taken, at once and without a message to it. It ends with the scope. */
export function otherProcess(scope: Scope): OtherProcess {
  const child = spawn('sleep', ['3600'], {stdio: 'ignore'});
  const ended = once(child, 'exit');
  onEnd(scope, async () => {
    child.kill('SIGKILL');
    await ended;
  });
  return {
    take: (path) => {
      const name = `${formatIdentity(identityOf(child.pid!))}.${Date.now().toString(36)}${taken++}`;
      const ticket = join(dirname(path), `ticket-${name}`);
      mkdirSync(ticket, {recursive: true, mode: 0o700});
      writeFileSync(join(ticket, name), `${Date.now()} a test`, {mode: 0o600});
      try {
        renameSync(ticket, path);
      } catch {
        rmSync(ticket, {recursive: true});
        return undefined;
      }
      return () => {
        unlinkSync(join(path, name));
        try {
          rmdirSync(path);
        } catch {
          // One who waited has it.
        }
      };
    },
  };
}

/** Whether anybody waits for a lock, or a certain process. */
export const hasWaiters = (path: string, pid?: number): boolean =>
  readdirSync(dirname(path)).some((name) => name.startsWith(`${basename(path)}.${pid === undefined ? '' : `${pid}.`}`));
