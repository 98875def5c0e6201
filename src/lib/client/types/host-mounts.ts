/** Mounts of snapshots on this machine. */

/** A mounted snapshot, or one that was mounted. */
export interface HostMount {
  /** Absolute, without symbolic links. */
  readonly target: string;
  readonly namespace: string;
  readonly snapshotter: string;
  /** Key of the snapshot; for an image the target. */
  readonly key: string;
  /** Name of the image; absent for a snapshot that the user had prepared. */
  readonly image?: string;
  readonly readOnly: boolean;
  /**
   * `stale`: it is no longer mounted, but its record remains. `unknown`: it belongs to a mount namespace that cannot be seen from here.
   */
  readonly state: 'mounting' | 'mounted' | 'stale' | 'unknown' | 'unmounted';
  readonly createdAt: string;
}
