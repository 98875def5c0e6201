import assert from 'node:assert/strict';
import {Writable} from 'node:stream';
import {describe, it, type TestContext} from 'node:test';
import {setTimeout as sleep} from 'node:timers/promises';
import {isatty} from 'node:tty';
import {stripVTControlCharacters} from 'node:util';
import {chalkStderr} from 'chalk';
import {openProgress} from '../../src/cli/progress.ts';
import {openBars} from '../../src/cli/progress-bars.ts';
import {PlainProgress} from '../../src/cli/progress-lines.ts';
import {closingLines, Totals} from '../../src/cli/progress-totals.ts';
import type {Digest, ProgressEvent, PullResult} from '../../src/lib/client/types/index.ts';
import {randomOf} from '../fuzz/seeded-random.ts';
import {is, onEnd} from '../support/helpers.ts';
import {Screen} from './terminal.ts';

const REF = 'registry.example/library/redis:latest';
const MiB = 1 << 20;
const digest = (n: number): Digest => `sha256:${String(n).padStart(64, '0')}` as Digest;
const layer = (n: number, status: ProgressEvent['status'], offset = 0, total = 0): ProgressEvent => ({
  ref: `layer-${digest(n)}`,
  status,
  offset,
  total,
});

const result: PullResult = {
  image: {name: REF, target: {mediaType: 'm', digest: digest(1), size: 1}, labels: {}, createdAt: '', updatedAt: ''},
  transferredBytes: 102_445_875,
  elapsedMs: 900,
  unpacked: [{platform: 'linux/amd64', chainID: digest(9), snapshotter: 'native'}],
  warnings: [],
};

describe('closing lines', () => {
  it('tell time, bytes, rate and what is unpacked', () =>
    assert.deepEqual(closingLines(result), ['elapsed: 0.9 s  total: 97.7 MiB (108.6 MiB/s)', `unpacked chain id: ${digest(9)}`]));
  it('of a pull that had nothing to do', () =>
    assert.deepEqual(closingLines({...result, transferredBytes: 0, elapsedMs: 0, unpacked: []}), [
      'elapsed: 0.0 s  total: 0.0 B (0.0 B/s)',
    ]));
});

describe('what all rows have come to', () => {
  it('is what came over the network, and how long the rest takes', () => {
    const seed = 11;
    for (let n = 0; n < 200; n++) {
      const random = randomOf(seed, n);
      let now = 0;
      const totals = new Totals(() => now);
      // Each row begins where an earlier attempt ended; all move at their own even speed, with a pause of the same length.
      const rows = Array.from({length: 1 + random.below(4)}, (_, i) => {
        const total = 1000 + random.below(1_000_000);
        return {ref: `layer-${i}`, total, first: random.below(total), speed: 1 + random.below(500)};
      });
      for (const {ref, total, first} of rows) {
        if (random.chance(0.5)) totals.update({ref, status: 'waiting', offset: 0, total});
        totals.update({ref, status: 'downloading', offset: first, total});
      }
      const steps = 20 + random.below(100);
      const at = ({first, speed, total}: (typeof rows)[number]): number => Math.min(total, first + speed * (now / 100));
      for (let i = 0; i < steps; i++) {
        now += 100;
        for (const row of rows)
          totals.update({ref: row.ref, status: at(row) < row.total ? 'downloading' : 'extracting', offset: at(row), total: row.total});
      }
      const moved = rows.reduce((sum, row) => sum + at(row) - row.first, 0);
      const what = `seed ${seed}, ${n}`;
      assert.ok(Math.abs(totals.transferred - moved) < 1e-3, what);
      const left = rows.reduce((sum, row) => sum + row.total - at(row), 0);
      const remaining = totals.remainingMs;
      if (left === 0) assert.equal(remaining, undefined, what);
      // Rows that have ended since make the rate of the last seconds too high, never too low.
      else if (remaining !== undefined && rows.every((row) => at(row) < row.total)) {
        const speed = rows.reduce((sum, row) => sum + row.speed / 100, 0);
        assert.ok(Math.abs(remaining * speed - left) < 0.01 * left + 1, `${what}: ${remaining} ms for ${left} at ${speed}/ms`);
      }
    }
  });
  it('leaves out what was here, and what another process brings', () => {
    const totals = new Totals(() => 0);
    totals.update(layer(1, 'exists', MiB, MiB));
    totals.update(layer(2, 'waiting', 0, MiB));
    totals.update(layer(2, 'waiting', MiB / 2, MiB));
    totals.update(layer(2, 'exists', MiB, MiB));
    assert.equal(totals.transferred, 0);
    assert.equal(totals.line(), 'elapsed: 0.0 s  total: 0.0 B (0.0 B/s)');
  });
});

