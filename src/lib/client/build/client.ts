/** Methods of `images` that make images from images; each loads what it uses. */
import type {Context} from '../context.ts';
import type {ImageBuildClient} from '../types/index.ts';

export function imageBuildClient(context: Context, namespace: string): ImageBuildClient {
  return {
    convert: async (source, target, options = {}) => {
      const {convertImage} = await import('./convert.ts');
      return convertImage(context, namespace, source, target, options);
    },
    flatten: async (source, target, options = {}) => {
      const {flattenImage} = await import('./flatten.ts');
      return flattenImage(context, namespace, source, target, options);
    },
    append: async (source, target, layers, options = {}) => {
      const {appendLayers} = await import('./append.ts');
      return appendLayers(context, namespace, source, target, layers, options);
    },
    mutate: async (source, target, options = {}) => {
      const {mutateImage} = await import('./mutate.ts');
      return mutateImage(context, namespace, source, target, options);
    },
    rebase: async (source, target, options = {}) => {
      const {rebaseImage} = await import('./rebase.ts');
      return rebaseImage(context, namespace, source, target, options);
    },
    changes: async (ref, options = {}) => {
      const {imageChanges} = await import('./snapshot-changes.ts');
      return imageChanges(context, namespace, ref, options);
    },
    unpack: async (ref, directory, options = {}) => {
      const {unpackImage} = await import('./bundle.ts');
      return unpackImage(context, namespace, ref, directory, options);
    },
    repack: async (directory, target, options = {}) => {
      const {repackBundle} = await import('./repack.ts');
      return repackBundle(context, namespace, directory, target, options);
    },
  };
}
