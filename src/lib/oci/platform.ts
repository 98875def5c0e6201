/**
 * What a machine runs and what an image was built for.
 *
 * Grammar, normalisation and matching after github.com/containerd/platforms: platforms.go, database.go, compare.go,
 * platform_windows_compat.go.
 */
import {endianness, machine} from 'node:os';
import {ErrdefsError} from '../errdefs.ts';
import type {Platform} from './descriptor.ts';

const KNOWN_OS = new Set(
  'aix android darwin dragonfly freebsd hurd illumos ios js linux nacl netbsd openbsd plan9 solaris windows zos'.split(' '),
);
const KNOWN_ARCHITECTURES = new Set(
  (
    '386 amd64 amd64p32 arm armbe arm64 arm64be ppc64 ppc64le loong64 mips mipsle mips64 mips64le mips64p32 mips64p32le ppc ' +
    'riscv riscv64 s390 s390x sparc sparc64 wasm'
  ).split(' '),
);

const OS = /^([A-Za-z0-9_-]+)(?:\(([A-Za-z0-9_.%-]*)((?:\+[A-Za-z0-9_.%-]+)*)\))?$/;
const COMPONENT = /^[A-Za-z0-9_.-]+$/;

const NODE_OS: Readonly<Record<string, string>> = {win32: 'windows', sunos: 'solaris'};
const NODE_ARCHITECTURE: Readonly<Record<string, string>> = {x64: 'amd64', ia32: '386', mipsel: 'mipsle'};

/** The platform of this process; a variant only where the machine is a 32-bit ARM. */
export function hostPlatform(): Platform {
  const os = NODE_OS[process.platform] ?? process.platform;
  if (process.arch === 'ppc64') return {os, architecture: endianness() === 'LE' ? 'ppc64le' : 'ppc64'};
  if (process.arch !== 'arm') return {os, architecture: NODE_ARCHITECTURE[process.arch] ?? process.arch};
  // A 32-bit process on a 64-bit kernel sees aarch64, whose 32-bit side is v8.
  return {os, architecture: 'arm', variant: `v${/^armv([3-8])/.exec(machine())?.[1] ?? '8'}`};
}

const normalizeOS = (os: string): string => (os.toLowerCase() === 'macos' ? 'darwin' : os.toLowerCase());

function normalizeArchitecture(architecture: string, variant = ''): readonly [architecture: string, variant: string] {
  const arch = architecture.toLowerCase();
  const v = variant.toLowerCase();
  switch (arch) {
    case 'i386':
      return ['386', ''];
    case 'x86_64':
    case 'x86-64':
    case 'amd64':
      return ['amd64', v === 'v1' ? '' : v];
    case 'aarch64':
    case 'arm64':
      if (v === '8' || v === 'v8' || v === 'v8.0') return ['arm64', ''];
      return ['arm64', v === '9' || v === '9.0' || v === 'v9.0' ? 'v9' : v];
    case 'armhf':
      return ['arm', 'v7'];
    case 'armel':
      return ['arm', 'v6'];
    case 'arm':
      if (v === '') return ['arm', 'v7'];
      return ['arm', /^[5-8]$/.test(v) ? `v${v}` : v];
    default:
      return [arch, v];
  }
}

function build(os: string, architecture: string, variant: string, version = '', features: readonly string[] = []): Platform {
  return {
    os,
    architecture,
    ...(variant === '' ? {} : {variant}),
    ...(version === '' ? {} : {'os.version': version}),
    ...(features.length === 0 ? {} : {'os.features': features}),
  };
}

/**
 * The platform in the words that are compared: `aarch64` is `arm64`, `arm` is `arm/v7`, `arm64/v8` is `arm64`; features
 * sorted, each once.
 */
export function normalizePlatform(platform: Platform): Platform {
  const [architecture, variant] = normalizeArchitecture(platform.architecture, platform.variant);
  const features = [...new Set(platform['os.features'] ?? [])].sort();
  return build(normalizeOS(platform.os), architecture, variant, platform['os.version'], features);
}

