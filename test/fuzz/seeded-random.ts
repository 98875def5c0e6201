/** Reproducible random numbers: the same seed gives the same values on any machine. */

export interface Random {
  /** A random integer from 0 to `n` - 1. */
  below(n: number): number;
  pick<T>(items: readonly T[]): T;
  chance(probability: number): boolean;
}

/** Numbers from 0 up to 1. After Tommy Ettinger's mulberry32. */
export function randomNumbers(seed: number): () => number {
  let state = seed >>> 0;
  return () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let t = state;
    t = Math.imul(t ^ (t >>> 15), t | 1);
    t ^= t + Math.imul(t ^ (t >>> 7), t | 61);
    return ((t ^ (t >>> 14)) >>> 0) / 2 ** 32;
  };
}

/** Seeded with a mixture of both numbers. */
export function randomOf(seed: number, n: number): Random {
  const next = randomNumbers(Math.imul(seed ^ 0x9e3779b9, 0x85ebca6b) ^ Math.imul(n + 1, 0xc2b2ae35));
  const below = (limit: number): number => Math.floor(next() * limit);
  return {below, pick: (items) => items[below(items.length)]!, chance: (probability) => next() < probability};
}
