/**
 * Stores that a bad disk or a person has damaged, used by every command: it either works as on a whole store, or names the damaged file
 * and the next step, with the right class. There is never a stack and never a wrong result.
 *
 * Commands run in this process. By default each damage is combined with all commands that read and some that change the store, with
 * `BERTH_TEST_TORTURE=1` with all commands.
 */
import assert from 'node:assert/strict';
import {execFileSync} from 'node:child_process';
import {cpSync, existsSync, mkdirSync, readdirSync, readFileSync, renameSync, rmSync, symlinkSync, writeFileSync} from 'node:fs';
import {tmpdir} from 'node:os';
import {basename, dirname, join} from 'node:path';
import {describe, it} from 'node:test';
import {CLASSES, type Code} from '../../src/lib/errdefs.ts';
import {fileScope} from '../e2e/fixtures.ts';
import {forgetJournal, type PulledStore, pulled, withContainer} from '../lib/client/pulled-store.ts';
import {requiresRoot, TORTURE, temporaryDirectory} from '../support/helpers.ts';
import {ctrHere, type Place} from './run-in-process.ts';

/** Commands that each damage is combined with. */
const READS = ['images ls', 'ns ls', 'content ls', 'snapshots ls', 'leases ls', 'containers ls', 'df'] as const;
const CHANGES = ['pull', 'tag', 'rm', 'gc', 'prune', 'ns create', 'ns rm'] as const;
type Command = (typeof READS)[number] | (typeof CHANGES)[number];

interface Spoilt extends Place {
  readonly rig: PulledStore;
  /** Below the root. */
  path(...parts: string[]): string;
}

interface Damage {
  readonly name: string;
  /** @returns what every complaint names, and `check` each of it */
  spoil(store: Spoilt): string | readonly string[];
  /** Commands that cannot do what they are for, and say so. All others do it. */
  readonly stops: readonly Command[];
  /** Class of what they say; default `data_loss`. */
  readonly code?: Code;
  /** What `check` calls it; `none` is nobody's business. Default `damage`. */
  readonly check?: 'damage' | 'suspect' | 'garbage' | 'none';
}

const scope = fileScope();
let made: Promise<PulledStore> | undefined;

/** An image in two namespaces, one of which has a container and a lease as well. */
async function origin(): Promise<PulledStore> {
  const rig = await pulled(scope, 'overlayfs');
  await withContainer(rig);
  await rig.client.namespace('default').leases.create({id: 'kept'});
  await rig.client.namespace('other').pull(rig.ref, {snapshotter: 'overlayfs'});
  return rig;
}

function words(command: Command, {ref}: PulledStore): readonly string[] {
  switch (command) {
    case 'pull':
      return ['pull', '--progress', 'none', '--snapshotter', 'overlayfs', ref];
    case 'tag':
      return ['images', 'tag', ref, 'another:1'];
    case 'rm':
      return ['images', 'rm', ref];
    case 'ns create':
      return ['namespaces', 'create', 'new'];
    case 'ns rm':
      return ['namespaces', 'rm', '--recursive', 'other'];
    case 'gc':
    case 'prune':
      return [command];
    // Sizes differ, and are measured elsewhere.
    case 'df':
      return ['df'];
    case 'snapshots ls':
      return ['snapshots', 'ls', '--snapshotter', 'overlayfs', '--json'];
    default:
      return [...command.split(' '), '--json'];
  }
}

const replace = (path: string, make: (path: string) => void): string => {
  rmSync(path, {recursive: true, force: true});
  make(path);
  return path;
};

/** The first record in a directory. */
const first = (directory: string): string =>
  join(
    directory,
    readdirSync(directory)
      .filter((name) => name.endsWith('.json'))
      .sort()[0]!,
  );

const EVERYTHING: readonly Command[] = [...READS, ...CHANGES];
const COLLECTING: readonly Command[] = ['gc', 'prune', 'ns rm'];

