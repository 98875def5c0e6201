/** Tasks: the processes of containers. */
import type {Readable, Writable} from 'node:stream';
import type {CallOptions} from './common.ts';
import type {TaskNetwork} from './networks.ts';

/** Standard streams of a process: the caller's own, or a file descriptor or /dev/null for each. */
export type StandardStreams = 'inherit' | readonly [stdin: number | 'ignore', stdout: number | 'ignore', stderr: number | 'ignore'];

/** Options of a call that gives the streams of its process instead of waiting for its end. */
export type Piped<T> = Omit<T, 'detach' | 'detachKeys' | 'pidFile' | 'sigProxy' | 'stdin' | 'stdio' | 'tty'> & {readonly stdio: 'pipe'};

/**
 * A process whose streams the caller reads and writes. It waits while its output is not read, as one that writes to a pipe does: read both,
 * or let what is not wanted flow by `resume()`. Output that is destroyed cannot be written to any more. Signals of the caller's process are
 * not passed on; `signal` kills it.
 */
export interface PipedProcess<R> {
  /** Its end is passed on. No error of it is thrown when the process has ended before. */
  readonly stdin: Writable;
  readonly stdout: Readable;
  readonly stderr: Readable;
  /** How it ended, once its output has been read or destroyed. Rejects as the call does without streams. */
  readonly ended: Promise<R>;
}

/**
 * `created`: made and not started. `paused`: frozen. `stopped`: ended, and kept until it is deleted. `unknown`: the runtime cannot tell.
 */
export type TaskStatus = 'created' | 'running' | 'paused' | 'stopped' | 'unknown';

/** A container's process, living or ended. */
export interface Task {
  /** Of the container. */
  readonly id: string;
  readonly status: TaskStatus;
  /** The host's pid of its first process; 0 once it has ended. */
  readonly pid: number;
  /** Whether it outlives the command that started it. */
  readonly detached: boolean;
  /** 128+n when signal n ended it. Absent while it runs, and when nobody was there to record it. */
  readonly exitStatus?: number;
  /** The kernel ended it, or a part of it, for want of memory. */
  readonly oomKilled?: boolean;
  /** A checkpoint ended it: `containers.restore` lets it go on. */
  readonly checkpointed?: boolean;
  /** Absent without one of its own. */
  readonly network?: TaskNetwork;
  /** Times: RFC 3339, UTC. */
  readonly createdAt?: string;
  readonly startedAt?: string;
  readonly exitedAt?: string;
}

/** How a task that has ended did so. */
export interface TaskExit {
  readonly id: string;
  /** 255 if `known` is false, as in containerd. */
  readonly exitStatus: number;
  /** False when the command or the conmon that would have recorded the status was killed. */
  readonly known: boolean;
}

/** How a task is started. */
export interface TaskStartOptions {
  /** Leaves the task running under conmon. Else the call ends with the task. */
  readonly detach?: boolean;
  /** Gets the host's pid of the container's first process. */
  readonly pidFile?: string;
  /** Keeps what a detached task reads open, for `attach`. Default: only with a terminal; else it reads /dev/null. */
  readonly stdin?: boolean;
  /** Leaves the old root by MS_MOVE and chroot, for a host whose own root is a ramdisk. */
  readonly noPivot?: boolean;
  /** Keeps no output; for a detached task without a terminal. */
  readonly nullIO?: boolean;
  /**
   * Absolute path of a detached task's log, which is not removed with the task. A file that is there is appended to. Each line has time, stream and `F`, or
   * `P` for a part of a line, before the text, as Kubernetes has it.
   */
  readonly logFile?: string;
  /** Bytes after which a detached task's log begins anew. Default 64 MiB; with `logFile`, none. */
  readonly maxLogSize?: number;
  /**
   * Puts the container's control group below that of this process, as for a unit of systemd with `Delegate=yes`; in version 2 this process moves to
   * a group `supervisor` there.
   */
  readonly splitCgroup?: boolean;
  /** Of a task that is not detached. Default: the caller's. */
  readonly stdio?: StandardStreams;
  readonly signal?: AbortSignal;
}

/** A container's first process, with streams. */
export interface PipedTask extends PipedProcess<RunResult> {
  /** Of the container. */
  readonly id: string;
}

/** How a container is stopped before it starts again. */
export interface RestartOptions {
  /** Time to end by itself. Default: the container's, else 10 000. */
  readonly timeoutMs?: number;
  readonly signal?: AbortSignal;
}

/** Result of `run`. */
export interface RunResult {
  readonly id: string;
  /** Of the container; 128+n when signal n ended it. 0 if it was left running. */
  readonly exitStatus: number;
  /** The host's pid of its first process, if it was left running. */
  readonly pid?: number;
}