describe('plain progress', () => {
  it('is one line for each change of status', (t) => {
    const lines: string[] = [];
    const progress = new PlainProgress((line) => lines.push(line));
    onEnd(t, () => progress.close());
    progress.update({ref: REF, status: 'resolving', offset: 0, total: 0});
    progress.update({ref: REF, status: 'resolved', offset: 0, total: 0});
    for (const offset of [0, 1, 2]) progress.update(layer(1, 'downloading', offset * MiB, 2 * MiB));
    progress.update(layer(1, 'done', 2 * MiB, 2 * MiB));
    progress.finish(result);
    assert.deepEqual(lines, [
      `${REF}: resolving`,
      `${REF}: resolved`,
      `layer-${digest(1)}: downloading 2.0 MiB`,
      `layer-${digest(1)}: done 2.0 MiB`,
      ...closingLines(result),
    ]);
  });

  it('shows that a long transfer still moves, and nothing after its end', async () => {
    const lines: string[] = [];
    const progress = new PlainProgress((line) => lines.push(line), 5);
    progress.update(layer(1, 'downloading', MiB, 2 * MiB));
    progress.update(layer(2, 'done', MiB, MiB));
    const heartbeat = `layer-${digest(1)}: downloading 1.0 MiB/2.0 MiB`;
    while (!lines.includes(heartbeat)) await sleep(1);
    assert.ok(!lines.some((line) => line.startsWith(`layer-${digest(2)}: done 1.0 MiB/`)));
    progress.close();
    const count = lines.length;
    await sleep(20);
    assert.equal(lines.length, count);
  });
});

describe('progress for programs', () => {
  it('is one versioned object a line, on standard error', async () => {
    let text = '';
    const context = {program: 'ctr', stdout: () => assert.fail('standard output is for data'), stderr: (s: string) => (text += s)};
    const progress = await openProgress({progress: 'json', json: false, debug: false}, context as never);
    progress.update(layer(1, 'downloading', 1, 2));
    progress.finish(result);
    progress.close();
    assert.deepEqual(
      text
        .trim()
        .split('\n')
        .map((line) => JSON.parse(line)),
      [
        {version: 1, type: 'progress', ref: `layer-${digest(1)}`, status: 'downloading', offset: 1, total: 2},
        {version: 1, type: 'done', elapsedMs: 900, transferredBytes: 102_445_875, unpacked: result.unpacked},
      ],
    );
  });
  it('is the same where results are JSON and nothing else is asked for', async () => {
    let text = '';
    const progress = await openProgress({progress: 'auto', json: true, debug: true}, {stderr: (s: string) => (text += s)} as never);
    progress.update(layer(1, 'downloading', 1, 2));
    progress.close();
    assert.equal(JSON.parse(text).type, 'progress');
  });
  it('bars where there is no terminal are refused', async (t) => {
    if (isatty(2)) return t.skip('standard error is a terminal');
    await assert.rejects(openProgress({progress: 'tty', json: false, debug: false}, {} as never), is('invalid_argument'));
  });
  it('none is nothing', async () => {
    const progress = await openProgress({progress: 'none', json: false, debug: false}, {stderr: () => assert.fail('printed')} as never);
    progress.update(layer(1, 'downloading', 1, 2));
    progress.finish(result);
    progress.close();
  });
});

/** A terminal that keeps what it is sent, and shows what a person sees. */
class FakeTerminal extends Writable {
  readonly isTTY = true;
  readonly columns: number;
  readonly rows: number;
  readonly #screen = new Screen();
  sent = '';

