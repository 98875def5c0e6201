/** Chooses how progress is shown on standard error: bars on a terminal, lines in a log, JSON for programs, or nothing. */
import {isatty} from 'node:tty';
import type {ProgressEvent} from '../lib/client/types/index.ts';
import {ErrdefsError} from '../lib/errdefs.ts';
import type {Context} from './command-context.ts';
import {lines, type Printable} from './printable.ts';
import {JSONProgress, PlainProgress} from './progress-lines.ts';
import type {Progress} from './progress-totals.ts';

export type ProgressMode = 'auto' | 'tty' | 'plain' | 'json' | 'none';

interface ProgressOptions {
  readonly progress: ProgressMode;
  /** Standard error is read by programs. */
  readonly json: boolean;
  /** Standard error also has debug lines, over which bars would be drawn. */
  readonly debug: boolean;
}

/** @throws invalid_argument bars are requested, and standard error is not a terminal */
export async function openProgress({progress, json, debug}: ProgressOptions, context: Context): Promise<Progress> {
  const isTerminal = isatty(2);
  const auto = isTerminal && !debug && process.env.TERM !== 'dumb' ? 'tty' : json ? 'json' : 'plain';
  switch (progress === 'auto' ? auto : progress) {
    case 'tty':
      if (!isTerminal)
        throw new ErrdefsError('invalid_argument', '--progress tty: standard error is not a terminal', {
          hint: 'use --progress plain or json',
        });
      return (await import('./progress-bars.ts')).openBars(process.stderr);
    case 'plain':
      return new PlainProgress((line) => context.stderr(lines([line])));
    case 'json':
      return new JSONProgress((line) => context.stderr(`${line}\n` as Printable));
    case 'none':
      return {update: () => {}, finish: () => {}, close: () => {}};
  }
}

/** Shows the progress of one call. @throws as `openProgress`, and what the call throws */
export async function withProgress<T>(
  options: ProgressOptions,
  context: Context,
  call: (onEvent: (event: ProgressEvent) => void) => Promise<T>,
): Promise<T> {
  const progress = await openProgress(options, context);
  try {
    return await call((event) => progress.update(event));
  } finally {
    progress.close();
  }
}
