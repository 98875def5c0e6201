/**
 * Definitions of flags and arguments, in the shape and with the types of oclif's. oclif's own constructors of them load all
 * of oclif; only the help needs that.
 */
import type * as OclifArgs from '@oclif/core/args';
import type * as OclifFlags from '@oclif/core/flags';

const asItIs = async <T>(input: T): Promise<T> => input;

type Options = {readonly multiple?: boolean};

const option =
  (defaults: Options = {}) =>
  (options: Options = {}) => ({
    parse: asItIs,
    ...defaults,
    ...options,
    multiple: options.multiple ?? defaults.multiple ?? false,
    type: 'option',
  });

const custom = option as unknown as typeof OclifFlags.custom;

export const Flags = {
  /** A flag without a value. */
  boolean: ((options = {}) => ({parse: asItIs, ...options, type: 'boolean'})) as typeof OclifFlags.boolean,
  /** A constructor of flags whose `parse` converts the value. */
  custom,
  /** A constructor of flags whose value is one of `options`. */
  option: option as unknown as typeof OclifFlags.option,
  /** A flag with a text. */
  string: custom(),
};

export const Args = {
  /** A text; with `multiple` all that follow. */
  string: ((options = {}) => ({parse: asItIs, ...options, type: 'option'})) as unknown as typeof OclifArgs.string,
};
