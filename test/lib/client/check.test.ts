/** `check` on a damaged store: it names each damage, changes nothing, and with `--repair` repairs what can be repaired. */
import assert from 'node:assert/strict';
import {
  chmodSync,
  chownSync,
  copyFileSync,
  cpSync,
  lstatSync,
  lutimesSync,
  mkdirSync,
  readFileSync,
  renameSync,
  rmSync,
  statSync,
  symlinkSync,
  truncateSync,
  utimesSync,
  writeFileSync,
} from 'node:fs';
import {basename, dirname, join} from 'node:path';
import {Readable} from 'node:stream';
import {describe, it} from 'node:test';
import {runtimeStatePath} from '../../../src/lib/store/layout.ts';
import {Store} from '../../../src/lib/store/store.ts';
import {surveyRuntimeState} from '../../../src/lib/store/survey-entries.ts';
import {publishedImages} from '../../e2e/fixtures.ts';
import {is, newClient, requiresRoot, slow, TORTURE, temporaryDirectory} from '../../support/helpers.ts';
import {contentRecord, digestOf} from '../../support/records.ts';
import {
  contents,
  DEAD,
  flip,
  forgetJournal,
  fromAnotherBoot,
  LAYERS,
  names,
  type PulledStore,
  pulled,
  readJSON,
  says,
  saysAll,
  withContainer,
  writeJSON,
} from './pulled-store.ts';

const published = publishedImages();

interface Damage {
  readonly name: string;
  spoil(rig: PulledStore): unknown;
  /** Beginnings of the findings, with `…` for text that differs from run to run. Empty: no findings. */
  readonly finds: readonly string[];
  /** Findings after a repair. Default: none. */
  readonly remains?: readonly string[];
  readonly deep?: boolean;
}

const IDLE = `ref-${'a'.repeat(64)}`;

const HEX = /sha256[:-][0-9a-f]{64}/g;
const general = (text: string): string =>
  text
    .replaceAll(HEX, 'sha256:…')
    .replaceAll(/layer (?!.*-own-)[a-z]+-\S+:/g, 'layer …:')
    .replaceAll(/127\.0\.0\.1:\d+/g, 'host')
    .replaceAll(/-own-[0-9a-f]{24}/g, '-own-…');

