/**
 * Gives back the memory of buffers that have been read. The engine would free it at its next collection, which it begins the earlier, the
 * more bytes of buffers there are.
 */

/** Buffers of a stream, which become empty once enough bytes have followed them. */
export class SpentBuffers {
  readonly #heldBytes: number;
  readonly #waiting: Uint8Array[] = [];
  #bytes = 0;

  /** @param heldBytes whoever takes the stream may still read its last so many bytes, such as a socket what it has not sent */
  constructor(heldBytes: number) {
    this.#heldBytes = heldBytes;
  }

  /** @param chunk that nobody else has or keeps */
  add(chunk: Uint8Array): void {
    this.#waiting.push(chunk);
    this.#bytes += chunk.length;
    for (;;) {
      const [first] = this.#waiting;
      if (first === undefined || this.#bytes - first.length < this.#heldBytes) return;
      this.#waiting.shift();
      this.#bytes -= first.length;
      free(first);
    }
  }
}

/** A part of larger memory stays: the rest is others'. */
function free({buffer, byteOffset, length}: Uint8Array): void {
  if (buffer instanceof ArrayBuffer && byteOffset === 0 && length === buffer.byteLength) buffer.transfer(0);
}
