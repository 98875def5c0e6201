/** Holds what commands really print to the fields that `--format` allows, in every test that has them print JSON. */
import assert from 'node:assert/strict';
import {resolveCommand} from '../../src/cli/resolve-command.ts';
import {RESULTS, type Shape, TYPES} from '../../src/cli/result-fields.ts';
import {COMMANDS} from '../../src/commands/index.ts';

/** Paths of fields that a shape does not have. */
function strays(value: unknown, shape: Shape, path = ''): string[] {
  if (shape === '*' || typeof value !== 'object' || value === null) return [];
  if (typeof shape === 'string') return strays(value, TYPES[shape] ?? {}, path);
  const shapes = (Array.isArray(shape) ? shape : [shape]) as readonly Shape[];
  if (shapes.includes('*')) return [];
  return Object.entries(value).flatMap(([name, inner]) => {
    const own = shapes.map((one) => (typeof one === 'string' ? TYPES[one]! : one) as Readonly<Record<string, Shape>>);
    const next = own.flatMap((fields) => fields[name] ?? fields['*'] ?? []);
    return next.length === 0 ? [`${path}/${name}`] : strays(inner, next.length === 1 ? next[0]! : next, `${path}/${name}`);
  });
}

/** @param argv the words after the program */
export function assertResultFields(argv: readonly string[], stdout: string): void {
  if (!argv.includes('--json')) return;
  let results: unknown[];
  let id: string;
  try {
    const resolved = resolveCommand(argv, COMMANDS);
    if (resolved.kind !== 'command') return;
    id = resolved.id;
    // It prints what is no result of its own.
    if (RESULTS[id] === '') return;
    results =
      stdout.startsWith('[') || stdout.startsWith('{\n')
        ? [JSON.parse(stdout)]
        : stdout
            .split('\n')
            .filter(Boolean)
            .map((line) => JSON.parse(line));
  } catch {
    // Misuse, or output of a container.
    return;
  }
  for (const result of results.flat())
    assert.deepEqual(strays(result, RESULTS[id]!), [], `ctr ${id} --json has fields that --format refuses`);
}
