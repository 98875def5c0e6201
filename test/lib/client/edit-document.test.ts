/** `content edit`: what a person has written is never lost. */
import assert from 'node:assert/strict';
import {readdirSync, readFileSync} from 'node:fs';
import {dirname} from 'node:path';
import {after, describe, it} from 'node:test';
import {editDocument} from '../../../src/lib/client/api/edit-document.ts';
import {ErrdefsError} from '../../../src/lib/errdefs.ts';
import {digestOf} from '../../../src/lib/oci/hash.ts';
import {MAX_CONFIG_BYTES} from '../../../src/lib/oci/manifest.ts';
import {onEnd, temporaryDirectory} from '../../support/helpers.ts';

const BYTES = Buffer.from('{"a":1}');
const temporary = temporaryDirectory({after});
const before = process.env.TMPDIR;
process.env.TMPDIR = temporary;
onEnd({after}, () => {
  if (before === undefined) delete process.env.TMPDIR;
  else process.env.TMPDIR = before;
});
const edit = (editor: string, store: (bytes: Buffer) => Promise<string>) => editDocument(BYTES, digestOf(BYTES), editor, store);

describe('an edited document', () => {
  it('is stored, and its file goes, only then', async () => {
    let found: string[] = [];
    const stored = await edit("sh -c 'printf new > $0'", async (bytes) => {
      found = readdirSync(temporary);
      return bytes.toString();
    });
    assert.deepEqual([stored, found.length, readdirSync(temporary)], ['new', 1, []]);
    assert.equal(await edit('true', () => assert.fail('nothing was changed')), undefined);
    assert.deepEqual(readdirSync(temporary), []);
  });

  for (const [how, editor, code] of [
    ['cannot be stored', "sh -c 'printf new > $0'", 'resource_exhausted'],
    ['has an editor that failed', "sh -c 'printf new > $0; exit 3'", 'aborted'],
    ['is too large', `sh -c 'head -c ${MAX_CONFIG_BYTES + 1} /dev/zero > $0'`, 'invalid_argument'],
  ] as const)
    it(`that ${how} stays, and the error says where`, async () => {
      const failing = edit(editor, () => Promise.reject(new ErrdefsError('resource_exhausted', 'disk')));
      const err = (await failing.catch((failure: unknown) => failure)) as ErrdefsError;
      const {file} = err.details as {file: string};
      assert.equal(err.code, code);
      assert.ok(err.hint!.includes(file));
      assert.match(readFileSync(file, 'latin1').slice(0, 3), /^(?:new|\0\0\0)$/);
      assert.equal(dirname(dirname(file)), temporary);
    });

  it('that is as it was when the editor failed leaves no file', async () => {
    const files = readdirSync(temporary).length;
    await assert.rejects(
      edit('false', () => assert.fail()),
      {code: 'aborted'},
    );
    assert.equal(readdirSync(temporary).length, files);
  });
});
