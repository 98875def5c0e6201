/** What a bench found, and how it is written down. */
import {type Memory, type Result, ratio, time} from './measure.ts';

/** Contenders beside each other; the first is what the others are compared with. */
export interface Table {
  readonly title: string;
  readonly results: readonly Result[];
}

export interface Series {
  readonly name: string;
  /** Median milliseconds at each `x`. */
  readonly points: readonly (readonly [x: number, ms: number])[];
}

export interface Curve {
  /** Name of the plot's file. */
  readonly id: string;
  readonly title: string;
  /** What grows. */
  readonly x: string;
  readonly series: readonly Series[];
}

export interface Goal {
  readonly what: string;
  readonly wanted: string;
  readonly measured: string;
  readonly met: boolean;
}

/** Numbers of one contender alone. */
export interface Grid {
  readonly title: string;
  readonly head: readonly string[];
  readonly rows: readonly (readonly string[])[];
}

export interface Report {
  readonly grids?: readonly Grid[];
  readonly tables?: readonly Table[];
  readonly curves?: readonly Curve[];
  readonly goals?: readonly Goal[];
  /** Sentences that belong to the numbers. */
  readonly notes?: readonly string[];
}

export const merge = (...reports: readonly Report[]): Report => ({
  grids: reports.flatMap(({grids = []}) => grids),
  tables: reports.flatMap(({tables = []}) => tables),
  curves: reports.flatMap(({curves = []}) => curves),
  goals: reports.flatMap(({goals = []}) => goals),
  notes: reports.flatMap(({notes = []}) => notes),
});

// ---- goals -----------------------------------------------------------------------------------------------------------

const FAILED = 'failed';

export const atLeast = (what: string, bound: number, value: number | undefined): Goal => ({
  what,
  wanted: `≥ ${bound} ×`,
  measured: value === undefined ? FAILED : `${value.toFixed(2)} ×`,
  met: value !== undefined && value >= bound,
});

export const atMost = (what: string, bound: number, unit: '×' | 'ms' | 'MB', value: number | undefined): Goal => ({
  what,
  wanted: `≤ ${bound} ${unit}`,
  measured: value === undefined ? FAILED : `${value.toFixed(unit === '×' ? 2 : 1)} ${unit}`,
  met: value !== undefined && value <= bound,
});

/** That `theirs` takes at least `bound` times as long as `ours`. */
export const faster = (what: string, bound: number, ours: Result, theirs: Result): Goal => atLeast(what, bound, ratio(theirs, ours));

// ---- Markdown --------------------------------------------------------------------------------------------------------

export const formatTime = (ms: number): string => (ms < 100 ? ms.toFixed(1) : ms.toFixed(0));
const formatMemory = (bytes: number): string => (bytes / 1e6).toFixed(0);

const row = (...cells: readonly string[]): string => `| ${cells.join(' | ')} |`;

/** Cells hold text of other programs. */
const escaped = (text: string): string => text.replaceAll('|', '\\|').replaceAll(/\s+/g, ' ');

function formatTable({title, results}: Table): string {
  const ours = results[0]!;
  const watched = results.some(({memory}) => memory !== undefined);
  const ratioOf = (result: Result): string => {
    const value = ratio(result, ours);
    return value === undefined ? '–' : value.toFixed(2);
  };
  const memoryOf = (memory: Memory | undefined): string[] =>
    memory === undefined ? ['–', '–'] : [formatMemory(memory.together), formatMemory(memory.largest)];
  const rows = results.map((result) => {
    const {name, times, memory, failure} = result;
    const median = time(result);
    const cells =
      median === undefined
        ? ['–', `failed: ${escaped(failure!)}`, '–']
        : [ratioOf(result), formatTime(median), `${formatTime(Math.min(...times))} – ${formatTime(Math.max(...times))}`];
    return row(escaped(name), ...cells, ...(watched ? memoryOf(memory) : []));
  });
  const head = ['', 'ratio', 'median, ms', 'range, ms', ...(watched ? ['peak memory, MB', 'of one process, MB'] : [])];
  return [`### ${title}`, '', row(...head), row('---', ...head.slice(1).map(() => '--:')), ...rows, ''].join('\n');
}

function formatCurve({title, x, series}: Curve, plots: string | undefined, id: string): string {
  const xs = [...new Set(series.flatMap(({points}) => points.map(([at]) => at)))].sort((a, b) => a - b);
  const rows = series.map(({name, points}) => {
    const at = new Map(points);
    return row(escaped(name), ...xs.map((value) => (at.has(value) ? formatTime(at.get(value)!) : '–')));
  });
  const head = [`ms at ${x}`, ...xs.map((value) => value.toLocaleString('en'))];
  const plot = plots === undefined ? [] : [`![${title}](${plots}/${id}.svg)`, ''];
  return [`### ${title}`, '', ...plot, row(...head), row('---', ...xs.map(() => '--:')), ...rows, ''].join('\n');
}

export function formatGoals(goals: readonly Goal[]): string {
  const rows = goals.map(({what, wanted, measured, met}) => row(met ? '✓' : '✗', escaped(what), wanted, measured));
  return [row('', 'goal', 'wanted', 'measured'), row('---', '---', '--:', '--:'), ...rows, ''].join('\n');
}

const formatGrid = ({title, head, rows}: Grid): string =>
  [
    `### ${title}`,
    '',
    row(...head),
    row('---', ...head.slice(1).map(() => '--:')),
    ...rows.map((cells) => row(...cells.map(escaped))),
    '',
  ].join('\n');

/** @param plots where the plots lie, seen from the page; without it they are left out */
export function formatReport({grids = [], tables = [], curves = [], goals = [], notes = []}: Report, plots?: string): string {
  return [
    ...grids.map(formatGrid),
    ...tables.map(formatTable),
    ...curves.map((curve) => formatCurve(curve, plots, curve.id)),
    ...notes.map((note) => `${note}\n`),
    ...(plots === undefined && goals.length > 0 ? [formatGoals(goals)] : []),
  ].join('\n');
}
