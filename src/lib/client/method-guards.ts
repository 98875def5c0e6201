/**
 * Wraps every method of the library: it checks the arguments, refuses after `close()`, and turns every failure into an
 * `ErrdefsError`. Every method has an entry in `CLIENT` and every option one in its group; the types enforce it.
 */
import {CLASSES, type Code, codeOf, ErrdefsError, fromErrno, isErrdefs} from '../errdefs.ts';
import type {
  AppendOptions,
  AttachFile,
  AttachOptions,
  BuildOptions,
  CheckOptions,
  Client,
  CommitOptions,
  ContainerSettings,
  ContentPruneOptions,
  ContentWriter,
  ConvertOptions,
  CopyOptions,
  CreateOptions,
  EventsOptions,
  ExecOptions,
  ExecStartOptions,
  ExpectedContent,
  ExportOptions,
  FetchOptions,
  FlattenOptions,
  ImageMountOptions,
  ImportOptions,
  LayerCompression,
  LeaseResource,
  ListOptions,
  LoggedInOptions,
  LoginOptions,
  LogOptions,
  LogoutOptions,
  MutateOptions,
  Namespace,
  NamespaceClient,
  OpenOptions,
  PruneOptions,
  PullOptions,
  PushObjectOptions,
  PushOptions,
  RebaseOptions,
  RegistryCallOptions,
  RegistryDeleteOptions,
  RegistryListOptions,
  RegistryOptions,
  RemoteImageOptions,
  Rlimit,
  RunOptions,
  SnapshotDiffOptions,
  SyncOptions,
  TaskStartOptions,
  VerifyOptions,
  Volume,
} from './types/index.ts';

/** A kind of argument. */
export interface ArgumentKind {
  /** Such as `a string`. */
  readonly wants: string;
  readonly accepts: (value: unknown) => boolean;
  /** Which part of a value is wrong, if that can be told: `.signal must be …`. */
  readonly explain?: (value: unknown) => string | undefined;
}

const isObject = (value: unknown): value is Record<string, unknown> => typeof value === 'object' && value !== null;
const isNumber = (value: unknown): value is number => typeof value === 'number' && Number.isFinite(value);

export const text: ArgumentKind = {wants: 'a string', accepts: (value) => typeof value === 'string'};
export const flag: ArgumentKind = {wants: 'true or false', accepts: (value) => typeof value === 'boolean'};
/** Milliseconds or bytes. */
export const amount: ArgumentKind = {wants: 'a number, 0 or above', accepts: (value) => isNumber(value) && value >= 0};
export const positive: ArgumentKind = {wants: 'a number above 0', accepts: (value) => isNumber(value) && value > 0};
export const count: ArgumentKind = {
  wants: 'a whole number above 0',
  accepts: (value) => Number.isSafeInteger(value) && (value as number) > 0,
};
export const callback: ArgumentKind = {wants: 'a function', accepts: (value) => typeof value === 'function'};
export const abortSignal: ArgumentKind = {
  wants: 'an AbortSignal',
  accepts: (value) => isObject(value) && typeof value.aborted === 'boolean' && typeof value.addEventListener === 'function',
};
export const labels: ArgumentKind = {
  wants: 'an object of strings',
  accepts: (value) => isObject(value) && !Array.isArray(value) && Object.values(value).every((inner) => typeof inner === 'string'),
};
const date: ArgumentKind = {wants: 'a Date', accepts: (value) => value instanceof Date && !Number.isNaN(value.getTime())};
export const bytes: ArgumentKind = {
  wants: 'an async iterable of bytes',
  accepts: (value) => isObject(value) && Symbol.asyncIterator in value,
};

/** A stream of node:stream. */
const writable: ArgumentKind = {
  wants: 'a writable stream',
  accepts: (value) =>
    isObject(value) && typeof value.write === 'function' && typeof value.end === 'function' && typeof value.on === 'function',
};
const either = (a: ArgumentKind, b: ArgumentKind): ArgumentKind => ({
  wants: `${a.wants} or ${b.wants}`,
  accepts: (value) => a.accepts(value) || b.accepts(value),
});
export const chunk: ArgumentKind = {wants: 'a Uint8Array', accepts: (value) => value instanceof Uint8Array};

