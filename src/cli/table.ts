/** Tables as containerd's commands print them: columns one space apart, as wide as their widest cell. */
import {printable} from './output.ts';

/**
 * @param columns headings
 * @param rows one cell a column; an empty cell is shown as `-`
 * @returns lines
 */
export function formatTable(columns: readonly string[], rows: readonly (readonly string[])[]): string[] {
  const lines = [columns, ...rows.map((row) => row.map((cell) => (cell === '' ? '-' : printable(cell))))];
  const widths = columns.map((_, i) => lines.reduce((widest, line) => Math.max(widest, line[i]!.length), 0));
  const last = columns.length - 1;
  return lines.map((line) => line.map((cell, i) => (i < last ? cell.padEnd(widths[i]!) : cell)).join(' '));
}