const SHALLOW: readonly Damage[] = [
  {name: 'nothing', spoil: () => {}, finds: []},
  {
    name: 'a blob that is missing',
    spoil: ({blob, image}) => rmSync(blob(image.layers[0]!.digest)),
    finds: ['damage: content sha256:…: is missing'],
  },
  {
    name: 'a manifest that is missing',
    spoil: ({blob, image}) => rmSync(blob(image.manifest.digest)),
    finds: ['damage: content sha256:…: is missing'],
  },
  {
    name: 'every blob missing',
    spoil: ({path}) => rmSync(path('content/blobs'), {recursive: true}),
    finds: Array(4).fill('damage: content sha256:…: is missing'),
  },
  {
    name: 'a blob that is cut',
    spoil: ({blob, image}) => truncateSync(blob(image.layers[0]!.digest), 100),
    finds: [`damage: content sha256:…: has 100 B on disk instead of ${LAYERS[0]!.length} B`],
  },
  {
    name: 'a blob of no bytes',
    spoil: ({blob, image}) => truncateSync(blob(image.config.digest), 0),
    finds: ['damage: content sha256:…: has 0 B on disk instead of'],
  },
  {
    name: 'a blob that is a symbolic link',
    spoil: ({blob, path, image}) => {
      renameSync(blob(image.config.digest), path('cache-elsewhere'));
      symlinkSync(path('cache-elsewhere'), blob(image.config.digest));
    },
    finds: [
      'damage: content sha256:…: is not a file',
      'damage: entry content/blobs/sha256/',
      'garbage: entry cache-elsewhere: was not created by berth',
    ],
    remains: ['garbage: entry cache-elsewhere: was not created by berth'],
  },
  {
    name: 'a blob that is a directory',
    spoil: ({blob, image}) => {
      rmSync(blob(image.config.digest));
      mkdirSync(join(blob(image.config.digest), 'x'), {recursive: true});
    },
    finds: ['damage: content sha256:…: is not a file', 'damage: entry content/blobs/sha256/'],
  },
  {
    name: 'a record of content with another size',
    spoil: ({record, image}) => {
      const path = record('content', image.layers[0]!.digest);
      writeJSON(path, {...readJSON(path), size: 1});
    },
    finds: [`damage: content sha256:…: has ${LAYERS[0]!.length} B on disk instead of 1 B`],
  },
  {
    name: "a layer's record of content that is missing",
    spoil: ({path, record, image}) => {
      forgetJournal(path());
      rmSync(record('content', image.layers[1]!.digest));
    },
    finds: [
      'damage: content sha256:…: its content sha256:… has no record',
      'damage: counts of references: ',
      'garbage: content sha256:…: no record names it',
    ],
  },
  {
    name: "an image's record of content that is missing",
    spoil: ({path, record, image}) => {
      forgetJournal(path());
      rmSync(record('content', image.manifest.digest));
    },
    finds: [
      'damage: counts of references: ',
      'damage: image "host/app:latest": its content sha256:… has no record',
      'garbage: content sha256:…: no record names it',
    ],
  },
  {
    name: 'a layer that is missing',
    spoil: ({layer}) => rmSync(layer(0), {recursive: true}),
    finds: ['damage: layer …: is missing'],
  },
  {
    name: 'a layer that is a file',
    spoil: ({layer}) => {
      rmSync(layer(1), {recursive: true});
      writeFileSync(layer(1), 'x');
    },
    finds: ['damage: entry layers/', 'damage: layer …: is not a directory'],
  },
  {
    name: 'a layer without a tree',
    spoil: ({layer}) => {
      for (const name of names(layer(1))) if (name !== 'layer.json') rmSync(join(layer(1), name), {recursive: true});
    },
    finds: ['damage: layer …: has no tree'],
  },
  {
    name: 'layers of another boot',
    spoil: ({layer}) => {
      fromAnotherBoot(layer(0));
      fromAnotherBoot(layer(1));
    },
    finds: Array(2).fill('suspect: layer …: was created in an earlier boot and may be incomplete on disk'),
  },
  ...['', '{', 'null', '[]', '{"version":1}', '{"version":1,"snapshotter":"x","bootId":"y","durable":true}'].map(
    (text): Damage => ({
      name: `a layer.json that is ${JSON.stringify(text)}`,
      spoil: ({layer}) => writeFileSync(join(layer(0), 'layer.json'), text),
      finds: ['suspect: layer …: its layer.json is malformed'],
    }),
  ),
  {
    name: 'a snapshot without a record',
    spoil: async ({path, snapshotter, client}) => {
      const {key} = (await client.namespace('default').snapshots(snapshotter).list()).find(({parent}) => parent !== undefined)!;
      forgetJournal(path());
      rmSync(path('namespaces/default/snapshots', snapshotter, `${key}.json`));
    },
    finds: [
      'damage: counts of references: ',
      'garbage: layer …: no record names it',
      'suspect: content sha256:…: its snapshot sha256:… has no record',
    ],
  },
  {
    name: 'a parent without a record',
    spoil: async ({path, snapshotter, client}) => {
      const {key} = (await client.namespace('default').snapshots(snapshotter).list()).find(({parent}) => parent === undefined)!;
      forgetJournal(path());
      rmSync(path('namespaces/default/snapshots', snapshotter, `${key}.json`));
    },
    finds: [
      'damage: counts of references: ',
      'damage: snapshot "sha256:…": its parent "sha256:…" has no record',
      'garbage: layer …: no record names it',
    ],
  },
  ...(['is missing', 'has no tree', 'its layer.json is malformed'] as const).map(
    (problem): Damage => ({
      name: `a container that was to go with a run that is gone, whose layer ${problem}`,
      spoil: async (rig) => {
        const {layer} = await withContainer(rig, 'c1', {'berth/rm': DEAD});
        const path = rig.path('layers', layer);
        if (problem === 'is missing') rmSync(path, {recursive: true});
        else if (problem === 'has no tree') rmSync(join(path, 'fs'), {recursive: true});
        else truncateSync(join(path, 'layer.json'));
      },
      finds: [
        'garbage: container "c1": should have been removed when its run ended',
        `garbage: layer overlayfs-own-…: ${problem}, and it belongs to a run that has ended`,
      ],
    }),
  ),
  {
    name: 'counts that are too low, too high, and no numbers',
    spoil: ({path}) => {
      const [first, second, third] = names(path('namespaces/default/refs')).filter((name) => name !== 'complete.json');
      rmSync(path('namespaces/default/refs', first!));
      writeJSON(path('namespaces/default/refs', second!), {version: 1, n: 7});
      writeFileSync(path('namespaces/default/refs', third!), '{');
    },
    finds: ['damage: counts of references: 3 differ from a expectedCounts'],
  },
  {
    name: 'counts that are gone altogether',
    spoil: ({path}) => {
      rmSync(path('namespaces/default/refs'), {recursive: true});
      rmSync(path('refs'), {recursive: true});
    },
    finds: ['damage: counts of references: '],
  },
  {
    name: 'a namespace without a record',
    spoil: ({path}) => {
      forgetJournal(path());
      rmSync(path('namespaces/default/namespace.json'));
    },
    finds: ['damage: namespace "default": has no record'],
  },
  {
    name: 'a record that is missing, and that the journal has',
    spoil: ({record, ref}) => rmSync(record('images', ref)),
    finds: ['damage: record namespaces/default/images/'],
  },
  ...['', '{"version":1,"name":', '[]', 'null', '"x"', '{"version":1,"name":"other"}', '\0\0\0'].map(
    (text): Damage => ({
      name: `a namespace record that is ${JSON.stringify(text)}`,
      spoil: ({path}) => writeFileSync(path('namespaces/default/namespace.json'), text),
      finds: ['damage: record namespaces/default/namespace.json: '],
    }),
  ),
  {
    name: 'what killed processes left',
    spoil: ({path}) => {
      mkdirSync(path('work', `${DEAD}.x`), {recursive: true});
      mkdirSync(path('trash', `${DEAD}.x`), {recursive: true});
      mkdirSync(path(`locks/ingest-${IDLE}.${DEAD}.zz`), {recursive: true});
      writeFileSync(path('namespaces/default/images', `.tmp.${DEAD}.x`), 'x');
      writeFileSync(path(`.tmp.${DEAD}.x`), 'x');
    },
    finds: [
      `garbage: entry .tmp.${DEAD}.x: was left by a process that has ended`,
      `garbage: entry locks/ingest-${IDLE}.${DEAD}.zz: was left`,
      `garbage: entry namespaces/default/images/.tmp.${DEAD}.x: was left`,
      `garbage: entry trash/${DEAD}.x: was left`,
      `garbage: entry work/${DEAD}.x: was left`,
    ],
  },
  {
    name: 'a lease of what an earlier boot had mounted',
    spoil: async ({client}) => {
      const {leases} = client.namespace('default');
      await leases.create({id: '/mnt', labels: {'berth/mount': 'f'.repeat(32)}});
      await leases.create({id: 'unmounted', labels: {'berth/mount': 'ended'}});
    },
    finds: ['garbage: lease "/mnt": keeps what an earlier boot had mounted'],
  },
  {
    name: 'what nobody names',
    spoil: ({path, layer}) => {
      writeFileSync(path('content/blobs/sha256', 'a'.repeat(64)), 'x');
      cpSync(layer(0), path('layers/overlayfs-own-aaaaaaaaaaaaaaaaaaaaaaaa'), {recursive: true});
    },
    finds: ['garbage: content sha256:…: no record names it', 'garbage: layer overlayfs-own-…: no record names it'],
  },
  {
    name: 'a download that nobody goes on with',
    spoil: ({path}) => {
      mkdirSync(path('content/ingest', IDLE), {recursive: true});
      writeFileSync(path('content/ingest', IDLE, 'data'), 'x');
      utimesSync(path('content/ingest', IDLE, 'data'), 0, 0);
    },
    finds: [`garbage: ingest ${IDLE}: has been idle for a long time`],
  },
  {
    name: 'foreign files and directories',
    spoil: ({path}) => {
      writeFileSync(path('README'), 'x');
      mkdirSync(path('content/blobs/md5'));
      mkdirSync(path('namespaces/default/volumes'));
      writeFileSync(path('namespaces/default/images/notes.txt'), 'x');
      symlinkSync('/etc', path('etc'));
    },
    finds: ['README', 'content/blobs/md5', 'etc', 'namespaces/default/images/notes.txt', 'namespaces/default/volumes'].map(
      (name) => `garbage: entry ${name}: was not created by berth`,
    ),
    remains: ['README', 'content/blobs/md5', 'etc', 'namespaces/default/images/notes.txt', 'namespaces/default/volumes'].map(
      (name) => `garbage: entry ${name}: was not created by berth`,
    ),
  },
  {
    name: 'a directory that is a link to one, and where it was moved',
    spoil: ({path}) => {
      renameSync(path('refs'), path('cache-refs'));
      symlinkSync(path('cache-refs'), path('refs'));
    },
    finds: ['garbage: entry cache-refs: was not created by berth'],
    remains: ['garbage: entry cache-refs: was not created by berth'],
  },
];