export const optional = (kind: ArgumentKind): ArgumentKind => ({
  wants: kind.wants,
  accepts: (value) => value === undefined || kind.accepts(value),
  ...(kind.explain === undefined ? {} : {explain: kind.explain}),
});
export const list = (kind: ArgumentKind): ArgumentKind => ({
  wants: `an array, each of it ${kind.wants}`,
  accepts: (value) => Array.isArray(value) && value.every((inner) => kind.accepts(inner)),
});
export const oneOf = (...values: readonly unknown[]): ArgumentKind => ({
  wants: `one of ${values.map((value) => JSON.stringify(value)).join(', ')}`,
  accepts: (value) => values.includes(value),
});

/** The explanation is that of `kind`. */
const eitherOf = (other: ArgumentKind, kind: ArgumentKind): ArgumentKind => ({
  ...kind,
  wants: `${kind.wants} or ${other.wants}`,
  accepts: (value) => other.accepts(value) || kind.accepts(value),
});

type Members<T> = {readonly [K in keyof Required<T>]: ArgumentKind};

/** An object with these members. Other members are ignored. */
export function members<T>(kinds: Members<T>): ArgumentKind {
  const entries = Object.entries(kinds) as [string, ArgumentKind][];
  return {
    wants: 'an object',
    accepts: (value) => isObject(value) && !Array.isArray(value) && entries.every(([name, kind]) => kind.accepts(value[name])),
    explain: (value) => {
      if (!isObject(value) || Array.isArray(value)) return undefined;
      const wrong = entries.find(([name, kind]) => !kind.accepts(value[name]));
      return wrong && `.${wrong[0]}${wrong[1].explain?.(value[wrong[0]]) ?? ` must be ${wrong[1].wants}, not ${nounFor(value[wrong[0]])}`}`;
    },
  };
}

/** Options of a method; the object and each member may be omitted. */
const options = <T>(kinds: Members<T>): ArgumentKind => optional(members<T>(kinds));

function nounFor(value: unknown): string {
  if (value === null) return 'null';
  if (Array.isArray(value)) return 'an array';
  if (typeof value === 'number') return String(value);
  return value === undefined ? 'undefined' : `${typeof value === 'object' ? 'an' : 'a'} ${typeof value}`;
}

const settings: Members<ContainerSettings> = {
  allowNewPrivileges: optional(flag),
  apparmorProfile: optional(text),
  cgroup: optional(text),
  cpuQuota: optional({wants: 'a whole number above 0, or -1', accepts: (value) => value === -1 || count.accepts(value)}),
  cpuPeriod: optional(count),
  cpuShares: optional(count),
  cpusetCpus: optional(text),
  cpusetMems: optional(text),
  devices: optional(list(text)),
  groupAdd: optional(list(text)),
  init: optional(flag),
  joinNamespaces: optional(list(members<Namespace>({type: text, path: text}))),
  pidsLimit: optional({wants: 'a whole number above 0, or -1', accepts: (value) => value === -1 || count.accepts(value)}),
  privilegedWithoutHostDevices: optional(flag),
  rlimits: optional(list(members<Rlimit>({type: text, soft: amount, hard: amount}))),
  rootfsPropagation: optional(text),
  runtime: optional(text),
  seccomp: optional(text),
  shmSize: optional(positive),
  snapshotLabels: optional(labels),
  stopSignal: optional(text),
  stopTimeoutMs: optional(amount),
  sysctls: optional(labels),
  volumes: optional(list(members<Volume>({source: text, destination: text, options: optional(list(text))}))),
};

