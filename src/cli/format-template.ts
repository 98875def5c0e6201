/**
 * The templates of `--format`: what scripts take from Go's for docker and containerd, or a JSON pointer.
 *
 *     {{.target.digest}}  {{json .labels}}  {{join .platforms ","}}  {{index .labels "com.example/team"}}  /target/digest
 *
 * Names of fields are those of `--json`, in upper or lower case. `table` before a template adds headings and aligns what tabs separate.
 */
import {ErrdefsError} from '../lib/errdefs.ts';
import {formatJSON, type Printable, printable} from './printable.ts';
import {type Shape, TYPES} from './result-fields.ts';

type Step = string | number;

interface Action {
  readonly kind: 'value' | 'json' | 'join';
  readonly path: readonly Step[];
  readonly separator?: string;
}

/** Literal text, or an action. */
type Part = string | Action;

export interface Template {
  readonly parts: readonly Part[];
  readonly table: boolean;
}

export interface Formatted {
  /** A text for each item. */
  readonly rows: readonly Printable[];
  /** Of a table, whose columns tabs separate: the last names of the fields. */
  readonly heading?: string;
  /** Fields that an item could have, and none has. */
  readonly absent?: readonly string[];
}

const ACTION = /^(?:(json|join|index) +)?\.((?:[\w-]+(?:\.[\w-]+)*)?)((?: +(?:"(?:[^"\\]|\\.)*"|\d+))*)$/;
const WORD = /"(?:[^"\\]|\\.)*"|\d+/g;

/** @throws invalid_argument the text is no template, or has more of Go's language than is here */
export function parseTemplate(text: string): Template {
  if (text === 'json') return {parts: [{kind: 'json', path: []}], table: false};
  if (text.startsWith('/')) return {parts: [{kind: 'value', path: parsePointer(text)}], table: false};
  const table = /^table\s+/.exec(text);
  const source = (table === null ? text : text.slice(table[0].length)).replaceAll('\\t', '\t').replaceAll('\\n', '\n');
  const parts: Part[] = [];
  for (let at = 0; at < source.length; ) {
    const start = source.indexOf('{{', at);
    if (start !== at) parts.push(source.slice(at, start === -1 ? undefined : start));
    if (start === -1) break;
    const end = source.indexOf('}}', start);
    if (end === -1) throw new ErrdefsError('invalid_argument', `template ${JSON.stringify(text)}: "{{" without "}}"`);
    parts.push(parseAction(source.slice(start + 2, end).trim()));
    at = end + 2;
  }
  if (parts.every((part) => typeof part === 'string'))
    throw new ErrdefsError('invalid_argument', `template ${JSON.stringify(text)} names no field`, {
      hint: `for example --format '{{.name}}', or a JSON pointer: /name`,
    });
  return {parts, table: table !== null};
}

function parseAction(text: string): Action {
  const refuse = (): ErrdefsError =>
    new ErrdefsError(
      'invalid_argument',
      `template: {{${text}}} is not one of {{.field}}, {{json .}}, {{join .list ","}}, {{index .map "key"}}`,
      {
        hint: 'for more, give the output of --json to jq',
      },
    );
  const [, kind = 'value', names, rest] = ACTION.exec(text) ?? [];
  if (names === undefined) throw refuse();
  const words = [...rest!.matchAll(WORD)].map(([word]): Step => JSON.parse(word));
  const path: Step[] = names === '' ? [] : names.split('.');
  if (kind === 'index' && words.length > 0) return {kind: 'value', path: [...path, ...words]};
  if (kind === 'join' && words.length === 1) return {kind: 'join', path, separator: String(words[0])};
  if ((kind === 'value' || kind === 'json') && words.length === 0) return {kind, path};
  throw refuse();
}

/** RFC 6901. */
const parsePointer = (text: string): readonly Step[] =>
  text
    .slice(1)
    .split('/')
    .map((step) => step.replaceAll('~1', '/').replaceAll('~0', '~'));

