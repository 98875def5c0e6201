/** What a bench found, and how it is written down. */
import {type Memory, median, quartiles, type Result, ratios, type Samples, times} from './measure.ts';

/** Contenders beside each other; the first is what the others are compared with. */
export interface Table {
  readonly title: string;
  readonly results: readonly Result[];
}

export interface Series {
  readonly name: string;
  /** At each `x`, milliseconds: the median, and the quartiles. */
  readonly points: readonly (readonly [x: number, ms: number, lower?: number, upper?: number])[];
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
  /** The median. */
  readonly measured: string;
  /** The quartiles of the rounds; absent where there is one value. */
  readonly spread?: string;
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

type Unit = '×' | 'ms' | 'MB';

function goal(what: string, wanted: string, unit: Unit, samples: Samples, isMet: (value: number) => boolean): Goal {
  if (samples === undefined) return {what, wanted, measured: FAILED, met: false};
  const value = median(samples);
  const show = (one: number): string => one.toFixed(unit === '×' ? 2 : 1);
  const spread = samples.length > 1 ? {spread: quartiles(samples).map(show).join(' – ')} : {};
  return {what, wanted, measured: `${show(value)} ${unit}`, ...spread, met: isMet(value)};
}

export const atLeast = (what: string, bound: number, samples: Samples): Goal =>
  goal(what, `≥ ${bound} ×`, '×', samples, (value) => value >= bound);

export const atMost = (what: string, bound: number, unit: Unit, samples: Samples): Goal =>
  goal(what, `≤ ${bound} ${unit}`, unit, samples, (value) => value <= bound);

/** That `theirs` takes at least `bound` times as long as `ours`. */
export const faster = (what: string, bound: number, ours: Result, theirs: Result): Goal => atLeast(what, bound, ratios(theirs, ours));

// ---- Markdown --------------------------------------------------------------------------------------------------------

export const formatTime = (ms: number): string => (ms < 100 ? ms.toFixed(1) : ms.toFixed(0));
const formatMemory = (bytes: number): string => (bytes / 1e6).toFixed(0);

const row = (...cells: readonly string[]): string => `| ${cells.join(' | ')} |`;

/** Cells hold text of other programs. */
const escaped = (text: string): string => text.replaceAll('|', '\\|').replaceAll(/\s+/g, ' ');

/** The median, and where there are several values what their middle half lies between. */
const withQuartiles = (samples: readonly number[], show: (value: number) => string): string =>
  samples.length === 1 ? show(samples[0]!) : `${show(median(samples))} (${quartiles(samples).map(show).join(' – ')})`;

function formatTable({title, results}: Table): string {
  const ours = results[0]!;
  const watched = results.some(({memory}) => memory !== undefined);
  const hasProcessor = results.some(({processor = []}) => processor.length > 0);
  const ratioOf = (result: Result): string => {
    if (result === ours) return '1.00';
    const samples = ratios(result, ours);
    return samples === undefined ? '–' : withQuartiles(samples, (value) => value.toFixed(2));
  };
  const memoryOf = (memory: Memory | undefined): string[] =>
    memory === undefined ? ['–', '–'] : [formatMemory(memory.together), formatMemory(memory.largest)];
  const rows = results.map((result) => {
    const {name, processor = [], memory, failure} = result;
    const samples = times(result);
    const cells =
      samples === undefined
        ? ['–', `failed: ${escaped(failure!)}`, '–']
        : [
            ratioOf(result),
            withQuartiles(samples, formatTime),
            `${formatTime(Math.min(...samples))} – ${formatTime(Math.max(...samples))}`,
          ];
    const ran = processor.length > 0 && samples !== undefined;
    return row(
      escaped(name),
      ...cells,
      ...(hasProcessor ? [ran ? formatTime(median(processor)) : '–'] : []),
      ...(watched ? memoryOf(memory) : []),
    );
  });
  const head = [
    '',
    'ratio (quartiles)',
    'median, ms (quartiles)',
    'range, ms',
    ...(hasProcessor ? ['processor, ms'] : []),
    ...(watched ? ['peak memory, MB', 'of one process, MB'] : []),
  ];
  return [`### ${title}`, '', row(...head), row('---', ...head.slice(1).map(() => '--:')), ...rows, ''].join('\n');
}

function formatPoint(point: readonly [ms: number, lower?: number, upper?: number] | undefined): string {
  if (point === undefined) return '–';
  const [ms, lower, upper] = point;
  return lower === undefined || upper === undefined ? formatTime(ms) : `${formatTime(ms)} (${formatTime(lower)} – ${formatTime(upper)})`;
}

/** A point of a curve. */
export const point = (x: number, samples: readonly number[]): Series['points'][number] => [x, median(samples), ...quartiles(samples)];

function formatCurve({title, x, series}: Curve, plots: string | undefined, id: string): string {
  const xs = [...new Set(series.flatMap(({points}) => points.map(([at]) => at)))].sort((a, b) => a - b);
  const rows = series.map(({name, points}) => {
    const at = new Map(points.map(([x, ...values]) => [x, values]));
    return row(escaped(name), ...xs.map((value) => formatPoint(at.get(value))));
  });
  const head = [`ms at ${x}`, ...xs.map((value) => value.toLocaleString('en'))];
  const plot = plots === undefined ? [] : [`![${title}](${plots}/${id}.svg)`, ''];
  return [`### ${title}`, '', ...plot, row(...head), row('---', ...xs.map(() => '--:')), ...rows, ''].join('\n');
}

/** @param from where each goal was measured, in a few words; left out of the table where it is not given */
export function formatGoals(goals: readonly Goal[], from?: (goal: Goal) => string): string {
  const rows = goals.map((goal) => {
    const {what, wanted, measured, spread = '', met} = goal;
    return row(met ? '✓' : '✗', escaped(what), wanted, measured, spread, ...(from === undefined ? [] : [from(goal)]));
  });
  const head = ['', 'goal', 'wanted', 'measured', 'quartiles', ...(from === undefined ? [] : ['on'])];
  return [row(...head), row('---', '---', ...head.slice(2).map(() => '--:')), ...rows, ''].join('\n');
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