interface Kind {
  readonly of: (store: Spoilt) => string;
  /** Commands that need to read it. */
  readonly stops: readonly Command[];
}

const KINDS: Readonly<Record<string, Kind>> = {
  'an image': {
    of: ({path}) => first(path('namespaces/default/images')),
    stops: ['images ls', 'df', 'pull', 'tag', 'rm', ...COLLECTING],
  },
  content: {
    of: ({path}) => first(path('namespaces/default/content')),
    stops: ['content ls', 'df', 'pull', 'rm', ...COLLECTING],
  },
  'a snapshot': {
    of: ({path}) => path('namespaces/default/snapshots/overlayfs/c1.json'),
    stops: ['snapshots ls', 'df', ...COLLECTING],
  },
  'a lease': {
    of: ({path}) => path('namespaces/default/leases/kept.json'),
    stops: ['leases ls', 'df', 'pull', ...COLLECTING],
  },
  'a container': {
    of: ({path}) => path('namespaces/default/containers/c1.json'),
    stops: ['containers ls', 'df', ...COLLECTING],
  },
  'a namespace': {
    of: ({path}) => path('namespaces/default/namespace.json'),
    stops: ['ns ls', 'df', 'pull', 'tag', 'rm', 'ns create', ...COLLECTING],
  },
};

/** A record that is not what it should be. */
const RECORDS: readonly Damage[] = Object.entries(KINDS).flatMap(([kind, {of, stops}]): Damage[] => {
  const written = (what: string, text: string): Damage => ({
    name: `the record of ${kind} that is ${what}`,
    spoil: (store) => {
      const file = of(store);
      writeFileSync(file, text);
      return file;
    },
    stops,
  });
  return [
    // The journal makes up for it, as long as it has it.
    {...written('empty', ''), stops: []},
    {
      name: `the record of ${kind} that is empty, and too old for the journal`,
      spoil: (store) => {
        forgetJournal(store.root);
        return written('empty', '').spoil(store);
      },
      stops,
    },
    written('a list', '[]'),
    written('null', 'null'),
    written('without fields', '{"version":1}'),
    {...written('of a newer berth', '{"version":2}'), code: 'failed_precondition', check: 'suspect'},
    {
      name: `the record of ${kind} with a field that nobody knows`,
      spoil: (store) => {
        const file = of(store);
        writeFileSync(file, JSON.stringify({...(JSON.parse(readFileSync(file, 'utf8')) as object), later: [1]}));
        return file;
      },
      stops: [],
      check: 'none',
    },
  ];
});

/** A count of references can be made anew. */
const COUNTS: readonly Damage[] = ['namespaces/default/refs', 'refs'].map(
  (directory): Damage => ({
    name: `a count in ${directory} that is no count`,
    spoil: ({path}) => {
      const file = first(path(directory));
      writeFileSync(file, '{"n":"many"}');
      return file;
    },
    stops: [],
  }),
);

const DIRECTORIES = [
  '',
  'namespaces',
  'namespaces/default',
  'namespaces/default/images',
  'namespaces/default/snapshots',
  'namespaces/default/refs',
  'content',
  'content/blobs',
  'content/blobs/sha256',
  'content/ingest',
  'layers',
  'journal',
  'locks',
  'refs',
  'work',
] as const;

/** Whatever a person leaves where it does not belong. */
const FOREIGN: readonly Damage[] = (['file', 'directory'] as const).map((what) => ({
  name: `a ${what} of nobody's in each directory`,
  spoil: ({path}) =>
    DIRECTORIES.map((directory) => {
      const place = path(directory, what === 'file' ? 'README' : 'old.d');
      mkdirSync(what === 'file' ? path(directory) : place, {recursive: true, mode: 0o700});
      writeFileSync(what === 'file' ? place : join(place, 'README'), 'mine');
      return place;
    }),
  stops: [],
  check: 'garbage',
}));

