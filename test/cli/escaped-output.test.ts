/**
 * Text from users, images and registries reaches the terminal as visible characters only, in the output of every command, in
 * errors and in JSON. Every command is called with a hostile string for each argument and flag, and on a store whose records are
 * full of them.
 */
import assert from 'node:assert/strict';
import {mkdirSync, writeFileSync} from 'node:fs';
import {join} from 'node:path';
import {describe, it, type TestContext} from 'node:test';
import fc from 'fast-check';
import {formatJSON, lines, printable} from '../../src/cli/printable.ts';
import {GLOBAL_FLAGS} from '../../src/cli/shared-flags.ts';
import {COMMANDS} from '../../src/commands/index.ts';
import {OCI_MANIFEST} from '../../src/lib/oci/mediatypes.ts';
import {Store} from '../../src/lib/store/store.ts';
import {startFakeRegistry} from '../fakes/registry.ts';
import {SAMPLE, TORTURE, temporaryDirectory} from '../support/helpers.ts';
import {ARCHITECTURE} from '../support/layouts.ts';
import {containerRecord, contentRecord, digestOf, imageRecord, leaseRecord, snapshotRecord} from '../support/records.ts';
import type {Result} from './harness.ts';
import {ctrHere, type Place} from './run-in-process.ts';

/** What no output has: Unicode's own table, where printable.ts has ranges. */
const HIDDEN = /[\p{Cc}\p{Cf}\p{Zl}\p{Zp}\p{Cs}\p{Default_Ignorable_Code_Point}]/u;

/** Begins a line of its own where a line end gets through. */
const FORGED = 'ctr-forged';
/** A title, colours by a control sequence in C0 and in C1, an override and an isolate, a tag, invisible blanks, and the line ends of Unicode. */
const HOSTILE = `\u001b]0;x\u0007\u001b[31m\u009b31m\u202e\u2066\u{e0041}\u200b\ufeff\u00ad\u2028\u0085\r\n${FORGED}\t`;
/** As far as arguments and names of files can have it, and as far as JSON can. */
const IN_JSON = `${HOSTILE}\u0000\ud800`;

describe('what is printed', () => {
  it('has no control or invisible character, of all of Unicode', () => {
    const wrong: string[] = [];
    for (let code = 0; code <= 0x10ffff; code++) {
      const character = String.fromCodePoint(code);
      if (HIDDEN.test(character) === (printable(`a${character}b`) === `a${character}b`)) wrong.push(code.toString(16));
    }
    assert.deepEqual(wrong, []);
  });
  it('is unchanged if it is harmless', () => assert.equal(printable('plain é 漢 😀 |'), 'plain é 漢 😀 |'));
  it('shows what it escapes', () =>
    assert.equal(printable('a\u001b[31mb\n\u202e\u{e0041}\ud800'), 'a\\x1b[31mb\\x0a\\u202e\\u{e0041}\\ud800'));
  it('is a line for each text', () => assert.equal(lines(['a\nb', 'c']), 'a\\x0ab\nc\n'));
  it('is JSON that parses back to what it was', () => {
    const text = fc.oneof(
      fc.string({unit: 'binary', maxLength: 20}),
      fc.constant(IN_JSON),
      fc.array(fc.integer({min: 0, max: 0xffff}), {maxLength: 20}).map((units) => String.fromCharCode(...units)),
    );
    fc.assert(
      fc.property(
        fc.dictionary(text, fc.oneof(text, fc.array(text)), {noNullPrototype: true, maxKeys: 4}),
        fc.constantFrom(0, 2),
        (value, indent) => {
          const printed = formatJSON(value, indent);
          assert.deepEqual(JSON.parse(printed), value);
          assert.doesNotMatch(indent === 0 ? printed : printed.replaceAll('\n', ''), HIDDEN);
        },
      ),
      {seed: SAMPLE},
    );
  });
});

