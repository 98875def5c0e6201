/** Results of `check` and `doctor`. */
import type {ProgressEvent, RegistryOptions} from './common.ts';

/** One requirement of berth on this machine, and whether it is met. */
export interface DoctorCheck {
  readonly name: string;
  readonly status: 'ok' | 'warning' | 'error';
  readonly detail: string;
  /** Advice for the user. */
  readonly hint?: string;
}

/** A problem of one object that `check` found. */
export interface Finding {
  /**
   * `damage`: an object is missing or wrong that something refers to. `suspect`: an object may be wrong, and is made again when it is
   * next needed. `garbage`: nothing refers to the object.
   */
  readonly severity: 'damage' | 'suspect' | 'garbage';
  /** Such as `content sha256:…`. */
  readonly object: string;
  /** Absent for an object that namespaces share. */
  readonly namespace?: string;
  /** In a few words, for the user. */
  readonly problem: string;
  /** Absolute path of the file or directory with the problem. */
  readonly path: string;
  /** The repair, or the reason why there was none; absent without `repair`. */
  readonly action?: string;
  /** Whether the problem is gone. */
  readonly repaired: boolean;
}

/** Options of `check`. */
export interface CheckOptions extends RegistryOptions {
  /** Reads every byte as well: hashes blobs, and compares layers with their tars or blobs. */
  readonly deep?: boolean;
  /** Repairs what is found: fetches or rebuilds it, or moves it away. Changes nothing else. */
  readonly repair?: boolean;
  /** Fetches lost foreign layers from the URLs that their manifests name. Default false. */
  readonly allowForeign?: boolean;
  readonly onEvent?: (event: ProgressEvent) => void;
  readonly signal?: AbortSignal;
}

/** Result of `check`. */
export interface CheckResult {
  /** The worst first. */
  readonly findings: readonly Finding[];
  /** Numbers of checked objects. With `deep`: bytes read, and layers that could not be compared because no image has them any more. */
  readonly checked: {
    readonly namespaces: number;
    readonly records: number;
    readonly blobs: number;
    readonly layers: number;
    readonly bytes: number;
    readonly uncompared: number;
  };
  /** Number of findings of damage that remain. */
  readonly damage: number;
}
