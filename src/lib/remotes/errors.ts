/** Maps failures of connections and registries to the library's errors: codes of undici and the system, HTTP statuses, registry error codes. */
import {type Code, codeOf, ErrdefsError, type ErrorOptions, fromErrno, fromHTTPStatus, isErrdefs} from '../errdefs.ts';

interface WireClass {
  readonly code: Code;
  /** Worth an immediate retry. */
  readonly temporary: boolean;
  /** Worth a retry where the host was reachable before: it may be restarting. */
  readonly restart?: boolean;
  readonly text: string;
  readonly hint?: string;
}

const ACCEPT_ANY = 'or accept any certificate with --skip-verify';

/** Failures of a connection. */
export const WIRE = {
  refused: {code: 'unavailable', temporary: false, restart: true, text: 'connection refused'},
  unreachable: {code: 'unavailable', temporary: false, restart: true, text: 'network unreachable'},
  unresolved: {code: 'unavailable', temporary: false, restart: true, text: 'the name does not resolve'},
  connect_timeout: {
    code: 'deadline_exceeded',
    temporary: false,
    text: 'no connection within the time that --connect-timeout allows',
  },
  link_local: {
    code: 'failed_precondition',
    temporary: false,
    text: 'link-local addresses and metadata services are never contacted',
    hint: 'if this is a registry, name its address in hosts.toml',
  },
  untrusted: {
    code: 'failed_precondition',
    temporary: false,
    text: 'the certificate is signed by an unknown authority',
    hint: `add its CA to the system's (update-ca-certificates or update-ca-trust), name it as ca in hosts.toml, ${ACCEPT_ANY}`,
  },
  expired: {
    code: 'failed_precondition',
    temporary: false,
    text: 'the certificate has expired',
    hint: `have the registry renew it, check this machine's clock, ${ACCEPT_ANY}`,
  },
  not_yet_valid: {
    code: 'failed_precondition',
    temporary: false,
    text: 'the certificate is not valid yet',
    hint: `check this machine's clock, ${ACCEPT_ANY}`,
  },
  wrong_name: {
    code: 'failed_precondition',
    temporary: false,
    text: 'the certificate is for another name',
    hint: `use a name that the certificate has, ${ACCEPT_ANY}`,
  },
  invalid_certificate: {
    code: 'failed_precondition',
    temporary: false,
    text: 'the certificate is not valid',
    hint: `have the registry replace it, ${ACCEPT_ANY}`,
  },
  client_certificate: {
    code: 'failed_precondition',
    temporary: false,
    text: 'the registry requires a client certificate that it accepts',
    hint: 'name the certificate and its key as client in hosts.toml',
  },
  tls: {
    code: 'failed_precondition',
    temporary: false,
    text: 'the TLS handshake failed',
    hint: 'the registry may require a client certificate (client in hosts.toml), or speak a version of TLS that is too old',
  },
  plain: {
    code: 'failed_precondition',
    temporary: false,
    text: 'the port does not speak TLS',
    hint: 'if the registry serves plain HTTP, use --plain-http, or an http:// address in hosts.toml',
  },
  secure: {
    code: 'failed_precondition',
    temporary: false,
    text: 'the port speaks TLS, but the request was plain HTTP',
    hint: 'leave out --plain-http, or use an https:// address in hosts.toml',
  },
  proxy_auth: {
    code: 'unauthenticated',
    temporary: false,
    text: 'the proxy requires other credentials',
    hint: "write them into the proxy's URL: http://USER:PASSWORD@HOST:PORT",
  },
  proxy_denied: {
    code: 'permission_denied',
    temporary: false,
    text: 'the proxy does not permit this connection',
    hint: 'have it permitted there, or name the registry in NO_PROXY',
  },
  proxy_failed: {
    code: 'unavailable',
    temporary: false,
    restart: true,
    text: 'the proxy did not reach the host',
    hint: 'if the host can be reached without the proxy, name it in NO_PROXY',
  },
  garbled: {code: 'unavailable', temporary: false, text: 'the response is not HTTP'},
  broken: {code: 'unavailable', temporary: true, text: 'the connection broke'},
  stalled: {
    code: 'unavailable',
    temporary: true,
    text: 'the connection stalled',
    hint: 'for a slow registry, set a longer --stall-timeout',
  },
} as const satisfies Record<string, WireClass>;

export type WireKind = keyof typeof WIRE;

