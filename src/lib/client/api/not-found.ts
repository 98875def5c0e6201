/** "Not found", said so that a person sees at once that he looked in the wrong namespace. */
import {ErrdefsError} from '../../errdefs.ts';
import type {NamespaceView, Store} from '../../store/store.ts';

/**
 * The error for a key that `namespace` does not have.
 *
 * @param noun what is missing: `image`, `container`, …
 * @param has whether a namespace has it
 * @param hint what to do when no namespace has it
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