const DEEP: readonly Damage[] = [
  {
    name: 'a bit of a blob',
    deep: true,
    spoil: ({blob, image}) => flip(blob(image.layers[0]!.digest), 700),
    finds: ['damage: content sha256:…: is sha256:… on disk'],
  },
  {
    name: 'a bit of a manifest',
    deep: true,
    spoil: ({blob, image}) => flip(blob(image.manifest.digest), 20),
    finds: ['damage: content sha256:…: is sha256:… on disk'],
  },
];

/** Changes a file, and restores its time. */
function inPlace(path: string, change: (path: string) => void): void {
  const {atime, mtime} = statSync(path);
  change(path);
  utimesSync(path, atime, mtime);
}

/** Damage of extracted trees; LAYERS has their content. */
const TREES: readonly (readonly [name: string, spoil: (tree: string) => unknown, problem: string])[] = [
  ['a file that is missing', (tree) => inPlace(join(tree, 'etc'), () => rmSync(join(tree, 'etc/b'))), '"/etc/b" is missing'],
  ['a file too many', (tree) => writeFileSync(join(tree, 'more'), ''), '"/more" does not belong there'],
  [
    'other bytes',
    (tree) => inPlace(join(tree, 'etc/a'), (path) => writeFileSync(path, 'hallo'.repeat(1000))),
    '"/etc/a" has different content',
  ],
  ['a file that is cut', (tree) => inPlace(join(tree, 'etc/a'), (path) => truncateSync(path, 10)), '"/etc/a" has 10 B, not 5000 B'],
  ['another mode', (tree) => chmodSync(join(tree, 'etc'), 0o777), '"/etc" has mode 0777, not 0750'],
  ['another owner', (tree) => chownSync(join(tree, 'etc/a'), 7, 0), '"/etc/a" has user 7, not 0'],
  ['another group', (tree) => chownSync(join(tree, 'usr'), 0, 7), '"/usr" has group 7, not 0'],
  [
    'another time',
    (tree) => utimesSync(join(tree, 'etc/a'), 1, 1),
    '"/etc/a" has mtime 1970-01-01T00:00:01.000Z, not 2023-11-14T22:13:20.000Z',
  ],
  ['another target', (tree) => relink(tree, 'usr/e', '/etc'), '"/usr/e" points to "/etc", not "../etc"'],
  ['another type', (tree) => retype(tree), '"/usr/bin" has type 100000, not 40000'],
  ['a name that is a copy', (tree) => copy(tree), '"/etc/a" has 1 names, not 2'],
];

