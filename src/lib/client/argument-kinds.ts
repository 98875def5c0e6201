/** Kinds of arguments that methods of the library take: what they accept, and how an error names them. */

/** A kind of argument. */
export interface ArgumentKind {
  /** Such as `a string`. */
  readonly wants: string;
  readonly accepts: (value: unknown) => boolean;
  /** Which part of a value is wrong, if that can be told: `.signal must be …`. */
  readonly explain?: (value: unknown) => string | undefined;
}

export const isObject = (value: unknown): value is Record<string, unknown> => typeof value === 'object' && value !== null;
const isNumber = (value: unknown): value is number => typeof value === 'number' && Number.isFinite(value);

export const text: ArgumentKind = {wants: 'a string', accepts: (value) => typeof value === 'string'};
export const flag: ArgumentKind = {wants: 'true or false', accepts: (value) => typeof value === 'boolean'};
/** Milliseconds or bytes. */
export const amount: ArgumentKind = {wants: 'a number, 0 or above', accepts: (value) => isNumber(value) && value >= 0};
export const positive: ArgumentKind = {wants: 'a number above 0', accepts: (value) => isNumber(value) && value > 0};
export const count: ArgumentKind = {
  wants: 'a whole number above 0',
  accepts: (value) => Number.isSafeInteger(value) && (value as number) > 0,
};
export const callback: ArgumentKind = {wants: 'a function', accepts: (value) => typeof value === 'function'};
export const abortSignal: ArgumentKind = {
  wants: 'an AbortSignal',
  accepts: (value) => isObject(value) && typeof value.aborted === 'boolean' && typeof value.addEventListener === 'function',
};
export const labels: ArgumentKind = {
  wants: 'an object of strings',
  accepts: (value) => isObject(value) && !Array.isArray(value) && Object.values(value).every((inner) => typeof inner === 'string'),
};
export const date: ArgumentKind = {wants: 'a Date', accepts: (value) => value instanceof Date && !Number.isNaN(value.getTime())};
export const bytes: ArgumentKind = {
  wants: 'an async iterable of bytes',
  accepts: (value) => isObject(value) && Symbol.asyncIterator in value,
};

/** A stream of node:stream. */
export const writable: ArgumentKind = {
  wants: 'a writable stream',
  accepts: (value) =>
    isObject(value) && typeof value.write === 'function' && typeof value.end === 'function' && typeof value.on === 'function',
};
export const either = (a: ArgumentKind, b: ArgumentKind): ArgumentKind => ({
  wants: `${a.wants} or ${b.wants}`,
  accepts: (value) => a.accepts(value) || b.accepts(value),
});
export const chunk: ArgumentKind = {wants: 'a Uint8Array', accepts: (value) => value instanceof Uint8Array};

export const optional = (kind: ArgumentKind): ArgumentKind => ({
  wants: kind.wants,
  accepts: (value) => value === undefined || kind.accepts(value),
  ...(kind.explain === undefined ? {} : {explain: kind.explain}),
});
export const list = (kind: ArgumentKind): ArgumentKind => ({
  wants: `an array, each of it ${kind.wants}`,
  accepts: (value) => Array.isArray(value) && value.every((inner) => kind.accepts(inner)),
});
export const oneOf = (...values: readonly unknown[]): ArgumentKind => ({
  wants: `one of ${values.map((value) => JSON.stringify(value)).join(', ')}`,
  accepts: (value) => values.includes(value),
});

/** The explanation is that of `kind`. */
export const eitherOf = (other: ArgumentKind, kind: ArgumentKind): ArgumentKind => ({
  ...kind,
  wants: `${kind.wants} or ${other.wants}`,
  accepts: (value) => other.accepts(value) || kind.accepts(value),
});

export type Members<T> = {readonly [K in keyof Required<T>]: ArgumentKind};

/** An object with these members. Other members are ignored. */
export function members<T>(kinds: Members<T>): ArgumentKind {
  const entries = Object.entries(kinds) as [string, ArgumentKind][];
  return {
    wants: 'an object',
    accepts: (value) => isObject(value) && !Array.isArray(value) && entries.every(([name, kind]) => kind.accepts(value[name])),
    explain: (value) => {
      if (!isObject(value) || Array.isArray(value)) return undefined;
      const wrong = entries.find(([name, kind]) => !kind.accepts(value[name]));
      return wrong && `.${wrong[0]}${wrong[1].explain?.(value[wrong[0]]) ?? ` must be ${wrong[1].wants}, not ${nounFor(value[wrong[0]])}`}`;
    },
  };
}

/** Options of a method; the object and each member may be omitted. */
export const options = <T>(kinds: Members<T>): ArgumentKind => optional(members<T>(kinds));

export function nounFor(value: unknown): string {
  if (value === null) return 'null';
  if (Array.isArray(value)) return 'an array';
  if (typeof value === 'number') return String(value);
  return value === undefined ? 'undefined' : `${typeof value === 'object' ? 'an' : 'a'} ${typeof value}`;
}

const stream: ArgumentKind = {
  wants: 'a file descriptor or "ignore"',
  accepts: (value) => value === 'ignore' || (Number.isSafeInteger(value) && (value as number) >= 0),
};
export const streams: ArgumentKind = {
  wants: '"inherit", "pipe" or three streams',
  accepts: (value) =>
    value === 'inherit' ||
    value === 'pipe' ||
    (Array.isArray(value) && value.length === 3 && value.every((inner) => stream.accepts(inner))),
};

export const time: ArgumentKind = {
  wants: 'a time as in RFC 3339',
  accepts: (value) => typeof value === 'string' && /^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(?:\.\d+)?(?:Z|[+-]\d\d:\d\d)$/.test(value),
};
