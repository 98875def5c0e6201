/**
 * The templates of `--format`: what scripts take from Go's for docker and containerd, or a JSON pointer.
 *
 *     {{.target.digest}}  {{json .labels}}  {{join .platforms ","}}  {{index .labels "com.example/team"}}  /target/digest
 *
 * Names of fields are those of `--json`, in upper or lower case. `table` before a template adds headings and aligns what tabs separate.
 */
import {ErrdefsError} from '../lib/errdefs.ts';
import {formatJSON, type Printable, printable} from './printable.ts';

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
  /** Fields that none of the items has, and could have. */
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

function render({kind, path, separator}: Action, item: unknown, missing: (path: readonly Step[]) => void): Printable {
  const value = path.reduce(field, item);
  if (value === undefined) missing(path);
  if (kind === 'json') return formatJSON(value ?? null);
  if (kind === 'join' && Array.isArray(value)) return printable(value.map(plain).join(separator));
  return printable(plain(value));
}

const plain = (value: unknown): string =>
  value === undefined || value === null ? '' : typeof value === 'object' ? JSON.stringify(value) : String(value);

/** Fields of results that an object may lack. Every one of the library's types is here: a test compares them. */
export const OPTIONAL_FIELDS: ReadonlySet<string> = new Set(
  `action annotations artifactType checkpointed compression content Created created createdAt data details digest error execId exitStatus exitedAt
expectedDigest expectedSize expiresAt helper hint identity image key labels layer level mediaType message name namespace need needBytes network
noCopy oomKilled options parent pid platform quota repository runtime size startedAt status task transferredBytes urls user Variant variant
version`.split(/\s+/),
);

/** Fields whose own fields have names of others' choice. */
const MAPS = /^(?:labels|annotations|event|metrics|env)$/i;

/** A field that an item lacks: where its path ends, and whether there may be none. */
interface Lack {
  readonly known: readonly string[];
  readonly isOptional: boolean;
}

/** How an item lacks what is at a path. */
function lackOf(item: unknown, path: readonly Step[]): Lack {
  let value = item;
  for (const [i, step] of path.entries()) {
    const next = field(value, step);
    if (next !== undefined) {
      value = next;
      continue;
    }
    const isObject = typeof value === 'object' && value !== null && !Array.isArray(value);
    const isOptional = OPTIONAL_FIELDS.has(String(step)) || MAPS.test(String(path[i - 1] ?? '')) || Array.isArray(value) || value === null;
    return {known: isObject ? Object.keys(value as object) : [], isOptional};
  }
  return {known: [], isOptional: true};
}

/**
 * A text for each item of a list, or one for anything else. A field that an item lacks is empty text.
 *
 * @throws invalid_argument there is no such field
 */
export function formatResult({parts, table}: Template, result: unknown): Formatted {
  // As `--json` shows it.
  const json: unknown = JSON.parse(JSON.stringify(result));
  const items: readonly unknown[] = Array.isArray(json) ? json : [json];
  const lacking = new Map<string, Lack[]>();
  const rows = items.map((item) => {
    const missing = (path: readonly Step[]): void => {
      const name = path.join('.');
      lacking.set(name, [...(lacking.get(name) ?? []), lackOf(item, path)]);
    };
    return parts.map((part) => (typeof part === 'string' ? part : render(part, item, missing))).join('') as Printable;
  });
  // An action may stand twice in a template.
  const nowhere = [...lacking].filter(([, lacks]) => lacks.length >= items.length);
  const unknown = nowhere.filter(([, lacks]) => !lacks.some(({isOptional}) => isOptional));
  if (unknown.length > 0) {
    const known = [...new Set(unknown.flatMap(([, lacks]) => lacks.flatMap((lack) => lack.known)))];
    throw new ErrdefsError('invalid_argument', `--format: there is no ${unknown.map(([name]) => name).join(', ')}`, {
      hint: known.length === 0 ? 'see the output of --json' : `fields are ${known.join(', ')}`,
    });
  }
  const heading = parts.map((part) => (typeof part === 'string' ? part : String(part.path.at(-1) ?? '').toUpperCase())).join('');
  const absent = nowhere.map(([name]) => name);
  return {rows, ...(table ? {heading} : {}), ...(absent.length === 0 ? {} : {absent})};
}
