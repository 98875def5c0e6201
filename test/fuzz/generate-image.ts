/**
 * Generates images from a seed. Their layers are valid tars and hostile to unpackers: a component of a name may be a whiteout, a dot,
 * empty, or a link.
 *
 * Each image has few features, so that a failure tells which ones caused it.
 */
import {block, char, dir, fifo, file, link, MTIME, symlink, type TarEntry, tar} from '../support/tartest.ts';
import {type Random, randomOf} from './seeded-random.ts';

/** Features of names and entries. */
const FEATURES = [
  'whiteout',
  'opaque',
  'whiteout-parent',
  'odd-whiteout',
  'dotdot',
  'dots',
  'symlink',
  'symlink-mode',
  'link',
  'link-attributes',
  'node',
  'device-zero',
  'no-parents',
  'again',
  'modes',
  'setgid',
  'owners',
  'xattrs',
  'times',
  'pax',
  'gnu',
  'v7',
  'long',
  'root',
] as const;
export type Feature = (typeof FEATURES)[number];

const COMPANIONS: Partial<Record<Feature, Feature>> = {
  whiteout: 'again',
  opaque: 'again',
  'whiteout-parent': 'no-parents',
  symlink: 'no-parents',
  'link-attributes': 'link',
  'no-parents': 'again',
  setgid: 'no-parents',
  long: 'symlink',
  root: 'xattrs',
};

export interface GeneratedImage {
  /** `seed/n` reproduces the image. */
  readonly name: string;
  readonly features: ReadonlySet<Feature>;
  /** Bottom first. */
  readonly layers: readonly (readonly TarEntry[])[];
  readonly tars: readonly Buffer[];
}

/** Few names, so that entries collide. */
const NAMES = ['a', 'b', 'c', 'd'];
const PARENTS: Partial<Record<Feature, readonly string[]>> = {
  'whiteout-parent': ['.wh.a', '.wh.b', '.wh..wh..opq', '.wh.', '.wh..wh.a', '.wh..', '.wh...'],
  dotdot: ['..'],
  dots: ['.', ''],
};
const BASES: Partial<Record<Feature, readonly string[]>> = {
  ...PARENTS,
  'whiteout-parent': [],
  whiteout: ['.wh.a', '.wh.b', '.wh.c', '.wh.d'],
  opaque: ['.wh..wh..opq'],
  'odd-whiteout': ['.wh..wh.a', '.wh..wh.plnk', '.wh..wh..wh.b', '.wh.'],
  long: ['n'.repeat(255), 'm'.repeat(120)],
};
const LONG_TARGET = 4096;

export function generateImage(seed: number, n: number): GeneratedImage {
  const random = randomOf(seed, n);
  // Each feature occurs once in as many images as there are features, usually with the feature that makes it matter.
  const first = FEATURES[n % FEATURES.length]!;
  const companion = random.chance(0.8) ? COMPANIONS[first] : undefined;
  const more = Array.from({length: random.below(3)}, () => random.pick(FEATURES));
  const features = new Set<Feature>([first, ...(companion === undefined ? [] : [companion]), ...more]);
  const writer = new LayerWriter(random, features);
  const layers = Array.from({length: 1 + random.below(3)}, () => writer.layer());
  return {name: `${seed}/${n}`, features, layers, tars: layers.map((entries) => tar(...entries))};
}

class LayerWriter {
  readonly #random: Random;
  readonly #features: ReadonlySet<Feature>;
  /** Directories of all layers so far, and files by name. */
  readonly #dirs = new Set<string>();
  readonly #files = new Map<string, TarEntry>();

  constructor(random: Random, features: ReadonlySet<Feature>) {
    this.#random = random;
    this.#features = features;
  }

