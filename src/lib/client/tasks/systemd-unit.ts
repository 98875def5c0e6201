/** A unit of systemd that runs a container: what restarts containers, starts them at boot and keeps their output, without a daemon of berth's. */
import {ErrdefsError} from '../../errdefs.ts';
import type {Context} from '../context.ts';
import {missingSpecification} from '../missing-specification.ts';
import {notFoundIn} from '../not-found.ts';
import type {SystemdUnit, SystemdUnitOptions} from '../types/index.ts';
import {berthCommand} from './launch.ts';
import {stopTimeoutOf} from './stop-signal.ts';

/** Time for berth itself, before systemd kills it. */
const MORE_MS = 10_000;

/** A word of a command line or of a list of paths; see systemd.service(5), systemd.syntax(7). */
export function systemdWord(text: string, {isCommand}: {readonly isCommand: boolean}): string {
  const specified = text.replaceAll('%', '%%');
  const literal = isCommand ? specified.replaceAll('$', '$$$$') : specified;
  if (/^[\w@%+=:,./$-]+$/.test(literal)) return literal;
  const escapes: Readonly<Record<string, string>> = {'\n': '\\n', '\t': '\\t', '"': '\\"', '\\': '\\\\'};
  return `"${literal.replaceAll(/[\n\t"\\]/g, (character) => escapes[character]!)}"`;
}

/**
 * @throws not_found no such container
 * @throws failed_precondition it has no specification, or it is not known how to start berth
 */
export async function systemdUnit(
  context: Context,
  namespace: string,
  id: string,
  {restart = 'on-failure'}: SystemdUnitOptions,
): Promise<SystemdUnit> {
  const {store} = context;
  const record = store.view((tx) => tx.namespace(namespace).containers.find(id));
  if (record === undefined) throw notFoundIn(store, namespace, 'container', id, (ns) => ns.containers.find(id) !== undefined);
  if (record.spec === null) throw await missingSpecification(context, namespace, record);
  if ((record.spec as {process?: {terminal?: boolean}}).process?.terminal === true)
    throw new ErrdefsError('failed_precondition', `container ${JSON.stringify(id)} has a terminal, and a unit has none`, {
      hint: 'make it again without --tty',
    });
  const program = berthCommand(context);
  if (program === undefined)
    throw new ErrdefsError('failed_precondition', 'it is not known how to start berth', {hint: 'give openClient the option "program"'});
  const {root} = store.layout;
  const command = (...words: readonly string[]): string =>
    [...program, '--root', root, '--state', context.stateDir, '-n', namespace, ...words, id]
      .map((word) => systemdWord(word, {isCommand: true}))
      .join(' ');
  const lines = [
    '[Unit]',
    `Description=Container ${id} of namespace ${namespace}`,
    'Wants=network-online.target',
    'After=network-online.target',
    `RequiresMountsFor=${systemdWord(root, {isCommand: false})}`,
    '',
    '[Service]',
    'Type=exec',
    // A container that ended by itself has no task to stop, and a task that a killed command has left would hold its name.
    `ExecStartPre=-${command('tasks', 'rm', '--force')}`,
    `ExecStart=${command('tasks', 'start', '--split-cgroup')}`,
    `ExecStop=-${command('tasks', 'stop')}`,
    `ExecStopPost=-${command('tasks', 'rm', '--force')}`,
    `Restart=${restart}`,
    // SIGTERM is how it is asked to end, and SIGKILL ends one that does not listen. Killed by others, or for want of memory, it starts again.
    ...(restart === 'no' ? ['SuccessExitStatus=143'] : ['SuccessExitStatus=143 137', 'RestartForceExitStatus=137']),
    // The container's control group is below the unit's: it is seen, counted and limited as the unit's, and ends with it.
    'Delegate=yes',
    'KillMode=mixed',
    `TimeoutStopSec=${Math.ceil((stopTimeoutOf(record.labels) + MORE_MS) / 1000)}`,
    '',
    '[Install]',
    'WantedBy=multi-user.target',
    '',
  ];
  return {name: `berth-${namespace}-${id}.service`, text: lines.join('\n')};
}
