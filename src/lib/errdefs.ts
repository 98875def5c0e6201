/**
 * Error classes that programs act on. Every failure of the library is an `ErrdefsError` with one of these codes; any other error is
 * a bug.
 *
 * Classes and their meaning after containerd, github.com/containerd/errdefs.
 */

/** Every class with its text, exit status, gRPC code and HTTP status. All mappings derive from this table. */
export const CLASSES = {
  unknown: {text: 'unknown', exit: 1, grpc: 2, http: 500},
  invalid_argument: {text: 'invalid argument', exit: 3, grpc: 3, http: 400},
  deadline_exceeded: {text: 'deadline exceeded', exit: 4, grpc: 4, http: 504},
  not_found: {text: 'not found', exit: 5, grpc: 5, http: 404},
  already_exists: {text: 'already exists', exit: 6, grpc: 6, http: 409},
  permission_denied: {text: 'permission denied', exit: 7, grpc: 7, http: 403},
  resource_exhausted: {text: 'resource exhausted', exit: 8, grpc: 8, http: 429},
  failed_precondition: {text: 'failed precondition', exit: 9, grpc: 9, http: 412},
  aborted: {text: 'aborted', exit: 10, grpc: 10, http: 409},
  out_of_range: {text: 'out of range', exit: 11, grpc: 11, http: 416},
  not_implemented: {text: 'not implemented', exit: 12, grpc: 12, http: 501},
  internal: {text: 'internal', exit: 13, grpc: 13, http: 500},
  unavailable: {text: 'unavailable', exit: 14, grpc: 14, http: 503},
  data_loss: {text: 'data loss', exit: 15, grpc: 15, http: 500},
  unauthenticated: {text: 'unauthenticated', exit: 16, grpc: 16, http: 401},
  conflict: {text: 'conflict', exit: 17, grpc: 9, http: 409},
  not_modified: {text: 'not modified', exit: 18, grpc: 9, http: 304},
  canceled: {text: 'canceled', exit: 130, grpc: 1, http: 499},
} as const satisfies Record<string, {text: string; exit: number; grpc: number; http: number}>;

/** Name of a class of errors, as in containerd's errdefs. */
export type Code = keyof typeof CLASSES;

/** All classes of errors. */
export const CODES = Object.keys(CLASSES) as readonly Code[];

const MARK = Symbol.for('berth.errdefs');

/** What an error carries besides its class and message. */
export interface ErrorOptions {
  readonly cause?: unknown;
  /** The next step, in one line; printed after the message. A command line in it calls the program `berth`, and leaves out `--root` and `--state`. */
  readonly hint?: string;
  /** Facts for programs: plain JSON values, never secrets. */
  readonly details?: Readonly<Record<string, unknown>>;
}

/** The JSON form of an error, as `--json` prints it. */
export interface ErrorJSON {
  readonly kind: Code;
  /** Exit status of a command that ends with this error. */
  readonly code: number;
  readonly message: string;
  readonly hint?: string;
  readonly details?: Readonly<Record<string, unknown>>;
}

/**
 * An error of a class.
 *
 * `message` reads `<what>: <class text>`; the class text is appended here, so callers give only what happened.
 */
export class ErrdefsError extends Error {
  readonly code: Code;
  readonly hint: string | undefined;
  readonly details: Readonly<Record<string, unknown>> | undefined;
  readonly [MARK] = true;

  constructor(code: Code, what: string, options: ErrorOptions = {}) {
    const text = CLASSES[code].text;
    super(
      what === '' ? text : what === text || what.endsWith(`: ${text}`) ? what : `${what}: ${text}`,
      'cause' in options ? {cause: options.cause} : undefined,
    );
    this.name = 'ErrdefsError';
    this.code = code;
    this.hint = options.hint;
    this.details = options.details;
  }
}

/** Recognises an `ErrdefsError` by its mark, not its constructor: it may come from another copy of this module. */
export function isErrdefs(err: unknown): err is ErrdefsError {
  return (
    typeof err === 'object' &&
    err !== null &&
    (err as {[MARK]?: unknown})[MARK] === true &&
    Object.hasOwn(CLASSES, (err as {code: string}).code)
  );
}

