/** `npm run interop`: runs every cell of the matrix in test/support/interop-matrix.ts, and prints it. Exits with 1 when a cell fails. */
import {CELLS, type Cell, type Direction, FORMATS, interopImage, missingPrograms, TOOLS, World} from '../test/support/interop-matrix.ts';

const endings: (() => void | Promise<void>)[] = [];
const scope = {after: (fn: () => void | Promise<void>) => void endings.push(fn)};

const failures: string[] = [];
const results = new Map<Cell, string>();

try {
  const image = interopImage({skip: (reason) => console.error(reason)});
  if (image === undefined) throw new Error('the image of the matrix cannot be made here');
  const world = await World.open(scope, image);
  for (const cell of CELLS) {
    const missing = missingPrograms(cell);
    if (missing.length > 0) {
      results.set(cell, 'absent');
      continue;
    }
    try {
      await cell.run(world);
      results.set(cell, 'yes');
    } catch (err) {
      results.set(cell, 'NO');
      const {stderr = ''} = err as {stderr?: Buffer | string};
      failures.push(
        `${cell.tool} ${cell.direction} ${cell.format}: ${err instanceof Error ? err.message : String(err)}\n${stderr.toString()}`,
      );
    }
  }
} finally {
  for (const end of endings.reverse()) await end();
}

const entry = (tool: string, direction: Direction, format: string): string => {
  const cell = CELLS.find((one) => one.tool === tool && one.direction === direction && one.format === format);
  return cell === undefined ? '-' : results.get(cell)!;
};
const rows = Object.keys(TOOLS).flatMap((tool) =>
  (['reads', 'writes'] as const).map((direction) => [`${tool} ${direction}`, ...FORMATS.map((format) => entry(tool, direction, format))]),
);
const table = [['', ...FORMATS], ...rows];
const widths = table[0]!.map((_, i) => Math.max(...table.map((row) => row[i]!.length)));
for (const row of table)
  console.log(
    row
      .map((text, i) => text.padEnd(widths[i]!))
      .join('  ')
      .trimEnd(),
  );
const absent = Object.entries(TOOLS).filter(
  ([tool, {programs}]) => missingPrograms({tool, format: 'oci'}).length > 0 && programs.length > 0,
);
for (const [tool, {package: name}] of absent) console.log(`absent: ${tool} (Debian package ${name})`);
for (const failure of failures) console.error(`\n${failure}`);
process.exitCode = failures.length === 0 ? 0 : 1;
