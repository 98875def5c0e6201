/**
 * Stores that a bad disk or a person has damaged, used by every command: it either works as on a whole store, or names the damaged file
 * and the next step, with the right class. There is never a stack and never a wrong result.
 *
 * Commands run in this process. By default each damage is combined with all commands that read and some that change the store, with
 * `BERTH_TEST_TORTURE=1` with all commands.
 */
import assert from 'node:assert/strict';
import {execFileSync} from 'node:child_process';
import {
  cpSync,
  existsSync,
  lstatSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  statSync,
  symlinkSync,
  truncateSync,
  writeFileSync,
} from 'node:fs';
import {basename, dirname, join} from 'node:path';
import {Readable} from 'node:stream';
import {describe, it} from 'node:test';
import {CLASSES, type Code} from '../../src/lib/errdefs.ts';
import {type Digest, digestParts} from '../../src/lib/oci/descriptor.ts';
import {LocalContentStore} from '../../src/lib/store/content-local.ts';
import {Store} from '../../src/lib/store/store.ts';
import {fileScope} from '../e2e/rig.ts';
import {makeUnreadable} from '../fakes/unreadable.ts';
import {flip, forgetJournal, pulled, type Rig, withContainer} from '../lib/client/rig.ts';
import {requiresRoot, TORTURE, temporaryDirectory} from '../support/helpers.ts';
import {checkStore} from '../support/invariants.ts';
import {ctrHere, type Place} from './run-in-process.ts';

/** Commands that each damage is combined with. */
const READS = ['images ls', 'ns ls', 'content ls', 'snapshots ls', 'leases ls', 'containers ls', 'df'] as const;
const CHANGES = ['pull', 'tag', 'rm', 'gc', 'prune', 'ns create', 'ns rm'] as const;
type Command = (typeof READS)[number] | (typeof CHANGES)[number];

interface Spoilt extends Place {
  readonly rig: Rig;
  /** Below the root. */
  path(...parts: string[]): string;
}

interface Damage {
  readonly name: string;
  /** @returns what every complaint names */
  spoil(store: Spoilt): string;
  /** Commands that cannot do what they are for, and say so. All others do it. */
  readonly stops: readonly Command[];
  /** Class of what they say; default `data_loss`. */
  readonly code?: Code;
  /** What `check` calls it; `none` is nobody's business. Default `damage`. */
  readonly check?: 'damage' | 'suspect' | 'garbage' | 'none';
  /** Whether only `check --deep` sees it. */
  readonly deep?: boolean;
}

const scope = fileScope();
let made: Promise<Rig> | undefined;

/** An image in two namespaces, one of which has a container and a lease as well. */
async function origin(): Promise<Rig> {
  const rig = await pulled(scope, 'overlayfs');
  await withContainer(rig);
  await rig.client.namespace('default').leases.create({id: 'kept'});
  await rig.client.namespace('other').pull(rig.ref, {snapshotter: 'overlayfs'});
  return rig;
}