/**
 * Reads `os`, `architecture`, `os/architecture` or `os/architecture/variant`; the os may carry its version and features as
 * in `windows(10.0.17763+win32k)`. What is left out is this machine's.
 *
 * @throws invalid_argument not of that form, or a single word that is neither an operating system nor an architecture
 */
export function parsePlatform(text: string): Platform {
  const invalid = (reason: string): ErrdefsError =>
    new ErrdefsError('invalid_argument', `platform ${JSON.stringify(text)}: ${reason}`, {
      hint: 'write OS/ARCHITECTURE[/VARIANT], such as linux/arm64',
    });
  if (text.includes('*')) throw invalid('wildcards not yet supported');
  const [first = '', ...rest] = text.split('/');
  const match = OS.exec(first);
  if (match === null) throw invalid(`${JSON.stringify(first)} must match ${OS.source}`);
  const wrong = rest.find((part) => !COMPONENT.test(part));
  if (wrong !== undefined) throw invalid(`${JSON.stringify(wrong)} must match ${COMPONENT.source}`);

  const decode = (option: string): string => {
    try {
      return option.includes('%') ? decodeURIComponent(option) : option;
    } catch {
      throw invalid(`invalid escape in ${JSON.stringify(option)}`);
    }
  };
  const version = decode(match[2] ?? '');
  const features = (match[3] ?? '').split('+').slice(1).map(decode);
  if (features.includes('')) throw invalid('empty os feature');
  const os = normalizeOS(match[1]!);

  if (rest.length === 0) {
    if (KNOWN_OS.has(os)) {
      const {architecture, variant = ''} = hostPlatform();
      return build(os, architecture, variant === 'v7' ? '' : variant, version, features);
    }
    const [architecture, variant] = normalizeArchitecture(first);
    if (!KNOWN_ARCHITECTURES.has(architecture)) throw invalid('unknown operating system or architecture');
    return build(hostPlatform().os, architecture, architecture === 'arm' && variant === 'v7' ? '' : variant);
  }
  if (rest.length === 1) {
    const [architecture, variant] = normalizeArchitecture(rest[0]!);
    return build(os, architecture, architecture === 'arm' && variant === 'v7' ? '' : variant, version, features);
  }
  if (rest.length > 2) throw invalid('cannot parse platform specifier');
  const [architecture, variant] = normalizeArchitecture(rest[0]!, rest[1]);
  return build(os, architecture, architecture === 'arm64' && variant === '' ? 'v8' : variant, version, features);
}

/** As `os/architecture[/variant]`; `unknown` where there is no os. */
export const formatPlatform = ({os, architecture, variant = ''}: Platform): string =>
  os === '' ? 'unknown' : [os, architecture, variant].filter((part) => part !== '').join('/');

/** Chooses among the platforms that an image offers. */
export interface PlatformMatcher {
  match(platform: Platform): boolean;
  /** For `sort`: negative when `a` is the better choice, positive when `b` is, 0 when neither. What does not match comes last. */
  less(a: Platform, b: Platform): number;
}

/** Minor versions of arm64's v8 that a v9 includes: v9.N includes v8.(N+5); there is no v8.10. */
const V9_INCLUDES_V8 = 5;
const LAST_V8 = 9;
const LAST_V9 = 7;

/** A normalised platform, and after it, best first, the older ones whose programs it runs too. */
function withFallbacks(platform: Platform): readonly Platform[] {
  const {os, architecture, variant = ''} = platform;
  const older = (arch: string, ...variants: readonly string[]): Platform[] =>
    variants.map((v) => build(os, arch, v, platform['os.version'], platform['os.features']));
  const down = (from: number, to: number, text: (n: number) => string): string[] =>
    Array.from({length: Math.max(0, from - to + 1)}, (_, i) => text(from - i));
  const level = Number(/^v(\d)$/.exec(variant)?.[1] ?? 0);
  switch (architecture) {
    case 'amd64':
      return [platform, ...older('amd64', ...down(level - 1, 2, (n) => `v${n}`), ...(level > 1 ? [''] : [])), ...older('386', '')];
    case 'arm':
      return [platform, ...older('arm', ...down(level - 1, 5, (n) => `v${n}`))];
    case 'arm64': {
      const [, major, minor = '0'] = /^v([89])(?:\.(\d))?$/.exec(variant === '' ? 'v8' : variant) ?? [];
      if (major === undefined || Number(minor) > (major === '9' ? LAST_V9 : LAST_V8)) return [platform];
      const name = (m: string) => (n: number) => (n === 0 ? `v${m}` : `v${m}.${n}`);
      const v9 = major === '9' ? down(Number(minor), 0, name('9')) : [];
      const v8 = down(major === '9' ? Math.min(Number(minor) + V9_INCLUDES_V8, LAST_V8) : Number(minor), 0, name('8'));
      return [...older('arm64', ...v9, ...v8), ...older('arm', ...down(8, 5, (n) => `v${n}`))];
    }
    default:
      return [platform];
  }
}

