/** `check`: what is wrong with the store of this machine, and with `repair` what can be done about it. */
import {readdirSync} from 'node:fs';
import {join} from 'node:path';
import {type ErrdefsError, fromErrno, hasCode, isErrdefs} from '../../errdefs.ts';
import type {Descriptor, Digest} from '../../oci/descriptor.ts';
import {withReserve} from '../../store/ballast.ts';
import {isOwnLayer} from '../../store/layer-store.ts';
import {statePath} from '../../store/layout.ts';
import type {Store} from '../../store/store.ts';
import {type RecordSurvey, surveyState} from '../../store/survey.ts';
import type {Context} from '../context.ts';
import {abandonedViews} from '../pull/layer-lookup.ts';
import {isAbandoned, listNamespaceRuns, runDirectory, runningContainers} from '../running.ts';
import type {CheckOptions, CheckResult, Finding} from '../types/index.ts';
import {cannotBeRead, type Inspection, inspect, keyOf, oddities, type Problem} from './inspect-store.ts';
import {type Pause, pauses} from './pause.ts';
import {findOrigins} from './provenance.ts';

const SEVERITIES: readonly Finding['severity'][] = ['damage', 'suspect', 'garbage'];

/** Repairs that others make necessary: of what a record named that had to go, and of what that left. */
const ROUNDS = 4;

const NOTHING: Inspection = {
  survey: {namespaces: [], unreadable: [], counts: new Map()},
  problems: [],
  blobs: new Map(),
  layers: new Map(),
  unnamed: {blobs: [], layers: []},
};

export async function check(context: Context, options: CheckOptions): Promise<CheckResult> {
  const one = new Check(context, options);
  const blocked = one.unblock();
  if (blocked !== undefined) return blocked;
  const checking = (): Promise<CheckResult> => one.run();
  return options.repair === true ? withReserve(context.store, checking) : checking();
}

/** What a killed run was to take along is not brought to the disk, and may be torn after a power loss: that is nobody's loss. */
function excuse(inspection: Inspection): Inspection {
  const transient = new Set<string | undefined>();
  for (const {containers, snapshots} of inspection.survey.namespaces) {
    const keys = new Set(containers.filter(isAbandoned).map(({snapshotter, snapshotKey}) => `${snapshotter}/${snapshotKey}`));
    for (const {snapshotter, key, layer} of snapshots) if (keys.has(`${snapshotter}/${key}`)) transient.add(layer);
  }
  const problems = inspection.problems.map((found): Problem => {
    if (found.subject.kind !== 'layer' || !transient.has(found.subject.id)) return found;
    return {...found, severity: 'garbage', problem: `${found.problem}, and it belongs to a run that has ended`, subject: {kind: 'garbage'}};
  });
  return {...inspection, problems};
}

class Check {
  readonly #context: Context;
  readonly #o: CheckOptions;
  /** Everything that was found, by its key. */
  readonly #problems = new Map<string, Problem>();
  /** What was done about a problem, and whether that is known to have helped. */
  readonly #actions = new Map<string, {readonly action: string; readonly done: boolean}>();
  readonly #pause: Pause;
  #bytes = 0;
  #uncompared = 0;

  constructor(context: Context, options: CheckOptions) {
    this.#context = context;
    this.#o = options;
    this.#pause = pauses(options.signal);
  }

  /** Takes out of the way what keeps the store as a whole from being read. @returns the result, where that stays in the way */
  unblock(): CheckResult | undefined {
    const blocked = this.#blocked();
    return blocked === undefined ? undefined : this.#result(NOTHING, new Set([blocked]), new Set());
  }