function words(command: Command, {ref}: Rig): readonly string[] {
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
    written('cut', '{"version":1,"na'),
    written('a list', '[]'),
    written('null', 'null'),
    written('without fields', '{"version":1}'),
    {...written('of a newer berth', '{"version":2}'), code: 'failed_precondition', check: 'suspect'},
    {name: `the record of ${kind} that is a directory`, spoil: (store) => replace(of(store), (path) => mkdirSync(path)), stops},
    {
      name: `the record of ${kind} that is a link to nowhere`,
      spoil: (store) => replace(of(store), (path) => symlinkSync('/nonesuch', path)),
      stops,
    },
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
const COUNTS: readonly Damage[] = (
  [
    ['empty', (file: string) => writeFileSync(file, '')],
    ['no count', (file: string) => writeFileSync(file, '{"n":"many"}')],
  ] as const
).flatMap(([what, spoil]) =>
  ['namespaces/default/refs', 'refs'].map(
    (directory): Damage => ({
      name: `a count in ${directory} that is ${what}`,
      spoil: ({path}) => {
        const file = first(path(directory));
        spoil(file);
        return file;
      },
      stops: [],
    }),
  ),
);

/** Whatever a person leaves where it does not belong. */
const FOREIGN: readonly Damage[] = [
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
].flatMap((directory): Damage[] => [
  {
    name: `a file in ${directory === '' ? 'the root' : directory}`,
    spoil: ({path}) => {
      mkdirSync(path(directory), {recursive: true, mode: 0o700});
      writeFileSync(path(directory, 'README'), 'mine');
      return path(directory, 'README');
    },
    stops: [],
    check: 'garbage',
  },
  {
    name: `a directory in ${directory === '' ? 'the root' : directory}`,
    spoil: ({path}) => {
      mkdirSync(path(directory, 'old.d'), {recursive: true, mode: 0o700});
      writeFileSync(path(directory, 'old.d', 'README'), 'mine');
      return path(directory, 'old.d');
    },
    stops: [],
    check: 'garbage',
  },
]);

/** Something else in the place of a directory. */
const PLACES: readonly Damage[] = [
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
  ].map((directory) => ({directory, stops: EVERYTHING, check: 'damage' as const})),
  {directory: 'namespaces/default/images', stops: KINDS['an image']!.stops, check: 'damage' as const},
  {directory: 'namespaces/default/leases', stops: KINDS['a lease']!.stops, check: 'damage' as const},
  {directory: 'namespaces/default/snapshots', stops: ['snapshots ls', 'df', 'pull', ...COLLECTING] as const, check: 'damage' as const},
].flatMap(({directory, stops, check}): Damage[] => [
  {
    name: `a file in the place of ${directory}`,
    spoil: ({path}) => replace(path(directory), (place) => writeFileSync(place, '')),
    stops,
    check,
  },
  {
    name: `a link to nowhere in the place of ${directory}`,
    spoil: ({path}) => replace(path(directory), (place) => symlinkSync('/nonesuch', place)),
    stops,
    check,
  },
  {
    name: `a link to where ${directory} was moved`,
    spoil: ({root, path}) => {
      mkdirSync(path(directory), {recursive: true, mode: 0o700});
      renameSync(path(directory), `${root}-moved`);
      symlinkSync(`${root}-moved`, path(directory));
      return path(directory);
    },
    stops: [],
    check: 'none',
  },
]);

const blobOf = ({rig, path}: Spoilt, which: 'manifest' | 'config' | 'layer'): string => {
  const digest: Digest = which === 'layer' ? rig.image.layers[0]!.digest : rig.image[which].digest;
  return path('content/blobs', ...digestParts(digest));
};

/** Bytes that are not what they were. The complaint names the digest, which is the file's name. */
const BLOBS: readonly Damage[] = (['manifest', 'config', 'layer'] as const).flatMap((which): Damage[] => {
  const documentStops: readonly Command[] = which === 'layer' ? [] : ['images ls', 'pull'];
  const blob = (what: string, spoil: (file: string) => void, stops: readonly Command[], deep = false): Damage => ({
    name: `the blob of a ${which} ${what}`,
    spoil: (store) => {
      spoil(blobOf(store, which));
      return basename(blobOf(store, which));
    },
    stops,
    deep,
  });
  return [
    blob('with a bit turned', (file) => flip(file, 20), documentStops, true),
    blob('that is cut', (file) => truncateSync(file, 5), [...documentStops, 'pull']),
    blob('that is a directory', (file) => void replace(file, (path) => mkdirSync(path)), [...documentStops, 'pull']),
  ];
});

const layerOf = ({rig, path}: Spoilt): string => path('layers', basename(rig.layer(0)));

