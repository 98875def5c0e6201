/**
 * Plans the mounts of a snapshot, and writes a plan as fstab(5) or as a shell script.
 *
 * The kernel takes one page of options, which 127 layers exceed. mount(8) splits options at commas, overlayfs splits `lowerdir` at
 * colons, and a container can read all options. So a plan replaces paths by short links, relative to its directory:
 *
 *     l/<n>   links to the paths in options
 *     m/<n>   mount points of all mounts but the last
 *     i/<n>   of those that are idmapped; see idmapped-mounts.ts
 *
 * After the last mount the others may be unmounted and the directory removed: overlayfs holds its layers itself.
 */
import {mkdirSync, symlinkSync, writeFileSync} from 'node:fs';
import {isAbsolute, join, resolve} from 'node:path';
import {ErrdefsError, fromErrno} from '../errdefs.ts';

/**
 * One mount, as snapshotters give them. Of a list the last shows the tree; each before it is mounted at a mount point of its
 * own, which those after it name as `{{ mount N }}`, counted from 0, in their source and in paths of their options.
 *
 * After containerd, core/mount (Mount, and the templates of its manager).
 */
export interface Mount {
  readonly type: string;
  readonly source: string;
  /** In `lowerdir`, a list of paths, `\:` and `\\` stand for a colon and a backslash of a path, as overlayfs itself has it. */
  readonly options: readonly string[];
}

/** A mount with all templates replaced. Relative paths start at the plan's directory. */
export interface PlannedMount extends Mount {
  /** Relative, or absolute where it exists already; absent for the last mount, whose target the caller chooses. */
  readonly mountPoint?: string;
}

export interface MountPlan {
  /** Targets of the links `l/0`, `l/1`, … */
  readonly links: readonly string[];
  /** In mount order; the last shows the tree. */
  readonly mounts: readonly [...PlannedMount[], PlannedMount];
}

/**
 * Carries out a plan. Two exist, both with mount(8): in a private mount namespace (launcher.ts) and in the caller's own
 * (host-mount.ts). System calls or a user namespace would be others.
 */
export interface Mounter<T = void> {
  /** @throws failed_precondition a mount failed @throws resource_exhausted too few loop devices */
  mount(plan: MountPlan): Promise<T>;
}

/** How many layers overlayfs stacks: OVL_MAX_STACK of the kernel's fs/overlayfs. */
const MAX_LOWERS = 500;
/** Most bytes of options without links: less than the kernel's page. */
const MAX_LITERAL = 4000;

/** Options whose value is a path or, for `lowerdir`, a list of them. */
const PATH_OPTIONS = ['lowerdir', 'upperdir', 'workdir', 'device'];

