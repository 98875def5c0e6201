/** Changes what a tag of a registry names, while others do so at the same time. */
import {setTimeout as sleep} from 'node:timers/promises';
import {ErrdefsError, hasCode} from '../../errdefs.ts';
import type {Descriptor} from '../../oci/descriptor.ts';
import {digestOf} from '../../oci/hash.ts';
import type {Reference} from '../../oci/reference.ts';
import type {Remote} from '../../remotes/types.ts';
import {readDocument} from './read.ts';

/** Attempts at a tag that others change at the same time. */
const MAX_ATTEMPTS = 10;
/** Shortest wait before the tag is read again, in milliseconds. */
const SETTLE_MS = 50;

/** Changes of this process, one after the other for each tag. */
const queues = new Map<string, Promise<unknown>>();

interface Tagged {
  readonly descriptor: Descriptor;
  readonly bytes: Buffer;
}

/** The document after a change, by the one before, which is absent where the tag is; `undefined` when nothing is to be changed. */
export type Change = (before: Tagged | undefined) => Promise<(Pick<Descriptor, 'mediaType'> & {readonly bytes: Buffer}) | undefined>;

/**
 * Changes what a tag names.
 *
 * Registries have no conditional PUT, so that the change of another writer may overwrite ours. The tag is therefore read again after
 * a time several times as long as our own reading and writing took, and changed again if it does not have our change.
 *
 * @returns what it names then; absent where it does not exist
 * @throws aborted others kept overwriting it
 */
export async function rewriteTag(
  remote: Remote,
  repository: Pick<Reference, 'domain' | 'path'>,
  tag: string,
  change: Change,
  signal?: AbortSignal,
): Promise<Descriptor | undefined> {
  const {domain, path} = repository;
  const key = `${domain}/${path}:${tag}`;
  const before = queues.get(key) ?? Promise.resolve();
  const mine = before.then(() => rewrite(remote, {domain, path}, tag, change, signal));
  const settled = mine.catch(() => undefined);
  queues.set(key, settled);
  try {
    return await mine;
  } finally {
    if (queues.get(key) === settled) queues.delete(key);
  }
}

async function rewrite(
  remote: Remote,
  repository: Pick<Reference, 'domain' | 'path'>,
  tag: string,
  change: Change,
  signal: AbortSignal | undefined,
): Promise<Descriptor | undefined> {
  for (let attempt = 1; ; attempt++) {
    const started = performance.now();
    // Written back from a mirror that is behind, it would lack what others have added since.
    const before = await readDocument(remote, {...repository, tag}, signal, {forChange: true}).catch((err: unknown) => {
      if (hasCode(err, 'not_found')) return undefined;
      throw err;
    });
    const after = await change(before);
    if (after === undefined) return before?.descriptor;
    if (attempt > MAX_ATTEMPTS)
      throw new ErrdefsError('aborted', `${repository.domain}/${repository.path}:${tag} was overwritten ${MAX_ATTEMPTS} times`, {
        hint: 'others change what refers to the same manifest: try again',
      });
    const {mediaType, bytes} = after;
    await remote.pusher(repository).manifest({mediaType, digest: digestOf(bytes), size: bytes.length}, bytes, {tag, signal});
    const settleMs = Math.max(SETTLE_MS, 4 * (performance.now() - started));
    await sleep(settleMs * (0.5 + Math.random()), undefined, signal === undefined ? {} : {signal});
  }
}
