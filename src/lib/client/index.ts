/** The library: `openClient` returns an object with a method for each command. */
import {validateIdentifier} from '../oci/identifier.ts';
import {getSnapshotter} from '../store/snapshotters.ts';
import {Store} from '../store/store.ts';
import {maintainBallast} from '../store/with-ballast.ts';
import {isRootless} from '../user-namespace-identity.ts';
import {containersClient} from './api/containers.ts';
import {contentClient} from './api/content.ts';
import {imagesClient} from './api/images.ts';
import {leasesClient} from './api/leases.ts';
import {namespacesClient} from './api/namespaces.ts';
import {registryClient} from './api/registry.ts';
import {snapshotsClient} from './api/snapshots.ts';
import {volumesClient} from './api/volumes.ts';
import {imageBuildClient} from './build/client.ts';
import type {Context} from './context.ts';
import {assertState, findDirectories} from './default-directories.ts';
import {type ErofsSupport, probeErofs} from './erofs-probe.ts';
import {type ClosedState, checkArguments, guard} from './guard-methods.ts';
import {CLIENT, OPEN_OPTIONS} from './method-arguments.ts';
import type {MaybePiped} from './tasks/with-streams.ts';
import type {Client, NamespaceClient, OpenOptions, RunOptions, TasksClient} from './types/index.ts';
import {WorkerPool} from './workers/pool.ts';

export type * from './types/index.ts';

const DEFAULT_LOCK_TIMEOUT_MS = 10_000;

/**
 * Opens the state of this machine. Creates nothing: a missing state directory reads as empty, and the first change creates it.
 *
 * @throws invalid_argument an empty path is given
 */
export function openClient(options: OpenOptions = {}): Client {
  checkArguments('openClient', [OPEN_OPTIONS], [options]);
  const directories = findDirectories(options);
  const {root, state} = directories;
  const lockTimeoutMs = options.lockTimeoutMs ?? DEFAULT_LOCK_TIMEOUT_MS;
  const {onWarning, program} = options;
  const store = new Store({
    root,
    lockTimeoutMs,
    ...(onWarning === undefined ? {} : {onWarning}),
    onCommit: async (changes) => {
      const {emit, eventsOf} = await import('./event-log.ts');
      emit(() => context.stateDir, eventsOf(changes));
    },
  });
  const workers = new WorkerPool();
  let checkedState: string | undefined;
  /** Only root can mount, so the probe of other users needs no checked state directory. */
  const support = (): ErofsSupport => probeErofs(isRootless() ? state : context.stateDir, root);
  const context: Context = {
    store,
    get stateDir() {
      checkedState ??= assertState(directories);
      return checkedState;
    },
    program,
    lockTimeoutMs,
    workers,
    warn: (warning) => onWarning?.(warning),
    remoteOptions: async (registry) => {
      const {hostsDirs} = await import('../remotes/index.ts');
      const {credentials, tlsCACert: ca, tlsCert: cert, tlsKey: key} = registry;
      return {
        ...registry,
        credentials: typeof credentials === 'function' ? undefined : credentials,
        tls: {ca, cert, key},
        env: process.env,
        hostsDirs: hostsDirs((registry.hostsDir ?? process.env.BERTH_HOSTS_DIR) || undefined),
      };
    },
    openRemote: async (registry) => {
      const [{openRemote}, {remoteSources}, {sharedCoolDowns}, options] = await Promise.all([
        import('../remotes/index.ts'),
        import('./credentials/remote-credentials.ts'),
        import('./pull/shared-cool-downs.ts'),
        context.remoteOptions(registry),
      ]);
      return openRemote(options, {
        ...remoteSources(registry, {
          warn: context.warn,
          // In /tmp there is no directory that ends with the boot.
          stateDir: directories.guarded.length > 1 ? undefined : () => context.stateDir,
        }),
        coolDowns: sharedCoolDowns(state, () => context.stateDir),
      });
    },
    running: async (namespace) => {
      const {running} = await import('./running-containers.ts');
      return running(context, namespace);
    },
    snapshotterName: (namespace, asked) => {
      const label = asked ?? store.view((tx) => tx.namespaces.find(namespace)?.labels['containerd.io/defaults/snapshotter']);
      return getSnapshotter(label ?? (support().backing === undefined ? 'overlayfs' : 'erofs')).name;
    },
    erofsBacking: () => support().backing ?? 'files',
  };

  const closedState: ClosedState = {closed: false};
  const client: Client = {
    root,
    state,
    namespaces: namespacesClient(context),
    namespace: (name) => namespaceClient(context, name),
    registry: registryClient(context),
    doctor: async () => {
      const {doctor} = await import('./fsck/doctor.ts');
      return doctor(context);
    },
    check: async (options = {}) => {
      const {check} = await import('./fsck/check.ts');
      return check(context, options);
    },
    unshare: async (args) => {
      const {unshareCall} = await import('./enter-user-namespace.ts');
      return unshareCall(directories, args);
    },
    defaultSpec: async (options = {}) => {
      const {defaultSpec} = await import('./run/default-spec.ts');
      return {...(await defaultSpec(options))};
    },
    info: async () => {
      const {describe} = await import('./space/info.ts');
      return describe(context, state);
    },
    df: async () => {
      const {diskUsage} = await import('./space/df.ts');
      return diskUsage(context);
    },
    prune: async (options = {}) => {
      const {prune} = await import('./space/prune.ts');
      return prune(context, options);
    },
    events: async (options = {}) => {
      const {readEvents} = await import('./api/events.ts');
      return readEvents(context, options);
    },
    gc: async () => {
      const {collectGarbage} = await import('./space/gc.ts');
      return collectGarbage(context);
    },
    close: () => {
      closedState.closed = true;
      return workers.close();
    },
  };
  return guard(client, CLIENT, closedState);
}