/** Something else in the place of a directory. */
const PLACES: readonly (readonly [directory: string, stops: readonly Command[]])[] = [
  ...[
    'namespaces',
    'refs',
    'content',
    'content/blobs',
    'content/blobs/sha256',
    'content/ingest',
    'layers',
    'journal',
    'locks',
    'trash',
    'work',
  ].map((directory) => [directory, EVERYTHING] as const),
  ['namespaces/default/images', KINDS['an image']!.stops],
  ['namespaces/default/leases', KINDS['a lease']!.stops],
  ['namespaces/default/snapshots', ['snapshots ls', 'df', 'pull', ...COLLECTING]],
];

const MISPLACED: readonly Damage[] = [
  ...PLACES.flatMap(([directory, stops]): Damage[] => [
    {
      name: `a file in the place of ${directory}`,
      spoil: ({path}) => replace(path(directory), (place) => writeFileSync(place, '')),
      stops,
    },
    {
      name: `a link to nowhere in the place of ${directory}`,
      spoil: ({path}) => replace(path(directory), (place) => symlinkSync(join(tmpdir(), 'nonesuch'), place)),
      stops,
    },
  ]),
  {
    name: 'a link in the place of each directory, to where that was moved',
    spoil: ({root, path}) =>
      // Those below before those above.
      PLACES.map(([directory]) => directory)
        .toSorted((a, b) => b.length - a.length)
        .map((directory) => {
          const moved = join(`${root}-moved`, directory.replaceAll('/', '-'));
          mkdirSync(path(directory), {recursive: true, mode: 0o700});
          mkdirSync(dirname(moved), {recursive: true, mode: 0o700});
          renameSync(path(directory), moved);
          symlinkSync(moved, path(directory));
          return path(directory);
        }),
    stops: [],
    check: 'none',
  },
];

const layerOf = ({rig, path}: Spoilt): string => path('layers', basename(rig.layer(0)));

const LAYERS: readonly Damage[] = (
  [
    ['without its tree', (layer) => rmSync(join(layer, 'fs'), {recursive: true})],
    ['that is gone', (layer) => rmSync(layer, {recursive: true})],
    ['that is a file', (layer) => void replace(layer, (path) => writeFileSync(path, ''))],
  ] as readonly (readonly [what: string, spoil: (layer: string) => void])[]
).map(
  ([what, spoil]): Damage => ({
    name: `a layer ${what}`,
    spoil: (store) => {
      spoil(layerOf(store));
      return basename(layerOf(store));
    },
    stops: [],
  }),
);

/** Records that are others' copies, or gone. */
const MISNAMED: readonly Damage[] = [
  {
    name: 'a copy of a record beside it',
    spoil: ({path}) => {
      const copy = path('namespaces/default/containers/copy.json');
      cpSync(path('namespaces/default/containers/c1.json'), copy);
      return copy;
    },
    stops: KINDS['a container']!.stops,
  },
  {
    name: 'a namespace without its record',
    spoil: ({path}) => {
      rmSync(path('namespaces/default/namespace.json'));
      return path('namespaces/default/namespace.json');
    },
    // What writes in it gives it one again.
    stops: ['ns ls', ...COLLECTING],
  },
];

const DAMAGES: readonly Damage[] = [...RECORDS, ...COUNTS, ...FOREIGN, ...MISPLACED, ...LAYERS, ...MISNAMED];

let places = 0;

async function spoilt(damage: Damage | undefined, directory: string): Promise<Spoilt & {readonly named: readonly string[]}> {
  made ??= origin();
  const rig = await made;
  const root = join(directory, `root-${places++}`);
  execFileSync('cp', ['-a', rig.client.root, root]);
  const store = {rig, root, state: join(directory, 'state'), path: (...parts: string[]) => join(root, ...parts)};
  return {...store, named: [damage?.spoil(store) ?? []].flat()};
}

