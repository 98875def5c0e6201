/** Prints docs/EXIT-STATUS.md from the table of error classes. A test compares the page with its output. */
import {CLASSES, CODES, type Code, codeOf, ERRNOS, ErrdefsError, fromErrno, fromHTTPStatus, toJSON} from '../src/lib/errdefs.ts';

const MEANING: Readonly<Record<Code, string>> = {
  unknown: 'a bug, or an unclassified failure; `--debug` adds the stack',
  invalid_argument: 'wrong usage, a malformed name or reference, or a malformed document from a registry',
  deadline_exceeded: '`--timeout` or a time limit of the registry expired',
  not_found: 'the object does not exist, or the image does not exist for the platform',
  already_exists: 'an object of that name exists',
  permission_denied: 'the state directory, the kernel or the registry denies access',
  resource_exhausted: 'the disk or a quota is full, or the registry limits the rate of requests',
  failed_precondition: 'the state does not allow it, such as a namespace that is not empty, or content that does not match its digest',
  aborted: 'a concurrent change interfered; run it again',
  out_of_range: 'an offset is beyond the end',
  not_implemented: 'not supported by berth, this machine or the registry',
  internal: 'a program that berth uses, or a part of berth, does not work',
  unavailable: 'the registry, a program or a lock is not available; trying again may help',
  data_loss: 'stored data is damaged',
  unauthenticated: 'the registry requires other credentials',
  conflict: 'it contradicts existing data',
  not_modified: 'already current, and the command was asked to report that',
  canceled: 'interrupted, as by Ctrl-C (128+2)',
};

const row = (cells: readonly (string | number)[]): string => `| ${cells.join(' | ')} |`;

function table(head: readonly string[], rows: readonly (readonly (string | number)[])[]): string {
  return [row(head), row(head.map(() => '---')), ...rows.map(row)].join('\n');
}

const byExit = [...CODES].sort((a, b) => CLASSES[a].exit - CLASSES[b].exit);
const classes = byExit.map((code) => {
  const {exit, text, grpc, http} = CLASSES[code];
  return [exit, `\`${code}\``, text, grpc, http, MEANING[code]];
});

const errnos = byExit.flatMap((code) => {
  const names = ERRNOS.filter((errno) => codeOf(fromErrno(Object.assign(new Error(errno), {code: errno}), '')) === code);
  return names.length === 0 ? [] : [[`\`${code}\``, names.join(' ')]];
});

/** Ranges of HTTP statuses with their class. */
const statuses: [from: number, to: number, code: Code][] = [];
for (let status = 300; status < 600; status++) {
  const code = fromHTTPStatus(status);
  const last = statuses.at(-1);
  if (last?.[2] === code) last[1] = status;
  else statuses.push([status, status, code]);
}

/** The error of `ctr images inspect redis:7 --json`; a test compares the two. */
const example = new ErrdefsError('not_found', 'image "docker.io/library/redis:7" in namespace "default"', {
  hint: 'it exists in namespace "foo": use -n foo',
  details: {image: 'docker.io/library/redis:7', namespace: 'default', elsewhere: ['foo']},
});

process.stdout.write(`<!-- Written by scripts/exit-status-page.ts; change it there. -->
# Exit status

0 is success. A command that fails ends with the status of its error's class, so that a script can distinguish failures
without reading messages. A command with several arguments tries each of them; the first failure decides.

${table(['exit', 'class', 'text', 'gRPC', 'HTTP', 'meaning'], classes)}

A message ends with the text of its class. gRPC code 9 stands for three classes; the text distinguishes them.

## Signals

A command that signal n ends has status 128+n: 129 for HUP, 130 for INT (Ctrl-C), 143 for TERM; and 141, as for PIPE, if
the reader of its output has closed the pipe.

## A container's own status

\`run\` ends with the status of the container's process, or with 128+n if signal n ended that. Three statuses are berth's:

${table(
  ['exit', 'meaning'],
  [
    [125, 'an error in berth itself, before or beside the container; the class is still in the JSON form'],
    [126, 'the command was found but cannot be executed, or its arguments and environment are too large'],
    [127, 'the command was not found'],
  ],
)}

159, as for SYS, is what becomes of a 32-bit program in a 64-bit image: the filter of system calls knows the architecture of the image
only ([LIMITS.md](LIMITS.md)). A warning says so.

## JSON

With \`--json\` every line on standard error is a JSON object: errors, progress, and with \`--debug\` the answers of registries.
\`run\` ends with \`{"result":{"id":…,"exitStatus":…}}\` on standard error, because standard output is the container's. \`kind\` is the class and
\`code\` its exit status; \`hint\` and \`details\` are optional. With \`--debug\` there is also \`stack\`, a text for people.

\`\`\`json
${JSON.stringify({error: toJSON(example)})}
\`\`\`

## Where classes come from

Errors of the system and of registries get their class where they enter berth, never from the words of a message.

${table(['class', 'errno'], errnos)}

${table(
  ['HTTP status', 'class'],
  statuses.map(([from, to, code]) => [from === to ? from : `${from}–${to}`, `\`${code}\``]),
)}

Below 500 the registry's error code (\`MANIFEST_UNKNOWN\`, \`DENIED\`, …) has precedence over the status. A 304 is
\`failed_precondition\` unless the request was conditional, and a token server's 4xx is \`unauthenticated\`, except 403 and 408.
`);