function namespaceClient(context: Context, name: string): NamespaceClient {
  validateIdentifier(name);
  return {
    name,
    pull: async (ref, options = {}) => {
      const {pull} = await import('./pull/pull.ts');
      const result = await pull(context, name, ref, options);
      await maintainBallast(context.store);
      return result;
    },
    pullAll: async (refs, options = {}) => {
      const {pullAll} = await import('./pull/pull.ts');
      const outcomes = await pullAll(context, name, refs, options);
      await maintainBallast(context.store);
      return outcomes;
    },
    push: async (ref, options = {}) => {
      const {push} = await import('./push/push.ts');
      return push(context, name, ref, options);
    },
    run: (async (ref: string, id: string, options: MaybePiped<RunOptions> = {}) => {
      const {run} = await import('./run/run.ts');
      return run(context, name, ref, id, options);
    }) as NamespaceClient['run'],
    images: {...imagesClient(context, name), ...imageBuildClient(context, name)},
    content: {
      ...contentClient(context, name),
      prune: async (options = {}) => {
        const {pruneReferences} = await import('./space/prune-layer-blobs.ts');
        return pruneReferences(context, name, options);
      },
      push: async (ref, digest, options = {}) => {
        const {pushObject} = await import('./push/push-object.ts');
        return pushObject(context, name, ref, digest, options);
      },
    },
    snapshots: (snapshotter) => {
      const snapshots = snapshotsClient(context, name, snapshotter);
      return {
        ...snapshots,
        diff: async (key, options = {}) => {
          const {diffSnapshots} = await import('./build/snapshot-diff.ts');
          return diffSnapshots(context, name, snapshots.snapshotter, key, options);
        },
      };
    },
    leases: leasesClient(context, name),
    volumes: volumesClient(context, name),
    containers: {
      copyFiles: async (source, target, options = {}) => {
        const {copyFiles} = await import('./container-files/copy-files.ts');
        return copyFiles(context, name, source, target, options);
      },
      readFiles: async (id, path, options = {}) => {
        const {readFiles} = await import('./container-files/copy-files.ts');
        return readFiles(context, name, {container: id, path}, options);
      },
      systemdUnit: async (id, options = {}) => {
        const {systemdUnit} = await import('./tasks/systemd-unit.ts');
        return systemdUnit(context, name, id, options);
      },
      changes: async (id, options = {}) => {
        const {containerChanges} = await import('./build/snapshot-changes.ts');
        return containerChanges(context, name, id, options);
      },
      commit: async (id, ref, options = {}) => {
        const {commitContainer} = await import('./build/commit.ts');
        return commitContainer(context, name, id, ref, options);
      },
      checkpoint: async (id, options = {}) => {
        const {checkpointContainer} = await import('./tasks/checkpoint.ts');
        return checkpointContainer(context, name, id, tasksClient(context, name), options);
      },
      restore: async (id, options = {}) => {
        const {restoreContainer} = await import('./tasks/checkpoint.ts');
        return restoreContainer(context, name, id, options);
      },
      removeCheckpoint: async (id) => {
        const {removeCheckpoint} = await import('./tasks/checkpoint.ts');
        return removeCheckpoint(context, name, id);
      },
      ...containersClient(context, name),
      create: async (ref, id, options = {}) => {
        const {createContainer} = await import('./run/create.ts');
        return createContainer(context, name, ref, id, options);
      },
    },
    tasks: tasksClient(context, name),
  };
}

/** Loaded when it is used: most commands have nothing to do with tasks. */
function tasksClient(context: Context, name: string): TasksClient {
  type Method = (...args: readonly unknown[]) => unknown;
  const later = <K extends keyof TasksClient>(method: K): TasksClient[K] => {
    const call = async (...args: readonly unknown[]): Promise<unknown> => {
      const tasks = (await import('./tasks/tasks.ts')).tasksClient(context, name);
      return (tasks[method] as Method)(...args);
    };
    return call as TasksClient[K];
  };
  return {
    list: later('list'),
    get: later('get'),
    start: later('start'),
    startDetached: later('startDetached'),
    restart: later('restart'),
    kill: later('kill'),
    stop: later('stop'),
    wait: later('wait'),
    delete: later('delete'),
    exec: later('exec'),
    attach: later('attach'),
    logs: later('logs'),
    metrics: later('metrics'),
    stats: later('stats'),
    ps: later('ps'),
    pause: later('pause'),
    resume: later('resume'),
    settle: later('settle'),
  };
}