const registry: Members<RegistryOptions> = {
  plainHTTP: optional(flag),
  skipVerify: optional(flag),
  credentials: eitherOf(callback, options<{username: string; password: string}>({username: text, password: text})),
  refreshToken: optional(text),
  authFile: optional(text),
  tlsCACert: optional(text),
  tlsCert: optional(text),
  tlsKey: optional(text),
  connectTimeoutMs: optional(amount),
  stallTimeoutMs: optional(amount),
  limitRate: optional(positive),
  hostsDir: optional(text),
  onDebug: optional(callback),
  onDump: optional(callback),
  onTrace: optional(callback),
};
const expectedContent: Members<ExpectedContent> = {expectedSize: optional(amount), expectedDigest: optional(text)};
const resource = members<LeaseResource>({id: text, type: text});
const fetching: Members<FetchOptions> = {
  ...registry,
  platforms: optional(list(text)),
  allPlatforms: optional(flag),
  labels: optional(labels),
  verifyKeys: optional(list(text)),
  maxConcurrentDownloads: optional(count),
  allowForeign: optional(flag),
  onEvent: optional(callback),
  signal: optional(abortSignal),
};
const pulling: Members<PullOptions> = {...fetching, unpack: optional(flag), snapshotter: optional(text), ifChanged: optional(flag)};
const listing = options<ListOptions>({filters: optional(list(text))});
const labelled = options<{labels?: unknown}>({labels: optional(labels)});
const stream: ArgumentKind = {
  wants: 'a file descriptor or "ignore"',
  accepts: (value) => value === 'ignore' || (Number.isSafeInteger(value) && (value as number) >= 0),
};
const streams: ArgumentKind = {
  wants: '"inherit" or three streams',
  accepts: (value) => value === 'inherit' || (Array.isArray(value) && value.length === 3 && value.every((inner) => stream.accepts(inner))),
};

const building: Members<BuildOptions> = {
  platforms: optional(list(text)),
  allPlatforms: optional(flag),
  onEvent: optional(callback),
  signal: optional(abortSignal),
};
const compressing: Members<LayerCompression> = {compression: optional(oneOf('gzip', 'zstd', 'none')), level: optional(count)};
const time: ArgumentKind = {
  wants: 'a time as in RFC 3339',
  accepts: (value) => typeof value === 'string' && /^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(?:\.\d+)?(?:Z|[+-]\d\d:\d\d)$/.test(value),
};

export const OPEN_OPTIONS = options<OpenOptions>({
  root: optional(text),
  state: optional(text),
  lockTimeoutMs: optional(amount),
  onWarning: optional(callback),
  program: optional(list(text)),
});

/** Argument kinds of a method; of a method that returns an object with methods, or a promise of one; or of the methods of a member. */
export type Guards<T> = {
  readonly [K in keyof T as T[K] extends string | (() => Promise<void>) ? never : K]: T[K] extends (...args: never[]) => infer R
    ? R extends Promise<infer V>
      ? V extends ContentWriter
        ? {readonly takes: readonly ArgumentKind[]; readonly resolves: Guards<V>}
        : readonly ArgumentKind[]
      : {readonly takes: readonly ArgumentKind[]; readonly gives: Guards<R>}
    : Guards<T[K]>;
};

const creating: Members<CreateOptions> = {
  ...settings,
  args: optional(list(text)),
  entrypoint: optional(text),
  tty: optional(flag),
  env: optional(list(text)),
  envFiles: optional(list(text)),
  cwd: optional(text),
  user: optional(text),
  mounts: optional(
    list(
      members<{type: string; source: string; destination: string; options: string[]}>({
        type: text,
        source: text,
        destination: text,
        options: list(text),
      }),
    ),
  ),
  netHost: optional(flag),
  network: optional(text),
  ports: optional(list(text)),
  dns: optional(list(text)),
  dnsSearch: optional(list(text)),
  dnsOptions: optional(list(text)),
  addHosts: optional(list(text)),
  readOnly: optional(flag),
  privileged: optional(flag),
  capAdd: optional(list(text)),
  capDrop: optional(list(text)),
  hostname: optional(text),
  labels: optional(labels),
  annotations: optional(labels),
  memoryLimit: optional(positive),
  cpus: optional(positive),
  platform: optional(text),
  snapshotter: optional(text),
  pull: optional(oneOf('always', 'missing', 'never', 'newer')),
  registry: options<RegistryOptions>(registry),
  onEvent: optional(callback),
  signal: optional(abortSignal),
};
const starting: Members<TaskStartOptions> = {
  detach: optional(flag),
  nullIO: optional(flag),
  maxLogSize: optional(positive),
  pidFile: optional(text),
  stdio: optional(streams),
  signal: optional(abortSignal),
};