const CONFIG = Buffer.from(
  JSON.stringify({
    architecture: ARCHITECTURE,
    os: 'linux',
    author: IN_JSON,
    config: {Cmd: [HOSTILE], Env: [`A=${HOSTILE}`], Labels: {[HOSTILE]: IN_JSON}, User: HOSTILE, StopSignal: HOSTILE},
    rootfs: {type: 'layers', diff_ids: []},
  }),
);
const MANIFEST = Buffer.from(
  JSON.stringify({
    schemaVersion: 2,
    mediaType: OCI_MANIFEST,
    config: {
      mediaType: 'application/vnd.oci.image.config.v1+json',
      digest: digestOf(CONFIG),
      size: CONFIG.length,
      annotations: {[HOSTILE]: IN_JSON},
    },
    layers: [],
    annotations: {[HOSTILE]: IN_JSON},
  }),
);
/** Commands that ask a registry. */
const FETCHES: ReadonlySet<string> = new Set([
  'attach',
  'catalog',
  'copy',
  'content fetch',
  'content fetch-blob',
  'content fetch-object',
  'inspect',
  'ping',
  'pull',
  'referrers',
  'registry rm',
  'resolve',
  'sync',
  'tags',
]);

/** Nobody listens there. */
const REF = '127.0.0.1:1/hostile:1';
const LABELS = {[HOSTILE]: IN_JSON, plain: HOSTILE};

/** A store below a hostile path, with a hostile string in every field of every record that takes one. */
async function hostilePlace(t: TestContext): Promise<Place> {
  const dir = temporaryDirectory(t);
  const place = {root: join(dir, `root-${HOSTILE}`.replace('/', '')), state: join(dir, 'state')};
  const store = new Store({root: place.root, lockTimeoutMs: 1000});
  store.ensureCreated();
  for (const bytes of [MANIFEST, CONFIG]) store.blobs.writeSmall(digestOf(bytes), bytes);
  await store.update('hostile records', (tx) => {
    const now = new Date().toISOString();
    tx.namespaces.put({name: 'default', labels: LABELS, createdAt: now, updatedAt: now});
    const ns = tx.namespace('default');
    const target = {mediaType: OCI_MANIFEST, digest: digestOf(MANIFEST), size: MANIFEST.length};
    ns.images.put({...imageRecord(REF, target.digest, LABELS), target});
    ns.images.put({
      ...imageRecord('127.0.0.1:1/missing:1', digestOf('nowhere'), LABELS),
      target: {...target, mediaType: HOSTILE, digest: digestOf('nowhere')},
    });
    for (const bytes of [MANIFEST, CONFIG]) ns.content.put(contentRecord(digestOf(bytes), LABELS, bytes.length));
    ns.leases.put(leaseRecord('lease', {labels: LABELS}));
    ns.containers.put(
      containerRecord('container', {image: HOSTILE, labels: LABELS, runtime: {name: HOSTILE}, spec: {process: {args: [IN_JSON]}}}),
    );
    ns.snapshots('native').put(snapshotRecord(HOSTILE, {snapshotter: 'native', layer: 'native-own-0', labels: LABELS}));
    ns.snapshots('native').put(
      snapshotRecord(`child ${HOSTILE}`, {snapshotter: 'native', kind: 'active', parent: HOSTILE, layer: 'native-own-1', labels: LABELS}),
    );
  });
  const ingest = join(place.root, 'content/ingest', 'x');
  mkdirSync(ingest, {recursive: true});
  writeFileSync(
    join(ingest, 'info.json'),
    JSON.stringify({version: 1, ref: HOSTILE, namespace: 'default', total: 0, startedAt: new Date().toISOString()}),
  );
  writeFileSync(join(ingest, 'data'), 'x');
  writeFileSync(join(place.root, `stray-${HOSTILE}`.replace('/', '')), 'x');
  return place;
}