  layer(): TarEntry[] {
    const entries: TarEntry[] = [];
    const carried = new Set<string>();
    this.#files.clear();
    const count = 1 + this.#random.below(8);
    while (entries.length < count) {
      const parts = this.#path();
      if (!this.#has('no-parents', 0.7))
        for (let i = 1; i < parts.length; i++) {
          const parent = parts.slice(0, i).join('/');
          if (carried.has(parent) || parts.slice(0, i).some((part) => !NAMES.includes(part))) continue;
          carried.add(parent);
          this.#dirs.add(parent);
          entries.push(dir(parent, 0o755, this.#attributes('dir')));
        }
      const entry = this.#has('again', 0.3) ? this.#sameAgain(entries, parts) : this.#entry(parts.join('/'));
      if (carried.has(entry.name) && !this.#has('again', 0.8)) continue;
      carried.add(entry.name);
      if (entry.typeflag === '0') this.#files.set(entry.name, entry);
      entries.push(entry);
    }
    if (this.#has('again', 0.6)) entries.push(this.#sameAgain(entries, NAMES));
    return entries;
  }

  #has(feature: Feature, probability: number): boolean {
    return this.#features.has(feature) && this.#random.chance(probability);
  }

  #oneOf(words: Partial<Record<Feature, readonly string[]>>, probability: number): string {
    if (this.#random.chance(probability)) {
      const odd = [...this.#features].flatMap((feature) => words[feature] ?? []);
      if (odd.length > 0) return this.#random.pick(odd);
    }
    return this.#random.pick(NAMES);
  }

  #path(): string[] {
    const parts = Array.from({length: this.#random.below(4)}, () => this.#oneOf(PARENTS, 0.35));
    const path = [...parts, this.#oneOf(BASES, 0.4)];
    return this.#has('dots', 0.3) ? ['.', ...path] : path;
  }

  #entry(name: string): TarEntry {
    const random = this.#random;
    if (this.#has('root', 0.15)) return dir(random.pick(['.', './', '/']), random.pick([0o755, 0o700]), this.#attributes('dir'));
    const kinds: ((name: string) => TarEntry)[] = [
      (at) => this.#directory(at),
      (at) => this.#file(at),
      (at) => this.#file(at),
      ...(this.#features.has('symlink') ? [(at: string) => this.#symlink(at), (at: string) => this.#symlink(at)] : []),
      ...(this.#features.has('symlink-mode') ? [(at: string) => this.#symlink(at)] : []),
      ...(this.#features.has('link') ? [(at: string) => this.#link(at), (at: string) => this.#link(at)] : []),
      ...(this.#features.has('node') ? [(at: string) => this.#node(at)] : []),
      ...(this.#features.has('device-zero') ? [(at: string) => char(at, 0, 0)] : []),
    ];
    return random.pick(kinds)(name);
  }

  /** Repeats a name of this layer with any type, or with a whiteout. */
  #sameAgain(entries: readonly TarEntry[], otherwise: readonly string[]): TarEntry {
    const names = entries.map(({name}) => name.split('/'));
    const path = names.length === 0 ? otherwise : this.#random.pick(names);
    const own = path.slice(0, 1 + this.#random.below(path.length));
    if (this.#has('opaque', 0.5)) return file([...own, '.wh..wh..opq'].join('/'));
    if (this.#has('whiteout', 0.7)) own.push(`.wh.${own.pop()}`);
    return this.#entry(own.join('/'));
  }

  #directory(name: string): TarEntry {
    this.#dirs.add(name);
    const mode = this.#has('setgid', 0.6) ? 0o2755 : this.#has('modes', 0.6) ? this.#random.pick([0o700, 0o1777, 0, 0o555, 0o7777]) : 0o755;
    return dir(this.#has('dots', 0.3) ? `${name}/` : name, mode, {...this.#attributes('dir'), ...(mode === 0o2755 ? {gid: 7} : {})});
  }

  #file(name: string): TarEntry {
    const mode = this.#has('modes', 0.6) ? this.#random.pick([0, 0o4755, 0o2755, 0o600, 0o7777]) : 0o644;
    const size = this.#random.pick([0, 1, 511, 512, 513, 5000]);
    const content = Buffer.alloc(size, this.#random.pick(['x', 'y', 'z']));
    return file(name, content, mode, this.#attributes('file', content));
  }

  #symlink(name: string): TarEntry {
    const {pick} = this.#random;
    const target = this.#has('long', 0.5)
      ? 't'.repeat(LONG_TARGET - this.#random.below(3))
      : `${pick(['', '/', '../', './', '../../'])}${pick([...NAMES, 'a/b', '.', '..', 'b/../c', 'none'])}`;
    return symlink(target, name, {
      ...this.#attributes('symlink'),
      ...(this.#has('symlink-mode', 0.7) ? {mode: pick([0o644, 0, 0o755])} : {}),
    });
  }

  /** A hard link, usually to a file of this layer and with its attributes. */
  #link(name: string): TarEntry {
    const files = [...this.#files.values()];
    if (files.length === 0 || this.#has('link-attributes', 0.3)) return link(this.#path().join('/'), name);
    const {mode, uid, gid, mtime, xattrs, pax, name: target} = this.#random.pick(files);
    const {size: _size, path: _path, ...same} = pax ?? {};
    const own = this.#has('link-attributes', 0.5) ? this.#attributes('file') : {};
    return link(target, name, {mode, uid, gid, mtime, xattrs, pax: same, ...own} as Partial<TarEntry>);
  }

  #node(name: string): TarEntry {
    const {pick} = this.#random;
    const own = this.#attributes('node');
    return pick([() => fifo(name, 0o622, own), () => char(name, pick([1, 300]), pick([3, 70_000]), own), () => block(name, 7, 200, own)])();
  }

  #attributes(kind: 'dir' | 'file' | 'symlink' | 'node', content = Buffer.alloc(0)): Partial<TarEntry> {
    const {below, pick, chance} = this.#random;
    const pax: Record<string, string> = {};
    if (this.#has('times', 0.7)) {
      const second = MTIME - below(1000);
      pax.mtime = pick([
        `${second}.5`,
        `${second}.123456789`,
        `${second}.000000001`,
        `${second}`,
        `${second}.1234567899`,
        '-5',
        '9300000000',
      ]);
    }
    if (this.#has('pax', 0.5)) {
      if (chance(0.5)) pax.uid = '3000001';
      if (chance(0.3) && kind === 'file') pax.size = String(content.length);
      if (chance(0.3)) pax.comment = 'none';
    }
    const keys = kind === 'symlink' || kind === 'node' ? ['security.foo'] : ['user.a', 'user.b', 'security.foo', 'user.empty'];
    return {
      mtime: MTIME - below(100_000),
      ...(this.#has('owners', 0.7) ? {uid: pick([0, 1, 1000, 70_000]), gid: pick([0, 2, 1000])} : {}),
      ...(this.#has('xattrs', 0.6) ? {xattrs: {[pick(keys)]: pick(['1', 'longer value', ''])}} : {}),
      ...(this.#has('gnu', 0.6) && Object.keys(pax).length === 0 ? {format: 'gnu' as const} : {}),
      ...(this.#has('v7', 0.5) && kind !== 'node' && Object.keys(pax).length === 0 ? {format: 'v7' as const} : {}),
      ...(Object.keys(pax).length === 0 ? {} : {pax}),
    };
  }
}
