/** `run --pull`: pulls an image before it is run, where the policy asks for it. */
import {type Code, ErrdefsError, hasCode, isErrdefs} from '../../errdefs.ts';
import {imageName} from '../api/find-image.ts';
import type {Context} from '../context.ts';
import {pull} from '../pull/pull.ts';
import type {PullPolicy, RunOptions} from '../types/index.ts';

/** Classes of failures that say nothing about the image: the registry could not be asked. */
const NOT_ASKED: ReadonlySet<Code> = new Set<Code>(['unavailable', 'deadline_exceeded', 'resource_exhausted']);

/**
 * @param text the image, as the user names it
 * @throws as `pull`; with `newer` and a local image not when the registry cannot be asked
 */
export async function pullForRun(
  context: Context,
  namespace: string,
  text: string,
  policy: Exclude<PullPolicy, 'never'>,
  {platform, snapshotter, registry = {}, onEvent, signal}: RunOptions,
): Promise<void> {
  const local = context.store.view((tx) => {
    const ns = tx.namespace(namespace);
    const name = imageName(ns, text);
    return ns.images.find(name) === undefined ? undefined : name;
  });
  if (policy === 'missing' && local !== undefined) return;
  try {
    const {warnings} = await pull(context, namespace, local ?? text, {
      ...registry,
      ifChanged: policy === 'newer',
      ...(platform === undefined ? {} : {platforms: [platform]}),
      ...(snapshotter === undefined ? {} : {snapshotter}),
      ...(onEvent === undefined ? {} : {onEvent}),
      ...(signal === undefined ? {} : {signal}),
    });
    for (const warning of warnings) context.warn(new ErrdefsError('failed_precondition', warning));
  } catch (err) {
    if (hasCode(err, 'not_modified')) return;
    if (policy !== 'newer' || local === undefined || signal?.aborted || !isErrdefs(err) || !NOT_ASKED.has(err.code)) throw err;
    context.warn(new ErrdefsError(err.code, `the local image is used: ${err.message}`, {cause: err}));
  }
}