  constructor(columns = 200, rows = 50) {
    super({decodeStrings: false});
    this.columns = columns;
    this.rows = rows;
  }

  override _write(chunk: string, _encoding: string, done: () => void): void {
    this.sent += chunk;
    // As the kernel's terminal does.
    this.#screen.write(chunk.replaceAll('\n', '\r\n'));
    done();
  }

  get screen(): readonly string[] {
    return this.#screen.rows;
  }
}

const SHOW_CURSOR = '\u001b[?25h';
const HIDE_CURSOR = '\u001b[?25l';

describe('bars', () => {
  const open = (t: TestContext, terminal: FakeTerminal) => {
    const bars = openBars(terminal);
    onEnd(t, () => bars.close());
    return bars;
  };

  it('are a row for each thing, full when it is done, and end with the closing lines', (t) => {
    const terminal = new FakeTerminal();
    const bars = open(t, terminal);
    bars.update({ref: REF, status: 'resolved', offset: 0, total: 0});
    bars.update(layer(1, 'done', MiB, MiB));
    bars.update(layer(2, 'exists', MiB, MiB));
    bars.finish(result);
    const full = `|${'+'.repeat(38)}|`;
    const rows = terminal.screen.map((line) => stripVTControlCharacters(line).replace(/: +(\w+) +\|/, ': $1 |'));
    assert.deepEqual(rows, [
      `${REF}: resolved ${full}`,
      `layer-${digest(1)}: done ${full}`,
      `layer-${digest(2)}: exists ${full}`,
      ...closingLines(result),
      '',
    ]);
  });

  for (const [variables, green] of [
    [{CLICOLOR_FORCE: '1'}, true],
    [{CLICOLOR_FORCE: '0'}, false],
    [{CLICOLOR_FORCE: '1', NO_COLOR: '1'}, false],
  ] as const)
    it(`are ${green ? 'green' : 'without colour'} with ${JSON.stringify(variables)}, where the terminal has no colours`, (t) => {
      const terminal = new FakeTerminal();
      const before = {...process.env};
      onEnd(t, () => {
        for (const name of ['CLICOLOR_FORCE', 'NO_COLOR'])
          if (before[name] === undefined) delete process.env[name];
          else process.env[name] = before[name];
      });
      delete process.env.NO_COLOR;
      Object.assign(process.env, variables);
      const bars = open(t, terminal);
      bars.update(layer(1, 'done', MiB, MiB));
      bars.finish(result);
      if (green || chalkStderr.level === 0) assert.equal(terminal.sent.includes('\u001b[32m'), green);
    });

  it('are seen to move', async (t) => {
    const terminal = new FakeTerminal();
    const bars = open(t, terminal);
    bars.update(layer(1, 'downloading', 0, 2 * MiB));
    while (!terminal.sent.includes('0.0 B/2.0 MiB')) await sleep(10);
    bars.update(layer(1, 'downloading', MiB, 2 * MiB));
    while (!terminal.sent.includes('1.0 MiB/2.0 MiB')) await sleep(10);
    assert.match(terminal.screen[0]!, /\|\+{19}-{19}\| 1\.0 MiB\/2\.0 MiB/);
  });

  it('are drawn at most ten times a second', async (t) => {
    const terminal = new FakeTerminal();
    const bars = open(t, terminal);
    const start = performance.now();
    for (let i = 0; i < 300; i++) {
      bars.update(layer(1, 'downloading', i, 300));
      await sleep(1);
    }
    const frames = [...terminal.sent.matchAll(/downloading/g)].length;
    assert.ok(frames >= 1 && frames <= (performance.now() - start) / 100 + 1, `${frames} frames`);
  });

  it('fit every terminal, whatever they are of', (t) => {
    const seed = 3;
    const states: readonly ProgressEvent['status'][] = [
      'resolving',
      'resolved',
      'waiting',
      'checking',
      'downloading',
      'extracting',
      'committing',
      'exists',
      'done',
    ];
    for (let columns = 1; columns <= 200; columns++) {
      const random = randomOf(seed, columns);
      const terminal = new FakeTerminal(columns, 2 + random.below(12));
      const bars = open(t, terminal);
      bars.update({ref: `${'deep/'.repeat(random.below(30))}redis:latest`, status: 'resolved', offset: 0, total: 0});
      for (let i = random.below(8); i >= 0; i--) {
        const total = random.below(3) * random.below(2 ** 31);
        bars.update(layer(random.below(100), random.pick(states), random.below(total + 1), total));
      }
      bars.update(layer(101, 'downloading', 1023.9 * MiB, 2000 * MiB));
      bars.close();
      for (const line of terminal.screen) {
        const seen = stripVTControlCharacters(line);
        assert.ok(seen.length <= columns, `seed ${seed}: ${seen.length} columns of ${columns}: ${seen}`);
      }
      if (columns < 30 || terminal.rows < 12) continue;
      assert.match(terminal.screen[0]!, /latest: +resolved/);
      assert.ok(
        terminal.screen.some((line) => /^layer-sh[^:]*:.* downloading/.test(line)),
        terminal.screen.join('\n'),
      );
      assert.ok(
        terminal.screen.some((line) => (columns < 46 ? / 51%/ : /1023\.9 MiB\/2\.0 GiB/).test(line)),
        terminal.screen.join('\n'),
      );
    }
  });

  it('have a last row with what all of it has come to, while it comes', async (t) => {
    const terminal = new FakeTerminal();
    const bars = open(t, terminal);
    bars.update(layer(1, 'downloading', 0, 40 * MiB));
    for (let i = 1; i <= 12; i++) {
      await sleep(60);
      bars.update(layer(1, 'downloading', i * MiB, 40 * MiB));
    }
    await sleep(150);
    assert.match(terminal.screen.at(-1)!, /^elapsed: \d+\.\d s {2}total: 12\.0 MiB \(\d+\.\d MiB\/s\) {2}remaining: \d+ s$/);
    bars.finish(result);
    assert.equal(terminal.screen.filter((line) => line.startsWith('elapsed')).length, 1);
  });

  it('of more things than the screen has lines show what moves, and all at the end', async (t) => {
    const terminal = new FakeTerminal(200, 6);
    const bars = open(t, terminal);
    for (let i = 0; i < 30; i++) bars.update(layer(i, i < 20 ? 'done' : i < 22 ? 'downloading' : 'waiting', 1, 2));
    while (!terminal.sent.includes('more')) await sleep(10);
    await sleep(150);
    const during = terminal.screen;
    assert.equal(during.length, 5);
    assert.match(during.at(-1)!, /^elapsed: /);
    assert.deepEqual(
      during.slice(0, -1).map((line) => /layer-sha256:0*(\d+): +(\w+)/.exec(line)?.slice(1, 3).join(' ') ?? line),
      ['20 downloading', '21 downloading', '22 waiting', '… and 27 more'],
    );
    bars.finish(result);
    assert.equal(terminal.screen.filter((line) => line.startsWith('layer-')).length, 30);
  });

  for (const [name, end] of [
    ['success', (bars: ReturnType<typeof openBars>) => bars.finish(result)],
    ['failure', (bars: ReturnType<typeof openBars>) => bars.close()],
    ['an exit that nobody announced', () => (process.listeners('exit').at(-1) as () => void)()],
  ] as const)
    it(`give the cursor back after ${name}`, async (t) => {
      const terminal = new FakeTerminal();
      const bars = open(t, terminal);
      bars.update(layer(1, 'downloading', 1, 2));
      assert.ok(terminal.sent.includes(HIDE_CURSOR));
      end(bars);
      assert.ok(terminal.sent.lastIndexOf(SHOW_CURSOR) > terminal.sent.lastIndexOf(HIDE_CURSOR));
      const before = terminal.sent.length;
      bars.close();
      await sleep(150);
      assert.equal(terminal.sent.length, before, 'something was drawn after the end');
    });

  it('show control characters of a name', (t) => {
    const terminal = new FakeTerminal();
    const bars = open(t, terminal);
    bars.update({ref: 'a\u001b[31mb', status: 'resolving', offset: 0, total: 0});
    bars.close();
    assert.match(terminal.sent, /a\\x1b\[31mb/);
  });
});