const executing: Members<ExecOptions> = {
  execId: optional(text),
  cwd: optional(text),
  env: optional(list(text)),
  user: optional(text),
  signal: optional(abortSignal),
};

const NAMESPACE: Guards<NamespaceClient> = {
  pull: [text, options<PullOptions>(pulling)],
  pullAll: [list(text), options<PullOptions>(pulling)],
  push: [
    text,
    options<PushOptions>({
      ...registry,
      from: optional(text),
      platform: optional(text),
      manifest: optional(text),
      manifestType: optional(text),
      allowNonDistributable: optional(flag),
      maxConcurrentUploads: optional(count),
      onEvent: optional(callback),
      signal: optional(abortSignal),
    }),
  ],
  run: [text, text, options<RunOptions>({...creating, ...starting, rm: optional(flag)})],
  images: {
    list: [listing],
    records: [listing],
    get: [text],
    delete: [text],
    tag: [text, text, options<{force?: boolean}>({force: optional(flag)})],
    label: [text, labels, options<{replaceAll?: boolean}>({replaceAll: optional(flag)})],
    verify: [text, options<VerifyOptions>({...registry, keys: optional(list(text)), signal: optional(abortSignal)})],
    inspect: [text, options<{content?: boolean}>({content: optional(flag)})],
    check: [options<ListOptions & {snapshotter?: string}>({filters: optional(list(text)), snapshotter: optional(text)})],
    usage: [text, options<{snapshotter?: string}>({snapshotter: optional(text)})],
    mount: [
      text,
      text,
      options<ImageMountOptions>({
        rw: optional(flag),
        snapshotter: optional(text),
        platform: optional(text),
        signal: optional(abortSignal),
      }),
    ],
    convert: [text, text, options<ConvertOptions>({...building, ...compressing, format: optional(oneOf('oci', 'docker'))})],
    flatten: [text, text, options<FlattenOptions>({...building, ...compressing, created: optional(time)})],
    append: [text, text, list(either(text, bytes)), options<AppendOptions>({...building, ...compressing, created: optional(time)})],
    mutate: [
      text,
      text,
      options<MutateOptions>({
        ...building,
        created: optional(time),
        env: optional(list(text)),
        labels: optional(list(text)),
        annotations: optional(list(text)),
        entrypoint: optional(list(text)),
        cmd: optional(list(text)),
        user: optional(text),
        workdir: optional(text),
        expose: optional(list(text)),
        comment: optional(text),
      }),
    ],
    rebase: [text, text, options<RebaseOptions>({...building, created: optional(time), oldBase: optional(text), newBase: optional(text)})],
    mounts: [],
    unmount: [text, options<{rm?: boolean}>({rm: optional(flag)})],
    import: [
      either(text, bytes),
      options<ImportOptions>({
        baseName: optional(text),
        digests: optional(flag),
        skipDigestForNamed: optional(flag),
        indexName: optional(text),
        platforms: optional(list(text)),
        allPlatforms: optional(flag),
        unpack: optional(flag),
        snapshotter: optional(text),
        labels: optional(labels),
        onEvent: optional(callback),
        signal: optional(abortSignal),
      }),
    ],
    export: [
      either(text, writable),
      list(text),
      options<ExportOptions>({
        platforms: optional(list(text)),
        allPlatforms: optional(flag),
        skipManifestJSON: optional(flag),
        skipNonDistributable: optional(flag),
        compression: optional(oneOf('none', 'gzip', 'zstd')),
        onEvent: optional(callback),
        signal: optional(abortSignal),
      }),
    ],
  },
  content: {
    fetch: [text, options<FetchOptions>(fetching)],
    list: [listing],
    get: [text],
    open: [text],
    ingest: [text, bytes, options<ExpectedContent & {labels?: unknown}>({...expectedContent, labels: optional(labels)})],
    writer: {
      takes: [text, options<ExpectedContent>(expectedContent)],
      resolves: {
        status: [],
        write: [chunk],
        truncate: [],
        commit: [options<ExpectedContent & {labels?: unknown}>({...expectedContent, labels: optional(labels)})],
      },
    },
    active: [],
    delete: [text],
    label: [text, labels],
    edit: [text, text],
    prune: [options<ContentPruneOptions>({dryRun: optional(flag)})],
    push: [
      text,
      text,
      options<PushObjectOptions>({...registry, mediaType: optional(text), onEvent: optional(callback), signal: optional(abortSignal)}),
    ],
  },
  snapshots: {
    takes: [optional(text)],
    gives: {
      list: [listing],
      get: [text],
      usage: [text],
      prepare: [text, optional(text), labelled],
      view: [text, optional(text), labelled],
      commit: [text, text, labelled],
      diff: [
        text,
        options<SnapshotDiffOptions>({
          against: optional(text),
          mediaType: optional(text),
          latest: optional(time),
          signal: optional(abortSignal),
        }),
      ],
      delete: [text],
      mounts: [text],
      mountScript: [text, text],
      mount: [text, text],
      label: [text, labels],
      unpack: [text, options<{signal?: AbortSignal}>({signal: optional(abortSignal)})],
    },
  },
  leases: {
    create: [
      options<{id?: string; expiresMs?: number; labels?: unknown}>({
        id: optional(text),
        expiresMs: optional(amount),
        labels: optional(labels),
      }),
    ],
    list: [listing],
    delete: [text],
    addResource: [text, resource],
    resources: [text],
    deleteResource: [text, resource],
  },
  containers: {
    list: [listing],
    get: [text],
    delete: [text, options<{keepSnapshot?: boolean}>({keepSnapshot: optional(flag)})],
    create: [text, text, options<CreateOptions>(creating)],
    label: [text, labels],
    changes: [text, options<{signal?: AbortSignal}>({signal: optional(abortSignal)})],
    commit: [
      text,
      text,
      options<CommitOptions>({
        ...compressing,
        author: optional(text),
        message: optional(text),
        changes: optional(list(text)),
        created: optional(time),
        onEvent: optional(callback),
        signal: optional(abortSignal),
      }),
    ],
  },
  tasks: {
    list: [],
    get: [text],
    start: [text, options<TaskStartOptions>(starting)],
    kill: [
      text,
      options<{signal?: string; all?: boolean; execId?: string}>({signal: optional(text), all: optional(flag), execId: optional(text)}),
    ],
    exec: [
      text,
      list(text),
      options<ExecStartOptions>({
        ...executing,
        tty: optional(flag),
        detach: optional(flag),
        pidFile: optional(text),
        stdio: starting.stdio,
      }),
    ],
    execPiped: [text, list(text), options<ExecOptions>(executing)],
    logs: [
      text,
      options<LogOptions>({
        follow: optional(flag),
        since: optional(text),
        until: optional(text),
        tail: optional(amount),
        signal: optional(abortSignal),
      }),
    ],
    metrics: [text],
    stats: [optional(list(text)), options<{signal?: AbortSignal}>({signal: optional(abortSignal)})],
    ps: [text],
    pause: [text],
    resume: [text],
    stop: [text, options<{timeoutMs?: number; signal?: AbortSignal}>({timeoutMs: optional(amount), signal: optional(abortSignal)})],
    wait: [text, options<{signal?: AbortSignal}>({signal: optional(abortSignal)})],
    delete: [text, options<{force?: boolean}>({force: optional(flag)})],
    settle: [text],
  },
};

