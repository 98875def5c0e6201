/** A tree, and changes of it, for what tells trees apart. */
import {execFileSync} from 'node:child_process';
import {randomOf} from '../fuzz/seeded-random.ts';
import {SAMPLE} from './helpers.ts';

/** @returns standard output */
export const sh = (script: string, cwd: string): string =>
  execFileSync('sh', ['-euc', script], {cwd, encoding: 'utf8', stdio: ['ignore', 'pipe', 'pipe']});

/** A tree to begin with; times are whole seconds, as layers have them. */
export const BASE = `
  mkdir -p a/b/c d etc
  for f in a/1 a/b/2 a/b/c/3 d/4 etc/5; do echo $f >$f; done
  ln a/1 d/hard; ln a/b/2 a/b/hard2; ln -s ../etc/5 d/soft; ln -s nowhere a/dead; mkfifo d/fifo; mknod d/null c 1 3
  mkdir 'name with  space'; echo x >"$(printf 'd/\\344\\n')"
  chmod 4755 a/1; chown 7:8 d/4; echo old >etc/old; setfattr -n user.old -v old etc/old
  find . -exec touch -h -d @1500000000 {} +`;

/** Each is one change; a later one may undo an earlier one, or not apply. */
export const CHANGES: readonly string[] = [
  'echo changed >a/1',
  'rm -f a/b/2',
  'rm -rf a/b',
  'rm -rf a/b; mkdir a/b; echo new >a/b/new',
  'rm -rf d; echo file >d',
  'rm -f etc/5; mkdir -p etc/5/deep',
  'chmod 700 a',
  'chown 9:9 etc',
  'ln a/1 etc/another || true',
  'ln a/1 0first || true',
  'rm -f d/hard || true',
  'ln -sfn elsewhere d/soft || true',
  'mkdir -p x/y/z; echo z >x/y/z/f; ln x/y/z/f x/g || true',
  'mv a moved || true',
  'touch -d @1400000000 d/4 || true',
  'setfattr -n user.note -v hello etc; chmod 711 etc || true',
  'echo n >etc/n; setfattr -n user.note -v there etc/n; setcap cap_net_raw+ep etc/n || true',
  'mknod q b 7 1; mkfifo r || true',
  'rm -rf "name with  space"; rm -f d/*\\\\344* || true',
  'cp -a etc etc.copy || true',
  'touch d',
  'python3 -c "import socket; socket.socket(socket.AF_UNIX).bind(\\"sock\\")" || true',
  'echo same >s; n=$(printf "%0150d" 1); echo long >$n; mkdir -p $n.d/$n; echo deep >$n.d/$n/$n',
];
/** Of which only attributes tell. containerd looks at capabilities of files alone. */
export const ATTRIBUTES: readonly string[] = [
  'setfattr -n user.note -v only d',
  'setfattr -n user.note -v only etc/5',
  'setfattr -n user.note -v only a/b/2 # of two names',
  'setcap cap_net_raw+ep a/b/c/3',
  'setfattr -x user.old etc/old',
  'setfattr -n user.old -v "" etc/old',
];
export const WHOLE_SECONDS = `find . -newermt @1500000001 -exec touch -h -d @1600000000 {} +`;

/** New names of files that have not changed, before and after the old ones. */
export const NEW_NAMES = 'ln a/1 0first; ln a/b/2 zlast';

export function changesFor(n: number, changes = CHANGES): string {
  if (n % 100 === 0) return NEW_NAMES;
  const random = randomOf(SAMPLE, n);
  return Array.from({length: 1 + random.below(6)}, () => `(${random.pick(changes)}\n) 2>/dev/null || true`).join('\n');
}
