/**
 * Bytes on their way from one thread to another through memory that both see: nothing is copied twice, nothing is
 * allocated on the way, and how much is under way is bounded.
 */

export interface Ring {
  /** Words of state, then the slots. */
  readonly memory: SharedArrayBuffer;
  readonly slotBytes: number;
  readonly slots: number;
}

/** Bytes in front of the slots. */
const STATE_BYTES = 64;
/** Slots that the reader has dealt with, in all. */
const DEALT_WITH = 0;
/** Not 0 once nobody will read any more. */
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
 * Rings of one size that are used again. What threads share is given back to the system only when each of them happens to have
 * collected its garbage, and it does not count as any: a ring a layer adds up to gigabytes.
 */
export class RingPool {
  readonly #slotBytes: number;
  readonly #slots: number;
  readonly #idle: Ring[] = [];

  constructor(slotBytes: number, slots: number) {
    this.#slotBytes = slotBytes;
    this.#slots = slots;
  }

  take(): Ring {
    return this.#idle.pop() ?? createRing(this.#slotBytes, this.#slots);
  }

  /** @param ring that no thread reads or writes any more */
  giveBack(ring: Ring): void {
    stateOf(ring).fill(0);
    this.#idle.push(ring);
  }
}

/** The reader has dealt with one more slot. */
export function release(ring: Ring): void {
  const state = stateOf(ring);
  Atomics.add(state, DEALT_WITH, 1);
  Atomics.notify(state, DEALT_WITH);
}

/** Nobody will read any more: whoever waits to write goes on, and is told. */
export function stop(ring: Ring): void {
  const state = stateOf(ring);
  Atomics.store(state, STOPPED, 1);
  Atomics.notify(state, DEALT_WITH);
}

/** A look at `STOPPED` this often, in milliseconds, should the one who would wake us be gone. */
const LOOK_MS = 1000;

/** A writing end that waits, so not for the main thread. */
export class RingWriter {
  readonly #ring: Ring;
  readonly #state: Int32Array;
  readonly #announce: (length: number) => void;
  #sent = 0;
  #slot: Uint8Array;

  /** @param announce tells the reader that the next slot has so many bytes; slots follow each other in order */
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
   * Hands bytes over, and waits until there is a slot for more. Those that lie in `slot`, from its start, are not copied.
   *
   * @returns whether there is still somebody who reads
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
      const dealtWith = Atomics.load(this.#state, DEALT_WITH);
      if (this.#sent - dealtWith < this.#ring.slots) return true;
      Atomics.wait(this.#state, DEALT_WITH, dealtWith, LOOK_MS);
    }
  }
}
