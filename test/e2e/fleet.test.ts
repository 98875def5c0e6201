/**
 * docs/FLEET.md: many stores at once behind a pull-through docker-registry. Behind a warm one no layer leaves the origin; when it is gone, all
 * pull from the origin. By default five stores, with `BERTH_TEST_TORTURE=1` twenty.
 */
import assert from 'node:assert/strict';
import {randomBytes} from 'node:crypto';
import {mkdirSync, writeFileSync} from 'node:fs';
import {join} from 'node:path';
import {describe, it, type TestContext} from 'node:test';
import {newClient, requiresProgram, TORTURE, temporaryDirectory} from '../support/helpers.ts';
import {addImage, setTarget} from '../support/layouts.ts';
import {blobGets, pushImage, startRegistry} from '../support/registry.ts';
import {file, tar} from '../support/tartest.ts';

const STORES = TORTURE ? 20 : 5;

describe('a fleet behind a pull-through docker-registry', () => {
  it('takes no layer from the origin once the cache is warm, and all from it without the cache', async (t) => {
    if (!requiresProgram(t, 'docker-registry')) return;
    const origin = await startRegistry(t);
    const cache = await startRegistry(t, {proxyOf: origin.url});
    const layout = temporaryDirectory(t);
    setTarget(layout, addImage(layout, {layers: [1, 2, 3].map((n) => tar(file(`f${n}`, randomBytes(300_000))))}));
    const {digest} = await pushImage(origin, 'team/app:v1', layout);
    const hostsDir = temporaryDirectory(t);
    mkdirSync(join(hostsDir, origin.host));
    writeFileSync(
      join(hostsDir, origin.host, 'hosts.toml'),
      `server = "${origin.url}"\n[host."${cache.url}"]\ncapabilities = ["pull", "resolve"]\n`,
    );
    const pull = async (scope: TestContext): Promise<string> => {
      const client = await newClient(scope);
      const {image} = await client.namespace('default').pull(`${origin.host}/team/app:v1`, {unpack: false, hostsDir});
      return image.target.digest;
    };
    const pullAtOnce = async (): Promise<void> => {
      const digests = await Promise.all(Array.from({length: STORES}, () => pull(t)));
      assert.deepEqual(new Set(digests), new Set([digest]));
    };

    assert.equal(await pull(t), digest);
    assert.ok(blobGets(origin).size > 0, 'the first pull warms the cache');
    // The cache writes what it passes on in the background.
    for (const end = Date.now() + 60_000; ; ) {
      origin.clearLog();
      assert.equal(await pull(t), digest);
      if (blobGets(origin).size === 0) break;
      assert.ok(Date.now() < end, 'the cache does not become warm');
    }

    cache.clearLog();
    origin.clearLog();
    await pullAtOnce();
    assert.equal(blobGets(origin).size, 0, 'no layer leaves the origin');
    assert.ok([...blobGets(cache).values()].every(([requests]) => requests === STORES));

    await cache.stop();
    await pullAtOnce();
    assert.ok(blobGets(origin).size > 0);
  });
});
