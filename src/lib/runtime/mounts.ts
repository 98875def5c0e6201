/** A snapshot's mounts, made in one call of mount(8) inside a private mount namespace. */
import {mkdirSync, symlinkSync, writeFileSync} from 'node:fs';
import {join} from 'node:path';
import {ErrdefsError} from '../errdefs.ts';

/**
 * One mount, as snapshotters give them. Of a list the last shows the tree; each before it is mounted at a place of its
 * own, which those after it name as `{{ mount N }}`, counted from 0, in their source and in paths of their options.
 *
 * After containerd, core/mount (Mount, and the templates of its manager).
 */
export interface Mount {
  readonly type: string;
  readonly source: string;
  /** In a list of paths, a colon that belongs to a path is written `\:`, as overlayfs itself has it. */
  readonly options: readonly string[];
}

/** One of the mounts that were laid, which goes by way of a loop device. */
export interface LoopMount {
  /** The file that is to be seen. */
  readonly image: string;
  /** Absolute path. */
  readonly target: string;
}

/** How many layers overlayfs stacks: OVL_MAX_STACK of the kernel's fs/overlayfs. */
const MAX_LOWERS = 500;

/** Options whose value is a path or, for `lowerdir`, a list of them. */
const PATH_OPTIONS = ['lowerdir', 'upperdir', 'workdir', 'device'];

/** A field of fstab(5). */
const field = (text: string): string => text.replaceAll(/[\s\\#]/g, (char) => `\\${char.charCodeAt(0).toString(8).padStart(3, '0')}`);

/**
 * Writes `<bundle>/fstab`, from which `mount -a -T fstab` run in `bundle` mounts the tree on `<bundle>/rootfs`, and
 * the directories and links that it names.
 *
 * Paths in options become short links relative to `bundle`: the kernel takes one page of options, which 127 layers
 * would exceed, it splits them at commas and colons, and a container can read them.
 *
 * @param bundle absolute path
 * @param options.volatile the writable layer is thrown away after the run: an overlay need not sync it when it is unmounted
 * @returns those that the chain has to look after
 * @throws invalid_argument no mounts, or one that names a later one @throws failed_precondition more layers than the kernel stacks
 */
export function layMounts(
  bundle: string,
  mounts: readonly Mount[],
  {volatile = false}: {readonly volatile?: boolean} = {},
): readonly LoopMount[] {
  if (mounts.length === 0) throw new ErrdefsError('invalid_argument', 'a snapshot without mounts');
  let links = 0;
  const link = (path: string): string => {
    if (links === 0) mkdirSync(join(bundle, 'l'));
    const name = `l/${links++}`;
    symlinkSync(path, join(bundle, name));
    return name;
  };
  const earlier = (text: string, index: number): string | undefined => {
    const match = /^\{\{ mount (\d+) \}\}$/.exec(text);
    if (match === null) return undefined;
    if (Number(match[1]) >= index)
      throw new ErrdefsError('invalid_argument', `mount ${index} names ${text}, which does not come before it`);
    return `m/${match[1]}`;
  };

  const loops: LoopMount[] = [];
  if (mounts.length > 1) mkdirSync(join(bundle, 'm'));
  const lines = mounts.map(({type, source, options}, index) => {
    const target = index === mounts.length - 1 ? 'rootfs' : `m/${index}`;
    if (target !== 'rootfs') mkdirSync(join(bundle, target));
    const path = (text: string): string => earlier(text, index) ?? link(text);
    const words = options.map((option) => {
      const [, key = '', value = ''] = /^([^=]*)=(.*)$/s.exec(option) ?? [];
      if (!PATH_OPTIONS.includes(key)) return option;
      const paths = key === 'lowerdir' ? value.split(/(?<!\\):/).map((text) => text.replaceAll('\\:', ':')) : [value];
      if (paths.length > MAX_LOWERS)
        throw new ErrdefsError('failed_precondition', `overlay of ${paths.length} layers, of which the kernel stacks ${MAX_LOWERS}`);
      return `${key}=${paths.map(path).join(':')}`;
    });
    if (volatile && type === 'overlay' && options.some((option) => option.startsWith('upperdir='))) words.push('volatile');
    if (options.includes('loop')) loops.push({image: source, target: join(bundle, target)});
    const from = earlier(source, index);
    const fields = [
      from === undefined ? source : join(bundle, from),
      join(bundle, target),
      type === 'bind' ? 'none' : type,
      words.join(',') || 'defaults',
    ];
    return `${fields.map(field).join(' ')} 0 0\n`;
  });
  writeFileSync(join(bundle, 'fstab'), lines.join(''));
  return loops;
}