/** Windows Server releases from which on containers of the release before run as well, newest first. */
const WINDOWS_LTSC = [26100, 20348] as const;

type WindowsVersion = readonly [major: number, minor: number, build: number];

function windowsVersion(text: string | undefined): WindowsVersion | undefined {
  const match = /^(\d{1,3})\.(\d{1,3})\.(\d{1,5})(?:\.|$)/.exec(text ?? '');
  return match === null ? undefined : [Number(match[1]), Number(match[2]), Number(match[3])];
}

function windowsRuns(host: WindowsVersion, [major, minor, number]: WindowsVersion): boolean {
  if (host[0] !== major || host[1] !== minor) return false;
  const oldest = WINDOWS_LTSC.at(-1)!;
  if (host[2] < oldest) return number === host[2];
  return (WINDOWS_LTSC.find((release) => release < host[2]) ?? oldest) <= number && number <= host[2];
}

/** A test for equality in normalised words: a feature that is asked for must be offered, a Windows build must be one that runs there. */
function equals(wanted: Platform): (platform: Platform) => boolean {
  const own = normalizePlatform(wanted);
  const features = new Set(own['os.features']);
  const version = own.os === 'windows' ? windowsVersion(own['os.version']) : undefined;
  return (platform) => {
    const other = normalizePlatform(platform);
    if (own.os !== other.os || own.architecture !== other.architecture || own.variant !== other.variant) return false;
    if (
      version !== undefined &&
      other['os.version'] !== undefined &&
      !windowsRuns(version, windowsVersion(other['os.version']) ?? [0, 0, 0])
    )
      return false;
    return (other['os.features'] ?? []).every((feature) => features.has(feature) || (own.os === 'windows' && feature === 'win32k'));
  };
}

/** Matches every platform and prefers none. */
export const ALL_PLATFORMS: PlatformMatcher = {match: () => true, less: () => 0};

/**
 * A matcher for one platform, or for several.
 *
 * One matches also what that machine can run besides, best first: `linux/amd64` takes `linux/386` where there is nothing
 * better. Several match each exactly, in the order given, so that none stands in for another.
 *
 * @param options.strict exactly this platform (containerd's OnlyStrict), for one as well
 * @throws invalid_argument no platform
 *
 * After containerd/platforms, compare.go (Only, OnlyStrict, Ordered).
 */
export function matcher(
  platforms: readonly Platform[],
  {strict = platforms.length > 1}: {readonly strict?: boolean} = {},
): PlatformMatcher {
  if (platforms.length === 0) throw new ErrdefsError('invalid_argument', 'at least one platform is needed');
  const tests = platforms
    .map(normalizePlatform)
    .flatMap((platform) => (strict ? [platform] : withFallbacks(platform)))
    .map(equals);
  const less = (a: Platform, b: Platform): number => {
    for (const test of tests) {
      const inA = test(a);
      const inB = test(b);
      if (inA !== inB) return inA ? -1 : 1;
      if (inA) return (b['os.features']?.length ?? 0) - (a['os.features']?.length ?? 0);
    }
    const plain = ({'os.features': _, ...rest}: Platform): Platform => rest;
    return a['os.features'] === undefined && b['os.features'] === undefined ? 0 : less(plain(a), plain(b));
  };
  return {match: (platform) => tests.some((test) => test(platform)), less};
}
