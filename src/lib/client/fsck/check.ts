/** `check`: finds problems of the store, and with `repair` repairs them. */
import {readdirSync} from 'node:fs';
import {join} from 'node:path';
import {type ErrdefsError, fromErrno, hasCode, isErrdefs} from '../../errdefs.ts';
import type {Descriptor, Digest} from '../../oci/descriptor.ts';
import {isConnected, runPath} from '../../runtime/run-directory.ts';
import {isOwnLayer} from '../../store/layer-store.ts';
import {runtimeStatePath} from '../../store/layout.ts';
import type {Store} from '../../store/store.ts';
import {surveyRuntimeState} from '../../store/survey-entries.ts';
import type {RecordSurvey} from '../../store/survey-records.ts';
import {withBallast} from '../../store/with-ballast.ts';
import type {Context} from '../context.ts';
import {abandonedScratchMounts} from '../pull/layer-lookup.ts';
import {isAbandoned, listNamespaceRuns, runDirectory, runningContainers} from '../running-containers.ts';
import type {CheckOptions, CheckResult, Finding} from '../types/index.ts';
import {cannotBeRead, entryFindings, findingKey, type Inspection, inspect, type StoreFinding} from './inspect-store.ts';
import {findProvenance} from './provenance.ts';
import {createPause, type Pause} from './yield-to-event-loop.ts';

const SEVERITIES: readonly Finding['severity'][] = ['damage', 'suspect', 'garbage'];

/** Rounds of repair: moving a record away may cause new findings. */
const ROUNDS = 4;

const EMPTY_INSPECTION: Inspection = {
  survey: {namespaces: [], unreadable: [], counts: new Map()},
  findings: [],
  blobs: new Map(),
  layers: new Map(),
  unreferenced: {blobs: [], layers: []},
};

export async function check(context: Context, options: CheckOptions): Promise<CheckResult> {
  const one = new Check(context, options);
  const blocker = one.repairBlocker();
  if (blocker !== undefined) return blocker;
  const checking = (): Promise<CheckResult> => one.run();
  return options.repair === true ? withBallast(context.store, checking) : checking();
}

/** Layers of killed `run --rm` commands are not synced, so a power loss may damage them. They are garbage in any case. */
function downgradeTransient(inspection: Inspection): Inspection {
  const transient = new Set<string | undefined>();
  for (const {containers, snapshots} of inspection.survey.namespaces) {
    const keys = new Set(containers.filter(isAbandoned).map(({snapshotter, snapshotKey}) => `${snapshotter}/${snapshotKey}`));
    for (const {snapshotter, key, layer} of snapshots) if (keys.has(`${snapshotter}/${key}`)) transient.add(layer);
  }
  const findings = inspection.findings.map((found): StoreFinding => {
    if (found.target.kind !== 'layer' || !transient.has(found.target.id)) return found;
    return {...found, severity: 'garbage', problem: `${found.problem}, and it belongs to a run that has ended`, target: {kind: 'garbage'}};
  });
  return {...inspection, findings};
}

class Check {
  readonly #context: Context;
  readonly #o: CheckOptions;
  /** All findings, by key. */
  readonly #findings = new Map<string, StoreFinding>();
  /** The repair of each finding, by key; `done` says that it succeeded. */
  readonly #actions = new Map<string, {readonly action: string; readonly done: boolean}>();
  readonly #pause: Pause;
  #bytes = 0;
  #uncompared = 0;

  constructor(context: Context, options: CheckOptions) {
    this.#context = context;
    this.#o = options;
    this.#pause = createPause(options.signal);
  }

  /** Repairs a problem that makes the whole store unreadable. @returns the result of the check when the problem remains */
  repairBlocker(): CheckResult | undefined {
    const blocker = this.#findBlocker();
    return blocker === undefined ? undefined : this.#result(EMPTY_INSPECTION, new Set([blocker]), new Set());
  }

