/** Parses --mount of the `run` command. */
import type {MountSpec} from '../lib/client/types/index.ts';
import {ErrdefsError} from '../lib/errdefs.ts';

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
      throw new ErrdefsError('invalid_argument', `mount ${JSON.stringify(text)}: unknown option ${JSON.stringify(key)}`, {
        hint: 'write it like type=bind,src=DIR,dst=DIR,options=rbind:ro',
      });
    fields[KEYS[key as keyof typeof KEYS]] = word.slice(equals + 1);
  }
  const {type = 'bind', source = '', destination, options} = fields;
  if (destination === undefined) throw new ErrdefsError('invalid_argument', `mount ${JSON.stringify(text)} has no destination`);
  return {type, source, destination, options: options === undefined ? [] : options.split(':')};
}
