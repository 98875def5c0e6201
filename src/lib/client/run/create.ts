/** `containers create REF ID`: creates snapshot, record and specification, and starts nothing. */
import {RootReader} from '../../runtime/path-in-root.ts';
import {runtimeStatePath} from '../../store/layout.ts';
import type {ContainerRecord} from '../../store/records.ts';
import {changeContainer} from '../change-container.ts';
import type {Context} from '../context.ts';
import {startScratchMountHolder} from '../pull/layer-lookup.ts';
import type {CreateOptions} from '../types/index.ts';
import {newContainer} from './prepare-container.ts';

export async function createContainer(
  context: Context,
  namespace: string,
  ref: string,
  id: string,
  options: CreateOptions,
): Promise<ContainerRecord> {
  const {store, stateDir} = context;
  const container = await newContainer(context, namespace, ref, id, options);
  // The specification needs the tree: users and programs are looked up in it.
  const holder = await startScratchMountHolder(runtimeStatePath.views(stateDir), store.housekeeping);
  try {
    const trees = await holder.mount(await container.begin());
    const rootfs = new RootReader(trees.at(-1)!);
    try {
      const spec = await container.makeSpec(rootfs);
      return await changeContainer(context, namespace, id, 'specification', () => ({spec}));
    } finally {
      rootfs.close();
    }
  } catch (err) {
    await container.remove();
    throw err;
  } finally {
    await holder.close();
  }
}