/** A failed connection, not yet an error of a request; never leaves this directory. */
export class WireError extends Error {
  readonly kind: WireKind;
  /** The URL of the connection; after a redirect not that of the request. */
  url: URL | undefined;
  /** The proxy that failed, or that found the failure. */
  proxy: URL | undefined;
  constructor(kind: WireKind, cause?: unknown) {
    super(kind, {cause});
    this.kind = kind;
  }
}

const BY_CODE: Readonly<Record<string, WireKind>> = {
  ECONNREFUSED: 'refused',
  EHOSTUNREACH: 'unreachable',
  ENETUNREACH: 'unreachable',
  ENETDOWN: 'unreachable',
  EADDRNOTAVAIL: 'unreachable',
  ENOTFOUND: 'unresolved',
  EAI_AGAIN: 'unresolved',
  EAI_FAIL: 'unresolved',
  EAI_NODATA: 'unresolved',
  EAI_NONAME: 'unresolved',
  UND_ERR_CONNECT_TIMEOUT: 'connect_timeout',
  ECONNRESET: 'broken',
  ECONNABORTED: 'broken',
  EPIPE: 'broken',
  ETIMEDOUT: 'broken',
  UND_ERR_SOCKET: 'broken',
  UND_ERR_INFO: 'broken',
  UND_ERR_RES_CONTENT_LENGTH_MISMATCH: 'broken',
  UND_ERR_HEADERS_TIMEOUT: 'stalled',
  UND_ERR_BODY_TIMEOUT: 'stalled',
  UND_ERR_HEADERS_OVERFLOW: 'garbled',
  EPROTO: 'tls',
  ERR_SSL_WRONG_VERSION_NUMBER: 'plain',
  ERR_SSL_PACKET_LENGTH_TOO_LONG: 'plain',
  ERR_SSL_HTTP_REQUEST: 'plain',
  // Certificate errors: Node's documentation of tls, "X509 certificate error codes".
  ERR_TLS_CERT_ALTNAME_INVALID: 'wrong_name',
  HOSTNAME_MISMATCH: 'wrong_name',
  CERT_HAS_EXPIRED: 'expired',
  CERT_NOT_YET_VALID: 'not_yet_valid',
  UNABLE_TO_GET_ISSUER_CERT: 'untrusted',
  UNABLE_TO_GET_ISSUER_CERT_LOCALLY: 'untrusted',
  UNABLE_TO_VERIFY_LEAF_SIGNATURE: 'untrusted',
  DEPTH_ZERO_SELF_SIGNED_CERT: 'untrusted',
  SELF_SIGNED_CERT_IN_CHAIN: 'untrusted',
  CERT_UNTRUSTED: 'untrusted',
  UNABLE_TO_GET_CRL: 'invalid_certificate',
  UNABLE_TO_DECRYPT_CERT_SIGNATURE: 'invalid_certificate',
  UNABLE_TO_DECRYPT_CRL_SIGNATURE: 'invalid_certificate',
  UNABLE_TO_DECODE_ISSUER_PUBLIC_KEY: 'invalid_certificate',
  CERT_SIGNATURE_FAILURE: 'invalid_certificate',
  CRL_SIGNATURE_FAILURE: 'invalid_certificate',
  CRL_NOT_YET_VALID: 'invalid_certificate',
  CRL_HAS_EXPIRED: 'invalid_certificate',
  ERROR_IN_CERT_NOT_BEFORE_FIELD: 'invalid_certificate',
  ERROR_IN_CERT_NOT_AFTER_FIELD: 'invalid_certificate',
  CERT_CHAIN_TOO_LONG: 'invalid_certificate',
  CERT_REVOKED: 'invalid_certificate',
  INVALID_CA: 'invalid_certificate',
  PATH_LENGTH_EXCEEDED: 'invalid_certificate',
  INVALID_PURPOSE: 'invalid_certificate',
  CERT_REJECTED: 'invalid_certificate',
};

/** TLS alerts for a missing or unacceptable client certificate (RFC 8446, 6.2), as Node and Bun end their error codes. */
const CLIENT_CERTIFICATE_ALERT =
  /_ALERT_(?:NO_CERTIFICATE|BAD_CERTIFICATE|UNSUPPORTED_CERTIFICATE|CERTIFICATE_(?:REVOKED|EXPIRED|UNKNOWN|REQUIRED)|UNKNOWN_CA|ACCESS_DENIED)$/;

function kindOf({code, name, data}: {readonly code?: string; readonly name?: string; readonly data?: unknown}): WireKind | undefined {
  // Without bytes that it complains of, the parser met the end of the connection within a message.
  if (name === 'HTTPParserError') return data === '' ? 'broken' : 'garbled';
  if (code === undefined) return undefined;
  const known = BY_CODE[code];
  if (known !== undefined || !code.startsWith('ERR_SSL_')) return known;
  return CLIENT_CERTIFICATE_ALERT.test(code) ? 'client_certificate' : 'tls';
}

