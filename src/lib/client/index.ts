/** The library: `openClient({root, state})`, and from there each command's verb as a function. */
import {validateIdentifier} from '../oci/identifier.ts';
import {probeErofs} from '../store/erofs.ts';
import {keepReserve} from '../store/reserve.ts';
import {getSnapshotter} from '../store/snapshotters.ts';
import {Store} from '../store/store.ts';
import {containersClient} from './containers.ts';
import {contentClient} from './content.ts';
import type {Context} from './context.ts';
import {imagesClient} from './images.ts';
import {leasesClient} from './leases.ts';
import {namespacesClient} from './namespaces.ts';
import {snapshotsClient} from './snapshots.ts';
import type {Client, NamespaceClient, OpenOptions} from './types.ts';
import {WorkerPool} from './workers.ts';

export type * from './types.ts';

const DEFAULT_LOCK_TIMEOUT_MS = 10_000;

/** Where state lies unless the caller or the environment says otherwise. Root's places after the FHS, others' after the XDG base directories. */
export function defaultDirectories(env: NodeJS.ProcessEnv = process.env): {readonly root: string; readonly state: string} {
  const home = env.HOME ?? '/';
  const isRoot = process.getuid?.() === 0;
  const userState = env.XDG_RUNTIME_DIR ?? `/tmp/berth-${process.getuid?.() ?? 0}`;
  return {
    root: env.BERTH_ROOT ?? (isRoot ? '/var/lib/berth' : `${env.XDG_DATA_HOME ?? `${home}/.local/share`}/berth`),
    state: env.BERTH_STATE ?? (isRoot ? '/run/berth' : `${userState}/berth`),
  };
}

/**
 * Opens the state of this machine. Touches nothing yet: a missing state directory reads as empty and is made by the
 * first change.
 */
export function openClient(options: OpenOptions = {}): Client {
  const defaults = defaultDirectories();
  const root = options.root ?? defaults.root;
  const state = options.state ?? defaults.state;
  const lockTimeoutMs = options.lockTimeoutMs ?? DEFAULT_LOCK_TIMEOUT_MS;
  const store = new Store({root, lockTimeoutMs});
  const workers = new WorkerPool();
  const context: Context = {
    store,
    stateDir: state,
    lockTimeoutMs,
    workers,
    openRemote: async (registry) => {
      const {hostsDirs, openRemote} = await import('../remotes/index.ts');
      return openRemote({...registry, hostsDirs: hostsDirs(registry.hostsDir ?? process.env.BERTH_HOSTS_DIR)});
    },
    running: async (namespace) => {
      const {running} = await import('./run.ts');
      return running(context, namespace);
    },
    snapshotterName: (namespace, asked) => {
      const label = asked ?? store.view((tx) => tx.namespaces.find(namespace)?.labels['containerd.io/defaults/snapshotter']);
      return getSnapshotter(label ?? (probeErofs(state, root).backing === undefined ? 'overlayfs' : 'erofs')).name;
    },
    erofsBacking: () => probeErofs(state, root).backing ?? 'files',
  };

  return {
    root,
    state,
    namespaces: namespacesClient(context),
    namespace: (name) => namespaceClient(context, name),
    doctor: async () => {
      const {doctor} = await import('./doctor.ts');
      return doctor(context);
    },
    check: async (options = {}) => {
      const {check} = await import('./check.ts');
      return check(context, options);
    },
    df: async () => {
      const {diskUsage} = await import('./df.ts');
      return diskUsage(context);
    },
    prune: async (options = {}) => {
      const {prune} = await import('./prune.ts');
      return prune(context, options);
    },
    gc: async () => {
      const {collectGarbage} = await import('./gc.ts');
      return collectGarbage(context);
    },
    close: () => workers.close(),
  };
}

function namespaceClient(context: Context, name: string): NamespaceClient {
  validateIdentifier(name);
  return {
    name,
    pull: async (ref, options = {}) => {
      const {pull} = await import('./pull.ts');
      const result = await pull(context, name, ref, options);
      keepReserve(context.store);
      return result;
    },
    run: async (ref, id, options = {}) => {
      const {run} = await import('./run.ts');
      return run(context, name, ref, id, options);
    },
    images: imagesClient(context, name),
    content: contentClient(context, name),
    snapshots: (snapshotter) => snapshotsClient(context, name, snapshotter),
    leases: leasesClient(context, name),
    containers: containersClient(context, name),
  };
}
