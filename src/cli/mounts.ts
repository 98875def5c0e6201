/** Flags of the commands that make a snapshot and tell how it is mounted. */
import * as Flags from '@oclif/core/flags';

export const MOUNT_FLAGS = {
  target: Flags.string({char: 't', helpValue: 'DIR', description: 'print a shell script that mounts it there'}),
  mounts: Flags.boolean({description: 'print the mounts as JSON'}),
};
