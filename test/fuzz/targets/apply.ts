/** Extracts layers beside a canary, which must not change. */
import assert from 'node:assert/strict';
import {chmodSync, lstatSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, realpathSync, rmSync, writeFileSync} from 'node:fs';
import {tmpdir} from 'node:os';
import {join} from 'node:path';
import {createApplier, reconcile, type TreeForm} from '../../../src/lib/archive/apply.ts';
import {resign, SEEDS, TOKENS} from '../tar-seeds.ts';
import type {Target} from '../target.ts';

/** Two levels above the tree, for `../../outside` in the seeds. */
const work = realpathSync(mkdtempSync(join(tmpdir(), 'berth-fuzz-')));
const outside = join(work, 'outside');
mkdirSync(join(outside, 'dir'), {recursive: true});
writeFileSync(join(outside, 'canary'), 'canary');
chmodSync(join(outside, 'canary'), 0o400);

/** Everything that an extraction could change outside. */
const state = (): string =>
  ['', 'dir', 'canary']
    .map((name) => {
      const {mode, uid, gid, size, nlink, mtimeMs, ctimeMs, ino} = lstatSync(join(outside, name));
      return [name, mode, uid, gid, size, nlink, mtimeMs, ctimeMs, ino].join(' ');
    })
    .concat(readdirSync(outside).join(' '), readdirSync(join(outside, 'dir')).join(' '), readFileSync(join(outside, 'canary'), 'utf8'))
    .join('\n');
const before = state();
const openFiles = (): number => readdirSync('/proc/self/fd').length;
const openBefore = openFiles();

function apply(bytes: Buffer, form: TreeForm): void {
  const root = join(work, 'in', 'root');
  mkdirSync(root, {recursive: true});
  const applier = createApplier({root, form, limits: {bytes: 2 ** 30}});
  try {
    applier.write(bytes);
    const result = applier.end();
    if (form === 'overlay') reconcile(root, [], result);
  } finally {
    applier.abort();
    assert.equal(state(), before, 'what is outside has changed');
    assert.ok(openFiles() <= openBefore + 4, 'files are left open');
    rmSync(join(work, 'in'), {recursive: true, force: true});
  }
}

export const target: Target = {
  name: 'apply',
  seeds: SEEDS,
  tokens: TOKENS,
  sources: ['/archive/apply.ts', '/archive/extraction-tree.ts', '/archive/special-files.ts', '/archive/overlay-view.ts'],
  refuses: ['data_loss', 'invalid_argument', 'failed_precondition', 'resource_exhausted'],
  repair: resign,
  run: (bytes) => apply(bytes, (bytes[0] ?? 0) % 2 === 0 ? 'plain' : 'overlay'),
  close: () => rmSync(work, {recursive: true, force: true}),
};
