/**
 * A process that makes, fills, uses and removes volumes at random, and writes down what it was told. volumes-under-fire.test.ts starts
 * several of them on one store, kills them, and compares what is left with their logs.
 */
import {appendFileSync, readdirSync, readFileSync, writeFileSync} from 'node:fs';
import {join} from 'node:path';
import {openClient} from '../../../src/lib/client/index.ts';
import {type Code, fromErrno, hasCode} from '../../../src/lib/errdefs.ts';
import {randomOf} from '../../fuzz/seeded-random.ts';

/** One line of a log; of an act with two of them, the second says that it succeeded. */
export interface Logged {
  readonly act: 'create' | 'write' | 'hold' | 'release' | 'remove' | 'prune' | 'empty namespace';
  readonly namespace: string;
  readonly volume: string;
  readonly done: boolean;
  /** Of a container that holds it. */
  readonly container?: string;
  /** Files of the volume by name: those that the container has found, or what was written. */
  readonly files?: Readonly<Record<string, string>>;
}

export const readFiles = (directory: string): Readonly<Record<string, string>> =>
  Object.fromEntries(
    readdirSync(directory)
      .sort()
      .map((name) => [name, readFileSync(join(directory, name), 'utf8')]),
  );

export interface DriverRequest {
  readonly root: string;
  readonly state: string;
  readonly ref: string;
  readonly snapshotter: string;
  readonly log: string;
  /** Own volumes are `NAME-0` and so on. */
  readonly name: string;
  readonly seed: number;
  readonly acts: number;
}

async function drive({root, state, ref, snapshotter, log, name, seed, acts}: DriverRequest): Promise<void> {
  const client = openClient({root, state});
  const {below, pick} = randomOf(seed, 0);
  const write = (line: Logged): void => appendFileSync(log, `${JSON.stringify(line)}\n`);
  /** Runs an act between its two lines. What others did at the same time may refuse it, with one of these classes. */
  const act = async (line: Omit<Logged, 'done'>, allowed: readonly Code[], run: () => Promise<unknown>): Promise<void> => {
    write({...line, done: false});
    try {
      write({...line, ...((await run()) as Partial<Logged> | undefined), done: true});
    } catch (err) {
      if (!allowed.some((code) => hasCode(err, code))) throw err;
    }
  };
  for (let i = 0; i < acts; i++) {
    const namespace = pick(['default', `own-${name}`]);
    const {volumes, containers} = client.namespace(namespace);
    const volume = pick([`${name}-0`, `${name}-1`, 'shared']);
    const line = {namespace, volume};
    const container = `${name}-${below(2)}`;
    const what = below(20);
    if (what < 5) {
      await act({...line, act: 'create'}, ['already_exists'], async () => {
        await volumes.create(volume);
      });
    } else if (what < 8 && volume !== 'shared') {
      await act({...line, act: 'write'}, ['not_found'], async () => {
        const {path} = await volumes.get(volume);
        try {
          writeFileSync(join(path, name), `${name} ${i}`);
        } catch (err) {
          // Pruned since.
          throw fromErrno(err, volume);
        }
        return {files: {[name]: `${name} ${i}`}};
      });
    } else if (what < 13 && namespace === 'default') {
      await act({...line, act: 'hold', container}, ['already_exists'], async () => {
        await containers.create(ref, container, {
          snapshotter,
          storedVolumes: [{name: volume, destination: '/data'}, {destination: '/own'}],
        });
        return {files: readFiles((await volumes.get(volume)).path)};
      });
    } else if (what < 15 && namespace === 'default') {
      await act({...line, act: 'release', container}, ['not_found'], () => containers.delete(container));
    } else if (what < 17) {
      await act({...line, act: 'remove'}, ['not_found', 'failed_precondition'], () => volumes.delete(volume));
    } else if (what === 17) {
      await act({...line, act: 'prune'}, [], async () => {
        await volumes.prune();
      });
    } else if (what === 18 && namespace !== 'default') {
      await act({...line, act: 'empty namespace'}, ['not_found'], () => client.namespaces.delete(namespace, {recursive: true}));
    } else {
      const more = [
        () => client.gc(),
        () => client.prune({kinds: ['snapshots', 'content', 'leases', 'ingests']}),
        () => client.df(),
        () => client.check(),
      ];
      await pick(more)();
    }
  }
  await client.close();
}

if (process.argv[2]?.startsWith('{') === true) await drive(JSON.parse(process.argv[2]) as DriverRequest);
