/** Writes the index of a layer beside its tar. */
import {createReadStream, statSync} from 'node:fs';
import {join} from 'node:path';
import {createErofsIndex, type ErofsIndex, type ImplicitParent} from '../../archive/erofs-index.ts';
import {openErofs} from '../../archive/erofs-reader.ts';
import {inheritAttributes} from '../../archive/inherit-parent-attributes.ts';
import {type LowerTree, openExtracted} from '../../archive/lower-tree.ts';
import {createTarReader} from '../../archive/tar.ts';
import {type Backing, EROFS_TAR, indexFile, patchIndex, writeIndex} from '../../store/indexed-layer.ts';
import {noteWhiteouts} from '../../store/snapshotters.ts';

/**
 * Writes the index of the tar in `directory`.
 *
 * @param tarBytes the tar's size
 * @returns implicit parents; `completeIndex` gives them their attributes
 */
export function writeLayerIndex(directory: string, backing: Backing, index: ErofsIndex, tarBytes: number): readonly ImplicitParent[] {
  let parents: readonly ImplicitParent[] = [];
  writeIndex(directory, backing, (alignment) => {
    const encoded = index.encode(tarBytes, alignment);
    parents = encoded.implicitParents;
    if (encoded.hasWhiteouts) noteWhiteouts(directory);
    return encoded.bytes;
  });
  return parents;
}

/**
 * Gives implicit parents the attributes that they have in the lower layers.
 *
 * @param below directories of the layers below, topmost first
 * @returns false when an index cannot represent the result: the layer has to be extracted
 */
export function completeIndex(directory: string, parents: readonly ImplicitParent[], below: readonly string[]): boolean {
  const paths = parents.map(({path}) => path.split('/'));
  const lowers: LowerTree[] = [];
  try {
    for (const layer of below) {
      const index = indexFile(layer);
      lowers.push(index === undefined ? openExtracted(join(layer, 'fs'), paths) : openErofs(index));
    }
    const patches = inheritAttributes(parents, lowers);
    if (patches === undefined) return false;
    patchIndex(directory, patches);
    return true;
  } finally {
    for (const lower of lowers) lower.close();
  }
}

/**
 * Indexes the tar in `directory`. Reads all of it.
 *
 * @param below directories of the layers below, topmost first
 * @returns false when the layer has to be extracted
 */
export async function indexTar(directory: string, backing: Backing, below: readonly string[] = []): Promise<boolean> {
  const path = join(directory, EROFS_TAR);
  const index = createErofsIndex();
  const reader = createTarReader(index);
  for await (const chunk of createReadStream(path, {highWaterMark: 1 << 20})) reader.write(chunk as Buffer);
  reader.end();
  const {size} = statSync(path);
  if (index.reasons.size > 0 || size < reader.entriesEnd) return false;
  const parents = writeLayerIndex(directory, backing, index, size);
  return parents.length === 0 || completeIndex(directory, parents, below);
}
