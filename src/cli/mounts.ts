/** Mounts as commands for a shell. */
import * as Flags from '@oclif/core/flags';
import type {Mount} from '../lib/client/types.ts';

export const MOUNT_FLAGS = {
  target: Flags.string({char: 't', helpValue: 'DIR', description: 'print the commands that mount it there'}),
  mounts: Flags.boolean({description: 'print the mounts as JSON'}),
};

/** A word for a POSIX shell. */
const quote = (word: string): string => (/^[\w@%+=:,./-]+$/.test(word) ? word : `'${word.replaceAll("'", `'\\''`)}'`);

export const mountCommands = (mounts: readonly Mount[], target: string): string[] =>
  mounts.map(({type, source, options}) =>
    ['mount', '-t', type, source, target, ...(options.length === 0 ? [] : ['-o', options.join(',')])].map(quote).join(' '),
  );