/** A further process of a container. What is not given is as for the container's own. */
export interface ExecOptions {
  /** An identifier of containerd's kind; default: one is made up. */
  readonly execId?: string;
  /** Absolute path in the container. */
  readonly cwd?: string;
  /** `KEY=VALUE`, or a bare key to remove it. */
  readonly env?: readonly string[];
  /** `user`, `uid`, `user:group` or `uid:gid`, with the container's own files of users. */
  readonly user?: string;
  /** Kills it. */
  readonly signal?: AbortSignal;
}

/** How an exec is started, and what it is connected to. */
export interface ExecStartOptions extends ExecOptions {
  /** It has a terminal of its own, connected to the one among `stdio`. */
  readonly tty?: boolean;
  /** Leaves it running, without input and output; nobody records its exit status. */
  readonly detach?: boolean;
  /** Gets the host's pid; with `detach`. */
  readonly pidFile?: string;
  /** Default: the caller's. */
  readonly stdio?: StandardStreams;
}

/** How an exec ended, or that it was left running. */
export interface ExecResult {
  /** Of the container. */
  readonly id: string;
  readonly execId: string;
  /** 128+n when signal n ended it. 0 if it was left running. */
  readonly exitStatus: number;
  /** On the host, if it was left running. */
  readonly pid?: number;
}

/** A further process of a container, with streams. */
export interface ExecProcess extends PipedProcess<ExecResult> {
  /** Of the container. */
  readonly id: string;
  readonly execId: string;
}

/** How the caller's streams are connected to a task. */
export interface TaskAttachOptions {
  /** Passes on what is typed, to a task that reads. Default true. */
  readonly stdin?: boolean;
  /**
   * Keys that detach, typed at a terminal that the task's has taken over: characters, or `ctrl-` and one, separated by commas. Default
   * `ctrl-p,ctrl-q`; empty: none.
   */
  readonly detachKeys?: string;
  /** Passes signals on to a task, but from a terminal that the task's has taken over. Default true. Else they detach. */
  readonly sigProxy?: boolean;
  /** Default: the caller's. */
  readonly stdio?: 'inherit';
  readonly signal?: AbortSignal;
}

/** How an attach ended. */
export interface TaskAttachResult {
  readonly id: string;
  /** Of the task; 255 if nobody has recorded it. If it was left running: 0, or 128+n after signal n. */
  readonly exitStatus: number;
  /** It was left running. */
  readonly detached: boolean;
}

/** A task whose streams the caller reads and writes, while it is connected. */
export interface AttachedTask {
  readonly id: string;
  /** The task has a terminal: then all output is on `stdout`. */
  readonly terminal: boolean;
  /** Reaches a task that was started with `stdin` or a terminal. Its end does not: others may attach later. */
  readonly stdin: Writable;
  /** From the connection on. One of both that is not read holds the other back, and in the end the task. */
  readonly stdout: Readable;
  readonly stderr: Readable;
  /** Sets the size of the task's terminal, in characters, at most 1000. */
  resize(size: {readonly height: number; readonly width: number}): void;
  /** Leaves the task running. What was written to `stdin` before reaches it. */
  detach(): void;
  /** Rejects with unavailable if conmon was killed, and with canceled if `signal` was aborted. */
  readonly ended: Promise<TaskAttachResult>;
}

/** Which part of a log to read. */
export interface LogOptions {
  /** Goes on until the task ends. */
  readonly follow?: boolean;
  /** RFC 3339; entries from then on. */
  readonly since?: string;
  /** RFC 3339; entries before. */
  readonly until?: string;
  /** The last lines only. */
  readonly tail?: number;
  readonly signal?: AbortSignal;
}

/** A line that a container wrote, or a part of one. */
export interface LogEntry {
  /** RFC 3339, with nanoseconds. */
  readonly time: string;
  readonly stream: 'stdout' | 'stderr';
  /** With its newline, if it is the end of a line. */
  readonly data: Buffer;
}

/** What the kernel has counted for a container. */
export interface TaskMetrics {
  readonly id: string;
  /** RFC 3339, UTC. */
  readonly timestamp: string;
  readonly cgroupVersion: 1 | 2;
  /** By ctr's names, in the kernel's units; a list has one value for each processor. */
  readonly metrics: Readonly<Record<string, number | readonly number[]>>;
}

/** What a container uses now. */
export interface TaskStats {
  readonly id: string;
  /** Processors kept busy: 0.5 is half of one. */
  readonly cpu: number;
  /** Bytes, without the inactive part of the page cache. */
  readonly memory: number;
  /** Bytes: its limit, or the machine's memory. */
  readonly memoryLimit: number;
  /** Processes and threads. */
  readonly pids: number;
}

