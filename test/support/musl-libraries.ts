/**
 * The C++ library for programs of Alpine on Debian, whose own is for glibc.
 *
 * musl is loaded in the place of glibc under every name that glibc's libraries have; what it does not define is added here, in a library
 * of its own.
 */
import {execFileSync} from 'node:child_process';
import {copyFileSync, existsSync, mkdirSync, readdirSync, writeFileSync} from 'node:fs';
import {join} from 'node:path';

const CODE = `
#include <stddef.h>
void abort(void);
unsigned long strtoul(const char *, char **, int);
size_t strftime_l(char *, size_t, const char *, const void *, void *);
int fseek(void *, long, int);
long ftell(void *);
long getrandom(void *, size_t, unsigned);
char __libc_single_threaded = 0;
int __cxa_thread_atexit_impl(void (*run)(void *), void *object, void *library) { return 0; }
int _dl_find_object(void *address, void *result) { return -1; }
unsigned long __isoc23_strtoul(const char *text, char **end, int base) { return strtoul(text, end, base); }
size_t __strftime_l(char *text, size_t size, const char *format, const void *time, void *locale) { return strftime_l(text, size, format, time, locale); }
unsigned arc4random(void) { unsigned number; getrandom(&number, sizeof number, 0); return number; }
int fseeko64(void *file, long offset, int whence) { return fseek(file, offset, whence); }
long ftello64(void *file) { return ftell(file); }
void strfromf128(void) { abort(); }
void strtof128(void) { abort(); }
char __cpu_model[64];
int __cpu_indicator_init(void) { return 0; }
unsigned long getauxval(unsigned long);
unsigned long __getauxval(unsigned long type) { return getauxval(type); }
`;

/** musl's loader, from Debian's package. */
export const MUSL_LOADER = '/lib/ld-musl-x86_64.so.1';

/** True if this machine has what `muslLibraries` takes, but for a C compiler. */
export const hasMusl = (): boolean => process.arch === 'x64' && existsSync(MUSL_LOADER);

/** Copies the C++ library from `libraries`, and makes what it lacks as `missing`. @param options besides, for the compiler */
function putLibraries(directory: string, libraries: string, compiler: string, missing: string, options: readonly string[]): void {
  for (const library of ['libstdc++.so.6', 'libgcc_s.so.1']) copyFileSync(join(libraries, library), join(directory, library));
  const source = join(directory, 'missing.c');
  writeFileSync(source, CODE);
  execFileSync(compiler, [
    '-shared',
    '-fPIC',
    '-nostdlib',
    '-fno-stack-protector',
    '-w',
    ...options,
    '-o',
    join(directory, missing),
    source,
  ]);
}

/** Makes the libraries in a directory, which is then LD_LIBRARY_PATH of a program for musl. */
export function muslLibraries(directory: string): void {
  // The C++ library asks for glibc's loader by this name.
  const loader = 'ld-linux-x86-64.so.2';
  putLibraries(directory, '/usr/lib/x86_64-linux-gnu', 'cc', loader, [`-Wl,-soname,${loader}`]);
}

/** Programs that `armMusl` takes. */
export const ARM_MUSL_PROGRAMS = ['qemu-aarch64', 'aarch64-linux-gnu-gcc', 'apt-get', 'dpkg-deb'] as const;

/** Fetches musl for ARM from Debian into a directory, and makes the libraries there. @returns the words before a program for musl on ARM */
export function armMusl(directory: string): readonly string[] {
  const apt = (...words: readonly string[]): void => {
    const own = ['APT::Architecture=arm64', 'APT::Architectures=arm64', `Dir::State=${directory}/state`, `Dir::Cache=${directory}/cache`];
    const options = [...own, 'Dir::State::status=/dev/null', 'APT::Sandbox::User=root'].flatMap((option) => ['-o', option]);
    execFileSync('apt-get', ['-qq', ...options, ...words], {cwd: directory, stdio: ['ignore', 'ignore', 'inherit']});
  };
  for (const path of ['state/lists/partial', 'cache/archives/partial', 'root/lib', 'libraries'])
    mkdirSync(join(directory, path), {recursive: true});
  apt('update');
  apt('download', 'musl');
  const root = join(directory, 'root');
  execFileSync('dpkg-deb', ['-x', join(directory, readdirSync(directory).find((name) => name.endsWith('.deb'))!), root]);
  // Where Debian keeps it, a link to it is in /usr/lib, which is /lib only in a whole system.
  copyFileSync(join(root, 'usr/lib/ld-musl-aarch64.so.1'), join(root, 'lib/ld-musl-aarch64.so.1'));
  const libraries = join(directory, 'libraries');
  putLibraries(libraries, '/usr/aarch64-linux-gnu/lib', 'aarch64-linux-gnu-gcc', 'missing.so', []);
  return ['qemu-aarch64', '-L', root, '-E', `LD_LIBRARY_PATH=${libraries}`, '-E', `LD_PRELOAD=${libraries}/missing.so`];
}