/** Trees are seen through by `check --deep`, and judged by what lies beside them otherwise. */
const LAYERS: readonly Damage[] = (
  [
    ['without one of its files', (layer: string) => rmSync(join(layer, 'fs/etc/a')), true, 'damage'],
    ['without its tree', (layer: string) => rmSync(join(layer, 'fs'), {recursive: true}), false, 'damage'],
    ['that is gone', (layer: string) => rmSync(layer, {recursive: true}), false, 'damage'],
    ['that is a file', (layer: string) => void replace(layer, (path) => writeFileSync(path, '')), false, 'damage'],
    ['whose layer.json is empty', (layer: string) => writeFileSync(join(layer, 'layer.json'), ''), false, 'suspect'],
    [
      'whose layer.json is a directory',
      (layer: string) => void replace(join(layer, 'layer.json'), (path) => mkdirSync(path)),
      false,
      'suspect',
    ],
  ] as const
).map(
  ([what, spoil, deep, check]): Damage => ({
    name: `a layer ${what}`,
    spoil: (store) => {
      spoil(layerOf(store));
      return basename(layerOf(store));
    },
    stops: [],
    deep,
    check,
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

const DAMAGES: readonly Damage[] = [...RECORDS, ...COUNTS, ...FOREIGN, ...PLACES, ...BLOBS, ...LAYERS, ...MISNAMED];

let places = 0;

async function spoilt(damage: Damage | undefined, directory: string): Promise<Spoilt & {readonly named: string}> {
  made ??= origin();
  const rig = await made;
  const root = join(directory, `root-${places++}`);
  execFileSync('cp', ['-a', rig.client.root, root]);
  const store = {rig, root, state: join(directory, 'state'), path: (...parts: string[]) => join(root, ...parts)};
  return {...store, named: damage?.spoil(store) ?? ''};
}

/** Of lines that people read, what does not differ from one copy of a store to the next. */
const steady = (text: string, root: string): string => text.replaceAll(root, 'ROOT').replaceAll(/\d+(\.\d+)?( [KMG]i)?B?/g, '#');

function assertComplaint(stderr: string, code: Code, named: string, what: string): void {
  const error = stderr.startsWith('{') ? (JSON.parse(stderr) as {error: {message: string; hint?: string}}).error : undefined;
  const [line = '', hint = ''] = error === undefined ? stderr.split('\n') : [`ctr: ${error.message}`, `hint: ${error.hint ?? ''}`];
  assert.ok(line.startsWith('ctr: ') && line.endsWith(`: ${CLASSES[code].text}`), `${what}: ${stderr}`);
  assert.ok(line.includes(named), `${what} does not name ${named}: ${stderr}`);
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
      const {stops, code = 'data_loss', check = 'damage', deep = false} = damage;
      const directory = temporaryDirectory(t);
      const looked = await spoilt(damage, directory);
      const changes = TORTURE ? CHANGES : CHANGES.filter((_, n) => n === i % CHANGES.length || n === (i * 3 + 1) % CHANGES.length);
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
          if (check === 'garbage') assert.ok(existsSync(store.named), `${command} has taken ${store.named}`);
        }
      }

      const found = await ctrHere(looked, ['check', ...(deep ? ['--deep', '--progress', 'none'] : [])]);
      if (check === 'none') assert.match(found.stdout, /: nothing wrong\n$/);
      else {
        const about = found.stdout.split('\n').filter((line) => line.includes(looked.named));
        assert.ok(about.length > 0 && about.every((line) => line.startsWith(check)), `${found.stdout}${found.stderr}`);
      }
      assert.equal(found.status, check === 'damage' ? CLASSES.data_loss.exit : 0, found.stdout + found.stderr);

      const doctor = await ctrHere(looked, ['doctor', '--json']);
      const checks = JSON.parse(doctor.stdout) as {name: string; status: string; detail: string; hint?: string}[];
      const told = checks.filter(({name, status}) => ['state directory', 'store'].includes(name) && status === 'error');
      if (check === 'garbage' || check === 'none' || deep) assert.deepEqual(told, []);
      else if (found.status !== 0) {
        assert.equal(doctor.status, CLASSES.failed_precondition.exit);
        assert.ok(
          told.some(({hint}) => hint !== undefined),
          doctor.stdout,
        );
      }
    });
});

/** What happens to a file. */
const STATES: Readonly<Record<string, (path: string) => (() => void) | undefined>> = {
  missing: (path) => void rmSync(path, {recursive: true}),
  empty: (path) => void truncate(path, 0),
  truncated: (path) => void truncate(path, statSync(path).size >> 1),
  // Of JSON the first byte: a value that was changed and still fits its field is not seen.
  flipped: (path) => void flip(path, /\/(?:blobs|fs)\/|\.(?:tar|erofs)$/.test(path) ? statSync(path).size >> 1 : 0),
  unreadable: (path) => makeUnreadable(path, 'EIO'),
  withheld: (path) => makeUnreadable(path, 'EACCES'),
  'a directory': (path) => void replace(path, (place) => mkdirSync(place)),
  'a link': (path) => {
    renameSync(path, `${path}-elsewhere`);
    renameSync(`${path}-elsewhere`, join(dirname(path.slice(0, path.indexOf('/root-') + 1)), `elsewhere-${places++}`));
    symlinkSync('/nonesuch', path);
    return undefined;
  },
};

