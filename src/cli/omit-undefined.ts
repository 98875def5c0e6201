/** The object without its undefined members, for options that may be absent but not undefined. */
export const omitUndefined = <T extends object>(object: T): {[K in keyof T]?: Exclude<T[K], undefined>} =>
  Object.fromEntries(Object.entries(object).filter(([, value]) => value !== undefined)) as never;
