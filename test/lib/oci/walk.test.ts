import assert from 'node:assert/strict';
import {describe, it} from 'node:test';
import type {Descriptor, Digest} from '../../../src/lib/oci/descriptor.ts';
import {digestOf} from '../../../src/lib/oci/hash.ts';
import {type Kind, kindOf, OCI_CONFIG, OCI_INDEX, OCI_LAYER, OCI_MANIFEST} from '../../../src/lib/oci/mediatypes.ts';
import {MAX_DEPTH, walk} from '../../../src/lib/oci/walk.ts';

const documents = new Map<Digest, Buffer>();

function add(mediaType: string, value: unknown): Descriptor {
  const bytes = Buffer.from(typeof value === 'string' ? value : JSON.stringify(value));
  const digest = digestOf(bytes);
  documents.set(digest, bytes);
  return {mediaType, digest, size: bytes.length};
}

const layer = add(OCI_LAYER, 'layer');
const config = add(OCI_CONFIG, {});
const manifest = (...layers: readonly Descriptor[]) => add(OCI_MANIFEST, {schemaVersion: 2, config, layers});
const index = (...manifests: readonly Descriptor[]) => add(OCI_INDEX, {schemaVersion: 2, manifests});
const read = ({digest}: Descriptor, kind: Kind) => (kind === 'layer' ? undefined : documents.get(digest));
const visited = (root: Descriptor, source = read) => [...walk(root, source)].map(({descriptor}) => descriptor.digest);

describe('walk', () => {
  it('visits parents before children, in order, and each digest once', () => {
    const one = manifest(layer);
    const two = manifest(layer, layer);
    const inner = index(two, one);
    const root = index(one, inner, one);
    assert.deepEqual(
      visited(root),
      [root, one, config, layer, inner, two].map(({digest}) => digest),
    );
  });

  it('does not descend into a document that is missing, malformed, or of another type than its media type says', () => {
    const gone: Descriptor = {...manifest(layer), digest: digestOf(Buffer.from('gone'))};
    const malformed = add(OCI_MANIFEST, '{"config": 1}');
    const layerLike = {...layer, mediaType: OCI_MANIFEST};
    const root = index(gone, malformed, layerLike);
    const visits = [...walk(root, ({digest}) => documents.get(digest))];
    assert.deepEqual(
      visits.map(({descriptor}) => descriptor),
      [root, gone, malformed, layerLike],
    );
    assert.deepEqual(
      visits.slice(1).map(({bytes, children}) => [bytes !== undefined, children.length]),
      [
        [false, 0],
        [true, 0],
        [true, 0],
      ],
    );
  });

  it('reads only documents that the caller provides', () => {
    const root = index(manifest(layer));
    const kinds = [...walk(root, (desc, kind) => (kind === 'index' ? documents.get(desc.digest) : undefined))].map(({kind}) => kind);
    assert.deepEqual(kinds, ['index', 'manifest']);
  });

  it(`follows indexes down to ${MAX_DEPTH} levels, and the last one counts as empty`, () => {
    let root = manifest(layer);
    for (let depth = 1; depth < MAX_DEPTH; depth++)
      root = index(root, add(OCI_INDEX, {schemaVersion: 2, manifests: [], annotations: {depth: `${depth}`}}));
    assert.ok(visited(root).includes(layer.digest), 'a manifest on the last level is read');
    const deeper = index(root);
    assert.ok(!visited(deeper).includes(layer.digest));
    assert.equal([...walk(deeper, read)].filter(({descriptor}) => kindOf(descriptor.mediaType) === 'manifest').length, 0);
  });
});
