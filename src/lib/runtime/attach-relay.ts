/**
 * Connects to the socket on which conmon gives a task's streams. It carries packets (SEQPACKET), which neither engine opens, so a relay of a few
 * lines of Perl stands between: Debian's perl-base, which is essential there.
 *
 * From the relay come frames: two bytes of length, and a packet of conmon, whose first byte names the stream. An empty frame says that it is
 * connected. To the relay goes what the container reads. The end of that ends the relay, so it never outlives the process that started it; and
 * however it ends, it gives a terminal back as it was.
 */
import {Buffer} from 'node:buffer';
import {closeSync, constants, openSync} from 'node:fs';
import {Readable, Writable} from 'node:stream';
import {ErrdefsError} from '../errdefs.ts';
import {findProgram} from '../fs/spawn.ts';
import type {ProcessExit} from '../fs/spawn-with-channel.ts';
import {type PipedProgram, startPiped} from '../fs/start-in-own-session.ts';

/** Name of the socket in the bundle. */
const SOCKET = 'attach';
/** conmon's first byte of a packet. */
const STDOUT = 2;
const HEADER = 2;

// A packet without bytes would be the end of input to conmon, and one of more than 8 KiB can be cut. A reset is told before the packets that
// came earlier are read. Only while conmon takes nothing is the caller's end not seen as the end of its stream; then the parent is asked for.
const RELAY = `
use strict; use Socket; use Fcntl;
$SIG{PIPE} = 'IGNORE';
my ($socket, $saved) = @ARGV;
my $parent = getppid();
my $conmon;
socket($conmon, AF_UNIX, SOCK_SEQPACKET, 0) && connect($conmon, sockaddr_un($socket)) or do { print STDERR $!; exit 1 };
sub terminal { my $child = fork; if (!$child) { open(STDIN, '<&', 3); exec 'stty', @_; exit 1 } waitpid $child, 0 }
terminal('raw', '-echo') if defined $saved;
fcntl($_, F_SETFL, O_NONBLOCK | fcntl($_, F_GETFL, 0)) for $conmon, *STDOUT;
my ($in, $out, $open, $left) = ('', pack('n', 0), 1, 0);
sub give {
  while (length $in) {
    my $sent = send($conmon, substr($in, 0, 8192), 0);
    if (!defined $sent) { $in = '' unless $!{EAGAIN} || $!{EINTR} || $!{ENOBUFS}; return }
    substr($in, 0, $sent) = '';
  }
}
while (!$left && ($open || length $out)) {
  my ($r, $w) = ('', '');
  my $full = length $in >= 65536;
  vec($r, fileno STDIN, 1) = 1 unless $full;
  vec($r, fileno $conmon, 1) = 1 if $open && length $out < 65536;
  vec($w, fileno $conmon, 1) = 1 if $open && length $in;
  vec($w, fileno STDOUT, 1) = 1 if length $out;
  select($r, $w, undef, $full ? 0.2 : undef) >= 0 or next;
  $left = 1 if getppid() != $parent;
  if (vec($r, fileno STDIN, 1)) {
    my $got = sysread(STDIN, $in, 65536, length $in);
    $left = 1 if defined $got ? $got == 0 : !($!{EAGAIN} || $!{EINTR});
  }
  give() if $open;
  if (vec($r, fileno $conmon, 1)) {
    my $from = recv($conmon, my $packet, 65535, 0);
    if (defined $from && length $packet) { $out .= pack('n', length $packet) . $packet }
    elsif (defined $from || !($!{EAGAIN} || $!{EINTR} || $!{ECONNRESET})) { $open = 0 }
  }
  if (vec($w, fileno STDOUT, 1)) {
    my $put = syswrite(STDOUT, $out);
    if (defined $put) { substr($out, 0, $put) = '' } elsif (!($!{EAGAIN} || $!{EINTR})) { $left = 1 }
  }
}
terminal($saved) if defined $saved;
exit 0;
`;

