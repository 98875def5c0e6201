/** A ring of slots in shared memory. It passes bytes between threads with one copy, without allocations, and with a bound. */

export interface Ring {
  /** Words of state, then the slots. */
  readonly memory: SharedArrayBuffer;
  readonly slotBytes: number;
  readonly slots: number;
}

/** Bytes in front of the slots. */
const STATE_BYTES = 64;
/** Word of the state: number of slots that the reader has released, in all. */
const RELEASED = 0;
/** Word of the state: not 0 once the reader has stopped. */
const STOPPED = 1;

export const createRing = (slotBytes: number, slots: number): Ring => ({
  memory: new SharedArrayBuffer(STATE_BYTES + slotBytes * slots),
  slotBytes,
  slots,
});

export const slotOf = ({memory, slotBytes}: Ring, index: number, length = slotBytes): Uint8Array =>
  new Uint8Array(memory, STATE_BYTES + index * slotBytes, length);

const stateOf = ({memory}: Ring): Int32Array => new Int32Array(memory, 0, 2);

/**
 * Reuses rings of one size. Shared memory returns to the system only after every thread has collected its garbage, and it does not
 * speed up that collection: one ring for each layer would add up to gigabytes.
 */
export class RingPool {
  readonly #slotBytes: number;
  readonly #slots: number;
  readonly #idle: Ring[] = [];

  constructor(slotBytes: number, slots: number) {
    this.#slotBytes = slotBytes;
    this.#slots = slots;
  }

  acquire(): Ring {
    return this.#idle.pop() ?? createRing(this.#slotBytes, this.#slots);
  }

  /** @param ring that no thread reads or writes any more */
  release(ring: Ring): void {
    stateOf(ring).fill(0);
    this.#idle.push(ring);
  }
}

/** Frees the reader's oldest slot for the writer. */
export function releaseSlot(ring: Ring): void {
  const state = stateOf(ring);
  Atomics.add(state, RELEASED, 1);
  Atomics.notify(state, RELEASED);
}

/** Ends reading: `write` returns false from now on. */
export function stopReading(ring: Ring): void {
  const state = stateOf(ring);
  Atomics.store(state, STOPPED, 1);
  Atomics.notify(state, RELEASED);
}

/** Interval of checks of `STOPPED`, in milliseconds, in case the thread that should wake the writer is gone. */
const STOP_CHECK_MS = 1000;

/** The writing end. It blocks its thread, so it is not for the main thread. */
export class RingWriter {
  readonly #ring: Ring;
  readonly #state: Int32Array;
  readonly #announce: (length: number) => void;
  #sent = 0;
  #slot: Uint8Array;

  /** @param announce tells the reader the length of the next slot; slots are read in order */
  constructor(ring: Ring, announce: (length: number) => void) {
    this.#ring = ring;
    this.#state = stateOf(ring);
    this.#announce = announce;
    this.#slot = slotOf(ring, 0);
  }

  /** The slot that is to be filled next. */
  get slot(): Uint8Array {
    return this.#slot;
  }

  /**
   * Sends bytes, and waits for a free slot. Bytes that lie at the start of `slot` already are not copied.
   *
   * @returns false once the reader has stopped
   */
  write(bytes: Uint8Array): boolean {
    const {slotBytes} = this.#ring;
    for (let at = 0; at < bytes.length; ) {
      const length = Math.min(bytes.length - at, slotBytes);
      if (bytes.buffer !== this.#ring.memory) this.#slot.set(bytes.subarray(at, at + length));
      at += length;
      this.#announce(length);
      this.#sent++;
      if (!this.#wait()) return false;
      this.#slot = slotOf(this.#ring, this.#sent % this.#ring.slots);
    }
    return true;
  }

  #wait(): boolean {
    for (;;) {
      if (Atomics.load(this.#state, STOPPED) !== 0) return false;
      const released = Atomics.load(this.#state, RELEASED);
      if (this.#sent - released < this.#ring.slots) return true;
      Atomics.wait(this.#state, RELEASED, released, STOP_CHECK_MS);
    }
  }
}
