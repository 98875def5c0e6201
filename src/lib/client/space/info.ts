/** `info`: directories, snapshotters, runtime, and what each namespace has. */
import {release} from 'node:os';
import {hasCode} from '../../errdefs.ts';
import {formatPlatform, hostPlatform} from '../../oci/platform.ts';
import {findRuntime, runtimeVersion} from '../../runtime/oci-runtime.ts';
import {snapshotterNames} from '../../store/snapshotters.ts';
import type {Context} from '../context.ts';
import type {Info, NamespaceInfo} from '../types/index.ts';

/** A name that no namespace has, so that no label chooses. */
const NO_NAMESPACE = '';

async function describeRuntime(): Promise<Info['runtime']> {
  try {
    const runtime = findRuntime();
    const version = await runtimeVersion(runtime);
    return {path: runtime.path, ...(version === undefined ? {} : {version: version.text})};
  } catch (err) {
    if (hasCode(err, 'unavailable')) return undefined;
    throw err;
  }
}

/** @throws data_loss a record cannot be read */
export async function describe(context: Context, state: string): Promise<Info> {
  const {store} = context;
  const counted = store.view((tx) =>
    tx.namespaces.list().map(({name}) => {
      const {images, containers} = tx.namespace(name);
      return {name, images: images.files().length, containers: containers.files().length};
    }),
  );
  const namespaces: NamespaceInfo[] = [];
  for (const one of counted) namespaces.push({...one, running: one.containers === 0 ? 0 : (await context.running(one.name)).ids.length});
  const runtime = await describeRuntime();
  return {
    root: store.layout.root,
    state,
    platform: formatPlatform(hostPlatform()),
    kernel: release(),
    snapshotters: snapshotterNames(),
    defaultSnapshotter: context.snapshotterName(NO_NAMESPACE, undefined),
    ...(runtime === undefined ? {} : {runtime}),
    namespaces,
  };
}
