/** Flags of the commands that make images from images, and what they share. */
import type {BuildOptions, LayerCompression} from '../lib/client/types/index.ts';
import type {Context} from './command-context.ts';
import {Flags} from './define-flags.ts';
import {omitUndefined} from './omit-undefined.ts';
import {openProgress} from './progress.ts';
import {count, type GlobalFlags, repeated} from './shared-flags.ts';
import {parseTime} from './value-parsers.ts';

export const PLATFORM_FLAGS = {
  platform: repeated({helpValue: 'OS/ARCH', description: "platform to take from an index; may be repeated; by default this machine's"}),
  'all-platforms': Flags.boolean({exclusive: ['platform'], description: 'take every platform; all of them must have been pulled'}),
};

/** @param byDefault what the layers get without the flag */
export const compressionFlags = (byDefault: string) => ({
  compression: Flags.option({options: ['gzip', 'zstd', 'none'] as const, description: `compression of layers; by default ${byDefault}`})(),
  level: count({description: 'compression level: 1 to 9 for gzip, 1 to 22 for zstd'}),
});

export const created = Flags.custom<string>({
  env: 'SOURCE_DATE_EPOCH',
  helpValue: 'TIME',
  description: "time of creation: RFC 3339, or seconds since 1970; by default the source's",
  parse: async (input) => parseTime(input),
});

interface PlatformValues extends Pick<GlobalFlags, 'progress' | 'json' | 'debug'> {
  readonly platform: readonly string[] | undefined;
  readonly 'all-platforms': boolean;
}

/** Options of the library for `compressionFlags`. */
export const compressionOptions = (flags: {
  readonly compression: LayerCompression['compression'] | undefined;
  readonly level: number | undefined;
}): LayerCompression => omitUndefined({compression: flags.compression, level: flags.level});

/** Calls a method that makes an image, with options for `PLATFORM_FLAGS` and with its progress shown. */
export async function withBuildProgress<T>(
  flags: PlatformValues,
  context: Context,
  signal: AbortSignal,
  call: (options: BuildOptions) => Promise<T>,
): Promise<T> {
  const progress = await openProgress(flags, context);
  try {
    return await call({
      ...omitUndefined({platforms: flags.platform}),
      allPlatforms: flags['all-platforms'],
      onEvent: (event) => progress.update(event),
      signal,
    });
  } finally {
    progress.close();
  }
}
