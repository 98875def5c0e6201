/** Parts of a build with the parts that they are made from, in the order in which they are built. */
const FROM = {node: [], types: [], exe: ['node'], npm: ['node', 'types', 'exe']} as const satisfies Record<string, readonly string[]>;

export type Part = keyof typeof FROM;

const PARTS = Object.keys(FROM) as readonly Part[];

/**
 * @param asked parts to build; all if empty
 * @returns these and the parts that they are made from, in build order
 */
export function partsOf(asked: readonly string[]): readonly Part[] {
  const unknown = asked.filter((part) => !Object.hasOwn(FROM, part));
  if (unknown.length > 0) throw new Error(`unknown part ${unknown.join(', ')}; there are ${PARTS.join(', ')}`);
  const needed = new Set<string>(asked.length === 0 ? PARTS : asked.flatMap((part) => [...FROM[part as Part], part]));
  return PARTS.filter((part) => needed.has(part));
}
