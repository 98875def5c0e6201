/** Tables as containerd's commands print them: columns one space apart, as wide as their widest cell. */
import {printable} from './values.ts';

/**
 * @param columns headings
 * @param rows one cell a column; an empty cell is shown as `-`
 * @returns lines, the last one ended as well
 */
export function formatTable(columns: readonly string[], rows: readonly (readonly string[])[]): string {
  const lines = [columns, ...rows.map((row) => row.map((cell) => (cell === '' ? '-' : printable(cell))))];
  const widths = columns.map((_, i) => lines.reduce((widest, line) => Math.max(widest, line[i]!.length), 0));
  const last = columns.length - 1;
  let text = '';
  for (const line of lines) {
    for (let i = 0; i < last; i++) text += `${line[i]!.padEnd(widths[i]!)} `;
    text += `${line[last]!}\n`;
  }
  return text;
}
