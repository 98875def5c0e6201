/** Parses --mount of the `run` command. */
import type {MountSpec} from '../lib/client/types/index.ts';
import {ErrdefsError} from '../lib/errdefs.ts';

const KEYS = {
  type: 'type',
  source: 'source',
  src: 'source',
  destination: 'destination',
  dst: 'destination',
  target: 'destination',
  options: 'options',
} as const;

/** Docker's words, which are options here. A function takes the word's value. */
const WORDS: Readonly<Record<string, string | ((value: string) => string)>> = {
  readonly: 'ro',
  ro: 'ro',
  'bind-nonrecursive': 'bind',
  'volume-nocopy': 'nocopy',
  'bind-propagation': (value) => value,
  'tmpfs-size': (value) => `size=${value}`,
  'tmpfs-mode': (value) => `mode=${value}`,
};

/** The option that a word stands for; undefined for none. */
function optionOf(key: string, value: string | undefined): string | undefined {
  const word = Object.hasOwn(WORDS, key) ? WORDS[key]! : undefined;
  if (typeof word === 'function') return value === undefined || value === '' ? undefined : word(value);
  return value === undefined || /^(true|1)$/.test(value) ? word : undefined;
}

/** Whether a word of docker's is switched off. */
const isOff = (key: string, value: string | undefined): boolean =>
  Object.hasOwn(WORDS, key) && typeof WORDS[key] === 'string' && /^(false|0)$/.test(value ?? '');

/**
 * A mount such as `type=bind,src=/a,dst=/b,options=rbind:ro`, or `type=bind,source=/a,target=/b,readonly`.
 *
 * @throws invalid_argument
 *
 * Syntax of ctr's --mount and of docker's.
 */
export function parseMount(text: string): MountSpec {
  const fields: {-readonly [K in (typeof KEYS)[keyof typeof KEYS]]?: string} = {};
  const options: string[] = [];
  for (const word of text.split(',')) {
    const equals = word.indexOf('=');
    const [key, value] = equals === -1 ? [word, undefined] : [word.slice(0, equals), word.slice(equals + 1)];
    const option = optionOf(key, value);
    if (isOff(key, value)) continue;
    if (option !== undefined) options.push(option);
    else if (value !== undefined && Object.hasOwn(KEYS, key)) fields[KEYS[key as keyof typeof KEYS]] = value;
    else
      throw new ErrdefsError('invalid_argument', `mount ${JSON.stringify(text)}: unknown option ${JSON.stringify(key)}`, {
        hint: 'write it like type=bind,src=DIR,dst=DIR,options=rbind:ro',
      });
  }
  const {type = 'bind', source = '', destination} = fields;
  if (destination === undefined) throw new ErrdefsError('invalid_argument', `mount ${JSON.stringify(text)} has no destination`);
  return {type, source, destination, options: [...(fields.options === undefined ? [] : fields.options.split(':')), ...options]};
}
