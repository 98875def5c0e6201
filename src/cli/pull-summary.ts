/** What the commands that pull share: progress, warnings, and the summary of several references. */
import type {PullOutcome, PullResult} from '../lib/client/types/index.ts';
import {type ErrorJSON, toJSON} from '../lib/errdefs.ts';
import type {Transferred} from './progress-totals.ts';

/** One reference of several, for `--json`. */
export type PulledJSON = ({readonly ref: string} & PullResult) | {readonly ref: string; readonly error: ErrorJSON};

export const pulledJSON = ({ref, result, error}: PullOutcome): PulledJSON =>
  error === undefined ? {ref, ...result} : {ref, error: toJSON(error)};

/** Sums up results, for the closing lines. @param elapsedMs of all together */
export const sumUp = (results: readonly PullResult[], elapsedMs: number): Transferred => ({
  elapsedMs,
  transferredBytes: results.reduce((sum, {transferredBytes}) => sum + transferredBytes, 0),
  unpacked: results.flatMap(({unpacked}) => unpacked),
});
