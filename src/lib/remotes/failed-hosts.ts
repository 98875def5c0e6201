/** Remembers which mirrors have failed, and for what, so that they are not asked again for each object. */
import type {Code, ErrdefsError} from '../errdefs.ts';
import type {Digest} from '../oci/descriptor.ts';
import type {Host} from './types.ts';

/** A failure of one host. */
export interface HostFailure {
  readonly host: Host;
  readonly err: ErrdefsError;
}

/** Classes of failures that concern the object alone: the next object may be there. */
const OF_OBJECT: ReadonlySet<Code> = new Set<Code>(['not_found', 'not_implemented', 'invalid_argument']);
/** Classes of failures that concern all objects of the repository. */
const OF_REPOSITORY: ReadonlySet<Code> = new Set<Code>(['unauthenticated', 'permission_denied']);
/** Classes of failures that may have passed when no other host is left. */
const MAY_PASS: ReadonlySet<Code> = new Set<Code>(['unavailable', 'deadline_exceeded', 'resource_exhausted']);

/** Mirrors that are set aside, each with the failure that was the reason. The last host of a list, the registry itself, never is. */
export class FailedHosts {
  /** By host, or by host and repository. */
  readonly #aside = new Map<string, HostFailure>();
  /** By host and digest: mirrors that had a part in wrong bytes of a blob. */
  readonly #wrong = new Set<string>();

  /** Sets a mirror aside, if the failure is one of the host or of the repository. */
  add(host: Host, repository: string, err: ErrdefsError): void {
    // Without a host it is a failure of this machine.
    if (OF_OBJECT.has(err.code) || err.details?.host === undefined) return;
    const key = OF_REPOSITORY.has(err.code) ? `${keyOf(host)} ${repository}` : keyOf(host);
    if (!this.#aside.has(key)) this.#aside.set(key, {host, err});
  }

  /** Sets a mirror aside for one blob. */
  addWrong(host: Host, digest: Digest): void {
    this.#wrong.add(`${keyOf(host)} ${digest}`);
  }

  find(host: Host, repository: string): HostFailure | undefined {
    return this.#aside.get(keyOf(host)) ?? this.#aside.get(`${keyOf(host)} ${repository}`);
  }

  isWrong(host: Host, digest: Digest | undefined): boolean {
    return digest !== undefined && this.#wrong.has(`${keyOf(host)} ${digest}`);
  }

  /** Whether a host is worth another attempt when all others have failed. */
  mayHaveRecovered({err}: HostFailure): boolean {
    return MAY_PASS.has(err.code);
  }
}

const keyOf = ({origin, path}: Host): string => origin + path;