function relink(tree: string, path: string, target: string): void {
  const {mtime} = lstatSync(join(tree, path));
  inPlace(join(tree, dirname(path)), () => {
    rmSync(join(tree, path));
    symlinkSync(target, join(tree, path));
    lutimesSync(join(tree, path), mtime, mtime);
  });
}

function retype(tree: string): void {
  inPlace(join(tree, 'usr'), () => {
    rmSync(join(tree, 'usr/bin'), {recursive: true});
    writeFileSync(join(tree, 'usr/bin'), '');
  });
}

function copy(tree: string): void {
  const {atime, mtime} = statSync(join(tree, 'etc/a'));
  inPlace(join(tree, 'etc'), () => {
    rmSync(join(tree, 'etc/b'));
    copyFileSync(join(tree, 'etc/a'), join(tree, 'etc/b'));
    utimesSync(join(tree, 'etc/b'), atime, mtime);
  });
}

const LAYER_DAMAGE: Readonly<Record<string, readonly Damage[]>> = {
  erofs: [
    {
      name: 'a bit of a tar',
      deep: true,
      spoil: ({layer}) => flip(join(layer(0), 'layer.tar'), 5000),
      finds: ['damage: layer …: has sha256:… in layer.tar instead of sha256:…'],
    },
    {
      name: 'a bit of the tar of a layer that depends on others',
      deep: true,
      spoil: ({layer}) => flip(join(layer(1), 'layer.tar'), 600),
      finds: ['damage: layer …: has sha256:… in layer.tar instead of sha256:…'],
    },
    {
      name: 'a name in an index',
      deep: true,
      spoil: ({layer}) => respell(join(layer(0), 'layer.erofs'), 'usr', 'usx'),
      finds: ['damage: layer …: "/usr" is missing'],
    },
    {
      name: 'a name in an index that depends on others',
      deep: true,
      spoil: ({layer}) => respell(join(layer(1), 'layer.erofs'), 'etc', 'etx'),
      finds: ['damage: layer …: "/etc" is missing'],
    },
    {
      name: 'an index without its magic',
      deep: true,
      spoil: ({layer}) => flip(join(layer(0), 'layer.erofs'), 1024),
      finds: ['damage: layer …: cannot be mounted'],
    },
    {
      name: 'an index that is cut',
      deep: true,
      spoil: ({layer}) => truncateSync(join(layer(0), 'layer.erofs'), 1000),
      finds: ['damage: layer …: layer.erofs has 1000 B instead of '],
    },
  ],
  overlayfs: TREES.map(([name, spoil, problem]) => ({
    name,
    deep: true,
    spoil: ({layer}) => spoil(join(layer(0), 'fs')),
    finds: [`damage: layer …: ${problem}`],
  })),
  // They are compared as those of overlayfs are; torture looks at each.
  native: TREES.filter((_, i) => TORTURE || i % 3 === 0).map(([name, spoil, problem]) => ({
    name,
    deep: true,
    spoil: ({layer}) => spoil(join(layer(0), 'fs')),
    finds: [`damage: layer …: ${problem}`],
  })),
};