/** Blobs and files of a store may be linked by others: one of its own is cut. */
function truncate(path: string, size: number): void {
  const bytes = readFileSync(path).subarray(0, size);
  const {mode} = statSync(path);
  rmSync(path);
  writeFileSync(path, bytes, {mode});
}

/**
 * Every kind of file below the root, by its path. What is found in a store that was used must be of one of them, and each must be
 * found: a new kind is to be thought of here, and in docs/STORE.md where `check` does not see what becomes of it.
 */
const FILES: Readonly<Record<string, RegExp>> = {
  version: /^version$/,
  'record of a namespace': /^namespaces\/[^/]+\/namespace\.json$/,
  'record of an image': /^namespaces\/[^/]+\/images\/[^/]+$/,
  'record of content': /^namespaces\/[^/]+\/content\/[^/]+$/,
  'record of a snapshot': /^namespaces\/[^/]+\/snapshots\/[^/]+\/[^/]+$/,
  'record of a container': /^namespaces\/[^/]+\/containers\/[^/]+$/,
  'record of a lease': /^namespaces\/[^/]+\/leases\/[^/]+$/,
  'count of references': /^(?:namespaces\/[^/]+\/)?refs\/[^/]+$/,
  blob: /^content\/blobs\/sha256\/[0-9a-f]+$/,
  "an ingest's info.json": /^content\/ingest\/[^/]+\/info\.json$/,
  "an ingest's data": /^content\/ingest\/[^/]+\/data$/,
  "a layer's layer.json": /^layers\/[a-z]+-(?!own-)[^/]+\/layer\.json$/,
  "a user's layer.json": /^layers\/[a-z]+-own-[^/]+\/layer\.json$/,
  "a layer's layer.tar": /^layers\/[^/]+\/layer\.tar$/,
  "a layer's layer.erofs": /^layers\/[^/]+\/layer\.erofs$/,
  "a file in a layer's tree": /^layers\/[a-z]+-(?!own-)[^/]+\/fs\/.+$/,
  "a file in a user's tree": /^layers\/[a-z]+-own-[^/]+\/fs\/.+$/,
  'record of the journal': /^journal\/\d{16}$/,
  'journal/checkpoint': /^journal\/checkpoint$/,
  'journal/applied': /^journal\/applied$/,
  'cache/': /^cache\//,
};

/** What `check` does not see of a file: as docs/STORE.md has it. `deep`: only `check --deep` does. */
function unseen(): ReadonlyMap<string, 'deep' | 'never'> {
  const text = readFileSync(join(import.meta.dirname, '../../docs/STORE.md'), 'utf8');
  const table = /\| file \| state \| seen \|.*?\n\n/s.exec(text)![0];
  const rows = [...table.matchAll(/^\| ([^|]+) \| ([^|]+) \| (never|--deep)[^|]* \|$/gm)];
  return new Map(
    rows.flatMap(([, kinds = '', states = '', seen]) =>
      kinds
        .split('; ')
        .flatMap((kind) =>
          (states === 'any' ? Object.keys(STATES) : states.split(', ')).map(
            (state) => [`${kind}: ${state}`, seen === 'never' ? 'never' : 'deep'] as const,
          ),
        ),
    ),
  );
}

let usedRig: Promise<Rig> | undefined;

/** A store after everything that leaves files: pulls with two snapshotters, a container, a lease, ingests, a listing. */
async function used(): Promise<Rig> {
  const rig = await pulled(scope, 'erofs');
  await withContainer(rig);
  const ns = rig.client.namespace('default');
  await ns.leases.create({id: 'kept'});
  await ns.content.ingest('key', Readable.from([Buffer.from('bytes of a user')]));
  await rig.client.namespace('other').pull(rig.ref, {snapshotter: 'overlayfs'});
  await ns.images.list();
  await rig.client.gc();
  const content = new LocalContentStore(new Store({root: rig.client.root, lockTimeoutMs: 1000}), 'default');
  const writer = await content.writer('half');
  writer.write(Buffer.from('half of it'));
  writer.close();
  return rig;
}

