/**
 * Which images a namespace lets be named and run: a policy in its labels. `berth/verify-key` and `berth/verify-key.NAME` are public keys,
 * of which one must have signed an image; `berth/require-signature` is `true`, as it is by default where there is a key, or `false`.
 */
import {ErrdefsError} from '../../errdefs.ts';
import {parseQuota, QUOTA} from '../../store/quota.ts';
import type {Labels} from '../../store/records.ts';

/** Label of a container: digest of the image that it was made of. */
export const IMAGE_DIGEST = 'berth/image-digest';

const RESERVED = 'berth/';
const REQUIRE = 'berth/require-signature';
const KEY = /^berth\/verify-key(?:\.[A-Za-z0-9][A-Za-z0-9._-]*)?$/;

/** A policy that demands signatures. */
export interface Policy {
  /** Base64 of each key's DER form, by the label that has it. */
  readonly keys: readonly (readonly [label: string, key: string])[];
}

/** The policy in a namespace's labels; `undefined` when it demands nothing. What cannot be understood demands a signature. */
export function policyOf(labels: Labels = {}): Policy | undefined {
  const keys = Object.entries(labels)
    .filter(([key]) => KEY.test(key))
    .sort(([a], [b]) => (a < b ? -1 : 1));
  const demanded = labels[REQUIRE] ?? String(keys.length > 0);
  return demanded === 'false' ? undefined : {keys};
}

/**
 * Checks labels that a namespace is to be given; an empty value removes one.
 *
 * @throws invalid_argument a bad key, a quota that is no number, or a label of berth's that has no meaning: a policy with a typing error would not be one
 */
export async function validatePolicyLabels(labels: Labels): Promise<void> {
  for (const [key, value] of Object.entries(labels)) {
    if (!key.startsWith(RESERVED) || value === '') continue;
    const what = `label ${JSON.stringify(key.slice(0, 64))}`;
    if (KEY.test(key)) {
      const {parseKey} = await import('./keys.ts');
      try {
        parseKey(value);
      } catch (err) {
        if (!(err instanceof ErrdefsError)) throw err;
        throw new ErrdefsError('invalid_argument', `${what}: ${err.message}`, {
          cause: err,
          ...(err.hint === undefined ? {} : {hint: err.hint}),
        });
      }
    } else if (key === QUOTA) parseQuota(value);
    else if (key !== REQUIRE)
      throw new ErrdefsError('invalid_argument', `${what} has no meaning`, {
        hint: `berth/ labels are ${QUOTA}, ${REQUIRE} and berth/verify-key[.NAME]`,
      });
    else if (value !== 'true' && value !== 'false') throw new ErrdefsError('invalid_argument', `${what} must be true or false`);
  }
}
