/** Bounds the number of actions that run at once. */

/** @returns a function that runs an action once fewer than `limit` others run; those that wait begin in the order of their calls */
export function limiter(limit: number): <T>(action: () => Promise<T>) => Promise<T> {
  const waiting: (() => void)[] = [];
  let running = 0;
  return async (action) => {
    if (running === limit) await new Promise<void>((resolve) => void waiting.push(resolve));
    else running++;
    try {
      return await action();
    } finally {
      const next = waiting.shift();
      if (next === undefined) running--;
      else next();
    }
  };
}