const registryCall: Members<RegistryCallOptions> = {...registry, signal: optional(abortSignal)};
const registryListing = options<RegistryListOptions>({...registryCall, limit: optional(count)});
const remoteImage = options<RemoteImageOptions>({...registryCall, platform: optional(text)});
const copying: Members<Pick<CopyOptions, keyof SyncOptions & keyof CopyOptions>> = {
  source: options<RegistryOptions>(registry),
  destination: options<RegistryOptions>(registry),
  all: optional(flag),
  platform: optional(text),
  maxConcurrent: optional(count),
  onEvent: optional(callback),
  signal: optional(abortSignal),
};

const {credentials: _, refreshToken: _token, ...withoutCredentials} = registry;

const REGISTRY: Guards<Client['registry']> = {
  resolve: [text, options<RegistryCallOptions>(registryCall)],
  tags: [text, registryListing],
  catalog: [text, registryListing],
  inspect: [text, remoteImage],
  config: [text, remoteImage],
  fetchObject: [text, options<RegistryCallOptions>(registryCall)],
  fetchBlob: [text, text, options<RegistryCallOptions>(registryCall)],
  referrers: [text, options<RegistryCallOptions & {artifactType?: string}>({...registryCall, artifactType: optional(text)})],
  login: [text, text, text, options<LoginOptions>({...withoutCredentials, signal: optional(abortSignal)})],
  logout: [optional(text), options<LogoutOptions>({all: optional(flag), authFile: optional(text), signal: optional(abortSignal)})],
  loggedIn: [text, options<LoggedInOptions>({authFile: optional(text), signal: optional(abortSignal)})],
  ping: [text, options<RegistryCallOptions>(registryCall)],
  explain: [text, options<RegistryCallOptions>(registryCall)],
  attach: [
    text,
    text,
    list(members<AttachFile>({path: text, mediaType: optional(text)})),
    options<AttachOptions>({...registryCall, annotations: optional(labels), onEvent: optional(callback)}),
  ],
  delete: [text, options<RegistryDeleteOptions>({...registryCall, manifest: optional(flag)})],
  copy: [
    text,
    text,
    options<CopyOptions>({
      ...copying,
      format: optional(oneOf('oci', 'docker')),
      referrers: optional(flag),
      preserveDigests: optional(flag),
    }),
  ],
  sync: [
    either(text, members<{directory: string}>({directory: text})),
    text,
    options<SyncOptions>({
      ...copying,
      scoped: optional(flag),
      appendSuffix: optional(text),
      dryRun: optional(flag),
      keepGoing: optional(flag),
      maxConcurrentImages: optional(count),
      onReport: optional(callback),
    }),
  ],
};

