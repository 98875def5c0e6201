/** Events: what commands changed. */

/** One event, with containerd's topics and fields. */
export interface BerthEvent {
  /** RFC 3339. */
  readonly timestamp: string;
  readonly namespace: string;
  /** Such as `/images/create`, `/containers/delete`, `/snapshot/prepare`, `/tasks/exit`. */
  readonly topic: string;
  readonly event: Readonly<Record<string, unknown>>;
}

/** Options of `events`. */
export interface EventsOptions {
  /** Filters in containerd's grammar, over `namespace`, `topic` and `event.<field>`; an event matches when any filter does. */
  readonly filters?: readonly string[];
  /** Goes on with what happens until the iteration is ended or `signal` is aborted. Default: ends with the log. */
  readonly follow?: boolean;
  /** Only events from this time on. */
  readonly since?: Date;
  readonly signal?: AbortSignal;
}
