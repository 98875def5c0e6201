/** Mounts of snapshots on this machine. */

/** A snapshot that is, or was, mounted on this machine. */
export interface HostMount {
  /** Absolute, without symbolic links. */
  readonly target: string;
  readonly namespace: string;
  readonly snapshotter: string;
  /** Of the snapshot; for an image the target itself. */
  readonly key: string;
  /** Absent where a snapshot was mounted that somebody had made. */
  readonly image?: string;
  readonly readOnly: boolean;
  /**
   * `stale`: it is not mounted any more, and nobody has said so. `unknown`: it is of a mount namespace that cannot be seen from here.
   */
  readonly state: 'mounting' | 'mounted' | 'stale' | 'unknown' | 'unmounted';
  readonly createdAt: string;
}
