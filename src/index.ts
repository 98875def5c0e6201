/** Entry point of the library. */
export {openClient} from './lib/client/index.ts';
export type * from './lib/client/types/index.ts';
export {type Code, ErrdefsError, type ErrorJSON, exitStatus, is, isErrdefs, resolve, toJSON} from './lib/errdefs.ts';