/** The words of every command, its arguments filled by `value`. `content ingest` reads the test's own standard input. */
async function calls(
  value: string,
): Promise<{readonly id: string; readonly words: readonly string[]; readonly flags: readonly string[]}[]> {
  const all = Object.entries(COMMANDS.commands).filter(([id]) => id !== 'content ingest');
  return Promise.all(
    all.map(async ([id, load]) => {
      const {args, flags} = (await load()).default;
      // Global flags are read by one mechanism for all commands.
      const own = Object.keys(id === 'images ls' || TORTURE ? {...GLOBAL_FLAGS, ...flags} : flags).filter(
        (name) => !['root', 'state', 'progress', 'timeout'].includes(name),
      );
      return {
        id,
        words: [...id.split(' '), ...Object.values(args).flatMap(({required}) => (required ? [value] : []))],
        flags: own
          .map((name) => ({...GLOBAL_FLAGS, ...flags})[name as never] as {type: string} & {name?: string})
          .flatMap(({type}, i) => (type === 'option' ? [own[i]!] : [])),
      };
    }),
  );
}

/** Commands that take something away. */
const REMOVES = / (?:rm|commit)$|^(?:gc|prune)$/;

const ROWS = /^(?:ctr: |hint: |debug: | {4})/;

function assertClean({stdout, stderr}: Result, words: readonly string[]): void {
  const line = JSON.stringify(words);
  for (const [name, text] of Object.entries({stdout, stderr})) {
    assert.doesNotMatch(text.replaceAll('\n', ''), HIDDEN, `${name} of ${line}: ${JSON.stringify(text)}`);
    // In a script for a shell a line end is part of a quoted word.
    if (name === 'stdout' && (words.includes('mounts') || words.some((word) => word.startsWith('--target')))) continue;
    assert.doesNotMatch(text, new RegExp(`^${FORGED}`, 'm'), `${name} of ${line} has a line of others: ${JSON.stringify(text)}`);
  }
  if (words.includes('--json')) for (const row of stderr.split('\n').filter(Boolean)) JSON.parse(row);
  else if (!words.includes('json')) for (const row of stderr.split('\n').filter(Boolean)) assert.match(row, ROWS, `${line}: ${stderr}`);
}