  async run(): Promise<CheckResult> {
    const journal = [...(await this.#journal()), ...(await this.#unapplied())];
    const inspection = await this.#inspect().catch((err: unknown) => {
      // Nothing can be read over a journal that cannot.
      if (journal.length === 0 || !hasCode(err, 'data_loss')) throw err;
      return NOTHING;
    });
    const told = new Set(inspection.problems.map(({path}) => path));
    const shallow = [
      ...journal.filter(({path}) => !told.has(path)),
      ...inspection.problems,
      ...(inspection === NOTHING ? [] : await this.#runs(inspection.survey)),
    ];
    const deep = this.#o.deep === true ? await this.#deep(inspection) : [];
    for (const problem of [...shallow, ...deep]) this.#problems.set(keyOf(problem), problem);
    const unseen = new Set(deep.map(keyOf));
    const remaining = this.#o.repair === true ? await this.#repair(inspection) : new Set(shallow.map(keyOf));
    return this.#result(inspection, remaining, unseen);
  }

  /** @param remaining keys of problems that are still there @param unseen those that only reading all bytes shows */
  #result(inspection: Inspection, remaining: ReadonlySet<string>, unseen: ReadonlySet<string>): CheckResult {
    const findings = [...this.#problems]
      .map(([key, {subject: _, ...problem}]): Finding => {
        const {action, done} = this.#actions.get(key) ?? {};
        const repaired = !remaining.has(key) && (done ?? !unseen.has(key));
        return {...problem, ...(action === undefined ? {} : {action}), repaired};
      })
      .sort((a, b) => SEVERITIES.indexOf(a.severity) - SEVERITIES.indexOf(b.severity));
    const {namespaces} = inspection.survey;
    const records = namespaces.reduce(
      (sum, {images, containers, content, leases, snapshots}) =>
        sum + [images, containers, content, leases, snapshots].reduce((all, kind) => all + kind.length, 1),
      inspection.survey.unreadable.length,
    );
    return {
      findings,
      checked: {
        namespaces: namespaces.length,
        records,
        blobs: inspection.blobs.size,
        layers: inspection.layers.size,
        bytes: this.#bytes,
        uncompared: this.#uncompared,
      },
      damage: findings.filter(({severity, repaired}) => severity === 'damage' && !repaired).length,
    };
  }

  /**
   * What keeps the store as a whole from being read: its `version`, or something else in the place of a directory. The first can be
   * written anew.
   *
   * @returns the key of the problem, when it is still there
   */
  #blocked(): string | undefined {
    const {store} = this.#context;
    try {
      store.exists();
      return undefined;
    } catch (err) {
      const path = isErrdefs(err) && hasCode(err, 'data_loss') ? err.details?.misfit : undefined;
      if (typeof path !== 'string') throw err;
      const {message, hint} = err as ErrdefsError;
      const object = `entry ${path.slice(store.layout.root.length + 1)}`;
      const words = message
        .replace(`${path} `, '')
        .replace(`state directory ${store.layout.root}: `, '')
        .replace(/: [a-z ]+$/, '');
      const problem: Problem = {severity: 'damage', object, problem: words, path, subject: {kind: 'none'}};
      const key = keyOf(problem);
      this.#problems.set(key, problem);
      if (this.#o.repair !== true) return key;
      const done = path === store.layout.version && store.restoreVersion();
      this.#actions.set(key, {action: done ? 'rewritten' : `left alone: ${hint ?? 'berth did not create it'}`, done});
      return done ? undefined : key;
    }
  }

  /** What is wrong with the journal comes first: everything else is read and written over it. */
  async #journal(): Promise<readonly Problem[]> {
    const {store} = this.#context;
    const problems = store.journalFaults().map(({path, problem}): Problem => {
      const object = `entry ${path.slice(store.layout.root.length + 1)}`;
      return {severity: 'damage', object, problem, path, subject: {kind: 'none'}};
    });
    if (problems.length === 0 || this.#o.repair !== true) return problems;
    const actions = await store.mendJournal();
    // Where nothing was done, another writer has got rid of it meanwhile.
    for (const problem of problems) this.#actions.set(keyOf(problem), {action: actions.get(problem.path) ?? 'is gone', done: true});
    return problems;
  }

  /** Committed changes that wait for room. Nothing is lost, and nothing is in the way of a removal, but each command reads them anew. */
  async #unapplied(): Promise<readonly Problem[]> {
    const {store} = this.#context;
    const count = (): number => {
      try {
        return store.pending();
      } catch (err) {
        if (hasCode(err, 'data_loss')) return 0; // a record of the journal is damaged, which is told already
        throw err;
      }
    };
    if (count() === 0) return [];
    // Somebody may have been about to apply them, or have died: then this does it.
    await store.settle().catch((err: unknown) => {
      if (!isErrdefs(err)) throw err;
    });
    const pending = count();
    if (pending === 0) return [];
    const problem: Problem = {
      severity: 'suspect',
      object: 'entry journal',
      problem: `has ${pending} committed change${pending === 1 ? '' : 's'} that the full disk does not let it apply`,
      path: store.layout.journal,
      subject: {kind: 'none'},
    };
    this.#actions.set(keyOf(problem), {action: 'will be applied when there is free space', done: false});
    return [problem];
  }

