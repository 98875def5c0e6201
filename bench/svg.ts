/** Plots of curves: logarithmic axes, a legend, colours that can be told apart and read on light and on dark. */
import type {Curve, Series} from './report.ts';

const WIDTH = 840;
const HEIGHT = 420;
const PLOT = {left: 72, right: 548, top: 44, bottom: 364} as const;

/** After Okabe and Ito, for those who see fewer colours; light and dark ground. */
const COLOURS: readonly (readonly [light: string, dark: string])[] = [
  ['#0072b2', '#56b4e9'],
  ['#d55e00', '#f0863c'],
  ['#00785a', '#2fc79b'],
  ['#a64d84', '#e08fc0'],
  ['#8a6d00', '#e6c229'],
  ['#555555', '#bbbbbb'],
  ['#b3261e', '#ff8a80'],
  ['#4527a0', '#b39ddb'],
];

const MARKS: readonly ((x: number, y: number) => string)[] = [
  (x, y) => `M${x - 4} ${y}a4 4 0 1 0 8 0a4 4 0 1 0 -8 0z`,
  (x, y) => `M${x - 4} ${y - 4}h8v8h-8z`,
  (x, y) => `M${x} ${y - 5}l5 9h-10z`,
  (x, y) => `M${x} ${y - 5}l5 5l-5 5l-5 -5z`,
  (x, y) => `M${x} ${y + 5}l5 -9h-10z`,
  (x, y) => `M${x - 5} ${y - 2}h10v4h-10z`,
  (x, y) => `M${x - 2} ${y - 5}h4v10h-4z`,
  (x, y) => `M${x - 5} ${y - 2}h3v-3h4v3h3v4h-3v3h-4v-3h-3z`,
];

const escaped = (text: string): string =>
  text.replaceAll('&', '&amp;').replaceAll('<', '&lt;').replaceAll('>', '&gt;').replaceAll('"', '&quot;');

/** 1500 → 1.5k */
export function short(value: number): string {
  for (const [unit, suffix] of [
    [1e9, 'G'],
    [1e6, 'M'],
    [1e3, 'k'],
  ] as const)
    if (value >= unit) return `${Number((value / unit).toPrecision(3))}${suffix}`;
  return String(Number(value.toPrecision(3)));
}

const shortTime = (ms: number): string => (ms >= 1000 ? `${short(ms / 1000)} s` : `${short(ms)} ms`);

/** 1, 2, 5, 10, 20, … or, over many decades, 1, 10, 100, …, from the last one at or below `low` to the first at or above `high`. */
function ticks(low: number, high: number): number[] {
  const steps = Math.log10(high / low) > 2.5 ? [1] : [1, 2, 5];
  const all: number[] = [];
  for (let power = Math.floor(Math.log10(low)); power <= Math.ceil(Math.log10(high)); power++)
    for (const step of steps) all.push(Number((step * 10 ** power).toPrecision(3)));
  const first = all.findLastIndex((tick) => tick <= low);
  const last = all.findIndex((tick) => tick >= high);
  return all.slice(Math.max(first, 0), Math.max(last, first + 1) + 1);
}

const scale =
  (from: number, to: number, start: number, end: number) =>
  (value: number): number =>
    Number((start + ((end - start) * Math.log(value / from)) / Math.log(to / from)).toFixed(1));

export function plot({title, x: xLabel, series}: Curve): string {
  const drawn = series.filter(({points}) => points.length > 0);
  const xs = [...new Set(drawn.flatMap(({points}) => points.map(([at]) => at)))].sort((a, b) => a - b);
  const ys = drawn.flatMap(({points}) => points.map(([, ms]) => ms));
  const yTicks = ticks(Math.min(...ys), Math.max(...ys));
  const x = scale(xs[0]!, Math.max(xs.at(-1)!, xs[0]! * 2), PLOT.left, PLOT.right);
  const y = scale(yTicks[0]!, yTicks.at(-1)!, PLOT.bottom, PLOT.top);
  const line = ({points}: Series): string => points.map(([at, ms], i) => `${i === 0 ? 'M' : 'L'}${x(at)} ${y(ms)}`).join('');
  const parts = [
    `<text class="title" x="${PLOT.left}" y="24">${escaped(title)}</text>`,
    ...yTicks.map(
      (tick) =>
        `<path class="grid" d="M${PLOT.left} ${y(tick)}H${PLOT.right}"/><text x="${PLOT.left - 8}" y="${y(tick) + 4}" text-anchor="end">${shortTime(tick)}</text>`,
    ),
    ...xs.map(
      (tick) =>
        `<path class="grid" d="M${x(tick)} ${PLOT.top}V${PLOT.bottom}"/><text x="${x(tick)}" y="${PLOT.bottom + 18}" text-anchor="middle">${short(tick)}</text>`,
    ),
    `<text x="${(PLOT.left + PLOT.right) / 2}" y="${HEIGHT - 14}" text-anchor="middle">${escaped(xLabel)}</text>`,
    ...drawn.map((one, i) => {
      const mark = MARKS[i % MARKS.length]!;
      const height = PLOT.top + 12 + 22 * i;
      const left = PLOT.right + 24;
      return [
        `<g class="c${i % COLOURS.length}"><path class="line" d="${line(one)}"/>`,
        `<path class="mark" d="${one.points.map(([at, ms]) => mark(x(at), y(ms))).join('')}${mark(left, height)}"/></g>`,
        `<text x="${left + 12}" y="${height + 4}">${escaped(one.name)}</text>`,
      ].join('');
    }),
  ];
  const colours = (which: 0 | 1): string => COLOURS.map((colour, i) => `.c${i}{color:${colour[which]}}`).join('');
  const style = [
    'text{font:12px system-ui,sans-serif;fill:#333}.title{font-size:14px;font-weight:600}',
    '.grid{stroke:#8884;fill:none}.line{stroke:currentColor;stroke-width:2;fill:none}.mark{fill:currentColor}',
    colours(0),
    `@media (prefers-color-scheme:dark){text{fill:#ccc}${colours(1)}}`,
  ].join('');
  return `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 ${WIDTH} ${HEIGHT}" width="${WIDTH}" height="${HEIGHT}" role="img" aria-label="${escaped(title)}">\n<style>${style}</style>\n${parts.join('\n')}\n</svg>\n`;
}
