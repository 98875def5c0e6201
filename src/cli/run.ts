/** Words of the `run` command. */
import type {MountSpec} from '../lib/client/types/index.ts';
import {ErrdefsError, isErrdefs} from '../lib/errdefs.ts';
import type {ForeignFlags} from './argv.ts';

/** Exit status when we fail, not the container. */
const OWN_FAILURE = 125;

/**
 * Exit status of a `run` that failed before there was a container's own: 126 or 127 where the library says so in the
 * detail `runExit` (the command cannot be executed, is not found), else 125.
 *
 * Numbers after docker run.
 */
export function runStatus(err: unknown): number {
  const status = isErrdefs(err) ? err.details?.runExit : undefined;
  return typeof status === 'number' ? status : OWN_FAILURE;
}

/** What docker's users ask for by its flags. */
export const DOCKER_FLAGS: ForeignFlags = {
  '-i': 'standard input is always connected',
  '--interactive': 'standard input is always connected',
  '-it': 'write -t: standard input is always connected',
  '-d': 'containers run in the foreground only',
  '--detach': 'containers run in the foreground only',
  '-v': 'write --mount type=bind,src=DIR,dst=DIR,options=rbind:rw',
  '--volume': 'write --mount type=bind,src=DIR,dst=DIR,options=rbind:rw',
  '-p': "ports are not published; --net-host gives the container the host's network",
  '--publish': "ports are not published; --net-host gives the container the host's network",
  '--net': "write --net-host for the host's network",
  '--network': "write --net-host for the host's network",
  '--name': 'the name is the second argument: run [FLAGS] IMAGE NAME [COMMAND...]',
  '-w': 'write --cwd DIR',
  '--workdir': 'write --cwd DIR',
  '-m': 'write --memory-limit SIZE',
  '--memory': 'write --memory-limit SIZE',
};

const KEYS = {type: 'type', source: 'source', src: 'source', destination: 'destination', dst: 'destination', options: 'options'} as const;

/**
 * A mount such as `type=bind,src=/a,dst=/b,options=rbind:ro`.
 *
 * @throws invalid_argument
 *
 * Syntax of ctr's --mount.
 */
export function parseMount(text: string): MountSpec {
  const fields: {-readonly [K in (typeof KEYS)[keyof typeof KEYS]]?: string} = {};
  for (const word of text.split(',')) {
    const equals = word.indexOf('=');
    const key = equals === -1 ? word : word.slice(0, equals);
    if (equals === -1 || !Object.hasOwn(KEYS, key))
      throw new ErrdefsError('invalid_argument', `mount ${JSON.stringify(text)}: option ${JSON.stringify(key)}`, {
        hint: 'write it like type=bind,src=DIR,dst=DIR,options=rbind:ro',
      });
    fields[KEYS[key as keyof typeof KEYS]] = word.slice(equals + 1);
  }
  const {type = 'bind', source = '', destination, options} = fields;
  if (destination === undefined) throw new ErrdefsError('invalid_argument', `mount ${JSON.stringify(text)} has no destination`);
  return {type, source, destination, options: options === undefined ? [] : options.split(':')};
}