export const CLIENT: Guards<Client> = {
  namespaces: {
    create: [text, optional(labels)],
    list: [listing],
    get: [text],
    label: [text, labels],
    delete: [text, options<{recursive?: boolean}>({recursive: optional(flag)})],
  },
  namespace: {takes: [text], gives: NAMESPACE},
  registry: REGISTRY,
  doctor: [],
  check: [
    options<CheckOptions>({
      ...registry,
      deep: optional(flag),
      repair: optional(flag),
      allowForeign: optional(flag),
      onEvent: optional(callback),
      signal: optional(abortSignal),
    }),
  ],
  df: [],
  info: [],
  defaultSpec: [],
  prune: [
    options<PruneOptions>({
      namespace: optional(text),
      kinds: optional(list(oneOf('images', 'snapshots', 'content', 'ingests', 'leases'))),
      olderThanMs: optional(amount),
      keepBytes: optional(amount),
      dryRun: optional(flag),
    }),
  ],
  gc: [],
  events: [
    options<EventsOptions>({filters: optional(list(text)), follow: optional(flag), since: optional(date), signal: optional(abortSignal)}),
  ],
};

/** @throws invalid_argument naming the method and the argument */
export function checkArguments(method: string, kinds: readonly ArgumentKind[], args: readonly unknown[]): void {
  for (const [i, kind] of kinds.entries()) {
    const value = args[i];
    if (kind.accepts(value)) continue;
    const inner = kind.explain?.(value) ?? ` must be ${kind.wants}, not ${nounFor(value)}`;
    throw new ErrdefsError('invalid_argument', `${method}: argument ${i + 1}${inner}`);
  }
}

