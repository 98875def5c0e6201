/** Prints docs/EXIT-STATUS.md, from the table of error classes. A test compares the page with it. */
import {CLASSES, CODES, type Code, ERRNOS, ErrdefsError, fromErrno, fromHTTPStatus, resolve, toJSON} from '../src/lib/errdefs.ts';

const MEANING: Readonly<Record<Code, string>> = {
  unknown: 'a bug, or a failure that nobody classified; `--debug` adds the stack',
  invalid_argument: 'usage, a malformed name or reference, a malformed document of a registry',
  deadline_exceeded: '`--timeout` or a time limit of the other side ran out',
  not_found: 'there is no such thing; for images, also none for the platform',
  already_exists: 'there is one of that name',
  permission_denied: 'the state directory, the kernel or the registry forbids it',
  resource_exhausted: 'the disk or a quota is full, or the registry asks to slow down',
  failed_precondition: 'not in this state: a namespace that is not empty, bytes that are not the promised ones',
  aborted: 'given up because of something that happened at the same time',
  out_of_range: 'beyond the end',
  not_implemented: 'not supported here, by this machine, or by the registry',
  internal: 'broken inside',
  unavailable: 'not now: the registry, a program or a lock cannot be had; trying again may help',
  data_loss: 'what is stored is damaged',
  unauthenticated: 'the registry wants other credentials',
  conflict: 'it contradicts what is there',
  not_modified: 'already current, where a command was asked to say so',
  canceled: 'interrupted; also the status after Ctrl-C, as 128+2',
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
  const names = ERRNOS.filter((errno) => resolve(fromErrno(Object.assign(new Error(errno), {code: errno}), '')) === code);
  return names.length === 0 ? [] : [[`\`${code}\``, names.join(' ')]];
});

/** Statuses of errors with the class of each, neighbours of one class as a range. */
const statuses: [from: number, to: number, code: Code][] = [];
for (let status = 300; status < 600; status++) {
  const code = fromHTTPStatus(status);
  const last = statuses.at(-1);
  if (last?.[2] === code) last[1] = status;
  else statuses.push([status, status, code]);
}

/** As `ctr images inspect redis:7 --json` has it; a test compares the two. */
const example = new ErrdefsError('not_found', 'image "docker.io/library/redis:7" in namespace "default"', {
  hint: 'it exists in namespace "foo": use -n foo',
  details: {image: 'docker.io/library/redis:7', namespace: 'default', elsewhere: ['foo']},
});

process.stdout.write(`<!-- Written by scripts/exit-status.ts; change it there. -->
# Exit status

0 is success. A command that fails ends with the status of its error's class, so that a script can tell failures apart
without reading messages. Where a command works on several things, it tries each of them, and the first failure decides.

${table(['exit', 'class', 'text', 'gRPC', 'HTTP', 'meaning'], classes)}

The text ends the message. gRPC code 9 stands for three classes; the text then says which.

## Signals

A command that signal n ends has status 128+n: 129 for HUP, 130 for INT (Ctrl-C), 143 for TERM; and 141, as for PIPE, when
whoever read its output went away.

## A container's own status

\`run\` ends with the status of the container's process, and with 128+n if signal n ended that. What is not the container's own:

${table(
  ['exit', 'meaning'],
  [
    [125, 'an error in berth itself, before or beside the container; the class is still in the JSON form'],
    [126, 'the command was found, but cannot be executed, or not with so large an environment'],
    [127, 'the command was not found'],
  ],
)}

## JSON

With \`--json\` an error is one line on standard error, and so is every other line there: progress, and with \`--debug\` what registries
answer. \`run\` ends with \`{"result":{"id":…,"exitStatus":…}}\` on standard error, because standard output is the container's. \`code\` is the exit status of its class, \`kind\` the class; \`hint\` and
\`details\` are there where there is something to say. With \`--debug\` there is also \`stack\`, a text for people.

\`\`\`json
${JSON.stringify({error: toJSON(example)})}
\`\`\`

## Where classes come from

Errors of the system and of a registry get their class once, where they come in, never by words of a message.

${table(['class', 'errno'], errnos)}

${table(
  ['HTTP status', 'class'],
  statuses.map(([from, to, code]) => [from === to ? from : `${from}–${to}`, `\`${code}\``]),
)}

Below 500 an error code in the registry's answer (\`MANIFEST_UNKNOWN\`, \`DENIED\`, …) decides before the status does. A 304 is
\`failed_precondition\` where nothing was asked about a change, and a token server's 4xx is \`unauthenticated\`, but for 403 and 408.
`);
