/** Builds images for tests and benchmarks into the cache: `node scripts/make-test-images.ts [NAME…]`, by default those of the tests. */
import {readdirSync, statSync} from 'node:fs';
import {join} from 'node:path';
import {buildImage, cachedImage, IMAGE_NAMES, type ImageName, imagesForTests} from '../test/support/cached-images.ts';

const isImageName = (name: string): name is ImageName => (IMAGE_NAMES as readonly string[]).includes(name);

const names = process.argv.slice(2);
const unknown = names.filter((name) => !isImageName(name));
if (unknown.length > 0) {
  process.stderr.write(`no image is called ${unknown.join(', ')}; there are ${IMAGE_NAMES.join(', ')}\n`);
  process.exit(3);
}
for (const name of names.length === 0 ? imagesForTests() : names.filter(isImageName)) {
  if (cachedImage(name) !== undefined) continue;
  const start = performance.now();
  process.stdout.write(`image ${name}: building\n`);
  const {layout} = buildImage(name);
  const blobs = join(layout, 'blobs/sha256');
  const bytes = readdirSync(blobs).reduce((sum, blob) => sum + statSync(join(blobs, blob)).size, 0);
  const seconds = (performance.now() - start) / 1000;
  process.stdout.write(`image ${name}: built in ${seconds.toFixed(1)} s, ${(bytes / 2 ** 20).toFixed(1)} MiB\n`);
}