/** Maps an error of undici or a socket to a `WireError`, or to an `ErrdefsError` for local causes (no descriptors left, remote closed). */
export function fromTransport(err: unknown): unknown {
  if (err instanceof WireError || isErrdefs(err)) return err;
  const {code} = err as {code?: string};
  if (code === 'UND_ERR_DESTROYED' || code === 'UND_ERR_CLOSED') return new ErrdefsError('canceled', 'the remote was closed', {cause: err});
  const kind = kindOf(err as Parameters<typeof kindOf>[0]);
  return kind === undefined ? fromErrno(err, 'connection') : new WireError(kind, err);
}

/** The request that an error belongs to. */
export interface RequestContext {
  /** Verb and object, such as `resolve docker.io/library/redis:7`. */
  readonly what: string;
  readonly url: URL;
  readonly attempt: number;
  /** Bytes of the body delivered so far. */
  readonly bytesDone?: number | undefined;
}

/** The URL without its query: presigned URLs carry secrets there. */
const shownURL = ({origin, pathname}: URL): string => origin + pathname;

const facts = ({url, attempt, bytesDone}: RequestContext): Record<string, unknown> => ({
  host: url.host,
  url: shownURL(url),
  attempt,
  ...(bytesDone === undefined ? {} : {bytesDone}),
});

/** The error for a connection failure that is not retried. */
export function wireFailure(err: WireError, asked: RequestContext): ErrdefsError {
  const context = {...asked, url: err.url ?? asked.url};
  const {code, text, hint}: WireClass = WIRE[err.kind];
  const {code: errno, cert} = (err.cause ?? {}) as {code?: unknown; cert?: {subjectaltname?: unknown}};
  const names = err.kind === 'wrong_name' && typeof cert?.subjectaltname === 'string' ? cert.subjectaltname : undefined;
  const via = err.proxy === undefined ? '' : `proxy ${err.proxy.host}: `;
  return new ErrdefsError(code, `${context.what}: ${context.url.host}: ${via}${text}`, {
    cause: err.cause,
    ...(hint === undefined ? {} : {hint}),
    details: {
      ...facts(context),
      ...(err.proxy === undefined ? {} : {proxy: err.proxy.host}),
      ...(typeof errno === 'string' ? {errno} : {}),
      ...(names === undefined ? {} : {certificateNames: names.slice(0, 500)}),
    },
  });
}

/** The error for a response that breaks the protocol or the descriptor's promise. */
export const protocolError = (
  context: RequestContext,
  why: string,
  options: Pick<ErrorOptions, 'cause' | 'hint'> & {code?: Code} = {},
): ErrdefsError =>
  new ErrdefsError(options.code ?? 'failed_precondition', `${context.what}: ${context.url.host}: ${why}`, {
    ...options,
    details: facts(context),
  });

/** Maps the reason of an abort signal: a timeout is deadline_exceeded, every other reason without a class canceled. */
export function abortError(what: string, reason: unknown): ErrdefsError {
  if (isErrdefs(reason)) return reason;
  return new ErrdefsError(codeOf(reason) === 'deadline_exceeded' ? 'deadline_exceeded' : 'canceled', what, {cause: reason});
}

/** Codes of the distribution specification, "Error Codes", and of docker's registry. Other codes fall back to the HTTP status. */
export const REGISTRY_CODES: Readonly<Record<string, Code>> = {
  BLOB_UNKNOWN: 'not_found',
  BLOB_UPLOAD_INVALID: 'failed_precondition',
  BLOB_UPLOAD_UNKNOWN: 'not_found',
  DENIED: 'permission_denied',
  DIGEST_INVALID: 'invalid_argument',
  MANIFEST_BLOB_UNKNOWN: 'not_found',
  MANIFEST_INVALID: 'invalid_argument',
  MANIFEST_UNKNOWN: 'not_found',
  MANIFEST_UNVERIFIED: 'invalid_argument',
  NAME_INVALID: 'invalid_argument',
  NAME_UNKNOWN: 'not_found',
  PAGINATION_NUMBER_INVALID: 'invalid_argument',
  RANGE_INVALID: 'out_of_range',
  SIZE_INVALID: 'invalid_argument',
  TAG_INVALID: 'invalid_argument',
  TOOMANYREQUESTS: 'resource_exhausted',
  UNAUTHORIZED: 'unauthenticated',
  UNSUPPORTED: 'not_implemented',
};