describe('a hostile string', () => {
  for (const mode of [[], ['--json'], ['--debug']] as const) {
    const how = mode.length === 0 ? 'as text' : `with ${mode[0]}`;
    it(`in a record is escaped by every command, ${how}`, async (t) => {
      const seen = new Set<string>();
      const values = [HOSTILE, REF, digestOf(MANIFEST), 'container', 'lease', 'default', `child ${HOSTILE}`];
      for (const value of mode[0] === '--debug' && !TORTURE ? values.slice(0, 2) : values) {
        const place = await hostilePlace(t);
        // What takes something away comes last.
        const all = (await calls(value)).sort((a, b) => Number(REMOVES.test(a.id)) - Number(REMOVES.test(b.id)));
        for (const {id, words} of all) {
          if (FETCHES.has(id) && value !== REF && value !== HOSTILE) continue; // it would be looked for in the world
          const flags = [
            ...mode,
            '--progress',
            'none',
            '--timeout',
            '5s',
            ...(id.startsWith('snapshots') ? ['--snapshotter', 'native'] : []),
          ];
          const call = [...flags, ...words];
          const result = await ctrHere(place, id === 'images inspect' ? [...call, '--content'] : call);
          if (id === 'content get' && result.status === 0) continue;
          assertClean(result, call);
          if (result.stdout.includes(FORGED)) seen.add(id);
        }
      }
      // That the records were shown at all.
      if (mode[0] === '--debug') return;
      for (const id of [
        'images ls',
        'images inspect',
        'content ls',
        'containers info',
        'containers ls',
        'snapshots ls',
        'snapshots tree',
        'snapshots info',
        'namespaces ls',
        'leases ls',
      ])
        assert.ok(seen.has(id), `${id} ${mode} shows nothing of it`);
    });
    it(`as an argument or a flag is escaped by every command, ${how}`, async (t) => {
      const place = await hostilePlace(t);
      const nothing: string[][] = [
        [HOSTILE],
        ['images', HOSTILE],
        [`--${HOSTILE}`],
        [`-${HOSTILE}`, 'images', 'ls'],
        ['-n', HOSTILE, 'images', 'ls'],
      ];
      const flagged = (await calls(REF)).flatMap(({words, flags}) => [
        ...flags.map((flag) => [...words, `--${flag}=${HOSTILE}`]),
        [...words, `--${HOSTILE}`],
        [...words, `-${HOSTILE}`],
        [...words, HOSTILE, HOSTILE, HOSTILE],
      ]);
      for (const words of [...nothing, ...flagged]) {
        const call = words.length === 1 && mode.length === 0 ? words : [...mode, ...words];
        const isRun = call.includes('run') || [...FETCHES].some((id) => call.join(' ').includes(id));
        assertClean(await ctrHere(place, isRun ? [...call, '--progress', 'none', '--timeout', '2s'] : call), call);
      }
    });
  }

  it('in JSON parses back to what it was', async (t) => {
    const place = await hostilePlace(t);
    for (const kind of ['images', 'content', 'leases', 'namespaces']) {
      const [record] = JSON.parse((await ctrHere(place, [kind, 'ls', '--json'])).stdout) as {labels: object}[];
      assert.deepEqual(record!.labels, LABELS, kind);
    }
    const {stdout} = await ctrHere(place, ['containers', 'info', 'container']);
    assert.deepEqual(JSON.parse(stdout).spec, {process: {args: [IN_JSON]}});
    const {error} = JSON.parse((await ctrHere(place, ['snapshots', 'info', `no ${HOSTILE}`, '--json'])).stderr);
    assert.ok(error.message.includes(JSON.stringify(HOSTILE).slice(1, -1)), error.message);
  });

  for (const mode of [[], ['--json'], ['--debug'], ['--progress', 'json']] as const)
    it(`of a registry is escaped, ${mode.join(' ') || 'as text'}`, async (t) => {
      const registry = await startFakeRegistry(t);
      const latin = [...HOSTILE].filter((c) => c.charCodeAt(0) >= 0x80 && c.charCodeAt(0) < 0x100).join('');
      const manifest = {
        schemaVersion: 2,
        mediaType: OCI_MANIFEST,
        config: {...registry.addBlob(CONFIG, HOSTILE), annotations: {[HOSTILE]: IN_JSON}},
        layers: [{...registry.addBlob(Buffer.from('x'), HOSTILE), urls: [HOSTILE]}],
      };
      registry.addManifest('odd', manifest, OCI_MANIFEST, 'latest');
      registry.addManifest(
        'index',
        {
          schemaVersion: 2,
          manifests: [{mediaType: HOSTILE, digest: digestOf('x'), size: 1, platform: {os: HOSTILE, architecture: HOSTILE}}],
        },
        'application/vnd.oci.image.index.v1+json',
        'latest',
      );
      registry.addManifest('broken', Buffer.from(`{"x": "${HOSTILE}`), OCI_MANIFEST, 'latest');
      registry.addManifest('typed', Buffer.from('{}'), `x/${latin}`, 'latest');
      registry.fault({path: /refused/, status: 403, code: HOSTILE, message: `${HOSTILE} ${IN_JSON}`});
      registry.fault({
        path: /asked/,
        status: 401,
        headers: {'www-authenticate': `Bearer realm="http://127.0.0.1:1/${latin}",service="${latin}"`},
      });
      registry.fault({path: /moved/, redirect: `http://${latin}/`});
      for (const name of ['odd', 'index', 'broken', 'typed', 'refused', 'asked', 'moved'])
        for (const flags of [[], ['--no-unpack']]) {
          const place = {root: temporaryDirectory(t), state: temporaryDirectory(t)};
          const words = [
            'pull',
            '--timeout',
            '3s',
            ...(mode[0] === '--progress' ? [] : ['--progress', 'none']),
            ...mode,
            ...flags,
            `${registry.host}/${name}:latest`,
          ];
          const result = await ctrHere(place, words);
          assertClean(result, words);
        }
    });
});
