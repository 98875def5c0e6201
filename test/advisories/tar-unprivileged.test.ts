/** Device nodes, setuid files and whiteouts in a user namespace, where device nodes are not permitted. */
import assert from 'node:assert/strict';
import {spawnSync} from 'node:child_process';
import {mkdirSync, writeFileSync} from 'node:fs';
import {join} from 'node:path';
import {it} from 'node:test';
import {Tree} from '../lib/archive/scenarios.ts';
import {requiresProgram, requiresRoot, temporaryDirectory} from '../support/helpers.ts';
import {char, dir, fifo, file, opaque, tar, whiteout} from '../support/tartest.ts';
import {readTree} from '../support/tree.ts';

const APPLY = `
  import {readFileSync} from 'node:fs';
  import {createApplier} from ${JSON.stringify(join(import.meta.dirname, '../../src/lib/archive/apply.ts'))};
  const [root, archive] = process.argv.slice(2);
  const applier = createApplier({root, form: 'overlay', warn: (message) => console.log(message)});
  applier.write(readFileSync(archive));
  applier.end();
`;

it('in a user namespace devices are skipped with a warning, and all other entries are created', (t) => {
  if (!requiresRoot(t) || !requiresProgram(t, 'unshare', 'getfattr')) return;
  if (spawnSync('unshare', ['--user', '--map-root-user', 'true']).status !== 0) {
    t.skip('needs user namespaces');
    return;
  }
  const work = temporaryDirectory(t);
  const root = join(work, 'root');
  mkdirSync(root);
  writeFileSync(join(work, 'apply.mts'), APPLY);
  writeFileSync(
    join(work, 'layer.tar'),
    tar(
      char('null', 1, 3),
      fifo('pipe'),
      file('suid', 'x', 0o4755),
      dir('d', 0o755, {xattrs: {'user.x': '1'}}),
      opaque('d'),
      dir('e'),
      whiteout('e/gone'),
    ),
  );
  const {stdout, stderr, status} = spawnSync(
    'unshare',
    ['--user', '--map-root-user', process.execPath, join(work, 'apply.mts'), root, join(work, 'layer.tar')],
    {encoding: 'utf8'},
  );
  assert.equal(status, 0, stderr);
  assert.match(stdout, /^device "null" skipped: not permitted to make device nodes\n$/);
  const tree = new Tree(readTree(root));
  assert.deepEqual(
    tree.entries.map(({path, type}) => `${path} ${type}`),
    ['. directory', 'd directory', 'e directory', 'e/gone char', 'pipe fifo', 'suid file'],
  );
  assert.deepEqual([tree.at('suid').mode, tree.at('d').xattrs], ['4755', {'user.overlay.opaque': '0x79', 'user.x': '0x31'}]);
});
