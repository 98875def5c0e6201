/** Where a bench works: a scratch directory, a registry on loopback, disks that are new for every run, and how berth is started on them. */
import {closeSync, ftruncateSync, mkdirSync, mkdtempSync, openSync, readdirSync, realpathSync, rmSync} from 'node:fs';
import {tmpdir} from 'node:os';
import {join} from 'node:path';
import {setTimeout as sleep} from 'node:timers/promises';
import {unmountBelow} from '../test/support/helpers.ts';
import {pushImage, type Registry, startRegistry} from '../test/support/registry.ts';
import {prepareBy} from './measure.ts';

const root = join(import.meta.dirname, '..');

/** The ways to start berth. */
export const LAUNCHER = join(root, 'bin/ctr');
export const EXECUTABLE = join(root, `dist/berth-linux-${process.arch}`);
export const NODE_MAIN = join(root, 'dist/node/main.js');

export interface SiteOptions {
  /** Images that a bench is limited to; default all. */
  readonly images?: readonly string[];
  /** Rounds of every comparison, where a bench has not its own reasons for fewer. */
  readonly rounds: number | undefined;
  /** Small inputs, to try the bench itself. */
  readonly tiny: boolean;
}

/** A disk of its own for one store at a time. */
export interface Disk {
  /** Makes a new filesystem on it, without anything that was there. @returns where it is mounted */
  fresh(): Promise<string>;
}

/** Blobs, tar and extracted tree of the largest image at once, and then some. */
const DISK_BYTES = 12 * 2 ** 30;
/** How long those who ended may take to let go of a filesystem. */
const LETTING_GO_MS = 2000;

export class Site {
  readonly dir: string;
  readonly tiny: boolean;
  readonly #images: readonly string[] | undefined;
  readonly #rounds: number | undefined;
  readonly #hooks: (() => void | Promise<void>)[] = [];
  #registry: Promise<Registry> | undefined;
  #count = 0;

  constructor({images, rounds, tiny}: SiteOptions) {
    this.tiny = tiny;
    this.#images = images;
    this.#rounds = rounds;
    this.dir = realpathSync(mkdtempSync(join(tmpdir(), 'berth-bench-')));
    this.after(() => rmSync(this.dir, {recursive: true, force: true}));
  }

  /** Runs `fn` at the end; the last one first. */
  after(fn: () => void | Promise<void>): void {
    this.#hooks.unshift(fn);
  }

  async close(): Promise<void> {
    for (const hook of this.#hooks.splice(0)) await hook();
  }

  measures(image: string): boolean {
    return this.#images?.includes(image) ?? true;
  }

  rounds(usual: number): number {
    return this.#rounds ?? (this.tiny ? 1 : usual);
  }

  /** A path that nothing has used. */
  path(name: string): string {
    return join(this.dir, `${this.#count++}-${name}`);
  }

  directory(name: string): string {
    const dir = this.path(name);
    mkdirSync(dir);
    return dir;
  }

  registry(): Promise<Registry> {
    this.#registry ??= startRegistry({after: (fn) => this.after(fn)});
    return this.#registry;
  }

  /** Pushes the image of a layout. @returns its reference */
  async push(name: string, layout: string): Promise<string> {
    const registry = await this.registry();
    await pushImage(registry, `library/${name}:latest`, layout);
    return `${registry.host}/library/${name}:latest`;
  }

  /** Needs root and loop devices. */
  disk(): Disk {
    const mountPoint = this.directory('mnt');
    const make = (): {readonly file: string; readonly device: string} => {
      const file = this.path('disk');
      const fd = openSync(file, 'wx');
      ftruncateSync(fd, DISK_BYTES);
      closeSync(fd);
      // Past the page cache of the disk below, so that nothing is kept or written twice.
      return {file, device: prepareBy({command: ['losetup', '--find', '--show', '--direct-io=on', file]}).trim()};
    };
    let disk = make();
    let mounted = false;
    const remove = (): void => {
      prepareBy({command: ['losetup', '--detach', disk.device]});
      rmSync(disk.file);
    };
    const unmount = async (): Promise<void> => {
      if (!mounted) return;
      // podman leaves a mount behind.
      for (const name of readdirSync(mountPoint)) unmountBelow(join(mountPoint, name));
      await insist(() => prepareBy({command: ['umount', mountPoint]}));
      mounted = false;
    };
    this.after(async () => {
      await unmount();
      remove();
    });
    // Nothing that makes the kernel go on writing in the background.
    const format = (): unknown =>
      prepareBy({command: ['mkfs.ext4', '-q', '-F', '-E', 'nodiscard,lazy_itable_init=1,lazy_journal_init=1', disk.device]});
    return {
      fresh: async () => {
        await unmount();
        try {
          await insist(format);
        } catch {
          // Another mount namespace on this machine took a copy of the mount, and lives on: the disk is left to it.
          remove();
          disk = make();
          format();
        }
        prepareBy({command: ['mount', '-o', 'noinit_itable', disk.device, mountPoint]});
        mounted = true;
        prepareBy({command: ['sync']});
        return mountPoint;
      },
    };
  }
}

/** Tries until those who have just ended have let go. */
async function insist(action: () => unknown): Promise<void> {
  for (const deadline = Date.now() + LETTING_GO_MS; ; await sleep(50)) {
    try {
      action();
      return;
    } catch (err) {
      if (Date.now() > deadline) throw err;
    }
  }
}