/** The error's own class: that of an `ErrdefsError`, or of the platform's AbortError or TimeoutError. */
function ownCode(err: unknown): Code | undefined {
  if (isErrdefs(err)) return err.code;
  const name = (err as {name?: unknown} | null | undefined)?.name;
  if (name === 'AbortError') return 'canceled';
  if (name === 'TimeoutError') return 'deadline_exceeded';
  return undefined;
}

/**
 * The class of an error, searched depth first through causes and joined errors: the outermost wins, then the first of joined errors;
 * `unknown` if none has a class.
 *
 * Order of search after errdefs, resolve.go.
 */
export function codeOf(err: unknown): Code {
  const seen = new Set<unknown>();
  const search = (e: unknown): Code | undefined => {
    if (typeof e !== 'object' || e === null || seen.has(e)) return undefined;
    seen.add(e);
    const own = ownCode(e);
    if (own !== undefined) return own;
    const {cause, errors} = e as {readonly cause?: unknown; readonly errors?: unknown};
    for (const inner of [cause, ...(Array.isArray(errors) ? errors : [])]) {
      const found = search(inner);
      if (found !== undefined) return found;
    }
    return undefined;
  };
  return search(err) ?? 'unknown';
}

/** True when the class of `err` is `code`. */
export const hasCode = (err: unknown, code: Code): boolean => codeOf(err) === code;

/**
 * Prefixes the operation and keeps the class: `<what>: <message of err>`. Errors without a class become `unknown`, with the error as
 * their cause.
 */
export function wrap(what: string, err: unknown): ErrdefsError {
  const inner = isErrdefs(err) ? err : undefined;
  const code = codeOf(err);
  const message = err instanceof Error ? err.message : String(err);
  return new ErrdefsError(code, `${what}: ${message}`, {
    cause: err,
    ...(inner?.hint === undefined ? {} : {hint: inner.hint}),
    ...(inner?.details === undefined ? {} : {details: inner.details}),
  });
}

/** Class of each errno of filesystems, processes and sockets. Others are `unknown`. */
const ERRNO: Readonly<Record<string, Code>> = {
  ENOENT: 'not_found',
  EEXIST: 'already_exists',
  ENOTEMPTY: 'failed_precondition',
  EACCES: 'permission_denied',
  EPERM: 'permission_denied',
  EROFS: 'permission_denied',
  ENOSPC: 'resource_exhausted',
  EDQUOT: 'resource_exhausted',
  EMFILE: 'resource_exhausted',
  ENFILE: 'resource_exhausted',
  ENOMEM: 'resource_exhausted',
  EFBIG: 'resource_exhausted',
  EMLINK: 'resource_exhausted',
  EINVAL: 'invalid_argument',
  ENAMETOOLONG: 'invalid_argument',
  ENOTDIR: 'failed_precondition',
  EISDIR: 'failed_precondition',
  ELOOP: 'failed_precondition',
  EXDEV: 'failed_precondition',
  EBUSY: 'failed_precondition',
  ENOSYS: 'not_implemented',
  ENOTSUP: 'not_implemented',
  EOPNOTSUPP: 'not_implemented',
  EIO: 'data_loss',
  EUCLEAN: 'data_loss',
  ECONNREFUSED: 'unavailable',
  ECONNRESET: 'unavailable',
  EPIPE: 'unavailable',
  ENOTFOUND: 'unavailable',
  EAI_AGAIN: 'unavailable',
  EHOSTUNREACH: 'unavailable',
  ENETUNREACH: 'unavailable',
  EADDRNOTAVAIL: 'unavailable',
  EAGAIN: 'unavailable',
  ETIMEDOUT: 'deadline_exceeded',
  ECANCELED: 'canceled',
};

/** Hints for errnos that imply the next step. */
const NEXT: Readonly<Record<string, string>> = {
  ENOSPC: 'free space on that disk',
  EDQUOT: 'free space, or have the quota raised',
  EROFS: 'that filesystem is mounted read-only: mount it for writing',
  EACCES: 'run as root, or as the owner of the directory',
  EIO: 'the disk has failed: see dmesg, and repair the store: berth check --repair',
  EUCLEAN: 'the filesystem is damaged: run fsck, and repair the store: berth check --repair',
};

/** Names of Linux errnos that Node knows only by number; see errno(3). */
const NAMELESS: Readonly<Record<number, string>> = {117: 'EUCLEAN', 122: 'EDQUOT'};

