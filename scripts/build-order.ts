/** Parts of a build with the parts that they are made from, in the order in which they are built. */
const FROM = {
  node: [],
  types: [],
  exe: ['node'],
  'all-exe': ['node'],
  npm: ['node', 'types', 'exe'],
} as const satisfies Record<string, readonly string[]>;

export type Part = keyof typeof FROM;

const PARTS = Object.keys(FROM) as readonly Part[];

/** Not built unless asked for: it fetches the engines of other machines. */
const ON_REQUEST: Part = 'all-exe';

/**
 * @param asked parts to build; if empty, all but `all-exe`
 * @returns these and the parts that they are made from, in build order
 */
export function partsOf(asked: readonly string[]): readonly Part[] {
  const unknown = asked.filter((part) => !Object.hasOwn(FROM, part));
  if (unknown.length > 0) throw new Error(`unknown part ${unknown.join(', ')}; there are ${PARTS.join(', ')}`);
  const needed = new Set<string>(
    asked.length === 0 ? PARTS.filter((part) => part !== ON_REQUEST) : asked.flatMap((part) => [...FROM[part as Part], part]),
  );
  return PARTS.filter((part) => needed.has(part));
}