/** A field of an object by its name, exactly or in other letters' case; an item of a list by its number. */
function field(value: unknown, step: Step): unknown {
  if (typeof value !== 'object' || value === null) return undefined;
  if (Object.hasOwn(value, step)) return (value as Record<Step, unknown>)[step];
  const name = Object.keys(value).find((key) => key.toLowerCase() === String(step).toLowerCase());
  return name === undefined ? undefined : (value as Record<string, unknown>)[name];
}

function render({kind, path, separator}: Action, item: unknown): Printable {
  const value = path.reduce(field, item);
  if (kind === 'json') return formatJSON(value ?? null);
  if (kind === 'join' && Array.isArray(value)) return printable(value.map(plain).join(separator));
  return printable(plain(value));
}

const plain = (value: unknown): string =>
  value === undefined || value === null ? '' : typeof value === 'object' ? JSON.stringify(value) : String(value);

/** Whether results have a field at a path: always or at times, perhaps, since others made the document, or never. */
type Has = 'sometimes' | 'perhaps' | 'never';

/** What a shape may be, without names of types. */
const alternatives = (shape: Shape): readonly Shape[] =>
  typeof shape === 'object'
    ? Array.isArray(shape)
      ? shape.flatMap(alternatives)
      : [shape]
    : Object.hasOwn(TYPES, shape)
      ? alternatives(TYPES[shape]!)
      : [shape];

/** @returns with the fields that there are, where the path leaves them */
function findInShape(path: readonly Step[], shape: Shape): {readonly has: Has; readonly known: readonly string[]} {
  let here = alternatives(shape);
  for (const step of path) {
    if (here.includes('*')) break;
    const next = here.flatMap((fields) => (field(fields, step) ?? field(fields, '*') ?? []) as Shape | []);
    if (next.length === 0) return {has: 'never', known: here.flatMap((fields) => Object.keys(fields))};
    here = next.flatMap(alternatives);
  }
  return {has: here.includes('*') ? 'perhaps' : 'sometimes', known: []};
}

const noField = (paths: readonly (readonly Step[])[], known: readonly string[]): ErrdefsError =>
  new ErrdefsError('invalid_argument', `--format: there is no ${paths.map((path) => path.join('.')).join(', ')}`, {
    hint: known.length === 0 ? 'see the output of --json' : `fields are ${[...new Set(known)].join(', ')}`,
  });

const pathsOf = ({parts}: Template): readonly (readonly Step[])[] => parts.flatMap((part) => (typeof part === 'string' ? [] : [part.path]));

/** @throws invalid_argument no result has a field that the template names */
export function assertFields(template: Template, shape: Shape): void {
  const unknown = pathsOf(template).flatMap((path) => {
    const {has, known} = findInShape(path, shape);
    return has === 'never' ? [{path, known}] : [];
  });
  if (unknown.length > 0)
    throw noField(
      unknown.map(({path}) => path),
      unknown.flatMap(({known}) => known),
    );
}

/**
 * A text for each item of a list, or one for anything else. A field that an item lacks is empty text.
 *
 * @param shape of the result, which has been asked already
 * @throws invalid_argument a document that others made has no such field
 */
export function formatResult(template: Template, shape: Shape, result: unknown): Formatted {
  const {parts, table} = template;
  // As `--json` shows it.
  const json: unknown = JSON.parse(JSON.stringify(result));
  const items: readonly unknown[] = Array.isArray(json) ? json : [json];
  const rows = items.map((item) => parts.map((part) => (typeof part === 'string' ? part : render(part, item))).join('') as Printable);
  const isAbsent = (path: readonly Step[]): boolean => items.length > 0 && items.every((item) => path.reduce(field, item) === undefined);
  const absent = pathsOf(template).filter(isAbsent);
  const unknown = absent.filter((path) => isAbsent(path.slice(0, 1)) && findInShape(path, shape).has === 'perhaps');
  if (unknown.length > 0)
    throw noField(
      unknown,
      items.flatMap((item) => Object.keys(item ?? {})),
    );
  const heading = parts.map((part) => (typeof part === 'string' ? part : String(part.path.at(-1) ?? '').toUpperCase())).join('');
  const names = [...new Set(absent.map((path) => path.join('.')))];
  return {rows, ...(table ? {heading} : {}), ...(names.length === 0 ? {} : {absent: names})};
}
