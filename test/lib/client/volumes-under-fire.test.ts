/** Processes that make, use and remove volumes at once, and are killed: a volume that was promised is there with its bytes, and nothing leaks. */
import assert from 'node:assert/strict';
import {spawn} from 'node:child_process';
import {existsSync, mkdirSync, readdirSync, readFileSync} from 'node:fs';
import {join} from 'node:path';
import {describe, it} from 'node:test';
import {openClient} from '../../../src/lib/client/index.ts';
import type {Client} from '../../../src/lib/client/types/index.ts';
import {failpointOptions} from '../../fakes/failpoints.ts';
import {startFakeRegistry} from '../../fakes/registry.ts';
import {randomOf} from '../../fuzz/seeded-random.ts';
import {requiresProgram, requiresRoot, SAMPLE, type Scope, TORTURE, temporaryDirectory} from '../../support/helpers.ts';
import {checkStore} from '../../support/invariants.ts';
import {publishImage} from '../../support/published-images.ts';
import {program} from '../../support/static-programs.ts';
import {dir, file, tar} from '../../support/tartest.ts';
import {type DriverRequest, type Logged, readFiles} from './volume-driver.ts';

const SNAPSHOTTER = 'overlayfs';
const OF_IMAGE = {a: 'a'.repeat(3000), b: 'b'.repeat(3000)};
const ROUNDS = TORTURE ? 60 : 2;
const NAMES = ['p', 'q', 'r'];
const SEED = Number(process.env.BERTH_TEST_SEED ?? SAMPLE);

async function pulled(t: Scope, place: {root: string; state: string}): Promise<string> {
  const registry = await startFakeRegistry(t);
  const files = Object.entries(OF_IMAGE).map(([name, text]) => file(`data/${name}`, text));
  publishImage(registry, 'app', [tar(file('p', program('exit'), 0o755), dir('data/'), ...files)], {exec: {Cmd: ['/p']}});
  const client = openClient(place);
  const ref = `${registry.host}/app:latest`;
  await client.namespace('default').pull(ref, {snapshotter: SNAPSHOTTER});
  await client.close();
  return ref;
}

/** Starts a driver. @param kill at this change of the disk; 0: never. @returns whether it was killed */
async function drive(request: DriverRequest, below: string, kill: number): Promise<boolean> {
  const {execArgv, env} = failpointOptions({below, action: 'kill', at: kill});
  const path = new URL('volume-driver.ts', import.meta.url).pathname;
  const child = spawn(process.execPath, [...execArgv, path, JSON.stringify(request)], {
    env: {...process.env, ...env},
    stdio: ['ignore', 'ignore', 'pipe'],
  });
  const stderr: Buffer[] = [];
  child.stderr.on('data', (chunk: Buffer) => stderr.push(chunk));
  const [code, signal] = await new Promise<[number | null, string | null]>((end) => child.on('close', (...how) => end(how)));
  assert.ok(code === 0 || signal === 'SIGKILL', `${request.name}: ${Buffer.concat(stderr).toString()}`);
  return signal === 'SIGKILL';
}

interface Promised {
  /** Absent: whether it is there is not known. */
  files?: Readonly<Record<string, string>>;
  /** Something that would change it was begun, and did not say how it ended. */
  isOpen?: boolean;
  readonly holders: Set<string>;
}

/** What the log of one process promises of the volumes, by namespace and name. */
function promises(log: readonly Logged[]): ReadonlyMap<string, Promised> {
  const all = new Map<string, Promised>();
  const at = ({namespace, volume}: Logged): Promised => {
    const key = `${namespace}/${volume}`;
    if (!all.has(key)) all.set(key, {holders: new Set()});
    return all.get(key)!;
  };
  for (const line of log) {
    const {act, done, container = '', files} = line;
    const one = at(line);
    const free = [...all].filter(([key, {holders}]) => key.startsWith(`${line.namespace}/`) && holders.size === 0).map(([, it]) => it);
    if (act === 'create' && done) Object.assign(one, {files: {}, isOpen: false});
    else if (act === 'write' || act === 'hold') {
      one.isOpen = !done;
      if (done) one.files = act === 'write' ? {...one.files, ...files} : files!;
      if (done && act === 'hold') one.holders.add(container);
    } else if (act === 'release') for (const {holders} of all.values()) holders.delete(container);
    else if (act === 'remove') {
      assert.ok(!done || one.holders.size === 0, `${line.volume} was removed from ${[...one.holders].join()}`);
      if (one.holders.size === 0) delete one.files;
    } else if (act === 'prune') for (const it of free) delete it.files;
    else if (act === 'empty namespace') for (const it of free) delete it.files;
  }
  return all;
}

