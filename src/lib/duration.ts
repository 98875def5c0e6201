/** Durations as Go's time.ParseDuration reads them, which ctr's flags, hosts.toml and registries use. */

const UNIT_MS: Readonly<Record<string, number>> = {
  ns: 1e-6,
  us: 1e-3,
  µs: 1e-3,
  μs: 1e-3,
  ms: 1,
  s: 1000,
  m: 60_000,
  h: 3_600_000,
  d: 86_400_000,
};
const PART = /(\d+(?:\.\d*)?|\.\d+)(ns|[uµμ]s|ms|[smhd])/g;
/** Anchored, so that no text takes more than linear time. */
const DURATION = new RegExp(`^(?:${PART.source})+$`);

/**
 * Milliseconds of a duration such as `10s`, `1m30s`, `1.5h` or `500ms`; `0` needs no unit. There are no negative durations.
 *
 * @param days accepts `7d` too, which Go does not
 * @returns `undefined` if it is not a duration
 */
export function durationMs(text: string, {days = false} = {}): number | undefined {
  if (text === '0') return 0;
  if (!DURATION.test(text)) return undefined;
  const parts = [...text.matchAll(PART)];
  if (!days && parts.some(([, , unit]) => unit === 'd')) return undefined;
  return parts.reduce((sum, [, amount, unit]) => sum + Number(amount) * UNIT_MS[unit!]!, 0);
}
