/** What `check` and `doctor` find. */
import type {ProgressEvent, RegistryOptions} from './common.ts';

/** One requirement of berth on this machine, and whether it is met. */
export interface DoctorCheck {
  readonly name: string;
  readonly status: 'ok' | 'warning' | 'error';
  readonly detail: string;
  /** What to do about it. */
  readonly hint?: string;
}

/** What `check` found wrong with one thing. */
export interface Finding {
  /**
   * `damage`: something that is counted on is missing or wrong. `suspect`: it may be, and whoever needs it next makes it
   * anew. `garbage`: nobody needs it.
   */
  readonly severity: 'damage' | 'suspect' | 'garbage';
  /** Such as `content sha256:…`. */
  readonly object: string;
  /** Whose it is; absent where namespaces share it. */
  readonly namespace?: string;
  /** What is wrong with it, in a few words. */
  readonly problem: string;
  /** Where it is seen, absolute. */
  readonly path: string;
  /** What was done about it, or why nothing could be; absent without `repair`. */
  readonly action?: string;
  /** It is in order now. */
  readonly repaired: boolean;
}

/** How `check` looks at the state directory. */
export interface CheckOptions extends RegistryOptions {
  /** Reads every byte as well: blobs are hashed, layers compared with what they were unpacked from. */
  readonly deep?: boolean;
  /** Fetches, rebuilds or takes away what is found wrong, and nothing else. */
  readonly repair?: boolean;
  readonly onEvent?: (event: ProgressEvent) => void;
  readonly signal?: AbortSignal;
}

/** What `check` found, and how much it looked at. */
export interface CheckResult {
  /** The worst first. */
  readonly findings: readonly Finding[];
  /** How much there was to look at; with `deep` also how many bytes were read, and how many layers nothing here could be compared with: their image is gone. */
  readonly checked: {
    readonly namespaces: number;
    readonly records: number;
    readonly blobs: number;
    readonly layers: number;
    readonly bytes: number;
    readonly uncompared: number;
  };
  /** Findings of damage that remain. */
  readonly damage: number;
}