/** The parts of a failure response that determine the error. */
export interface ErrorResponse {
  /** Matters for 404: from a token server it says nothing about the image. */
  readonly from: 'registry' | 'token server';
  readonly status: number;
  /** The first bytes of the body. */
  readonly body: Buffer;
  /**
   * `none`: there are none for this registry. `plain_http`: if there are some, they may not be sent to it. `withheld`: the server gets
   * none, and its message is not shown.
   */
  readonly credentials: 'sent' | 'none' | 'plain_http' | 'withheld';
  /** The challenge has `error="insufficient_scope"`. */
  readonly insufficientScope: boolean;
  /** From `Retry-After`. */
  readonly retryAfterMs?: number | undefined;
  /** The `RateLimit-Remaining` header, as sent. */
  readonly rateLimitRemaining?: string | undefined;
}

/** The first error of a body `{"errors": [{code, message}]}`; empty for any other body. */
function firstError(body: Buffer): {code?: string; message?: string} {
  try {
    const {errors} = JSON.parse(body.toString()) as {errors?: {code?: unknown; message?: unknown}[]};
    const {code, message} = errors?.[0] ?? {};
    return {
      ...(typeof code === 'string' && /^\w{1,64}$/.test(code) ? {code} : {}),
      // Shown on a terminal: one short line without control characters.
      ...(typeof message === 'string'
        ? {
            message: message
              .replaceAll(/[\p{C}\s]+/gu, ' ')
              .trim()
              .slice(0, 200),
          }
        : {}),
    };
  } catch {
    return {};
  }
}

function responseClass({from, status, credentials, insufficientScope}: ErrorResponse, registryCode: string | undefined): Code {
  if (status < 400) return 'failed_precondition';
  if (status === 401) return credentials === 'sent' && insufficientScope ? 'permission_denied' : 'unauthenticated';
  if (status === 429) return 'resource_exhausted';
  if (status >= 500) return fromHTTPStatus(status);
  if (from === 'token server') return status === 403 || status === 408 ? fromHTTPStatus(status) : 'unauthenticated';
  return (registryCode === undefined ? undefined : REGISTRY_CODES[registryCode]) ?? fromHTTPStatus(status);
}

const CREDENTIALS_HINT = {
  sent: 'the registry does not accept these credentials for it',
  none: 'log in with "berth login REGISTRY", or give credentials with --user NAME; registries also answer this for a repository that does not exist',
  plain_http: 'credentials are not sent over plain HTTP, except to this machine and with --plain-http',
  withheld: undefined,
} as const;

/** The end of a wait, where a date can say it: some registries ask for more than a lifetime. */
const until = (ms: number): string => (ms < 366 * 24 * 3600_000 ? `, until ${new Date(Date.now() + ms).toISOString()}` : '');

function responseHint(code: Code, {credentials, retryAfterMs}: ErrorResponse): string | undefined {
  if (code === 'unauthenticated' || code === 'permission_denied') return CREDENTIALS_HINT[credentials];
  if (code === 'resource_exhausted' && retryAfterMs !== undefined)
    return `the registry asks to wait ${Math.ceil(retryAfterMs / 1000)} s${until(retryAfterMs)}`;
  return undefined;
}

/**
 * The error for a final failure response.
 *
 * @param redact removes secrets from the registry's message: some registries repeat the request
 */
export function registryError(answer: ErrorResponse, context: RequestContext, redact: (text: string) => string): ErrdefsError {
  const {status, body, retryAfterMs, rateLimitRemaining} = answer;
  // A registry could redirect us to an internal service to make us print its response.
  const {code: registryCode, message} = answer.credentials === 'withheld' ? {} : firstError(body);
  const code = responseClass(answer, registryCode);
  const hint = responseHint(code, answer);
  const registryMessage = message === undefined ? undefined : redact(message);
  // For not_found and unauthenticated the registry's message adds nothing.
  const reason = code === 'not_found' || code === 'unauthenticated' || !registryMessage ? '' : ` (${registryMessage})`;
  const what = `${context.what}: ${context.url.host} answered ${status}${registryCode === undefined ? '' : ` ${registryCode}`}${reason}`;
  return new ErrdefsError(code, what, {
    ...(hint === undefined ? {} : {hint}),
    details: {
      httpStatus: status,
      ...(registryCode === undefined ? {} : {registryCode}),
      ...(registryMessage ? {registryMessage} : {}),
      ...(retryAfterMs === undefined ? {} : {retryAfterMs}),
      ...(rateLimitRemaining === undefined ? {} : {rateLimitRemaining}),
      ...facts(context),
    },
  });
}
