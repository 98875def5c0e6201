/** A terminal for tests: script(1) makes a pseudo-terminal, and its output is drawn on a screen that tests can read. */
import assert from 'node:assert/strict';
import {spawn} from 'node:child_process';
import {constants} from 'node:os';
import {setTimeout as delay} from 'node:timers/promises';
import {environment, root} from './harness.ts';

/** Rows of text up to the last one written to; rows that a real screen would scroll away stay. */
export class Screen {
  readonly rows: string[] = [''];
  cursorVisible = true;
  wraps = true;
  /** What each row showed, one after the other, beginning with nothing. */
  readonly history: string[][] = [['']];
  #row = 0;
  #column = 0;
  #rest = '';

  write(text: string): void {
    // biome-ignore lint/suspicious/noControlCharactersInRegex: control sequences are what is looked for
    const tokens = /\x1b\[(\??)([\d;]*)([A-Za-z])|\x1b[78=>]|([\r\n\x07])|[^\x1b\r\n\x07]+/gy;
    const input = this.#rest + text;
    let end = 0;
    for (const token of input.matchAll(tokens)) {
      end = token.index + token[0].length;
      const [whole, secret, numbers, letter, control] = token;
      if (letter !== undefined) this.#control(secret === '?', numbers!, letter);
      else if (control === '\r') this.#column = 0;
      else if (control === '\n') this.#move(this.#row + 1, this.#column);
      else if (control === undefined && !whole.startsWith('\x1b')) this.#put(whole);
    }
    // A sequence that is not here whole yet.
    this.#rest = input.slice(end);
    assert.ok(this.#rest.length < 32, `not a sequence that this screen knows: ${JSON.stringify(this.#rest)}`);
  }

  #control(secret: boolean, numbers: string, letter: string): void {
    const n = numbers === '' ? 1 : Number(numbers.split(';')[0]);
    if (secret) {
      if (n === 25) this.cursorVisible = letter === 'h';
      if (n === 7) this.wraps = letter === 'h';
    } else if (letter === 'A') this.#move(Math.max(0, this.#row - n), this.#column);
    else if (letter === 'B') this.#move(this.#row + n, this.#column);
    else if (letter === 'C') this.#column += n;
    else if (letter === 'D') this.#column = Math.max(0, this.#column - n);
    else if (letter === 'G') this.#column = n - 1;
    else if (letter === 'K') this.#set(numbers === '2' ? '' : this.rows[this.#row]!.slice(0, this.#column));
    else if (letter === 'J') {
      this.#set(this.rows[this.#row]!.slice(0, this.#column));
      this.rows.length = this.#row + 1;
    } else assert.equal(letter, 'm', `control sequence ${letter}`);
  }

  #move(row: number, column: number): void {
    while (this.rows.length <= row) {
      this.rows.push('');
      this.history.push(['']);
    }
    this.#row = row;
    this.#column = column;
  }

  #set(text: string): void {
    if (this.rows[this.#row] === text) return;
    this.rows[this.#row] = text;
    this.history[this.#row]!.push(text);
  }

  #put(text: string): void {
    const row = this.rows[this.#row]!.padEnd(this.#column);
    this.#set(row.slice(0, this.#column) + text + row.slice(this.#column + text.length));
    this.#column += text.length;
  }
}

export interface TerminalOptions {
  readonly env?: Readonly<Record<string, string>>;
  readonly columns?: number;
  readonly rows?: number;
  /** After that many milliseconds it is killed. Default 60 000. */
  readonly timeoutMs?: number;
}

export interface Terminal {
  readonly screen: Screen;
  /** As it came. */
  output(): string;
  /** As if typed: `\x03` is Ctrl-C. */
  type(text: string): void;
  /** Waits until the screen has a row like this. */
  expect(pattern: RegExp): Promise<void>;
  /** Exit status; 128+n when signal n ended it. */
  readonly ended: Promise<number>;
}

const quote = (word: string): string => `'${word.replaceAll("'", `'\\''`)}'`;

/** Runs a program on a terminal of its own, all three standard streams connected to it. */
export function onTerminal(program: string, args: readonly string[], options: TerminalOptions = {}): Terminal {
  const {env = {}, columns = 160, rows = 40, timeoutMs = 60_000} = options;
  const command = `stty cols ${columns} rows ${rows}; exec ${[program, ...args].map(quote).join(' ')}`;
  const child = spawn('script', ['--quiet', '--return', '--flush', '--command', command, '/dev/null'], {
    cwd: root,
    env: {...environment(), TERM: 'xterm', SHELL: '/bin/sh', ...env},
    stdio: ['pipe', 'pipe', 'inherit'],
    timeout: timeoutMs,
    killSignal: 'SIGKILL',
  });
  const screen = new Screen();
  let output = '';
  child.stdout.setEncoding('utf8').on('data', (text: string) => {
    output += text;
    screen.write(text);
  });
  child.stdin.on('error', () => {}); // it ended first
  const ended = new Promise<number>((resolve, reject) => {
    child.on('error', reject);
    child.on('close', (code, signal) => {
      child.stdin.destroy();
      resolve(code ?? 128 + constants.signals[signal!]);
    });
  });
  return {
    screen,
    output: () => output,
    type: (text) => child.stdin.write(text),
    expect: async (pattern) => {
      for (let waited = 0; !screen.rows.some((row) => pattern.test(row)); waited += 10) {
        assert.ok(waited < 60_000 && child.exitCode === null, `no row like ${pattern} among:\n${screen.rows.join('\n')}`);
        await delay(10);
      }
    },
    ended,
  };
}
