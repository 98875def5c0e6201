/** Parts of a build, each after those that it is made from, so that nothing stale goes into it. */
const FROM = {node: [], types: [], exe: ['node'], npm: ['node', 'types', 'exe']} as const satisfies Record<string, readonly string[]>;

export type Part = keyof typeof FROM;

const PARTS = Object.keys(FROM) as readonly Part[];

/**
 * @param asked parts to build; none: all
 * @returns them and what they are made from, in the order in which they are built
 */
export function partsOf(asked: readonly string[]): readonly Part[] {
  const unknown = asked.filter((part) => !Object.hasOwn(FROM, part));
  if (unknown.length > 0) throw new Error(`unknown part ${unknown.join(', ')}; there are ${PARTS.join(', ')}`);
  const needed = new Set<string>(asked.length === 0 ? PARTS : asked.flatMap((part) => [...FROM[part as Part], part]));
  return PARTS.filter((part) => needed.has(part));
}
