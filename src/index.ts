/** Entry point of the library. */
export {openClient} from './lib/client/index.ts';
export type * from './lib/client/types/index.ts';
export {type Code, codeOf, ErrdefsError, type ErrorJSON, exitStatus, hasCode, isErrdefs, toJSON} from './lib/errdefs.ts';
