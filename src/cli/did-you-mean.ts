/** Finds the word that a mistyped one was meant to be. */

/** Words of this length or less are similar to too many others. */
const SHORT = 2;

/** @returns the only candidate that begins with the word, else the most similar one; `undefined` if none is similar */
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

/** Damerau-Levenshtein distance (optimal string alignment). */
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