/** One file of each kind, below the root. */
function filesOf(root: string): ReadonlyMap<string, string> {
  const found = new Map<string, string>();
  for (const path of readdirSync(root, {recursive: true, encoding: 'utf8'}).sort()) {
    if (!lstatSync(join(root, path)).isFile()) continue;
    const kinds = Object.keys(FILES).filter((kind) => FILES[kind]!.test(path));
    assert.equal(
      kinds.length,
      1,
      `${path} is of kinds ${JSON.stringify(kinds)}: add it to FILES, and to docs/STORE.md what check does not see of it`,
    );
    if (!found.has(kinds[0]!)) found.set(kinds[0]!, path);
  }
  assert.deepEqual([...found.keys()].sort(), Object.keys(FILES).sort());
  return found;
}

interface FindingLine {
  readonly severity: string;
  readonly path: string;
  readonly repaired: boolean;
  readonly action?: string;
}

async function checked(
  store: Place,
  ...flags: readonly string[]
): Promise<{readonly findings: readonly FindingLine[]; readonly text: string}> {
  const {status, stdout, stderr} = await ctrHere(store, ['check', '--json', '--progress', 'none', ...flags]);
  const text = `check ${flags.join(' ')} ended with ${status}: ${stderr}${stdout}`;
  assert.ok(status === 0 || status === CLASSES.data_loss.exit, text);
  return {findings: (JSON.parse(stdout) as {findings: FindingLine[]}).findings, text};
}

describe('a file of each kind', () => {
  for (const [turn, kind] of Object.keys(FILES).entries())
    it(`${kind}: check finds and repairs every damage to it`, async (t) => {
      if (!requiresRoot(t)) return;
      usedRig ??= used();
      const rig = await usedRig;
      const file = filesOf(rig.client.root).get(kind)!;
      const exceptions = unseen();
      for (const [i, [state, spoil]] of Object.entries(STATES).entries()) {
        if (!TORTURE && (i + turn) % 4 !== 0) continue;
        const what = `${kind} (${file}) that is ${state}`;
        const directory = temporaryDirectory(t);
        const root = join(directory, `root-${places++}`);
        execFileSync('cp', ['-a', rig.client.root, root]);
        const store: Place = {root, state: join(directory, 'state')};
        const path = join(root, file);
        const undo = spoil(path);
        try {
          // A finding names the file, or the layer or ingest that it is part of.
          const names = (found: FindingLine): boolean =>
            path === found.path || path.startsWith(`${found.path}/`) || isCount(kind, found.path);
          const plain = await checked(store);
          const isPlain = plain.findings.some(names);
          const deep = await checked(store, '--deep');
          const isDeep = deep.findings.some(names);
          const seen = isPlain ? 'plain' : isDeep ? 'deep' : 'never';
          assert.equal(seen, exceptions.get(`${kind}: ${state}`) ?? 'plain', `${what}: ${plain.text}${deep.text}`);

          const repair = await checked(store, '--deep', '--repair');
          const left = repair.findings.filter(({severity, repaired}) => severity === 'damage' && !repaired);
          assert.ok(
            left.every(({action}) => action !== undefined),
            `${what}: ${repair.text}`,
          );
          const again = await checked(store, '--deep');
          const damage = again.findings.filter(({severity}) => severity === 'damage');
          assert.ok(damage.length === 0 || left.length > 0, `${what}: ${repair.text}${again.text}`);
          if (kind.includes("user's")) continue;
          assert.equal(damage.length, 0, `${what}: ${repair.text}${again.text}`);

          for (const [namespace, snapshotter] of [
            ['default', 'erofs'],
            ['other', 'overlayfs'],
            ['new', 'erofs'],
          ]) {
            const pull = await ctrHere(store, ['-n', namespace!, 'pull', '--progress', 'none', '--snapshotter', snapshotter!, rig.ref]);
            assert.equal(pull.status, 0, `${what}: ${pull.stderr}`);
          }
          const wrong = checkStore(root).filter((line) => !line.startsWith('damaged/'));
          assert.deepEqual(wrong, [], what);
        } finally {
          undo?.();
        }
      }
    });
});

/** One finding tells of all counts, of those too that a lost record leaves wrong. */
const isCount = (kind: string, path: string): boolean => /^(?:count|record) of/.test(kind) && path.includes('/refs/');
