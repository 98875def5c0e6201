/**
 * An AppArmor profile of berth's own, for containers that ask for it: its rules, and its way into the kernel.
 *
 * The rules forbid what those of docker and containerd forbid (containerd, contrib/apparmor/template.go), in fewer words; see apparmor.d(5).
 */
import {existsSync, readFileSync} from 'node:fs';
import {ErrdefsError} from '../errdefs.ts';
import {run} from '../fs/spawn.ts';
import type {Spec} from './spec.ts';
import type {SpecOptions} from './spec-option-types.ts';

/** Annotation with the name of the profile of a container for which berth loads it. */
export const DEFAULT_RULES = 'berth/apparmor-default-profile';

/** There only where the kernel confines programs by profiles. */
const PROFILES = '/sys/kernel/security/apparmor/profiles';
const MODULE = '/sys/module/apparmor';

/** With the capabilities that a container has by default, it loses nothing by them but what masked and read-only paths forbid it, too. */
export const profileText = (name: string): string => `
include if exists <tunables/global>

profile ${name} flags=(attach_disconnected, mediate_deleted) {
  include if exists <abstractions/base>

  file,
  network,
  capability,
  umount,
  deny mount,

  # The runtimes have profiles of their own on some systems.
  signal receive peer=unconfined,
  signal receive peer={runc,crun,conmon,podman,berth},
  signal peer=${name},
  ptrace peer=${name},

  # Settings of the kernel: of /proc only the processes may be written, of /sys only control groups.
  deny /proc/[^1-9]** w,
  deny /proc/{kcore,sysrq-trigger} rwklx,
  deny /sys/{[^f],f[^s],fs/[^c],fs/c[^g],fs/cg[^r]}** wklx,
  deny /sys/{firmware,devices/virtual/powercap,kernel/security}/** rwklx,
}
`;

/**
 * What a specification says of its profile.
 *
 * @throws invalid_argument two profiles, or a name that could be more than a name in the profile's text
 */
export function apparmorOf({apparmorProfile, apparmorDefaultProfile}: Pick<SpecOptions, 'apparmorProfile' | 'apparmorDefaultProfile'>): {
  readonly profile?: string;
  readonly annotations?: Readonly<Record<string, string>>;
} {
  if (apparmorDefaultProfile === undefined)
    return apparmorProfile === undefined || apparmorProfile === 'unconfined' ? {} : {profile: apparmorProfile};
  const what = `AppArmor profile ${JSON.stringify(apparmorDefaultProfile)}`;
  if (apparmorProfile !== undefined)
    throw new ErrdefsError('invalid_argument', `${what}, and ${JSON.stringify(apparmorProfile)} besides`, {hint: 'give one of the two'});
  if (!/^[A-Za-z0-9][\w.-]{0,127}$/.test(apparmorDefaultProfile) || apparmorDefaultProfile === 'unconfined')
    throw new ErrdefsError('invalid_argument', what, {hint: 'its name is one of letters, digits and "_.-"'});
  return {profile: apparmorDefaultProfile, annotations: {[DEFAULT_RULES]: apparmorDefaultProfile}};
}

/** The kernel's list has a name and a mode a line. */
const isLoaded = (name: string, profiles: string): boolean =>
  readFileSync(profiles, 'latin1')
    .split('\n')
    .some((line) => line.replace(/ \([^()]*\)$/, '') === name);

/**
 * Loads the profile of a specification, if it has berth's rules, and the kernel does not have one of that name: it keeps profiles until the
 * machine ends.
 *
 * @throws failed_precondition it cannot be loaded, or the kernel knows no profiles
 * @throws unavailable there is no parser for profiles
 */
export async function loadProfile(
  {process, annotations = {}}: Pick<Spec, 'process' | 'annotations'>,
  profiles = PROFILES,
  module = MODULE,
): Promise<void> {
  const {apparmorProfile: name} = process;
  if (name === undefined) return;
  const isOurs = annotations[DEFAULT_RULES] === name;
  const refused = (why: string): ErrdefsError =>
    new ErrdefsError('failed_precondition', `AppArmor profile ${JSON.stringify(name)}: ${why}`, {
      hint: `make the container without ${isOurs ? '--apparmor-default-profile' : '--security-opt apparmor'}`,
    });
  // Where securityfs is not mounted nobody sees its list, and the runtime can use a profile all the same.
  if (!existsSync(isOurs ? profiles : module)) throw refused('the kernel has no AppArmor');
  if (!isOurs) return;
  if (isLoaded(name, profiles)) return;
  const {status, stderr} = await run('apparmor_parser', ['--replace', '--skip-cache'], {
    package: 'apparmor',
    input: Buffer.from(profileText(name)),
  });
  if (status !== 0) throw refused(`not loaded: ${stderr.trim()}`);
}