/** Errno names that have a class, for tests that loop over them. */
export const ERRNOS = Object.keys(ERRNO);

/**
 * Maps an error of the operating system by its errno. An `ErrdefsError`, and an error without errno (a bug), is returned unchanged.
 *
 * @param what the affected object, such as `image "redis:7"`
 */
export function fromErrno(err: unknown, what: string): unknown {
  if (isErrdefs(err)) return err;
  const {code: given, errno = 0, syscall, path} = (err ?? {}) as NodeJS.ErrnoException;
  const code = NAMELESS[Math.abs(errno)] ?? given;
  const mapped = typeof code === 'string' ? ERRNO[code] : undefined;
  if (mapped === undefined) return typeof code === 'string' ? wrap(what, err) : err;
  const details = {errno: code, ...(syscall === undefined ? {} : {syscall}), ...(path === undefined ? {} : {path})};
  // ENOENT and EEXIST add nothing to their class; other errnos do.
  const reason =
    mapped === 'not_found' || mapped === 'already_exists'
      ? what
      : `${what}: ${String(code)}${path === undefined ? '' : ` (${syscall ?? 'access'} ${path})`}`;
  const hint = NEXT[String(code)];
  return new ErrdefsError(mapped, reason, {cause: err, details, ...(hint === undefined ? {} : {hint})});
}

/**
 * Class of an HTTP status, for every status in 100–599. 1xx and 2xx are no errors and return `unknown`; 3xx is a redirect that was not
 * followed.
 */
export function fromHTTPStatus(status: number): Code {
  switch (status) {
    case 304:
      return 'not_modified';
    case 400:
      return 'invalid_argument';
    case 401:
      return 'unauthenticated';
    case 403:
      return 'permission_denied';
    case 404:
    case 410:
      return 'not_found';
    case 405:
    case 501:
      return 'not_implemented';
    case 408:
    case 504:
      return 'deadline_exceeded';
    case 409:
      return 'conflict';
    case 412:
      return 'failed_precondition';
    case 413:
    case 429:
    case 507:
      return 'resource_exhausted';
    case 416:
      return 'out_of_range';
    case 499:
      return 'canceled';
    case 502:
    case 503:
      return 'unavailable';
    default:
      if (status >= 500) return 'unavailable';
      return status >= 400 ? 'invalid_argument' : status >= 300 ? 'failed_precondition' : 'unknown';
  }
}

/** HTTP status that containerd gives this class. */
export const toHTTPStatus = (code: Code): number => CLASSES[code].http;

/** Exit status of a command that ends with this error. For signals (128+n) see cli. */
export const exitStatus = (err: unknown): number => CLASSES[codeOf(err)].exit;

/** Class of an exit status; `unknown` for others. */
export const fromExitStatus = (status: number): Code => CODES.find((c) => CLASSES[c].exit === status) ?? 'unknown';

/** Number of the gRPC code that containerd gives this class. */
export const toGRPC = (code: Code): number => CLASSES[code].grpc;

/**
 * Class of a gRPC code. Code 9 stands for three classes, told apart by the suffix that `ErrdefsError` appends to the message.
 *
 * After errdefs, pkg/errgrpc/grpc.go (ToNative).
 */
export function fromGRPC(code: number, message = ''): Code {
  const same = CODES.filter((c) => CLASSES[c].grpc === code);
  return same.find((c) => message === CLASSES[c].text || message.endsWith(`: ${CLASSES[c].text}`)) ?? same[0] ?? 'unknown';
}

/** An error as `--json` prints it; of a foreign error only its class and message. */
export function toJSON(err: unknown): ErrorJSON {
  const kind = codeOf(err);
  const {hint, details} = isErrdefs(err) ? err : {};
  return {
    kind,
    code: CLASSES[kind].exit,
    message: err instanceof Error ? err.message : String(err),
    ...(hint === undefined ? {} : {hint}),
    ...(details === undefined ? {} : {details}),
  };
}

/** The error that `toJSON` described, without its cause. */
export function fromJSON({kind, message, hint, details}: ErrorJSON): ErrdefsError {
  return new ErrdefsError(kind, message, {...(hint === undefined ? {} : {hint}), ...(details === undefined ? {} : {details})});
}
