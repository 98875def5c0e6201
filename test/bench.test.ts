/** That the benches still run, on inputs that measure nothing; their numbers are docs/BENCHMARKS.md's. */
import assert from 'node:assert/strict';
import {execFile, spawnSync} from 'node:child_process';
import {join} from 'node:path';
import {describe, it} from 'node:test';
import {promisify} from 'node:util';
import {BENCHES} from '../bench/benches.ts';
import {atLeast, atMost, type Curve, faster, formatReport} from '../bench/report.ts';
import {plot} from '../bench/svg.ts';
import {findProgram, requiresProgram, requiresRoot, slow, TORTURE} from './support/helpers.ts';

const main = join(import.meta.dirname, '../bench/main.ts');

/** Standard output of a bench, and how it went for each contender that failed. */
async function bench(...args: readonly string[]): Promise<{text: string; failed: string[]}> {
  const {stdout} = await promisify(execFile)(process.execPath, [main, ...args, '--tiny'], {timeout: 300_000});
  return {text: stdout, failed: stdout.split('\n').filter((line) => line.includes('failed'))};
}

describe('benches', () => {
  it('pulls with everyone who is installed', async (t) => {
    if (!slow(t) || !requiresRoot(t) || !requiresProgram(t, 'docker-registry', 'mkfs.ext4', 'ctr', 'skopeo', 'umoci', 'igzip', 'curl'))
      return;
    const images = TORTURE ? [] : ['--image', 'busybox', '--image', 'zstd'];
    const {text, failed} = await bench('pull', ...images);
    assert.match(text, /^### Pull of busybox\n/m);
    assert.match(text, /^\| berth: ctr pull \| 1\.00 \| [\d.]+ \| [\d.]+ – [\d.]+ \| [1-9][\d.]* \| \d+ \| \d+ \|$/m);
    assert.match(text, /^\| berth: ctr pull, overlayfs \| [\d.]+ \|/m);
    for (const step of ['inflate: igzip', 'inflate: zstd', 'two hashes: sha256sum', 'write: cat'])
      assert.match(text, new RegExp(`^\\| ${step} \\| 0\\.\\d+ \\| [1-9][\\d.]* \\|`, 'm'));
    assert.match(text, /^\| . \| pull of redis.*, processor time of the work by itself over ours \| ≥ 0\.8 × \| 0\.\d\d × \| {2}\|$/m);
    assert.deepEqual(
      failed.filter((line) => !(line.startsWith('| podman') && findProgram('podman') === undefined)),
      [],
    );
  });

  it('makes a crowd change one store', async (t) => {
    if (!slow(t) || !requiresRoot(t) || !requiresProgram(t, 'mkfs.ext4', 'perl')) return;
    const {text, failed} = await bench('locks');
    assert.match(text, /^### 4 processes × 3 changes, all of it\n/m);
    assert.deepEqual(failed, []);
  });

  it('finds every stage of a pull', async (t) => {
    if (!slow(t) || !requiresRoot(t) || !requiresProgram(t, 'docker-registry', 'mkfs.ext4', 'strace')) return;
    const {text} = await bench('profile');
    assert.match(text, /^\| all bytes of all layers \| [\d.]+ \| [\d.]+ – [\d.]+ \| \d+ % \|/m);
    assert.match(text, /^\| fsync \| [1-9]\d* \|/m);
  });

  const curve: Curve = {
    id: 'try',
    title: 'Time & "size"',
    x: 'files < all',
    series: [
      {
        name: 'ours',
        points: [
          [1, 10],
          [1000, 250],
        ],
      },
      {name: 'theirs', points: [[1, 30, 29, 31]]},
    ],
  };

  it('plots points on both axes, and escapes what it is told', () => {
    const svg = plot(curve);
    const line = /class="line" d="M([\d.]+) ([\d.]+)L([\d.]+) ([\d.]+)"/.exec(svg);
    const [x1, y1, x2, y2] = line!.slice(1).map(Number) as [number, number, number, number];
    assert.ok(x2 > x1 && y2 < y1, 'more is right and above');
    assert.match(svg, /files &lt; all/);
    assert.match(svg, /Time &amp; &quot;size&quot;/);
    assert.match(svg, />1k</);
  });

  it('writes of a contender that failed why, and of a size that it did not reach nothing', () => {
    const text = formatReport({
      tables: [
        {
          title: 'T',
          results: [
            {name: 'ours', times: [10, 12, 11]},
            {name: 'theirs', times: [20, 30, 22], processor: [44, 40, 50]},
            {name: 'other', times: [], failure: 'a | b'},
          ],
        },
      ],
      curves: [curve],
    });
    assert.match(text, /^\| theirs \| 2\.00 \(2\.00 – 2\.25\) \| 22\.0 \(21\.0 – 26\.0\) \| 20\.0 – 30\.0 \| 44\.0 \|$/m);
    assert.match(text, /^\| other \| – \| failed: a \\\| b \| – \| – \|$/m);
    assert.match(text, /^\| theirs \| 30\.0 \(29\.0 – 31\.0\) \| – \|$/m);
  });

  it('says of a goal how far its rounds lie apart', () => {
    const [ours, theirs] = [
      {name: 'ours', times: [10, 10, 10, 10]},
      {name: 'theirs', times: [20, 22, 24, 40]},
    ];
    const text = formatReport({goals: [faster('a', 2, ours, theirs), atMost('b', 9, 'MB', [10]), atLeast('c', 1, undefined)]});
    assert.match(text, /^\| ✓ \| a \| ≥ 2 × \| 2\.30 × \| 2\.15 – 2\.80 \|$/m);
    assert.match(text, /^\| ✗ \| b \| ≤ 9 MB \| 10\.0 MB \| {2}\|$/m);
    assert.match(text, /^\| ✗ \| c \| ≥ 1 × \| failed \| {2}\|$/m);
  });

  it('tells how it is used, and what is wrong with its arguments, without a stack', () => {
    const run = (...args: readonly string[]): {status: number | null; stdout: string; stderr: string} =>
      spawnSync(process.execPath, [main, ...args], {encoding: 'utf8'});
    for (const args of [['pull', '--help']]) {
      const {status, stdout, stderr} = run(...args);
      assert.deepEqual([status, stderr], [0, '']);
      for (const word of [...Object.keys(BENCHES), '--rounds', '--image', '--write', '--tiny']) assert.ok(stdout.includes(word), word);
    }
    for (const args of [['--nonsense'], ['nonsense'], ['--rounds', '0'], ['--write', '--tiny'], ['pull', '--image', 'nonsense']]) {
      const {status, stdout, stderr} = run(...args);
      assert.deepEqual([status, stdout], [2, ''], args.join(' '));
      assert.match(stderr, /^bench: [^\n]+\n$/, args.join(' '));
    }
  });
});
