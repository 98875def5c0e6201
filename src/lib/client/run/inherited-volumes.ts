/** `--volumes-from`: what other containers have mounted of the host and of the store. */

import {posix} from 'node:path';
import {berth} from '../../berth-command.ts';
import {ErrdefsError} from '../../errdefs.ts';
import {isBind, type Spec} from '../../runtime/spec.ts';
import type {ContainerRecord, Labels} from '../../store/records.ts';
import {referencesOfContainer} from '../../store/refcounts.ts';
import type {NamespaceView, StoreTransaction} from '../../store/transaction-types.ts';
import {isVolume, treeOf, volumeName} from '../api/volumes.ts';
import type {Context} from '../context.ts';
import {notFoundIn} from '../not-found.ts';
import {TRANSIENT} from '../running-containers.ts';
import type {CreateOptions, MountSpec, StoredVolume} from '../types/index.ts';

export interface InheritedVolumes {
  /** The given options with the mounts and volumes of the others, except where they have something at the same path. */
  readonly options: CreateOptions;
  /** By which the new container holds the volumes that end with the others; they stay until the last container of them is removed. */
  readonly labels: Labels;
  /** @throws aborted one of the containers is not there any more */
  readonly assertStill: (tx: StoreTransaction) => void;
}

/** Files of the host that every container in its network has. */
const NETWORK_FILES = ['/etc/hosts', '/etc/resolv.conf'];

const normalized = (path: string): string => posix.resolve('/', path);

interface VolumePlace {
  readonly path: string;
  /** Of the snapshot. */
  readonly key: string;
  /** Of a named volume. */
  readonly name?: string;
  /** By which a container holds volumes without a name. */
  readonly label?: string;
}

/** Where the volumes of a container lie: its own ones, those that it has of others, and named ones. */
const volumePlaces = (context: Context, ns: NamespaceView, container: ContainerRecord): readonly VolumePlace[] =>
  referencesOfContainer(container).nodes.flatMap((node): readonly VolumePlace[] => {
    const [kind, snapshotter, ...rest] = node.split('/');
    const key = rest.join('/');
    const snapshot = kind === 'snapshot' ? ns.snapshots(snapshotter!).find(key) : undefined;
    if (snapshot?.layer === undefined) return [];
    if (isVolume(snapshot)) return [{path: treeOf(context, snapshot.layer), key, name: volumeName(snapshot)}];
    return [{path: context.store.layers.ownVolumes(snapshot.layer), key, label: `containerd.io/gc.ref.snapshot.${snapshotter}/${key}`}];
  });

/**
 * @throws not_found a container
 * @throws failed_precondition one whose making has not ended
 */
export function inheritVolumes(context: Context, namespace: string, options: CreateOptions): InheritedVolumes {
  const {volumesFrom = [], mounts = [], volumes = [], storedVolumes = []} = options;
  if (volumesFrom.length === 0) return {options, labels: {}, assertStill: () => undefined};
  const {store} = context;
  const taken = new Set([...mounts, ...volumes, ...storedVolumes].map(({destination}) => normalized(destination)));
  const found: MountSpec[] = [];
  const stored: StoredVolume[] = [];
  const labels: Record<string, string> = {};
  const others: ContainerRecord[] = [];
  for (const {container: id, readOnly = false} of volumesFrom) {
    const {record, places} = store.view((tx) => {
      const one = tx.namespace(namespace).containers.find(id);
      return {record: one, places: one === undefined ? [] : volumePlaces(context, tx.namespace(namespace), one)};
    });
    if (record === undefined)
      throw notFoundIn(
        store,
        namespace,
        'container',
        id,
        (ns) => ns.containers.find(id) !== undefined,
        `list them: ${berth`-n ${namespace} containers ls`}`,
      );
    if (record.spec === null)
      throw new ErrdefsError('failed_precondition', `container ${JSON.stringify(id)} has no specification`, {
        hint:
          record.labels[TRANSIENT] === undefined
            ? 'it is being made, or its making was ended: run it again'
            : 'one of "run --rm" keeps none: run it without --rm',
      });
    others.push(record);
    for (const mount of (record.spec as Spec).mounts) {
      const {source, destination} = mount;
      const isOfNetwork = NETWORK_FILES.includes(destination) && source === destination;
      if (!isBind(mount) || isOfNetwork || destination.startsWith('/dev/') || taken.has(normalized(destination))) continue;
      taken.add(normalized(destination));
      const words = readOnly ? ['ro', ...mount.options.filter((option) => option !== 'rw' && option !== 'ro')] : mount.options;
      const place = places.find(({path}) => `${source}/`.startsWith(`${path}/`));
      if (place?.name !== undefined) stored.push({name: place.name, destination, options: words});
      else found.push({...mount, options: words});
      if (place?.label !== undefined) labels[place.label] = place.key;
    }
  }
  return {
    options: {...options, mounts: [...found, ...mounts], storedVolumes: [...storedVolumes, ...stored]},
    labels,
    assertStill: (tx) => {
      for (const {id, createdAt} of others)
        if (tx.namespace(namespace).containers.find(id)?.createdAt !== createdAt)
          throw new ErrdefsError('aborted', `container ${JSON.stringify(id)} was removed meanwhile`, {hint: 'run it again'});
    },
  };
}
