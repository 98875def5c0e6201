/** The base of commands that end with the status of a process in a container, or leave that process running: `run`, `tasks start`, `tasks exec`. */
import {isErrdefs} from '../lib/errdefs.ts';
import {BaseCommand} from './base-command.ts';
import {formatJSON, type Printable} from './printable.ts';

/** 128 and SIGSYS, which is what a program gets for system calls of an architecture that its filter does not know. */
const BAD_SYSTEM_CALL = 159;

/** Exit status of an error in berth itself, as of `docker run`. */
const OWN_FAILURE = 125;

interface ProcessResult {
  readonly exitStatus: number;
  /** Present if the process was left running. */
  readonly pid?: number;
}

export abstract class ProcessCommand extends BaseCommand {
  /** Standard output belongs to the process, unless it is left running. */
  protected override async printResult(result: unknown): Promise<void> {
    if ((result as ProcessResult).pid !== undefined) await super.printResult(result);
    else if (this.jsonErrors) this.context.stderr(`${formatJSON({result})}\n` as Printable);
  }

  /** 126 or 127 if the library says so in the detail `runExit`: the command cannot be executed, or is not found. */
  protected override statusOf(err: unknown): number {
    const status = isErrdefs(err) ? err.details?.runExit : undefined;
    return typeof status === 'number' ? status : OWN_FAILURE;
  }

  /** Takes over the exit status of the process, and prints the identifier of one that was left running. */
  protected conclude<T extends ProcessResult>(result: T, id: string): T {
    if (result.pid !== undefined) this.print(id);
    this.status = result.exitStatus;
    if (result.exitStatus === BAD_SYSTEM_CALL)
      this.warn(
        `status ${BAD_SYSTEM_CALL}: a system call ended the process, as it ends 32-bit programs in a 64-bit image`,
        'run the image of their platform, such as linux/386, or allow every call: --security-opt seccomp=unconfined',
      );
    return result;
  }
}