  async run(): Promise<CheckResult> {
    const journal = [...(await this.#journal()), ...(await this.#pendingChanges())];
    const inspection = await this.#inspect().catch((err: unknown) => {
      // Records cannot be read while the journal cannot.
      if (journal.length === 0 || !hasCode(err, 'data_loss')) throw err;
      return EMPTY_INSPECTION;
    });
    const reported = new Set(inspection.findings.map(({path}) => path));
    const shallow = [
      ...journal.filter(({path}) => !reported.has(path)),
      ...inspection.findings,
      ...(inspection === EMPTY_INSPECTION ? [] : await this.#runs(inspection.survey)),
    ];
    const deep = this.#o.deep === true ? await this.#scrub(inspection) : [];
    for (const finding of [...shallow, ...deep]) this.#findings.set(findingKey(finding), finding);
    const unseen = new Set(deep.map(findingKey));
    const remaining = this.#o.repair === true ? await this.#repair(inspection) : new Set(shallow.map(findingKey));
    return this.#result(inspection, remaining, unseen);
  }

  /** @param remaining keys of findings that are not repaired @param unseen keys of findings that only `deep` can find */
  #result(inspection: Inspection, remaining: ReadonlySet<string>, unseen: ReadonlySet<string>): CheckResult {
    const findings = [...this.#findings]
      .map(([key, {target: _, ...rest}]): Finding => {
        const {action, done} = this.#actions.get(key) ?? {};
        const repaired = !remaining.has(key) && (done ?? !unseen.has(key));
        return {...rest, ...(action === undefined ? {} : {action}), repaired};
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
   * Finds a problem that makes the whole store unreadable: a damaged `version` file, which can be rewritten, or a file in the place of
   * a directory.
   *
   * @returns the finding's key, unless it was repaired
   */
  #findBlocker(): string | undefined {
    const {store} = this.#context;
    try {
      store.exists();
      return undefined;
    } catch (err) {
      const path = isErrdefs(err) && hasCode(err, 'data_loss') ? err.details?.wrongTypePath : undefined;
      if (typeof path !== 'string') throw err;
      const {message, hint} = err as ErrdefsError;
      const object = `entry ${path.slice(store.layout.root.length + 1)}`;
      const words = message
        .replace(`${path} `, '')
        .replace(`state directory ${store.layout.root}: `, '')
        .replace(/: [a-z ]+$/, '');
      const finding: StoreFinding = {severity: 'damage', object, problem: words, path, target: {kind: 'none'}};
      const key = findingKey(finding);
      this.#findings.set(key, finding);
      if (this.#o.repair !== true) return key;
      const done = path === store.layout.version && store.restoreVersion();
      this.#actions.set(key, {action: done ? 'rewritten' : `left alone: ${hint ?? 'berth did not create it'}`, done});
      return done ? undefined : key;
    }
  }

  /** Checks the journal first: all records are read and written through it. */
  async #journal(): Promise<readonly StoreFinding[]> {
    const {store} = this.#context;
    const findings = store.journalDamage().map(({path, problem}): StoreFinding => {
      const object = `entry ${path.slice(store.layout.root.length + 1)}`;
      return {severity: 'damage', object, problem, path, target: {kind: 'none'}};
    });
    if (findings.length === 0 || this.#o.repair !== true) return findings;
    const actions = await store.repairJournal();
    // Without an action here, another writer has removed it meanwhile.
    for (const finding of findings) this.#actions.set(findingKey(finding), {action: actions.get(finding.path) ?? 'is gone', done: true});
    return findings;
  }

  /** Finds committed changes that the full disk does not let berth apply. Nothing is lost, but each command has to read them. */
  async #pendingChanges(): Promise<readonly StoreFinding[]> {
    const {store} = this.#context;
    const count = (): number => {
      try {
        return store.pending();
      } catch (err) {
        if (hasCode(err, 'data_loss')) return 0; // `#journal` reports a damaged journal
        throw err;
      }
    };
    if (count() === 0) return [];
    // Their writer may be at work, or dead: apply them here.
    await store.applyPending().catch((err: unknown) => {
      if (!isErrdefs(err)) throw err;
    });
    const pending = count();
    if (pending === 0) return [];
    const finding: StoreFinding = {
      severity: 'suspect',
      object: 'entry journal',
      problem: `has ${pending} committed change${pending === 1 ? '' : 's'} that the full disk does not let it apply`,
      path: store.layout.journal,
      target: {kind: 'none'},
    };
    this.#actions.set(findingKey(finding), {action: 'will be applied when there is free space', done: false});
    return [finding];
  }

  /** Work of other processes looks like damage or garbage: inspects again under the lock when anything is found. */
  async #inspect(): Promise<Inspection> {
    const {store} = this.#context;
    const inspectOnce = async (): Promise<Inspection> => {
      await this.#pause();
      return downgradeTransient(
        await inspect(
          store,
          store.view((tx) => tx.survey(true)),
          this.#pause,
        ),
      );
    };
    const inspection = await inspectOnce();
    if (inspection.findings.length === 0) return inspection;
    try {
      return await store.withLock('check', inspectOnce);
    } catch (err) {
      // On a read-only root nobody can take the lock and nobody changes anything. The same holds for a damaged lock.
      if (!isErrdefs(err) || !['permission_denied', 'resource_exhausted', 'failed_precondition', 'data_loss'].includes(err.code)) throw err;
      return inspection;
    }
  }

  /** Leftovers of killed runs. */
  async #runs({namespaces}: RecordSurvey): Promise<readonly StoreFinding[]> {
    const findings: StoreFinding[] = [];
    const {stateDir} = this.#context;
    const names = new Set(namespaces.map(({name}) => name));
    for (const name of listDirectories(runtimeStatePath.runs(stateDir))) names.add(name);
    for (const namespace of [...names].sort()) {
      await this.#pause();
      const runs = await listNamespaceRuns(this.#context, namespace);
      const add = (severity: Finding['severity'], id: string, problem: string): void => {
        const path = join(runDirectory(this.#context, namespace), 'bundles', id);
        findings.push({
          severity,
          object: `container ${JSON.stringify(id)}`,
          namespace,
          problem,
          path,
          target: {kind: 'run', namespace, id},
        });
      };
      for (const {id, state} of runs) {
        const run = runPath(runDirectory(this.#context, namespace), id);
        if (state === 'stale') add('garbage', id, 'has ended and left files behind');
        if (state === 'stopped' && isConnected(run)) add('garbage', id, 'has ended, and its network was not removed');
        if (state === 'running' && isConnected(run) && (await import('../../runtime/network/attachment.ts')).hasLostNetwork(run))
          add('suspect', id, 'runs without its network, whose process has ended, until it is restarted');
        if (state === 'orphaned') add('suspect', id, 'is still running, although the berth process that supervised it has ended');
      }
      const abandoned = namespaces.find(({name}) => name === namespace)?.containers.filter(isAbandoned) ?? [];
      const running = abandoned.length === 0 ? [] : await runningContainers(this.#context, namespace);
      for (const container of abandoned)
        if (!runs.some(({id}) => id === container.id) && !running.includes(container.id))
          add('garbage', container.id, 'should have been removed when its run ended');
    }
    findings.push(...entryFindings(surveyRuntimeState(stateDir), stateDir));
    const {mountLeftovers} = await import('../api/host-mounts.ts');
    const wrong = {
      'unreadable record': 'is not a mount record',
      'stale record': 'is recorded but no longer mounted',
      'intermediate mounts': 'has intermediate mounts that a killed process left',
    } as const;
    for (const {directory: path, kind, record} of mountLeftovers(this.#context))
      findings.push({
        severity: 'garbage',
        object: record === undefined ? `entry ${path}` : `mount ${JSON.stringify(record.target)}`,
        ...(record === undefined ? {} : {namespace: record.namespace}),
        problem: wrong[kind],
        path,
        target: {kind: 'garbage'},
      });
    for (const path of abandonedScratchMounts(runtimeStatePath.views(stateDir)))
      findings.push({
        severity: 'garbage',
        object: `entry ${path}`,
        problem: 'was left by a process that has ended',
        path,
        target: {kind: 'scratch-mount'},
      });
    return findings;
  }

  async #scrub(inspection: Inspection): Promise<readonly StoreFinding[]> {
    const blobs = await this.#hashBlobs(inspection);
    const bad = [...inspection.findings, ...blobs].flatMap(({target}) => (target.kind === 'blob' ? [target.digest] : []));
    return [...blobs, ...(await this.#compareLayers(inspection, new Set(bad)))];
  }

  async #hashBlobs({blobs, findings}: Inspection): Promise<readonly StoreFinding[]> {
    const {actualDigest} = await import('./scrub.ts');
    const {store} = this.#context;
    const {signal, onEvent = () => {}} = this.#o;
    const reported = new Set(findings.flatMap(({target}) => (target.kind === 'blob' ? [target.digest] : [])));
    const total = [...blobs.values()].reduce((sum, size) => sum + size, 0);
    const found: StoreFinding[] = [];
    let last = 0;
    const onBytes = (count: number): void => {
      this.#bytes += count;
      if (performance.now() - last < PROGRESS_MS) return;
      last = performance.now();
      onEvent({ref: 'content', status: 'checking', offset: Math.min(this.#bytes, total), total});
    };
    for (const digest of blobs.keys()) {
      if (reported.has(digest)) continue;
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
        target: {kind: 'blob', digest},
      });
    }
    return found;
  }

  /** Compares lower layers first: no layer is rebuilt on a damaged one. @param bad damaged blobs */
  async #compareLayers({layers, findings, survey}: Inspection, bad: ReadonlySet<Digest>): Promise<readonly StoreFinding[]> {
    const {verifyLayer} = await import('./scrub.ts');
    const {store} = this.#context;
    const {signal, onEvent = () => {}} = this.#o;
    const provenance = await findProvenance(store, survey, this.#pause);
    const depth = (id: string): number => {
      const origin = provenance.layers.get(id);
      return origin === undefined ? 0 : origin.planned.layers.indexOf(origin.layer);
    };
    const untrusted = new Set(findings.flatMap(({target}) => (target.kind === 'layer' ? [target.id] : [])));
    const pending = [...layers.keys()].filter((id) => !isOwnLayer(id) && !untrusted.has(id)).sort((a, b) => depth(a) - depth(b));
    const found: StoreFinding[] = [];
    onEvent({ref: 'layers', status: 'checking', offset: 0, total: 0});
    for (const id of pending) {
      const origin = provenance.layers.get(id);
      const source = origin !== undefined && isHere(store, origin.layer.blob) && !bad.has(origin.layer.blob.digest) ? origin : undefined;
      const onBytes = (count: number): void => {
        this.#bytes += count;
      };
      const judge = verifyLayer(this.#context, id, source, (other) => untrusted.has(other), onBytes, signal);
      const {compared, problem} = await judge.catch((err: unknown) => {
        // Without space to unpack it again, the layer counts as not compared.
        if (!hasCode(err, 'resource_exhausted')) throw err;
        return {compared: false, problem: undefined};
      });
      await this.#pause();
      if (!compared) this.#uncompared++;
      if (problem === undefined) continue;
      untrusted.add(id);
      found.push({severity: 'damage', object: `layer ${id}`, problem, path: store.layers.path(id), target: {kind: 'layer', id}});
    }
    return found;
  }

  /** @returns keys of the remaining findings */
  async #repair(first: Inspection): Promise<ReadonlySet<string>> {
    const {Repair} = await import('./repair.ts');
    let inspection = first;
    let pending = [...this.#findings.values()];
    let present = new Set<string>();
    for (let round = 0; round < ROUNDS && pending.length > 0; round++) {
      const repair = new Repair(this.#context, this.#o, inspection, this.#actions);
      try {
        await repair.run(pending);
      } finally {
        await repair.close();
      }
      inspection = await this.#inspect();
      const now = [...inspection.findings, ...(await this.#runs(inspection.survey))];
      present = new Set(now.map(findingKey));
      const hasProgressed = pending.some((finding) => this.#actions.get(findingKey(finding))?.done);
      const fresh = now.filter((finding) => !this.#findings.has(findingKey(finding)) && !this.#isKnown(finding));
      for (const finding of fresh) this.#findings.set(findingKey(finding), finding);
      // A repair may make other repairs possible.
      pending = hasProgressed ? now : fresh;
    }
    return present;
  }

  /** Whether an earlier finding about the same object remains. Quarantining wrong bytes makes the object missing, for example. */
  #isKnown({object}: StoreFinding): boolean {
    return [...this.#findings].some(([key, finding]) => finding.object === object && this.#actions.get(key)?.done === false);
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

/** Milliseconds between two progress events. */
const PROGRESS_MS = 100;

function listDirectories(path: string): readonly string[] {
  try {
    return readdirSync(path, {withFileTypes: true})
      .filter((entry) => entry.isDirectory())
      .map(({name}) => name);
  } catch (err) {
    // surveyRuntimeState reports a file in the place of a directory.
    if (['ENOENT', 'ENOTDIR'].includes((err as NodeJS.ErrnoException).code ?? '')) return [];
    throw fromErrno(err, `directory ${path}`);
  }
}