/** A process of a container. */
export interface TaskProcess {
  /** On the host. */
  readonly pid: number;
  /** Absent for a process that no exec started. */
  readonly execId?: string;
  /** Its arguments; empty if it has ended. */
  readonly command: readonly string[];
}

/** Tasks of one namespace. */
export interface TasksClient {
  list(): Promise<readonly Task[]>;
  /** @throws not_found the container has no task */
  get(id: string): Promise<Task>;
  /**
   * Starts a container that has no task.
   *
   * @returns the exit status; or, detached, the host's pid of its first process
   * @throws already_exists it has a task
   */
  start(id: string, options: Piped<TaskStartOptions>): Promise<PipedTask>;
  start(id: string, options?: TaskStartOptions): Promise<RunResult>;
  /**
   * Starts a container in the background, in place of a task that has ended and with its streams. One that runs stays.
   *
   * @throws failed_precondition it is paused
   */
  startDetached(id: string, options?: {readonly signal?: AbortSignal}): Promise<RunResult>;
  /**
   * As `startDetached`, but stops one that runs.
   *
   * @throws failed_precondition it is removed when it ends
   */
  restart(id: string, options?: RestartOptions): Promise<RunResult>;
  /**
   * Sends a signal once.
   *
   * @param options.signal name or number; default: the container's stop signal, else SIGTERM
   * @param options.all to all processes of the container
   * @param options.execId to the process of this exec; then the default is SIGTERM
   * @throws not_found there is no task or exec, or it has ended
   */
  kill(id: string, options?: {readonly signal?: string; readonly all?: boolean; readonly execId?: string}): Promise<void>;
  /**
   * Asks a task to end, by its stop signal, and ends it when it does not.
   *
   * @param options.timeoutMs time to end by itself. Default 10 000
   */
  stop(id: string, options?: {readonly timeoutMs?: number; readonly signal?: AbortSignal}): Promise<TaskExit>;
  /** Waits for a task's end. */
  wait(id: string, options?: {readonly signal?: AbortSignal}): Promise<TaskExit>;
  /**
   * Removes a task that has ended; the container stays.
   *
   * @param options.force ends it first
   * @throws failed_precondition it has not ended
   */
  delete(id: string, options?: CallOptions & {readonly force?: boolean}): Promise<TaskExit>;
  /**
   * Runs one more process in a running container, with its capabilities, limits and filter of system calls. Signals are passed on.
   *
   * @throws errors with `details.runExit`: 125, 126 (not executable) or 127 (no such command)
   * @throws failed_precondition the container does not run, or is paused
   * @throws already_exists an exec of that identifier runs
   */
  exec(id: string, args: readonly string[], options: Piped<ExecStartOptions>): Promise<ExecProcess>;
  exec(id: string, args: readonly string[], options?: ExecStartOptions): Promise<ExecResult>;
  /**
   * Connects the caller's standard streams to a detached task, until it ends or is left. With a terminal on both sides, the caller's is raw
   * meanwhile, and the task's follows its size.
   *
   * @throws failed_precondition it is stopped or paused, or a command in the foreground has its streams; or perl is not installed
   * @throws unavailable conmon, which has its streams, was killed
   */
  attach(id: string, options: Piped<TaskAttachOptions>): Promise<AttachedTask>;
  attach(id: string, options?: TaskAttachOptions): Promise<TaskAttachResult>;
  /**
   * What a detached task has written, oldest first; also after its end. With a limit of its size, it begins where the log was begun anew; a
   * reader that follows misses nothing unless that happens twice between two of its looks, every 50 ms.
   *
   * @throws failed_precondition no log is kept of it
   */
  logs(id: string, options?: LogOptions): Promise<AsyncIterable<LogEntry>>;
  /** @throws failed_precondition it does not run */
  metrics(id: string): Promise<TaskMetrics>;
  /**
   * What tasks use, measured over half a second.
   *
   * @param ids default: all that have not ended
   */
  stats(ids?: readonly string[], options?: {readonly signal?: AbortSignal}): Promise<readonly TaskStats[]>;
  /** Processes of a container, sorted by pid. @throws failed_precondition it does not run */
  ps(id: string): Promise<readonly TaskProcess[]>;
  /** Freezes all processes of a container. @throws failed_precondition it does not run */
  pause(id: string): Promise<void>;
  /** Lets a paused container go on. @throws failed_precondition it is not paused */
  resume(id: string): Promise<void>;
  /** Finishes what the end of a detached task leaves to be done. conmon calls it; it may be called at any time, by anybody. */
  settle(id: string): Promise<void>;
}