  /** What others are about looks like damage or garbage: what is found is looked at again, alone. */
  async #inspect(): Promise<Inspection> {
    const {store} = this.#context;
    const look = async (): Promise<Inspection> => {
      await this.#pause();
      return excuse(
        await inspect(
          store,
          store.view((tx) => tx.survey(true)),
          this.#pause,
        ),
      );
    };
    const inspection = await look();
    if (inspection.problems.length === 0) return inspection;
    try {
      return await store.alone('check', look);
    } catch (err) {
      // Where nothing can be written, no lock can be taken, and nobody else changes anything.
      // Where something else is in the place of the lock, nobody can take it.
      if (!isErrdefs(err) || !['permission_denied', 'resource_exhausted', 'failed_precondition', 'data_loss'].includes(err.code)) throw err;
      return inspection;
    }
  }

  /** What killed runs left. */
  async #runs({namespaces}: RecordSurvey): Promise<readonly Problem[]> {
    const problems: Problem[] = [];
    const {stateDir} = this.#context;
    const names = new Set(namespaces.map(({name}) => name));
    for (const name of listDirectories(statePath.runs(stateDir))) names.add(name);
    for (const namespace of [...names].sort()) {
      await this.#pause();
      const runs = await listNamespaceRuns(this.#context, namespace);
      const add = (severity: Finding['severity'], id: string, problem: string): void => {
        const path = join(runDirectory(this.#context, namespace), 'bundles', id);
        problems.push({
          severity,
          object: `container ${JSON.stringify(id)}`,
          namespace,
          problem,
          path,
          subject: {kind: 'run', namespace, id},
        });
      };
      for (const {id, state} of runs) {
        if (state === 'stale') add('garbage', id, 'has ended and left files behind');
        if (state === 'orphaned') add('suspect', id, 'is still running, although the berth process that supervised it has ended');
      }
      const abandoned = namespaces.find(({name}) => name === namespace)?.containers.filter(isAbandoned) ?? [];
      const running = abandoned.length === 0 ? [] : await runningContainers(this.#context, namespace);
      for (const container of abandoned)
        if (!runs.some(({id}) => id === container.id) && !running.includes(container.id))
          add('garbage', container.id, 'should have been removed when its run ended');
    }
    problems.push(...oddities(surveyState(stateDir), stateDir));
    const {mountLeftovers} = await import('../api/host-mounts.ts');
    const wrong = {
      'unreadable record': 'is not a mount record',
      'stale record': 'is recorded but no longer mounted',
      'intermediate mounts': 'has intermediate mounts that a killed process left',
    } as const;
    for (const {directory: path, kind, record} of mountLeftovers(this.#context))
      problems.push({
        severity: 'garbage',
        object: record === undefined ? `entry ${path}` : `mount ${JSON.stringify(record.target)}`,
        ...(record === undefined ? {} : {namespace: record.namespace}),
        problem: wrong[kind],
        path,
        subject: {kind: 'garbage'},
      });
    for (const path of abandonedViews(statePath.views(stateDir)))
      problems.push({
        severity: 'garbage',
        object: `entry ${path}`,
        problem: 'was left by a process that has ended',
        path,
        subject: {kind: 'view'},
      });
    return problems;
  }

  async #deep(inspection: Inspection): Promise<readonly Problem[]> {
    const blobs = await this.#hashBlobs(inspection);
    const bad = [...inspection.problems, ...blobs].flatMap(({subject}) => (subject.kind === 'blob' ? [subject.digest] : []));
    return [...blobs, ...(await this.#compareLayers(inspection, new Set(bad)))];
  }

  async #hashBlobs({blobs, problems}: Inspection): Promise<readonly Problem[]> {
    const {actualDigest} = await import('./scrub.ts');
    const {store} = this.#context;
    const {signal, onEvent = () => {}} = this.#o;
    const told = new Set(problems.flatMap(({subject}) => (subject.kind === 'blob' ? [subject.digest] : [])));
    const total = [...blobs.values()].reduce((sum, size) => sum + size, 0);
    const found: Problem[] = [];
    let last = 0;
    const onBytes = (count: number): void => {
      this.#bytes += count;
      if (performance.now() - last < PROGRESS_MS) return;
      last = performance.now();
      onEvent({ref: 'content', status: 'checking', offset: Math.min(this.#bytes, total), total});
    };
    for (const digest of blobs.keys()) {
      if (told.has(digest)) continue;
      const problem = await actualDigest(this.#context, digest, onBytes, signal).then(
        (actual) => (actual === undefined || actual === digest ? undefined : `is ${actual} on disk`),
        (err: unknown) => {
          signal?.throwIfAborted();
          return cannotBeRead(err);
        },
      );
      await this.#pause();
      if (problem === undefined) continue;
      found.push({
        severity: 'damage',
        object: `content ${digest}`,
        problem,
        path: store.blobs.path(digest),
        subject: {kind: 'blob', digest},
      });
    }
    return found;
  }

  /** The lower before the upper: what is found damaged is not built on. @param bad blobs that are not what they should be */
  async #compareLayers({layers, problems, survey}: Inspection, bad: ReadonlySet<Digest>): Promise<readonly Problem[]> {
    const {judgeLayer} = await import('./scrub.ts');
    const {store} = this.#context;
    const {signal, onEvent = () => {}} = this.#o;
    const origins = await findOrigins(store, survey, this.#pause);
    const depth = (id: string): number => {
      const origin = origins.layers.get(id);
      return origin === undefined ? 0 : origin.planned.layers.indexOf(origin.layer);
    };
    const doubted = new Set(problems.flatMap(({subject}) => (subject.kind === 'layer' ? [subject.id] : [])));
    const todo = [...layers.keys()].filter((id) => !isOwnLayer(id) && !doubted.has(id)).sort((a, b) => depth(a) - depth(b));
    const found: Problem[] = [];
    onEvent({ref: 'layers', status: 'checking', offset: 0, total: 0});
    for (const id of todo) {
      const origin = origins.layers.get(id);
      const source = origin !== undefined && isHere(store, origin.layer.blob) && !bad.has(origin.layer.blob.digest) ? origin : undefined;
      const onBytes = (count: number): void => {
        this.#bytes += count;
      };
      const judge = judgeLayer(this.#context, id, source, (other) => doubted.has(other), onBytes, signal);
      const {compared, problem} = await judge.catch((err: unknown) => {
        // What there is no room to unpack again is not compared, as what has no blob.
        if (!hasCode(err, 'resource_exhausted')) throw err;
        return {compared: false, problem: undefined};
      });
      await this.#pause();
      if (!compared) this.#uncompared++;
      if (problem === undefined) continue;
      doubted.add(id);
      found.push({severity: 'damage', object: `layer ${id}`, problem, path: store.layers.path(id), subject: {kind: 'layer', id}});
    }
    return found;
  }

  /** @returns keys of the problems that are still there */
  async #repair(first: Inspection): Promise<ReadonlySet<string>> {
    const {Repair} = await import('./repair.ts');
    let inspection = first;
    let todo = [...this.#problems.values()];
    let present = new Set<string>();
    for (let round = 0; round < ROUNDS && todo.length > 0; round++) {
      const repair = new Repair(this.#context, this.#o, inspection, this.#actions);
      try {
        await repair.run(todo);
      } finally {
        await repair.close();
      }
      inspection = await this.#inspect();
      const now = [...inspection.problems, ...(await this.#runs(inspection.survey))];
      present = new Set(now.map(keyOf));
      const helped = todo.some((problem) => this.#actions.get(keyOf(problem))?.done);
      const fresh = now.filter((problem) => !this.#problems.has(keyOf(problem)) && !this.#isTold(problem));
      for (const problem of fresh) this.#problems.set(keyOf(problem), problem);
      // What has been mended may be what others lacked.
      todo = helped ? now : fresh;
    }
    return present;
  }

  /** Whether something else is known to be wrong with the same object: wrong bytes that were put aside are missing. */
  #isTold({object}: Problem): boolean {
    return [...this.#problems].some(([key, problem]) => problem.object === object && this.#actions.get(key)?.done === false);
  }
}

function isHere({blobs}: Store, {digest, size}: Descriptor): boolean {
  try {
    return blobs.size(digest) === size;
  } catch (err) {
    if (!hasCode(err, 'data_loss')) throw err;
    return false;
  }
}

/** Milliseconds between two events. */
const PROGRESS_MS = 100;

function listDirectories(path: string): readonly string[] {
  try {
    return readdirSync(path, {withFileTypes: true})
      .filter((entry) => entry.isDirectory())
      .map(({name}) => name);
  } catch (err) {
    // What is not a directory is told of by surveyState.
    if (['ENOENT', 'ENOTDIR'].includes((err as NodeJS.ErrnoException).code ?? '')) return [];
    throw fromErrno(err, `directory ${path}`);
  }
}