/** Whether the client is closed; shared by everything that came from it. */
export interface ClosedState {
  closed: boolean;
}

type Method = (...args: unknown[]) => unknown;

/** The same object with each method of the table wrapped. Other members stay as they are. */
export function guard<T extends object>(target: T, guards: Guards<T>, closedState: ClosedState, path = ''): T {
  const guarded = {...target} as Record<string, unknown>;
  for (const [name, entry] of Object.entries(guards) as [
    string,
    readonly ArgumentKind[] | {takes?: readonly ArgumentKind[]; gives?: object; resolves?: object},
  ][]) {
    const value = (target as Record<string, unknown>)[name];
    const method = path + name;
    if (Array.isArray(entry)) guarded[name] = guardMethod(value as Method, method, entry, closedState);
    else if ('resolves' in entry) {
      const open = guardMethod(value as Method, method, entry.takes!, closedState);
      guarded[name] = async (...args: unknown[]) =>
        guard((await open(...args)) as object, entry.resolves as never, closedState, `${method}().`);
    } else if ('takes' in entry)
      guarded[name] = (...args: unknown[]) => {
        checkArguments(method, entry.takes!, args);
        return guard((value as Method)(...args) as object, entry.gives as never, closedState, path === '' ? '' : `${method}.`);
      };
    else guarded[name] = guard(value as object, entry as never, closedState, `${method}.`);
  }
  return guarded as T;
}

function guardMethod(method: Method, name: string, kinds: readonly ArgumentKind[], closedState: ClosedState): Method {
  return async (...args) => {
    checkArguments(name, kinds, args);
    if (closedState.closed) throw new ErrdefsError('failed_precondition', `${name}: the client is closed`);
    const signal = signalOf(args);
    if (signal?.aborted) throw abortError(signal.reason, name);
    try {
      const result = await method(...args);
      return isBytes(result) ? guardBytes(result, name) : result;
    } catch (err) {
      throw signal?.aborted ? abortError(signal.reason, name, err) : classified(err, name);
    }
  };
}

function signalOf(args: readonly unknown[]): AbortSignal | undefined {
  const found = args.find((arg): arg is {signal?: AbortSignal} => isObject(arg) && 'signal' in arg);
  return found?.signal;
}

const isBytes = (value: unknown): value is AsyncIterable<unknown> => isObject(value) && Symbol.asyncIterator in value;

async function* guardBytes(source: AsyncIterable<unknown>, name: string): AsyncGenerator<unknown> {
  try {
    yield* source;
  } catch (err) {
    throw classified(err, name);
  }
}

/**
 * The error of an aborted call, in the class of the signal's reason: `deadline_exceeded` for a timeout, the reason's own class where
 * it has one, else `canceled`.
 *
 * @param err the call's own failure; returned unchanged when it is of that class already
 */
function abortError(reason: unknown, name: string, err?: unknown): ErrdefsError {
  const found = codeOf(reason);
  const code: Code = found === 'unknown' ? 'canceled' : found;
  if (isErrdefs(err) && err.code === code) return err;
  return new ErrdefsError(code, isErrdefs(reason) ? reason.message : `${name}: ${CLASSES[code].text}`, {
    cause: err ?? reason,
    ...(isErrdefs(err) && err.details !== undefined ? {details: err.details} : {}),
  });
}

/** An error without a class gets that of its errno, else `unknown`, which is a bug; the cause keeps its stack. */
function classified(err: unknown, name: string): ErrdefsError {
  const known = fromErrno(err, name);
  if (isErrdefs(known)) return known;
  return new ErrdefsError(codeOf(err), err instanceof Error ? err.message : String(err), {cause: err});
}
