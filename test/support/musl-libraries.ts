/**
 * The C++ library for programs of Alpine on Debian, whose own is for glibc.
 *
 * musl is loaded in the place of glibc under every name that glibc's libraries have; what it does not define is added here, in a library
 * that takes the name of glibc's loader, which the C++ library asks for.
 */
import {execFileSync} from 'node:child_process';
import {copyFileSync, existsSync, writeFileSync} from 'node:fs';
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
`;

/** musl's loader, from Debian's package. */
export const MUSL_LOADER = '/lib/ld-musl-x86_64.so.1';

/** True if this machine has what `muslLibraries` takes, but for a C compiler. */
export const hasMusl = (): boolean => process.arch === 'x64' && existsSync(MUSL_LOADER);

/** Makes the libraries in a directory, which is then LD_LIBRARY_PATH of a program for musl. */
export function muslLibraries(directory: string): void {
  for (const library of ['libstdc++.so.6', 'libgcc_s.so.1'])
    copyFileSync(join('/usr/lib/x86_64-linux-gnu', library), join(directory, library));
  const source = join(directory, 'missing.c');
  writeFileSync(source, CODE);
  const options = ['-shared', '-fPIC', '-nostdlib', '-fno-stack-protector', '-w', '-Wl,-soname,ld-linux-x86-64.so.2'];
  execFileSync('cc', [...options, '-o', join(directory, 'ld-linux-x86-64.so.2'), source]);
}
