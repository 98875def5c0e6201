/** Small and large layers that arrive together, in the compiled executable, whose engine has its own message queues for threads. */
import assert from 'node:assert/strict';
import {createHash, randomBytes} from 'node:crypto';
import {describe, it} from 'node:test';
import {gzipSync} from 'node:zlib';
import {commandLine} from '../cli/harness.ts';
import {startFakeRegistry} from '../fakes/registry.ts';
import {requiresRoot} from '../support/helpers.ts';
import {ARCHITECTURE} from '../support/layouts.ts';
import {file, tar} from '../support/tartest.ts';

const MIB = 1 << 20;
const sha256 = (bytes: Buffer): string => `sha256:${createHash('sha256').update(bytes).digest('hex')}`;

describe('small layers above a large one', () => {
  it('finish before the large one', async (t) => {
    if (!requiresRoot(t)) return;
    const registry = await startFakeRegistry(t);
    // Text takes long to inflate, so the thread always has a backlog.
    const large = tar(file('large', Buffer.from(randomBytes(36 * MIB).toString('base64'))));
    const small = Array.from({length: 6}, (_, i) => tar(file(`small${i}`, String(i))));
    const blobs = [large, ...small].map((layer) => gzipSync(layer, {level: 1}));
    registry.addImage('image', 'v1', blobs, {
      architecture: ARCHITECTURE,
      os: 'linux',
      rootfs: {type: 'layers', diff_ids: [large, ...small].map(sha256)},
    });
    const ctr = commandLine(t, 'executable');
    const {status, stderr} = await ctr(['pull', '--progress', 'plain', `${registry.host}/image:v1`]);
    assert.equal(status, 0, stderr);
    const done = [...stderr.matchAll(/^layer-(\S+): done/gm)].map(([, digest]) => digest);
    assert.equal(done.length, blobs.length, stderr);
    assert.equal(done.at(-1), sha256(blobs[0]!), stderr);
  });
});
