/** "Not found" errors that name the other namespaces that have the object. */
import {ErrdefsError} from '../errdefs.ts';
import type {Store} from '../store/store.ts';
import type {NamespaceView} from '../store/transaction-types.ts';

/**
 * The error for an object that `namespace` does not have.
 *
 * @param noun kind of the object: `image`, `container`, …
 * @param has whether a namespace has it
 * @param hint next step when no namespace has it
 */
export function notFoundIn(
  store: Store,
  namespace: string,
  noun: string,
  key: string,
  has: (ns: NamespaceView) => boolean,
  hint?: string,
): ErrdefsError {
  const others = store.view((tx) => tx.namespaces.list().filter(({name}) => name !== namespace && has(tx.namespace(name))));
  const elsewhere = others.map(({name}) => name);
  const advice =
    elsewhere.length > 0
      ? `it exists in namespace${elsewhere.length === 1 ? '' : 's'} ${elsewhere.map((n) => JSON.stringify(n)).join(', ')}: use -n ${elsewhere[0]}`
      : hint;
  return new ErrdefsError('not_found', `${noun} ${JSON.stringify(key)} in namespace ${JSON.stringify(namespace)}`, {
    ...(advice === undefined ? {} : {hint: advice}),
    details: {[noun]: key, namespace, elsewhere},
  });
}