async function assertPromised(client: Client, logs: readonly (readonly Logged[])[], when: string): Promise<number> {
  const pruned = new Set(logs.flat().flatMap(({act, namespace}) => (act === 'prune' ? [namespace] : [])));
  let kept = 0;
  for (const log of logs)
    for (const [key, {files, isOpen = false, holders}] of promises(log)) {
      const [namespace, volume] = key.split('/') as [string, string];
      // Another process may have pruned, or removed what all share.
      if (holders.size === 0 && (pruned.has(namespace) || volume === 'shared')) continue;
      if (files === undefined) continue;
      const {path, usedBy} = await client.namespace(namespace).volumes.get(volume);
      for (const holder of holders) assert.ok(usedBy.includes(holder), `${when}: ${key} is used by ${holder}`);
      const found = readFiles(path);
      if (volume === 'shared') assert.deepEqual(found, OF_IMAGE, `${when}: ${key}`);
      else if (!isOpen) assert.deepEqual(found, files, `${when}: ${key}`);
      else for (const name of Object.keys(files)) assert.ok(name in found, `${when}: ${key} has lost ${name}`);
      kept++;
    }
  return kept;
}

describe('volumes under fire', () => {
  it('are there when they were promised, and nowhere when they were removed', {timeout: 1_800_000}, async (t) => {
    if (!requiresRoot(t) || !requiresProgram(t, 'unshare', 'mount')) return;
    const below = temporaryDirectory(t);
    const place = {root: join(below, 'root'), state: join(below, 'state')};
    const ref = await pulled(t, place);
    let kept = 0;
    let killed = 0;
    for (let round = 0; round < ROUNDS; round++) {
      const {below: number} = randomOf(SEED, round);
      const when = `seed ${SEED}, round ${round}`;
      const logs = join(temporaryDirectory(t), 'logs');
      mkdirSync(logs);
      const ends = NAMES.map((name, i) => {
        const request = {
          ...place,
          ref,
          snapshotter: SNAPSHOTTER,
          log: join(logs, name),
          name,
          seed: SEED * 1000 + round * 10 + i,
          acts: 30,
        };
        // One of them is not killed, and meets what the others leave.
        return drive(request, below, i === 0 ? 0 : 1 + number(600));
      });
      killed += (await Promise.all(ends)).filter(Boolean).length;
      const parsed = NAMES.map((name) =>
        existsSync(join(logs, name))
          ? readFileSync(join(logs, name), 'utf8')
              .split('\n')
              .filter((line) => line !== '')
              .map((line) => JSON.parse(line) as Logged)
          : [],
      );
      const client = openClient(place);
      assert.equal((await client.check()).damage, 0, when);
      assert.deepEqual(checkStore(place.root), [], when);
      kept += await assertPromised(client, parsed, when);
      for (const {name} of await client.namespaces.list()) {
        const {containers, volumes} = client.namespace(name);
        for (const {id} of await containers.list()) await containers.delete(id);
        for (const volume of await volumes.list()) await volumes.delete(volume.name);
        if (name !== 'default') await client.namespaces.delete(name);
      }
      await client.gc();
      assert.deepEqual((await client.check()).findings, [], when);
      assert.deepEqual(checkStore(place.root, {litter: true}), [], when);
      assert.equal(readdirSync(join(place.root, 'layers')).length, 1, `${when}: the image's layer is left`);
      await client.close();
    }
    assert.ok(kept >= ROUNDS, `${kept} volumes were promised`);
    t.diagnostic(`${ROUNDS} rounds, ${killed} kills, ${kept} volumes looked at`);
  });
});
