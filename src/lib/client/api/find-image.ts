/** Look-up of an image by name, and of its plan from local content. */
import {berth} from '../../berth-command.ts';
import type {ErrdefsError} from '../../errdefs.ts';
import type {Descriptor} from '../../oci/descriptor.ts';
import {formatReference, parseReference} from '../../oci/reference.ts';
import type {ImageRecord} from '../../store/records.ts';
import type {NamespaceView} from '../../store/transaction-types.ts';
import type {Context} from '../context.ts';
import {notFoundIn} from '../not-found.ts';
import {makePlan, type Plan, platformChoice} from '../pull/plan.ts';
import {lacksContent, readVisible, visibleIn} from '../pull/visible-content.ts';

/**
 * Name of the image that a user means: the text itself when an image has that very name, else the text normalised as docker does.
 */
export function imageName(ns: NamespaceView, text: string): string {
  if (text !== '' && ns.images.find(text) !== undefined) return text;
  return formatReference(parseReference(text));
}

/**
 * @param needsContent whether a pull would help; tagging, for one, needs only a name
 * @throws not_found naming this namespace, and others that have the image
 */
export function findImage(context: Context, namespace: string, text: string, needsContent = true): ImageRecord {
  const {store} = context;
  return store.view((tx) => {
    const ns = tx.namespace(namespace);
    const name = imageName(ns, text);
    const image = ns.images.find(name);
    if (image === undefined) {
      throw missingImage(context, namespace, name, needsContent ? `pull it: ${berth`-n ${namespace} images pull ${name}`}` : undefined);
    }
    return image;
  });
}

/** The error for an image that the namespace lacks. */
export const missingImage = ({store}: Context, namespace: string, name: string, hint?: string): ErrdefsError =>
  notFoundIn(store, namespace, 'image', name, (ns) => ns.images.find(name) !== undefined, hint);

/** Plan of an image from the content of its namespace. @throws not_found a document is missing */
export function planLocally(context: Context, namespace: string, image: ImageRecord, platform?: string): Promise<Plan> {
  const isVisible = visibleIn(context.store, namespace);
  const source = async (desc: Descriptor): Promise<Buffer> => {
    const bytes = readVisible(context.store, isVisible, desc);
    if (bytes === undefined) throw lacksContent(namespace, image.name, desc.digest);
    return bytes;
  };
  return makePlan(image.target, source, platformChoice(platform === undefined ? {} : {platforms: [platform]}));
}
