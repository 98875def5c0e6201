/** Sequences of commands, for tests that interrupt them. Each command can be repeated after an interruption, and ends in the same state. */
import {existsSync, utimesSync, writeFileSync} from 'node:fs';
import {join} from 'node:path';
import {Readable} from 'node:stream';
import type {Client} from '../../../src/lib/client/types/index.ts';
import {type Code, hasCode} from '../../../src/lib/errdefs.ts';
import {digestOf} from '../../support/records.ts';
import {DEAD, withContainer} from './pulled-store.ts';

export interface Place {
  readonly client: Client;
  /** Host of a registry that has `app:latest` and `tool:latest`. */
  readonly registry: string;
}

export interface Command {
  readonly name: string;
  readonly run: (place: Place) => Promise<unknown>;
}

export interface Sequence {
  readonly snapshotter: 'erofs' | 'overlayfs' | 'native';
  readonly commands: readonly Command[];
}

/** A user's data in a committed snapshot. */
export const OWN_FILE = 'mine';
export const OWN_BYTES = 'what a user made';

/** A step that an earlier run may have made already. */
async function unless(code: Code, step: Promise<unknown>): Promise<void> {
  try {
    await step;
  } catch (err) {
    if (!hasCode(err, code)) throw err;
  }
}

const ingest: Command = {
  name: 'content ingest',
  run: ({client}) =>
    unless('already_exists', client.namespace('ci').content.ingest('key', Readable.from([Buffer.from('some '), Buffer.from('bytes')]))),
};

const pull = (namespace: string, image: string, snapshotter: string): Command => ({
  name: `pull of ${image} in ${namespace}`,
  run: ({client, registry}) => client.namespace(namespace).pull(`${registry}/${image}:latest`, {snapshotter, plainHTTP: true}),
});

const remove = (namespace: string, image: string): Command => ({
  name: `images rm ${image} in ${namespace}`,
  run: ({client, registry}) => unless('not_found', client.namespace(namespace).images.delete(`${registry}/${image}:latest`)),
});

const tag: Command = {
  name: 'images tag',
  run: ({client, registry}) =>
    unless('already_exists', client.namespace('default').images.tag(`${registry}/app:latest`, 'x.example/kept:1')),
};

const prune: Command = {name: 'prune', run: ({client}) => client.prune({namespace: 'other'})};

const gc: Command = {name: 'gc', run: ({client}) => client.gc()};

/** `gc` syncs layers that are a minute old. */
const laterGC: Command = {
  name: 'gc, a while later',
  run: async ({client}) => {
    const then = Date.now() / 1000 - 3600;
    for (const {layer} of await client.namespace('default').snapshots().list()) {
      const file = join(client.root, 'layers', layer!, 'layer.json');
      if (existsSync(file)) utimesSync(file, then, then);
    }
    await client.gc();
  },
};

const commit = (snapshotter: string): readonly Command[] => {
  const snapshots = ({client}: Place) => client.namespace('default').snapshots(snapshotter);
  const keys = async (place: Place) => new Map((await snapshots(place).list()).map((record) => [record.key, record]));
  return [
    {
      name: 'snapshots prepare',
      run: async (place) => {
        const records = [...(await keys(place)).values()].filter(({kind}) => kind === 'committed');
        const top = records.find(({key, layer}) => !layer!.includes('-own-') && !records.some(({parent}) => parent === key))!;
        const prepare = () => unless('already_exists', snapshots(place).prepare('work', top.key));
        // Of another boot, and said to be pulled again first.
        await unless('data_loss', prepare());
        await pull('default', 'app', snapshotter).run(place);
        await prepare();
      },
    },
    {
      name: 'snapshots commit',
      run: async (place) => {
        const active = (await keys(place)).get('work');
        if (active === undefined) return;
        writeFileSync(join(place.client.root, 'layers', active.layer!, 'fs', OWN_FILE), OWN_BYTES);
        await snapshots(place).commit('committed', 'work');
      },
    },
  ];
};

const both = (snapshotter: Sequence['snapshotter']): readonly Command[] => [
  pull('default', 'app', snapshotter),
  pull('other', 'app', snapshotter),
  pull('other', 'tool', snapshotter),
  tag,
  remove('default', 'app'),
  prune,
  gc,
];

/** The container of a killed `run --rm`: its writable layer is never synced. */
const killedRun: Command = {
  name: 'run --rm, killed',
  run: ({client, registry}) => withContainer({client, snapshotter: 'overlayfs', ref: `${registry}/app:latest`}, 'r', {'berth/rm': DEAD}),
};

/** Leaves something in the store at the end of the sequence. */
export const KILLED_RUN = 'a run that was killed';

export const SEQUENCES: Readonly<Record<string, Sequence>> = {
  'namespaces and content': {
    snapshotter: 'overlayfs',
    commands: [
      {name: 'namespaces create', run: ({client}) => unless('already_exists', client.namespaces.create('ci', {team: 'infra'}))},
      ingest,
      {
        name: 'content rm',
        run: ({client}) => unless('not_found', client.namespace('ci').content.delete(digestOf('some bytes'))),
      },
      ingest,
    ],
  },
  'images, extracted': {snapshotter: 'overlayfs', commands: both('overlayfs')},
  'images, indexed': {snapshotter: 'erofs', commands: both('erofs')},
  'images, copied': {snapshotter: 'native', commands: [pull('default', 'app', 'native'), ...commit('native')]},
  'a snapshot of a user': {
    snapshotter: 'overlayfs',
    commands: [pull('default', 'app', 'overlayfs'), ...commit('overlayfs'), gc],
  },
  [KILLED_RUN]: {snapshotter: 'overlayfs', commands: [pull('default', 'app', 'overlayfs'), killedRun]},
  'layers on the disk, removed and pulled again': {
    snapshotter: 'overlayfs',
    commands: [
      {
        name: 'namespaces create',
        run: ({client}) =>
          unless('already_exists', client.namespaces.create('default', {'containerd.io/defaults/snapshotter': 'overlayfs'})),
      },
      pull('default', 'app', 'overlayfs'),
      laterGC,
      remove('default', 'app'),
      pull('default', 'app', 'overlayfs'),
    ],
  },
};
