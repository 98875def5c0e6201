/** Reads the log of events. */
import {setTimeout as delay} from 'node:timers/promises';
import {fromErrno} from '../../errdefs.ts';
import {parseFilters} from '../../store/filters.ts';
import type {Context} from '../context.ts';
import {EventReader} from '../event-log.ts';
import type {BerthEvent, EventsOptions} from '../types/index.ts';

/** The log is looked at so often: files tell nobody of what is appended on every filesystem. */
const POLL_MS = 100;

export async function readEvents(context: Context, options: EventsOptions): Promise<AsyncIterable<BerthEvent>> {
  const {filters = [], follow = false, since, signal} = options;
  const matches = filters.length === 0 ? () => true : await parseFilters(filters);
  const from = since?.getTime() ?? Number.NEGATIVE_INFINITY;
  const shows = (event: BerthEvent): boolean => Date.parse(event.timestamp) >= from && matches((path) => fieldOf(event, path));
  const reader = new EventReader(context.stateDir);
  return (async function* events() {
    for (;;) {
      let found: readonly BerthEvent[];
      try {
        found = reader.read();
      } catch (err) {
        throw fromErrno(err, 'log of events');
      }
      yield* found.filter(shows);
      if (!follow || signal?.aborted) return;
      // An abort ends the list; it is no failure.
      await delay(POLL_MS, undefined, signal === undefined ? {} : {signal}).catch(() => {});
      if (signal?.aborted) return;
    }
  })();
}

/** Value of a field for filters: numbers and truth values as text, a map's key as the rest of the path. */
function fieldOf(event: BerthEvent, path: readonly string[]): string | undefined {
  let value: unknown = event;
  for (const [i, name] of path.entries()) {
    if (typeof value !== 'object' || value === null) return undefined;
    const rest = path.slice(i).join('.');
    if (i > 1 && Object.hasOwn(value, rest)) {
      value = (value as Record<string, unknown>)[rest];
      break;
    }
    value = Object.hasOwn(value, name) ? (value as Record<string, unknown>)[name] : undefined;
  }
  return typeof value === 'string' || typeof value === 'number' || typeof value === 'boolean' ? String(value) : undefined;
}