/** Whether neither mount(8) nor overlayfs would split or unescape the path. */
const isPlain = (path: string): boolean => /^[^\s,:\\"'\p{C}]+$/u.test(path);

function pathsOf(key: string, value: string): readonly string[] {
  if (key !== 'lowerdir') return [value];
  const paths = [...value.matchAll(/(?:\\.|[^:\\])+/gs)].map(([path]) => path.replaceAll(/\\(.)/gs, '$1'));
  if (paths.length > MAX_LOWERS)
    throw new ErrdefsError('failed_precondition', `overlay of ${paths.length} layers, but the kernel stacks at most ${MAX_LOWERS}`);
  return paths;
}

/**
 * @param options.volatile the upperdir will be discarded, so an overlay need not sync it on unmount
 * @param options.literal for human readers: a single mount gets no links unless its options need them
 * @throws invalid_argument no mounts, or one that names a later one @throws failed_precondition more layers than the kernel stacks
 */
export function planMounts(
  mounts: readonly Mount[],
  {volatile = false, literal = false}: {readonly volatile?: boolean; readonly literal?: boolean} = {},
): MountPlan {
  const links: string[] = [];
  const earlier = (text: string, index: number): string | undefined => {
    const match = /^\{\{ mount (\d+) \}\}$/.exec(text);
    if (match === null) return undefined;
    if (Number(match[1]) >= index)
      throw new ErrdefsError('invalid_argument', `mount ${index} refers to ${text}, which is not an earlier mount`);
    return `m/${match[1]}`;
  };
  const plan = ({type, source, options}: Mount, index: number, name: (path: string) => string): PlannedMount => {
    const words = options.map((option) => {
      const [, key = '', value = ''] = /^([^=]*)=(.*)$/s.exec(option) ?? [];
      if (!PATH_OPTIONS.includes(key)) return option;
      return `${key}=${pathsOf(key, value)
        .map((path) => earlier(path, index) ?? name(path))
        .join(':')}`;
    });
    if (volatile && type === 'overlay' && options.some((option) => option.startsWith('upperdir='))) words.push('volatile');
    const isLast = index === mounts.length - 1;
    return {type, source: earlier(source, index) ?? source, options: words, ...(isLast ? {} : {mountPoint: `m/${index}`})};
  };

  const [first] = mounts;
  if (first === undefined) throw new ErrdefsError('invalid_argument', 'a snapshot without mounts');
  if (literal && mounts.length === 1) {
    const paths: string[] = [];
    const mount = plan(first, 0, (path) => paths[paths.push(path) - 1]!);
    if (paths.every(isPlain) && Buffer.byteLength(mount.options.join(',')) <= MAX_LITERAL) return {links, mounts: [mount]};
  }
  const planned = mounts.map((mount, index) => plan(mount, index, (path) => `l/${links.push(path) - 1}`));
  return {links, mounts: planned as [...PlannedMount[], PlannedMount]};
}

/** Mounts through a loop device, with the image of each. */
export const loopMounts = ({mounts}: MountPlan): readonly {readonly image: string; readonly mountPoint: string | undefined}[] =>
  mounts.flatMap(({source, options, mountPoint}) => (options.includes('loop') ? {image: source, mountPoint} : []));

/** Makes the links and mount points of a plan in a directory. */
export function makeMountPoints(directory: string, {links, mounts}: MountPlan): void {
  if (links.length > 0) mkdirSync(join(directory, 'l'));
  for (const [i, target] of links.entries()) symlinkSync(target, join(directory, 'l', String(i)));
  for (const {mountPoint} of mounts)
    if (mountPoint !== undefined && !isAbsolute(mountPoint)) mkdirSync(join(directory, mountPoint), {recursive: true});
}

/** A field of fstab(5). */
const field = (text: string): string => text.replaceAll(/[\s\\#]/g, (char) => `\\${char.charCodeAt(0).toString(8).padStart(3, '0')}`);

/**
 * Makes the links and mount points of a plan in `directory`, and `fstab`, from which `mount -a -T fstab` run there mounts the tree: one
 * process for all of them.
 *
 * @param directory absolute path
 * @param target of the last mount, absolute
 * @param name of the file
 */
export function writeFstab(directory: string, plan: MountPlan, target: string, name = 'fstab'): void {
  makeMountPoints(directory, plan);
  const lines = plan.mounts.map(({type, source, options, mountPoint}) => {
    const from = /^m\/\d+$/.test(source) ? join(directory, source) : source;
    const to = mountPoint === undefined ? target : resolve(directory, mountPoint);
    const fields = [from, to, type === 'bind' ? 'none' : type, options.join(',') || 'defaults'];
    return `${fields.map(field).join(' ')} 0 0\n`;
  });
  writeFileSync(join(directory, name), lines.join(''));
}

/**
 * Makes a mount target absolute, so that mount(8) cannot take it for an option. It is not normalised: the kernel resolves `..` after
 * symbolic links.
 *
 * @throws invalid_argument it is empty, or has a NUL
 */
export function absoluteTarget(target: string): string {
  if (target === '' || target.includes('\0')) throw new ErrdefsError('invalid_argument', `directory ${JSON.stringify(target)}`);
  if (isAbsolute(target)) return target;
  try {
    return `${process.cwd()}/${target}`;
  } catch (err) {
    throw fromErrno(err, 'working directory');
  }
}

/** Characters that a terminal interprets or hides, except line ends. */
const UNSAFE = /((?:(?!\n)[\p{C}\p{Zl}\p{Zp}\p{Default_Ignorable_Code_Point}])+)/u;

const octal = (text: string): string => Array.from(Buffer.from(text), (byte) => `\\${byte.toString(8).padStart(3, '0')}`).join('');

/** Quotes a word for a POSIX shell, so that a terminal shows all of it. */
function quote(word: string): string {
  if (/^[\w@%+=:,./-]+$/.test(word)) return word;
  return word
    .split(UNSAFE)
    .map((part, i) => (part === '' ? '' : i % 2 === 0 ? `'${part.replaceAll("'", `'\\''`)}'` : `"$(printf '${octal(part)}')"`))
    .join('');
}

/**
 * libmount's newer way takes no option longer than 255 bytes; versions before 2.39 have only the older one, and do not know the
 * variable.
 */
const OLD_WAY = 'LIBMOUNT_FORCE_MOUNT2=always';

/**
 * The mounts as simple commands of a POSIX shell, run in the plan's directory with its links and mount points and with `OLD_WAY` in the
 * environment.
 *
 * @param target of the last mount, absolute: it may be called anything
 */
const mountCommands = ({mounts}: MountPlan, target: string): readonly string[] =>
  mounts.map(({type, source, options, mountPoint}) => {
    const words = ['-t', type, source, mountPoint ?? target, ...(options.length === 0 ? [] : ['-o', options.join(',')])];
    return ['mount', ...words].map(quote).join(' ');
  });

/** One command of a POSIX shell that makes the mounts, run in a directory with the plan's links and mount points; see `makeMountPoints`. */
export const mountCommand = (plan: MountPlan, target: string): string =>
  [`export ${OLD_WAY}`, ...mountCommands(plan, target)].join(' &&\n');

/**
 * A script for a POSIX shell that leaves one mount, at `target`, or nothing. What it needs meanwhile is in a temporary directory of
 * its own.
 *
 * @param target absolute path
 * @returns lines, of which a name may take several; a single command where that is enough, as ctr prints it
 */
export function mountScript(plan: MountPlan, target: string): readonly string[] {
  const commands = mountCommands(plan, target);
  const mountPoints = plan.mounts.flatMap(({mountPoint}) => mountPoint ?? []);
  if (plan.links.length + mountPoints.length === 0)
    // By env(1), so that sudo(8) and a bare command substitution run it as well.
    return commands.flatMap((command) => (plan.mounts[0].type === 'bind' ? command : `env ${OLD_WAY} ${command}`).split('\n'));
  const directories = [...(plan.links.length > 0 ? ['l'] : []), ...(mountPoints.length > 0 ? ['m', ...mountPoints] : [])];
  const steps = [
    `export ${OLD_WAY}`,
    ['mkdir', ...directories].join(' '),
    ...plan.links.map((path, i) => `ln -s ${quote(path)} l/${i}`),
    ...commands,
  ];
  const tidy = [
    ...(mountPoints.length > 0 ? ['umount -l m/* 2>/dev/null', 'rmdir m/* m'] : []),
    ...(plan.links.length > 0 ? ['rm -f l/*', 'rmdir l'] : []),
    'rmdir "$d"',
  ];
  return [
    '(',
    'd=$(mktemp -d) && cd "$d" || exit',
    `trap '${tidy.join('; ')}' EXIT`,
    "trap 'exit 1' HUP INT TERM",
    ...steps.map((step, i) => (i < steps.length - 1 ? `${step} &&` : step)),
    ')',
  ].flatMap((text) => text.split('\n'));
}
