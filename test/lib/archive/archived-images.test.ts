/** Images of docker's archives, whose list a stranger has written. */
import assert from 'node:assert/strict';
import {mkdirSync, symlinkSync, writeFileSync} from 'node:fs';
import {dirname, join} from 'node:path';
import {describe, it, type TestContext} from 'node:test';
import {gzipSync} from 'node:zlib';
import {DOCKER_FILE} from '../../../src/lib/archive/archive-documents.ts';
import {type ArchiveFiles, openDirectoryFiles, openTarFiles} from '../../../src/lib/archive/archive-reader.ts';
import {MAX_DOCKER_LAYERS, readArchivedImages} from '../../../src/lib/archive/archived-images.ts';
import {digestOf} from '../../../src/lib/oci/hash.ts';
import {is, temporaryDirectory} from '../../support/helpers.ts';
import {BASE_LAYER, file, symlink, tar} from '../../support/tartest.ts';

const LAYER = gzipSync(BASE_LAYER);
const CONFIG = JSON.stringify({
  architecture: 'amd64',
  os: 'linux',
  rootfs: {type: 'layers', diff_ids: [digestOf(BASE_LAYER), digestOf(BASE_LAYER)]},
});
const IMAGES = 200;

/** Each image names the one layer by its own links. */
const listOf = (images: number): string =>
  JSON.stringify(
    Array.from({length: images}, (_, i) => ({Config: 'c.json', RepoTags: [`app:${i}`], Layers: ['l/layer.tar', `link${i % IMAGES}`]})),
  );

const WAYS: Readonly<Record<string, (t: TestContext, list: string) => ArchiveFiles>> = {
  'a tar': (t, list) => {
    const path = join(temporaryDirectory(t), 'a.tar');
    const links = Array.from({length: IMAGES}, (_, i) => symlink('l/layer.tar', `link${i}`));
    writeFileSync(path, tar(file('l/layer.tar', LAYER), file('c.json', CONFIG), ...links, file(DOCKER_FILE, list)));
    return openTarFiles(path, 'the archive');
  },
  'a directory': (t, list) => {
    const path = temporaryDirectory(t);
    for (const [name, bytes] of [
      ['l/layer.tar', LAYER],
      ['c.json', CONFIG],
      [DOCKER_FILE, list],
    ] as const) {
      mkdirSync(dirname(join(path, name)), {recursive: true});
      writeFileSync(join(path, name), bytes);
    }
    for (let i = 0; i < IMAGES; i++) symlinkSync('l/layer.tar', join(path, `link${i}`));
    return openDirectoryFiles(path, 'the archive');
  },
};

/** Counts the bytes that are read. */
function counting(files: ArchiveFiles, onRead: (bytes: number) => void = () => {}): {readonly files: ArchiveFiles; bytes(): number} {
  let bytes = 0;
  const read = async function* (name: string, offset?: number): AsyncGenerator<Buffer> {
    for await (const chunk of files.read(name, offset)) {
      bytes += chunk.length;
      onRead(bytes);
      yield chunk;
    }
  };
  return {files: {...files, read}, bytes: () => bytes};
}

describe("docker's archive", () => {
  for (const [way, open] of Object.entries(WAYS)) {
    it(`is read no more often than it has files, however many images name them: ${way}`, async (t) => {
      const list = listOf(IMAGES);
      const {files, bytes} = counting(open(t, list));
      const {images} = await readArchivedImages(files);
      files.close();
      assert.deepEqual([images.length, new Set(images.map(({descriptor}) => descriptor.digest)).size], [IMAGES, 1]);
      // Its layer for the first bytes, and to be hashed.
      assert.ok(bytes() <= list.length + CONFIG.length + 2 * LAYER.length, `${bytes()} B`);
    });

    it(`with too many layers is refused, and its reading ends when that is asked for: ${way}`, async (t) => {
      const many = open(t, listOf(MAX_DOCKER_LAYERS / 3 + 1));
      await assert.rejects(readArchivedImages(many), is('resource_exhausted'));
      many.close();
      const abort = new AbortController();
      const list = listOf(1);
      const {files} = counting(open(t, list), (bytes) => {
        if (bytes > list.length) abort.abort();
      });
      await assert.rejects(readArchivedImages(files, abort.signal), is('canceled'));
      files.close();
    });
  }
});