/** Of lines that people read, what does not differ from one copy of a store to the next. */
const steady = (text: string, root: string): string => text.replaceAll(root, 'ROOT').replaceAll(/\d+(\.\d+)?( [KMG]i)?B?/g, '#');

function assertComplaint(stderr: string, code: Code, named: readonly string[], what: string): void {
  const error = stderr.startsWith('{') ? (JSON.parse(stderr) as {error: {message: string; hint?: string}}).error : undefined;
  const [line = '', hint = ''] = error === undefined ? stderr.split('\n') : [`ctr: ${error.message}`, `hint: ${error.hint ?? ''}`];
  assert.ok(line.startsWith('ctr: ') && line.endsWith(`: ${CLASSES[code].text}`), `${what}: ${stderr}`);
  for (const name of named) assert.ok(line.includes(name), `${what} does not name ${name}: ${stderr}`);
  assert.match(hint, /^hint: \S/, `${what}: ${stderr}`);
  assert.doesNotMatch(stderr, /\n {4}at /, what);
}

/** What each command says of a store that is whole. */
const whole = new Map<Command, Promise<{readonly status: number; readonly stdout: string}>>();

function undamaged(command: Command, directory: string): Promise<{readonly status: number; readonly stdout: string}> {
  const run = async () => {
    const store = await spoilt(undefined, directory);
    const {status, stdout, stderr} = await ctrHere(store, words(command, store.rig));
    assert.equal(status, 0, stderr);
    return {status, stdout: steady(stdout, store.root)};
  };
  const known = whole.get(command) ?? run();
  whole.set(command, known);
  return known;
}

describe('a store with', () => {
  for (const [i, damage] of DAMAGES.entries())
    it(`${damage.name} leads to right results or clear errors`, async (t) => {
      if (!requiresRoot(t)) return;
      const {stops, code = 'data_loss', check = 'damage'} = damage;
      const directory = temporaryDirectory(t);
      const looked = await spoilt(damage, directory);
      const changes = TORTURE ? CHANGES : CHANGES.filter((_, n) => n === i % CHANGES.length);
      for (const command of [...READS, ...changes]) {
        const store = (READS as readonly string[]).includes(command) ? looked : await spoilt(damage, directory);
        const {status, stdout, stderr} = await ctrHere(store, words(command, store.rig));
        if (stops.includes(command)) {
          assert.equal(status, CLASSES[code].exit, `${command}: ${stderr}`);
          assertComplaint(stderr, code, store.named, command);
        } else {
          assert.equal(status, 0, `${command}: ${stderr}`);
          const right = await undamaged(command, directory);
          if (command !== 'df') assert.equal(steady(stdout, store.root), right.stdout, command);
          if (check === 'garbage') for (const name of store.named) assert.ok(existsSync(name), `${command} has taken ${name}`);
        }
      }

      const found = await ctrHere(looked, ['check']);
      if (check === 'none') assert.match(found.stdout, /: nothing wrong\n$/);
      else
        for (const name of looked.named) {
          const about = found.stdout.split('\n').filter((line) => line.includes(name));
          assert.ok(about.length > 0 && about.every((line) => line.startsWith(check)), `${name}: ${found.stdout}${found.stderr}`);
        }
      assert.equal(found.status, check === 'damage' ? CLASSES.data_loss.exit : 0, found.stdout + found.stderr);

      const doctor = await ctrHere(looked, ['doctor', '--json']);
      const checks = JSON.parse(doctor.stdout) as {name: string; status: string; detail: string; hint?: string}[];
      const told = checks.filter(({name, status}) => ['state directory', 'store'].includes(name) && status === 'error');
      if (check === 'garbage' || check === 'none') assert.deepEqual(told, []);
      else if (found.status !== 0) {
        assert.equal(doctor.status, CLASSES.failed_precondition.exit);
        assert.ok(
          told.some(({hint}) => hint !== undefined),
          doctor.stdout,
        );
      }
    });
});
