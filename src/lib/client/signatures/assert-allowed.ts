/**
 * What asks a namespace's policy: whoever gives an image a name, or makes a container of one, calls `assertAllowed` first, and the
 * returned approval in the transaction that makes it.
 */
import {berth} from '../../berth-command.ts';
import {ErrdefsError, isErrdefs} from '../../errdefs.ts';
import type {Descriptor, Digest} from '../../oci/descriptor.ts';
import type {StoreView} from '../../store/transaction-types.ts';
import type {Context} from '../context.ts';
import type {ImageSignature} from '../types/index.ts';
import {type Policy, policyOf} from './policy.ts';
import type {Evidence, Signed} from './verify-evidence.ts';

/** An image that has been found to be allowed. */
export interface Approval {
  /** What was verified; empty where nothing is demanded. */
  readonly signatures: readonly ImageSignature[];
  /** Signatures to keep with the image, so that it can be verified without its registry. */
  readonly evidence: readonly Evidence[];
  /**
   * To be called in the transaction that names the image.
   *
   * @throws aborted the policy has changed meanwhile, or it is another image
   */
  assertStill(tx: StoreView, target: Pick<Descriptor, 'digest'>): void;
}

export interface AllowedOptions {
  /** Public keys in PEM, of which one must have signed the image as well, whatever the policy says. */
  readonly keys?: readonly string[];
  /** The document itself, where the store does not have it. */
  readonly document?: () => Promise<Buffer>;
  /** Looks for more signatures than the namespace keeps. */
  readonly more?: (digest: Digest) => AsyncIterable<Evidence>;
  /** Repository that a signature must name, where it names one. */
  readonly repository?: string;
}

/**
 * Verifies the signatures that the namespace's policy, and the caller, demand of an image.
 *
 * @throws failed_precondition none counts, or they cannot be verified; `details` has why not
 * @throws invalid_argument a key of the caller is none
 */
export async function assertAllowed(
  context: Context,
  namespace: string,
  {name, target}: {readonly name: string; readonly target: Pick<Descriptor, 'digest'>},
  options: AllowedOptions = {},
): Promise<Approval> {
  const labels = context.store.view((tx) => tx.namespaces.find(namespace)?.labels);
  const policy = policyOf(labels);
  const approved: Pick<Approval, 'assertStill'> = {
    assertStill(tx, {digest}) {
      const now = policyOf(tx.namespaces.find(namespace)?.labels);
      if (JSON.stringify(now) !== JSON.stringify(policy) || (policy !== undefined && digest !== target.digest))
        throw new ErrdefsError(
          'aborted',
          `the signature policy of namespace ${JSON.stringify(namespace)}, or the image, changed meanwhile`,
          {
            hint: 'run it again',
          },
        );
    },
  };
  const groups = demands(policy, namespace, options.keys ?? []);
  if (groups.length === 0) return {...approved, signatures: [], evidence: []};
  return {...approved, ...(await verify(context, namespace, name, target, groups, options))};
}

/** @throws failed_precondition the namespace requires signatures, and a root that is no image has none */
export function assertUnsignedAllowed(view: StoreView, namespace: string): void {
  if (policyOf(view.namespaces.find(namespace)?.labels) === undefined) return;
  throw new ErrdefsError(
    'failed_precondition',
    `namespace ${JSON.stringify(namespace)} requires signatures, which a container without an image does not have`,
    {hint: 'run it in another namespace, or make an image of it and sign that'},
  );
}

/** Keys of which one must have signed. */
interface Demand {
  /** Whose keys they are, for messages. */
  readonly of: string;
  readonly keys: readonly string[];
}

function demands(policy: Policy | undefined, namespace: string, own: readonly string[]): readonly Demand[] {
  const of = `namespace ${JSON.stringify(namespace)}`;
  return [
    ...(policy === undefined ? [] : [{of, keys: policy.keys.map(([, key]) => key)}]),
    ...(own.length === 0 ? [] : [{of: 'this call', keys: own}]),
  ];
}

async function verify(
  context: Context,
  namespace: string,
  name: string,
  target: Pick<Descriptor, 'digest'>,
  groups: readonly Demand[],
  {document, more, repository}: AllowedOptions,
): Promise<Pick<Approval, 'signatures' | 'evidence'>> {
  const what = `image ${JSON.stringify(name)} (${target.digest})`;
  const [{parseKey}, {verifyEvidence}, {localEvidence}] = await Promise.all([
    import('./keys.ts'),
    import('./verify-evidence.ts'),
    import('./signature-sources.ts'),
  ]);
  const open = groups.map(({of, keys}) => {
    if (keys.length === 0)
      throw new ErrdefsError('failed_precondition', `${what}: ${of} requires signatures and has no key to verify them with`, {
        hint: `give it one: ${berth`namespaces label ${namespace} berth/verify-key=BASE64`}`,
      });
    return {of, keys: keys.map(parseKey)};
  });
  const {store} = context;
  const signed: Signed = {digest: target.digest, bytes: bytesOf(context, target.digest) ?? (await document?.()), repository};
  const signatures: ImageSignature[] = [];
  const kept = new Map<Digest, Evidence>();
  const reasons: string[] = [];
  let failure: unknown;
  const take = (evidence: Evidence): void => {
    for (const group of [...open]) {
      const {verified, reasons: why} = verifyEvidence(signed, [evidence], group.keys);
      reasons.push(...why);
      if (verified === undefined) continue;
      const {evidence: source, ...signature} = verified;
      signatures.push(signature);
      kept.set(source.descriptor.digest, source);
      open.splice(open.indexOf(group), 1);
    }
  };
  for (const evidence of localEvidence(store, namespace, target.digest)) if (open.length > 0) take(evidence);
  try {
    if (open.length > 0 && more !== undefined)
      for await (const evidence of more(target.digest)) {
        take(evidence);
        if (open.length === 0) break;
      }
  } catch (err) {
    if (!isErrdefs(err)) throw err;
    failure = err;
  }
  if (open.length === 0) return {signatures, evidence: [...kept.values()]};
  const all = [...new Set(reasons)];
  if (failure !== undefined)
    throw new ErrdefsError('failed_precondition', `${what}: its signature cannot be verified: ${(failure as Error).message}`, {
      cause: failure,
      hint: 'the registry must answer: see what it does with --debug',
      details: {digest: target.digest, reasons: all},
    });
  throw new ErrdefsError(
    'failed_precondition',
    `${what} has no signature by a key of ${open.map(({of}) => of).join(' or of ')}${all.length === 0 ? '' : `: ${all[0]}${all.length === 1 ? '' : `, and ${all.length - 1} more`}`}`,
    {
      hint:
        more === undefined
          ? 'pull it again if it is signed in its registry; an image that was changed here has a digest that nobody signed'
          : 'sign it with cosign sign --key, or give the key that it was signed with',
      details: {digest: target.digest, reasons: all},
    },
  );
}

/** The signed document, where it is in the store already. */
function bytesOf({store}: Context, digest: Digest): Buffer | undefined {
  try {
    return store.blobs.readSmall(digest);
  } catch (err) {
    if (isErrdefs(err)) return undefined;
    throw err;
  }
}