export interface TaskStreams {
  /** Its end is not passed on: what the container reads stays open for the next that attaches. */
  readonly stdin: Writable;
  /** Both end with the connection. They share it: one that is not read holds the other back, and in the end the container. */
  readonly stdout: Readable;
  readonly stderr: Readable;
  /** Ends the connection; what was written before is passed on. */
  leave(): void;
  /** Resolves once the connection has ended, and the terminal is as it was. */
  readonly ended: Promise<ProcessExit>;
}

/** Takes frames apart. @returns what is left of an unfinished one */
function* framesIn(bytes: Buffer): Generator<Buffer, Buffer> {
  let at = 0;
  while (bytes.length - at >= HEADER) {
    const end = at + HEADER + bytes.readUInt16BE(at);
    if (end > bytes.length) break;
    yield bytes.subarray(at + HEADER, end);
    at = end;
  }
  return bytes.subarray(at);
}

/** The terminal on standard input, opened anew: Bun passes on every descriptor but 0 as one beyond the standard streams. */
function openTerminal(): number | undefined {
  try {
    return openSync('/proc/self/fd/0', constants.O_RDONLY | constants.O_NOCTTY);
  } catch {
    return undefined; // another user's, after su: then only a SIGKILL of this process leaves it raw
  }
}

async function startRelay(bundle: string, settings: string | undefined): Promise<PipedProgram> {
  const perl = findProgram('perl');
  if (perl === undefined)
    throw new ErrdefsError('failed_precondition', 'perl is not installed: the socket of conmon is reached through it', {
      hint: 'install perl-base; without it, read the output with "berth tasks logs --follow ID", and start a shell with "berth tasks exec -t ID sh"',
      details: {program: 'perl', package: 'perl-base'},
    });
  const terminal = settings === undefined ? undefined : openTerminal();
  try {
    return terminal === undefined
      ? await startPiped([perl, '-e', RELAY, SOCKET], bundle)
      : await startPiped([perl, '-e', RELAY, SOCKET, settings!], bundle, [terminal]);
  } finally {
    if (terminal !== undefined) closeSync(terminal);
  }
}

/**
 * Connects to a task.
 *
 * @param bundle of the task
 * @param settings of the terminal on standard input, as stty -g tells them: it is raw while connected, and afterwards as they say
 * @throws unavailable nobody listens: conmon has ended, or was killed
 * @throws failed_precondition there is no perl
 */
export async function connectStreams(bundle: string, settings?: string): Promise<TaskStreams> {
  const relay = await startRelay(bundle, settings);
  const full = new Set<Readable>();
  const output = (): Readable => {
    const stream: Readable = new Readable({
      read: () => {
        full.delete(stream);
        if (full.size === 0) relay.stdout.resume();
      },
    });
    return stream;
  };
  const [stdout, stderr] = [output(), output()];
  relay.stdin.on('error', () => undefined); // it has ended, which `ended` tells
  const stdin = new Writable({write: (chunk: Uint8Array, _encoding, done) => void relay.stdin.write(chunk, () => done())});
  let rest: Buffer = Buffer.alloc(0);
  let errors = '';
  relay.stderr.setEncoding('utf8').on('data', (text: string) => {
    errors += text;
  });
  const connected = new Promise<boolean>((done) => {
    relay.stdout.on('data', (chunk: Buffer) => {
      const frames = framesIn(rest.length === 0 ? chunk : Buffer.concat([rest, chunk]));
      let next = frames.next();
      for (; next.done !== true; next = frames.next()) {
        if (next.value.length === 0) done(true);
        const stream = next.value[0] === STDOUT ? stdout : stderr;
        if (next.value.length > 1 && !stream.push(Buffer.from(next.value.subarray(1)))) full.add(stream);
      }
      rest = Buffer.from(next.value);
      if (full.size > 0) relay.stdout.pause();
    });
    relay.stdout.once('end', () => {
      stdout.push(null);
      stderr.push(null);
      done(false);
    });
  });
  if (await connected) return {stdin, stdout, stderr, leave: () => void relay.stdin.end(), ended: relay.ended};
  await relay.ended;
  throw new ErrdefsError('unavailable', 'its streams are gone', {
    cause: new Error(errors || 'the relay was killed'),
    hint: 'conmon, which had them, was killed: stop the task, and start it again',
  });
}
