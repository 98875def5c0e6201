/** containerd's filters, applied to the fields of records. */
import {parseFilters} from '../../store/filters.ts';

/** A record as filters see it: fields, and maps of fields such as labels. */
export interface Fields {
  readonly [field: string]: string | undefined | Fields | Readonly<Record<string, string>>;
}

/** Value at a dotted path. Below a map of strings the rest of the path is one key: `labels.a.b` finds the label `a.b`. */
function lookup(fields: Fields, path: readonly string[]): string | undefined {
  const [first, ...rest] = path;
  const value = first === undefined || !Object.hasOwn(fields, first) ? undefined : fields[first];
  if (value === undefined || typeof value === 'string') return rest.length === 0 ? value : undefined;
  if (rest.length === 0) return undefined;
  const key = rest.join('.');
  if (Object.hasOwn(value, key) && typeof value[key] === 'string') return value[key];
  return lookup(value as Fields, rest);
}

/** Records that match any of `filters`; all records when there are none. @throws invalid_argument a filter is malformed */
export async function filtered<T>(records: readonly T[], filters: readonly string[], fields: (record: T) => Fields): Promise<readonly T[]> {
  if (filters.length === 0) return records;
  const shows = await parseFilters(filters);
  return records.filter((record) => {
    const view = fields(record);
    return shows((path) => lookup(view, path));
  });
}
