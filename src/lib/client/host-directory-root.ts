/** The root of a container that has no snapshot. */
import type {Mount} from '../runtime/mount-plan.ts';

/** A directory of the host as it is: what the container changes there stays, and nothing of it belongs to the store. */
export const directoryMounts = (directory: string): readonly Mount[] => [{type: 'bind', source: directory, options: ['rbind']}];