/** Replaces text of the same length wherever it stands. */
function respell(path: string, from: string, to: string): void {
  writeFileSync(path, Buffer.from(readFileSync(path, 'latin1').replaceAll(from, to), 'latin1'));
}

function assertSays(actual: readonly string[], expected: readonly string[]): void {
  const found = actual.map(general);
  const matches = found.length === expected.length && [...expected].sort().every((beginning, i) => found[i]!.startsWith(beginning));
  if (!matches) assert.deepEqual(found, [...expected].sort());
}

/** Checks, asserts that checking changed nothing, repairs, and asserts that the store is as before the damage. */
async function judge(rig: PulledStore, {spoil, finds, remains = [], deep = false}: Damage): Promise<void> {
  const {client} = rig;
  await spoil(rig);
  const before = contents(client.root);
  const found = await client.check({deep});
  assertSays(saysAll(found), finds);
  assert.equal(contents(client.root), before, 'a look changes nothing');
  assert.equal(found.damage, finds.filter((text) => text.startsWith('damage')).length);
  assert.ok(found.findings.every(({repaired, action}) => !repaired && action === undefined));

  const {findings, damage} = await client.check({deep, repair: true});
  assertSays(findings.map(says).sort(), finds);
  assertSays(
    findings
      .filter(({repaired}) => !repaired)
      .map(says)
      .sort(),
    remains,
  );
  assert.ok(
    findings.every(({repaired, action}) => !repaired || action !== undefined),
    'who repairs says how',
  );
  assert.equal(damage, remains.filter((text) => text.startsWith('damage')).length);

  assertSays(saysAll(await client.check({deep: true})), remains);
  const [image] = await client.namespace('default').images.check({snapshotter: rig.snapshotter});
  assert.deepEqual([image?.status, image?.unpacked], ['complete', true]);
}

/** Of changes and looks, all together. */
const ROUNDS = 40;

