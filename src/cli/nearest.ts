/** What a person may have meant. */

/** Words this short are near to many others. */
const SHORT = 2;

/** @returns the only candidate that begins with the word, else the nearest one; `undefined` when none is near */
export function nearest(word: string, candidates: readonly string[]): string | undefined {
  if (word.length >= SHORT) {
    const begun = candidates.filter((candidate) => candidate.startsWith(word));
    if (begun.length === 1) return begun[0];
  }
  if (word.length <= SHORT) return undefined;
  const mistakes = word.length <= 5 ? 1 : 2;
  const [best] = candidates
    .map((candidate) => ({candidate, distance: editDistance(candidate, word)}))
    .sort((a, b) => a.distance - b.distance);
  return best !== undefined && best.distance <= mistakes ? best.candidate : undefined;
}

/** Insertions, deletions, replacements and swaps of neighbours that turn one word into the other. */
function editDistance(a: string, b: string): number {
  const rows: number[][] = [Array.from({length: b.length + 1}, (_, j) => j)];
  for (let i = 1; i <= a.length; i++) {
    const row = [i];
    for (let j = 1; j <= b.length; j++) {
      const replaced = rows[i - 1]![j - 1]! + (a[i - 1] === b[j - 1] ? 0 : 1);
      const swapped = i > 1 && j > 1 && a[i - 1] === b[j - 2] && a[i - 2] === b[j - 1] ? rows[i - 2]![j - 2]! + 1 : replaced;
      row.push(Math.min(rows[i - 1]![j]! + 1, row[j - 1]! + 1, replaced, swapped));
    }
    rows.push(row);
  }
  return rows[a.length]![b.length]!;
}
