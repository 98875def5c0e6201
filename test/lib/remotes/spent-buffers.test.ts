/** Memory that is given back while a stream passes: of which chunks, and when. */
import assert from 'node:assert/strict';
import {describe, it} from 'node:test';
import {SpentBuffers} from '../../../src/lib/remotes/spent-buffers.ts';
import {randomNumbers} from '../../fuzz/seeded-random.ts';

const isFreed = ({buffer}: Uint8Array): boolean => (buffer as ArrayBuffer).detached;

describe('spent buffers', () => {
  it('are freed when as many bytes have followed as may be held, and no earlier', () => {
    const random = randomNumbers(1);
    for (let round = 0; round < 200; round++) {
      const held = Math.floor(random() * 3000);
      const chunks = Array.from({length: 30}, () => new Uint8Array(1 + Math.floor(random() * 1000)));
      const sizes = chunks.map(({length}) => length);
      const spent = new SpentBuffers(held);
      for (const [n, chunk] of chunks.entries()) {
        spent.add(chunk);
        for (const [i, earlier] of chunks.slice(0, n + 1).entries()) {
          const followed = sizes.slice(i + 1, n + 1).reduce((sum, size) => sum + size, 0);
          assert.equal(isFreed(earlier), followed >= held, `${held} B, chunk ${i} after ${n}`);
        }
      }
    }
  });

  it('keep memory that is not all theirs', () => {
    const memory = Buffer.alloc(100, 'x');
    const [whole, shared] = [new Uint8Array(memory.buffer, 0, 50), new Uint8Array(new SharedArrayBuffer(10))];
    const spent = new SpentBuffers(0);
    for (const chunk of [whole, new Uint8Array(memory.buffer, 50), shared, Buffer.from('from the pool')]) spent.add(chunk);
    assert.equal(memory.toString(), 'x'.repeat(100));
    assert.equal(shared.length, 10);
    assert.equal(Buffer.from('from the pool').toString(), 'from the pool');
  });
});
