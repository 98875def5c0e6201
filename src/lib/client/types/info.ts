/** What this machine has, as seen from one state directory. */

/** Counts of one namespace. */
export interface NamespaceInfo {
  readonly name: string;
  readonly images: number;
  readonly containers: number;
  /** Containers with a living process. */
  readonly running: number;
}

/** Result of `info`. */
export interface Info {
  readonly root: string;
  readonly state: string;
  /** Such as `linux/amd64`. */
  readonly platform: string;
  /** Release of the kernel. */
  readonly kernel: string;
  readonly snapshotters: readonly string[];
  /** The one that is used where neither the caller nor the namespace chooses. */
  readonly defaultSnapshotter: string;
  /** Absent when none is installed. */
  readonly runtime?: {readonly path: string; readonly version?: string};
  readonly namespaces: readonly NamespaceInfo[];
}
