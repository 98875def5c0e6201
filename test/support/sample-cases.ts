/** Generated cases: a sample of them, tried several at a time. */
import {randomNumbers} from '../fuzz/seeded-random.ts';
import type {Scope} from './helpers.ts';

/** The same for the same seed. */
export function sample<T>(items: readonly T[], count: number, seed: number): readonly T[] {
  const next = randomNumbers(seed);
  const left = [...items];
  return Array.from({length: Math.min(count, items.length)}, () => left.splice(Math.floor(next() * left.length), 1)[0]!);
}

/** Number of concurrent cases: they mostly wait. */
const LANES = 12;

/** Tries each case in a scope of its own. @returns a line for each that fails */
export async function tryAll<T>(
  cases: readonly T[],
  name: (one: T) => string,
  attempt: (scope: Scope, one: T, index: number) => Promise<void>,
): Promise<readonly string[]> {
  const failures: string[] = [];
  let next = 0;
  const lane = async (): Promise<void> => {
    while (next < cases.length) {
      const i = next++;
      const endings: (() => void | Promise<void>)[] = [];
      try {
        await attempt({after: (fn) => void endings.push(fn)}, cases[i]!, i);
      } catch (err) {
        failures.push(`${name(cases[i]!)}: ${(err as Error).stack}`);
      }
      for (const end of endings.reverse()) await end();
    }
  };
  await Promise.all(Array.from({length: LANES}, lane));
  return failures;
}
