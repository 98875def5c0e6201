/** The methods of the library, as their guards list them, and calls that are aborted. */
import {promiseHooks} from 'node:v8';
import type {ArgumentKind} from '../../src/lib/client/argument-kinds.ts';
import {CLIENT} from '../../src/lib/client/method-arguments.ts';
import type {Client} from '../../src/lib/client/types/index.ts';
import {type Code, ErrdefsError} from '../../src/lib/errdefs.ts';

export type Method = (...args: unknown[]) => Promise<unknown>;

export interface Listed {
  readonly name: string;
  readonly kinds: readonly ArgumentKind[];
  of(client: Client): Method;
}

/** Every guarded method, with the path to it. */
function methodsOf(guards: object, path: string, reach: (client: Client) => object): Listed[] {
  return Object.entries(guards).flatMap(([name, entry]): Listed[] => {
    const of = (client: Client) => (reach(client) as Record<string, never>)[name] as unknown;
    if (Array.isArray(entry)) return [{name: path + name, kinds: entry, of: of as Listed['of']}];
    if ('resolves' in entry) {
      const open = of as unknown as Listed['of'];
      const withWriter =
        (use: (writer: Record<string, Method>, args: readonly unknown[]) => Promise<unknown>) =>
        (client: Client): Method =>
        async (...args) => {
          const writer = (await open(client)('ref')) as Record<string, Method>;
          return use(writer, args).finally(() => writer.close!());
        };
      const opened: Listed = {
        name: path + name,
        kinds: entry.takes,
        of:
          (client) =>
          async (...args) =>
            ((await open(client)(...args)) as Record<string, Method>).close!(),
      };
      const inner = Object.entries(entry.resolves as Record<string, readonly ArgumentKind[]>).map(
        ([method, kinds]): Listed => ({
          name: `${path}${name}().${method}`,
          kinds,
          of: withWriter((writer, args) => writer[method]!(...args)),
        }),
      );
      return [opened, ...inner];
    }
    if ('takes' in entry) {
      const argument = name === 'namespace' ? 'default' : 'native';
      return methodsOf(entry.gives, `${path}${name}().`, (client) => (of(client) as (text: string) => object)(argument));
    }
    return methodsOf(entry, `${path}${name}.`, of as (client: Client) => object);
  });
}

export const METHODS = methodsOf(CLIENT, '', (client) => client);

export async function* nothing(): AsyncGenerator<Uint8Array> {}

/** Address without a server. */
export const REF = '127.0.0.1:1/x:1';
const GOOD: Readonly<Record<string, unknown>> = {
  'a string': REF,
  'an object of strings': {},
  'an async iterable of bytes': nothing(),
  'a Uint8Array': new Uint8Array(3),
  'an object': {oldBase: REF, newBase: REF, id: 'x', type: 'snapshots/native', container: 'x', path: '/x'},
  'an object or an async iterable of bytes': {container: 'x', path: '/x'},
  'an array, each of it a string': [REF],
  'an array, each of it a string or an async iterable of bytes': [REF],
  'a string or an object': REF,
  'a string or an async iterable of bytes': nothing(),
  'a string or a writable stream': '/nowhere/images.tar',
  'an array, each of it an object': [],
};

/** A valid argument: none where it may be left out. */
export const validFor = ({wants, accepts}: ArgumentKind): unknown => (accepts(undefined) ? undefined : GOOD[wants]);

/** The error of a call; `undefined` when it succeeds. */
export const failure = async (fn: () => Promise<unknown>): Promise<unknown> => {
  try {
    await fn();
    return undefined;
  } catch (err) {
    return err ?? new Error('nothing was thrown');
  }
};

/** Reasons that a caller may give, and the class that each stands for. */
export const REASONS: readonly (readonly [reason: unknown, code: Code])[] = [
  [undefined, 'canceled'],
  [new DOMException('too late', 'TimeoutError'), 'deadline_exceeded'],
  [new Error('the user has gone'), 'canceled'],
  ['a string', 'canceled'],
  [new ErrdefsError('deadline_exceeded', 'the whole'), 'deadline_exceeded'],
  [new ErrdefsError('canceled', 'interrupted by SIGINT'), 'canceled'],
];

/** Calls, and aborts at the n-th continuation of a promise from then on. @returns how it ended, and how many there were */
export async function abortAt(
  n: number,
  reason: unknown,
  call: (signal: AbortSignal) => Promise<unknown>,
  controller = new AbortController(),
): Promise<{readonly err: unknown; readonly points: number; readonly signal: AbortSignal}> {
  let points = 0;
  const stop = promiseHooks.onBefore(() => {
    if (++points === n) queueMicrotask(() => controller.abort(reason));
  });
  try {
    if (n === 0) controller.abort(reason);
    return {err: await failure(() => call(controller.signal)), points, signal: controller.signal};
  } finally {
    stop();
  }
}