describe('check', () => {
  for (const damage of SHALLOW)
    it(`names and repairs ${damage.name}`, async (t) => {
      if (requiresRoot(t)) await judge(await pulled(t, 'overlayfs'), damage);
    });

  for (const [snapshotter, damages] of Object.entries(LAYER_DAMAGE))
    for (const damage of [...DEEP, ...damages])
      it(`names and repairs ${damage.name}, ${snapshotter}`, async (t) => {
        if (!requiresRoot(t)) return;
        await judge(await pulled(t, snapshotter), damage);
      });

  it('reports an index with any flipped bit, and never crashes', async (t) => {
    if (!requiresRoot(t) || !slow(t)) return;
    const rig = await pulled(t, 'erofs');
    const index = join(rig.layer(0), 'layer.erofs');
    const right = readFileSync(index);
    let [damaged, tried] = [0, 0];
    for (let at = 1024; at < right.length; at += TORTURE ? 7 : 61) {
      const bytes = Buffer.from(right);
      bytes[at]! ^= 1 << (at % 8);
      writeFileSync(index, bytes);
      const {findings} = await rig.client.check({deep: true});
      assert.ok(
        findings.length <= 1 &&
          findings.every(({object, severity}) => object === `layer ${basename(rig.layer(0))}` && severity === 'damage'),
      );
      damaged += findings.length;
      tried++;
    }
    t.diagnostic(`${damaged} of ${tried} are damage`);
    assert.ok(damaged > tried / 4, `${damaged} of ${tried}: what matters in it is not seldom`);
  });

  for (const name of ['busybox', 'busybox-zstd', 'busybox-docker', 'awkward', 'awkward-through', 'redis'] as const)
    for (const snapshotter of ['erofs', 'overlayfs', 'native'])
      it(`finds nothing wrong with ${name}, ${snapshotter}`, async (t) => {
        if (!requiresRoot(t) || !slow(t)) return;
        if (name === 'redis' && snapshotter === 'native') return t.skip('copies of copies take long');
        const image = await published(t, name);
        if (image === undefined) return;
        const client = await newClient(t);
        await client.namespace('default').pull(image.ref, {snapshotter});
        const {findings, checked} = await client.check({deep: true});
        assert.deepEqual([findings, checked.uncompared], [[], 0]);
      });

  it('ends soon when it is aborted, at any point', async (t) => {
    if (!requiresRoot(t) || !slow(t)) return;
    const root = temporaryDirectory(t);
    const store = new Store({root, lockTimeoutMs: 10_000});
    store.ensureCreated();
    await store.update('content', (tx) => {
      for (let n = 0; n < 600; n++) {
        const bytes = `blob ${n}`;
        const path = store.blobs.path(digestOf(bytes));
        mkdirSync(dirname(path), {recursive: true});
        writeFileSync(path, bytes);
        tx.namespace(`n${n % 5}`).content.put(contentRecord(digestOf(bytes), {'containerd.io/gc.root': 'x'}, bytes.length));
      }
    });
    const client = await newClient(t, {root});
    const spentSince = (before: NodeJS.CpuUsage): number => {
      const {user, system} = process.cpuUsage(before);
      return (user + system) / 1000;
    };
    for (const repair of [false, true]) {
      const work = (signal?: AbortSignal): Promise<unknown> => {
        if (repair) rmSync(join(root, 'refs'), {recursive: true, force: true});
        return client.check({repair, ...(signal === undefined ? {} : {signal})});
      };
      // The first run loads and compiles the code.
      let total = Number.POSITIVE_INFINITY;
      for (let n = 0; n < 2; n++) {
        const before = process.cpuUsage();
        await work();
        total = Math.min(total, spentSince(before));
      }
      for (const share of [0, 0.15, 0.3]) {
        const controller = new AbortController();
        const begun = process.cpuUsage();
        let aborted: NodeJS.CpuUsage | undefined;
        const timer = setInterval(() => {
          if (aborted !== undefined || spentSince(begun) < share * total) return;
          aborted = process.cpuUsage();
          controller.abort();
        }, 1);
        const ended = work(controller.signal);
        await assert.rejects(ended, is('canceled'), `repair ${repair}, aborted after ${share}`).finally(() => clearInterval(timer));
        const spent = spentSince(aborted!);
        assert.ok(spent < total * 0.5 + 100, `repair ${repair} went on for ${spent} ms of ${total} ms, aborted after ${share}`);
      }
    }
  });

  it('does not report the work of other processes as damage', async (t) => {
    if (!requiresRoot(t) || !slow(t)) return;
    const rig = await pulled(t, 'overlayfs');
    let rounds = 0;
    const busy = async (namespace: string): Promise<void> => {
      const own = await newClient(t, {root: rig.client.root, state: rig.client.state});
      while (rounds < ROUNDS) {
        await own.namespace(namespace).pull(rig.ref, {snapshotter: 'overlayfs'});
        await own.namespace(namespace).content.ingest(namespace, Readable.from([Buffer.from(`${rounds}`)]));
        await own.namespaces.delete(namespace, {recursive: true});
        rounds++;
      }
    };
    const look = async (): Promise<void> => {
      while (rounds < ROUNDS) {
        assert.deepEqual(saysAll(await rig.client.check({deep: rounds % 2 === 0})), []);
        rounds++;
      }
    };
    await Promise.all([busy('a'), busy('b'), look()]);
  });
});

it('check knows every entry of the runtime state directory', (t) => {
  const state = temporaryDirectory(t);
  for (const path of Object.values(runtimeStatePath).map((of) => of(state))) {
    if (path.endsWith('.json')) writeFileSync(path, '{}');
    else mkdirSync(path);
  }
  assert.deepEqual(surveyRuntimeState(state), []);
});
