/** `doctor`: checks kernel, tools and state, with hints. */
import {accessSync, constants, existsSync, statfsSync} from 'node:fs';
import {type ErrdefsError, hasCode, isErrdefs} from '../../errdefs.ts';
import {nearestExisting} from '../../fs/durable.ts';
import {checkRuntime} from '../../runtime/doctor.ts';
import {REPAIR_HINT} from '../../store/read-record-files.ts';
import {isRootless, mappedIds, userID} from '../../user-namespace-identity.ts';
import type {Context} from '../context.ts';
import {checkUserNamespace} from '../enter-user-namespace.ts';
import {type ErofsSupport, probeErofs} from '../erofs-probe.ts';
import type {DoctorCheck} from '../types/index.ts';

/** Free space below which a pull is likely to fail, in bytes. */
const LITTLE_SPACE = 1 << 30;

/** The check that an error stands for. */
const failed = (name: string, {message, hint}: ErrdefsError): DoctorCheck => ({
  name,
  status: 'error',
  detail: message,
  ...(hint === undefined ? {} : {hint}),
});

function checkState(context: Context): readonly DoctorCheck[] {
  const {store} = context;
  const {root} = store.layout;
  const checks: DoctorCheck[] = [];
  try {
    const namespaces = store.view((tx) => tx.namespaces.list());
    const detail = existsSync(store.layout.version)
      ? `${root}, ${namespaces.length} namespaces`
      : `${root} does not exist yet; the first change creates it`;
    checks.push({name: 'state directory', status: 'ok', detail});
  } catch (err) {
    const hint =
      isErrdefs(err) && err.hint !== undefined
        ? err.hint
        : hasCode(err, 'permission_denied')
          ? 'run as root, or choose another --root'
          : undefined;
    checks.push({name: 'state directory', status: 'error', detail: (err as Error).message, ...(hint === undefined ? {} : {hint})});
  }
  for (const [name, directory] of [
    ['disk space', () => root],
    ['run directory', () => context.stateDir],
  ] as const) {
    let existing = '';
    try {
      existing = nearestExisting(directory());
      accessSync(existing, constants.W_OK);
      const {bavail, bsize} = statfsSync(existing);
      const free = bavail * bsize;
      const detail = `${Math.floor(free / (1 << 20))} MiB free in ${existing}`;
      if (name === 'disk space' && free < LITTLE_SPACE)
        checks.push({name, status: 'warning', detail, hint: 'free disk space before you pull'});
      else checks.push({name, status: 'ok', detail});
    } catch (err) {
      if (isErrdefs(err)) checks.push(failed(name, err));
      else
        checks.push({
          name,
          status: 'error',
          detail: `${existing} is not writable: ${(err as NodeJS.ErrnoException).code ?? ''}`,
          hint: 'run as root, or choose another directory',
        });
    }
  }
  return checks;
}

/** The worst finding of `check`. */
async function checkStore(context: Context): Promise<readonly DoctorCheck[]> {
  const name = 'store';
  try {
    if (!context.store.exists()) return [];
    const {check} = await import('./check.ts');
    const {findings, checked, damage} = await check(context, {});
    const worst = findings.find(({severity}) => severity === 'damage');
    if (worst !== undefined) {
      const detail = `${damage} damaged, such as ${worst.object}: ${worst.problem} (${worst.path})`;
      return [{name, status: 'error', detail, hint: REPAIR_HINT}];
    }
    return [{name, status: 'ok', detail: `${checked.records} records, ${checked.blobs} blobs, ${checked.layers} layers`}];
  } catch (err) {
    if (!isErrdefs(err)) throw err;
    return [failed(name, err)];
  }
}

/** Whether this user can have a user namespace; root of the machine needs none. */
function checkOwnUserNamespace(): readonly DoctorCheck[] {
  if (!isRootless()) return [];
  const name = 'user namespace';
  try {
    if (process.geteuid?.() !== 0) checkUserNamespace();
  } catch (err) {
    if (!isErrdefs(err)) throw err;
    return [failed(name, err)];
  }
  if (!mappedIds().single) return [{name, status: 'ok', detail: `of user ${userID()}: without root, with the users of /etc/subuid`}];
  return [{name, status: 'warning', detail: `of user ${userID()}, who is the only one in it`, hint: 'files of an image lose their owners'}];
}

export async function doctor(context: Context): Promise<readonly DoctorCheck[]> {
  return [
    ...checkState(context),
    ...checkOwnUserNamespace(),
    ...(await checkStore(context)),
    ...(await checkRuntime(nearestExisting(context.store.layout.root))),
    checkSnapshotter(context),
  ];
}

function checkSnapshotter(context: Context): DoctorCheck {
  const name = 'snapshotter';
  let support: ErofsSupport;
  try {
    support = probeErofs(context.stateDir, context.store.layout.root);
  } catch (err) {
    if (!isErrdefs(err)) throw err;
    return failed(name, err);
  }
  const {backing, reason} = support;
  const detail = 'erofs: layers are indexed, not extracted';
  if (backing === 'files') return {name, status: 'ok', detail};
  if (backing === 'loop') return {name, status: 'ok', detail: `${detail}; mounted from loop devices, since ${reason}`};
  return {
    name,
    status: 'warning',
    detail: `overlayfs: layers are extracted, since ${reason}`,
    hint: 'indexed layers need Linux 6.12 or newer, or 6.4 with loop devices',
  };
}
