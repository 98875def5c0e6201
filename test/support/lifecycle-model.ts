/**
 * What commands do to a container, as a model: the code of their result and the state that they leave, from every state; and what may come
 * of it when one of their processes is killed on the way.
 */
import type {Code} from '../../src/lib/errdefs.ts';

/**
 * `unfinished`: a record without specification, of a command that was killed. `abandoned`: the record of a `run --rm` that was killed.
 * `made`: a container without task. `waiting`: conmon has made the task, nobody has started it.
 */
export const STATES = ['absent', 'unfinished', 'abandoned', 'made', 'waiting', 'running', 'paused', 'stopped'] as const;
export type State = (typeof STATES)[number];

/** How a task was started: detached, detached with `--rm`, or in the foreground of a command. */
export type Kind = 'plain' | 'rm' | 'foreground';

export const COMMANDS = [
  'create',
  'run',
  'run --rm',
  'run in the foreground',
  'start',
  'stop',
  'kill',
  'tasks rm',
  'tasks rm --force',
  'containers rm',
  'exec',
  'pause',
  'resume',
  'commit',
  'its own end',
] as const;
export type Command = (typeof COMMANDS)[number];

export interface Outcome {
  /** Of the error; absent for success. */
  readonly code?: Code;
  readonly state: State;
}

const LIVING: readonly State[] = ['waiting', 'running', 'paused'];
const isLiving = (state: State): boolean => LIVING.includes(state);
const hasTask = (state: State): boolean => isLiving(state) || state === 'stopped';

/** What is left of a task that has ended, once whoever settles it has done so. */
export const endOf = (kind: Kind): State => (({plain: 'stopped', rm: 'absent', foreground: 'made'}) as const)[kind];
/** What is left of a task that was removed. */
const removed = (kind: Kind): State => (kind === 'rm' ? 'absent' : 'made');

/** What a command does that nobody disturbs. */
export function outcome(command: Command, state: State, kind: Kind): Outcome {
  const fails = (code: Code): Outcome => ({code, state});
  const becomes = (next: State): Outcome => ({state: next});
  const needsTask = (then: () => Outcome): Outcome => (hasTask(state) ? then() : fails('not_found'));
  switch (command) {
    case 'create':
    case 'run':
    case 'run --rm':
    case 'run in the foreground':
      // What a killed `run --rm` left is nobody's.
      if (state !== 'absent' && state !== 'abandoned') return fails('already_exists');
      return becomes(command === 'create' ? 'made' : 'running');
    case 'start':
      if (state === 'absent') return fails('not_found');
      if (state === 'unfinished' || state === 'abandoned') return fails('failed_precondition');
      // What a killed start left is taken over.
      return hasTask(state) && !(state === 'waiting' && kind === 'plain') ? fails('already_exists') : becomes('running');
    case 'stop':
      return needsTask(() => becomes(isLiving(state) ? endOf(kind) : state));
    case 'kill':
      return needsTask(() => (isLiving(state) ? becomes(endOf(kind)) : fails('not_found')));
    case 'tasks rm':
      return needsTask(() => (isLiving(state) ? fails('failed_precondition') : becomes(removed(kind))));
    case 'tasks rm --force':
      return becomes(hasTask(state) ? removed(kind) : state);
    case 'containers rm':
      if (state === 'absent') return fails('not_found');
      return isLiving(state) ? fails('failed_precondition') : becomes('absent');
    case 'exec':
      return needsTask(() => (state === 'running' ? becomes(state) : fails('failed_precondition')));
    case 'pause':
      return needsTask(() => (state === 'running' ? becomes('paused') : fails('failed_precondition')));
    case 'resume':
      return needsTask(() => (state === 'paused' ? becomes('running') : fails('failed_precondition')));
    case 'commit':
      return state === 'absent' ? fails('not_found') : becomes(state);
    case 'its own end':
      return becomes(state === 'running' ? endOf(kind) : state);
  }
}

/** States between that from which a command begins and that to which it leads: a kill may leave them. */
const BETWEEN: Readonly<Partial<Record<Command, readonly State[]>>> = {
  create: ['unfinished'],
  run: ['unfinished', 'made', 'waiting'],
  'run --rm': ['abandoned', 'waiting'],
  'run in the foreground': ['unfinished', 'made', 'waiting'],
  start: ['waiting', 'made'],
  'tasks rm --force': ['stopped'],
  // The task of one that has ended goes before its record.
  'containers rm': ['made'],
};

/** Who is killed: a process of the command, or one that stays. */
export const VICTIMS = ['command', 'conmon', 'runtime', 'container', 'settle'] as const;
export type Victim = (typeof VICTIMS)[number];

/**
 * States in which a command may leave a container when processes were killed meanwhile.
 *
 * @param code of its result
 * @param isOrphaned the task's conmon was killed before
 */
export function statesAfter(
  command: Command,
  before: State,
  kind: Kind,
  killed: ReadonlySet<Victim>,
  code: Code | 'killed' | undefined,
  isOrphaned: boolean,
): ReadonlySet<State> {
  const {state: after, code: expected} = outcome(command, before, kind);
  const possible = new Set<State>([after]);
  // What is frozen is thawed first, to hear the signal.
  const thaws = before === 'paused' && (command === 'stop' || command === 'tasks rm --force');
  if (thaws && code !== undefined) possible.add('running');
  // What a killed `run --rm` left is removed first.
  if (before === 'abandoned' && code !== undefined && after !== before) possible.add('absent');
  // What succeeded was done; what failed was perhaps begun.
  if (code !== undefined || expected !== undefined) for (const state of [before, ...(BETWEEN[command] ?? [])]) possible.add(state);
  // Its first process is the runtime's until it starts.
  if (['container', 'runtime', 'conmon'].some((victim) => killed.has(victim as Victim)))
    for (const state of [...possible]) if (isLiving(state)) possible.add(endOf(kind));
  // What is frozen gets its signal when it is thawed, which not every version of runc does for SIGKILL.
  if (command === 'kill' && before === 'paused') possible.add('paused');
  // Nobody is left to remove what --rm promised: the next that cleans up does.
  if (kind === 'rm' && (killed.size > 0 || isOrphaned) && (possible.has('absent') || possible.has('running'))) possible.add('abandoned');
  return possible;
}
