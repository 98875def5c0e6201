/** That the benches still run, on inputs that measure nothing; their numbers are docs/BENCHMARKS.md's. */
import assert from 'node:assert/strict';
import {execFile} from 'node:child_process';
import {join} from 'node:path';
import {describe, it} from 'node:test';
import {promisify} from 'node:util';
import {type Curve, formatReport} from '../bench/report.ts';
import {plot} from '../bench/svg.ts';
import {findProgram, requiresProgram, requiresRoot, slow} from './support/helpers.ts';

const main = join(import.meta.dirname, '../bench/main.ts');

/** Standard output of a bench, and how it went for each contender that failed. */
async function bench(name: string): Promise<{text: string; failed: string[]}> {
  const {stdout} = await promisify(execFile)(process.execPath, [main, name, '--tiny'], {timeout: 120_000});
  return {text: stdout, failed: stdout.split('\n').filter((line) => line.includes('failed'))};
}

describe('benches', () => {
  it('pulls with everyone who is installed', async (t) => {
    if (!slow(t) || !requiresRoot(t) || !requiresProgram(t, 'docker-registry', 'mkfs.ext4', 'ctr', 'skopeo', 'umoci', 'igzip', 'curl'))
      return;
    const {text, failed} = await bench('pull');
    assert.match(text, /^### Pull of busybox\n/m);
    assert.match(text, /^\| berth: ctr pull \| 1\.00 \| [\d.]+ \|/m);
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
    assert.match(text, /^\| all bytes of all layers \| [\d.]+ \| \d+ % \|/m);
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
      {name: 'theirs', points: [[1, 30]]},
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
            {name: 'theirs', times: [20, 30, 22]},
            {name: 'other', times: [], failure: 'a | b'},
          ],
        },
      ],
      curves: [curve],
    });
    assert.match(text, /^\| theirs \| 2\.00 \| 22\.0 \| 20\.0 – 30\.0 \|$/m);
    assert.match(text, /^\| other \| – \| failed: a \\\| b \| – \|$/m);
    assert.match(text, /^\| theirs \| 30\.0 \| – \|$/m);
  });
});
