/** Formats tables as ctr does: columns as wide as their widest cell, one space apart. */
import {printable} from './printable.ts';

/**
 * @param columns headings
 * @param rows one cell for each column; an empty cell is printed as `-`
 * @returns lines
 */
export function formatTable(columns: readonly string[], rows: readonly (readonly string[])[]): string[] {
  const lines = [columns, ...rows.map((row) => row.map((cell) => (cell === '' ? '-' : printable(cell))))];
  const widths = columns.map((_, i) => lines.reduce((widest, line) => Math.max(widest, line[i]!.length), 0));
  const last = columns.length - 1;
  return lines.map((line) => line.map((cell, i) => (i < last ? cell.padEnd(widths[i]!) : cell)).join(' '));
}
