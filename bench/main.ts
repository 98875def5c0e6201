/** Times berth and its peers on this machine: `npm run bench -- --help`. */
import {existsSync} from 'node:fs';
import {parseArgs} from 'node:util';
import {BENCHES, type BenchName, isBench} from './benches.ts';
import {readFindings, writePage} from './benchmarks-page.ts';
import {Interrupted, interrupt} from './measure.ts';
import {environment} from './peers.ts';
import {IMAGE_NAMES} from './pull.ts';
import {formatReport} from './report.ts';
import {EXECUTABLE, Site, type SiteOptions} from './workplace.ts';

async function measure(names: readonly BenchName[], options: SiteOptions, write: boolean): Promise<void> {
  const lines = environment();
  process.stdout.write(`${lines.map((line) => `- ${line}`).join('\n')}\n\n`);
  for (const name of names) {
    process.stderr.write(`bench: ${name}\n`);
    // Each on a site of its own: what one leaves in memory and on disk is not in the next one's way.
    const site = new Site(options);
    try {
      const report = await BENCHES[name].run(site);
      process.stdout.write(`## ${BENCHES[name].title}\n\n${formatReport(report)}\n`);
      if (write) writePage({...readFindings(), [name]: {...report, date: new Date().toISOString().slice(0, 10), environment: lines}});
    } finally {
      await site.close();
    }
  }
}

// What runs has process groups of its own, and what is mounted has to be unmounted.
for (const signal of ['SIGINT', 'SIGTERM'] as const) process.on(signal, interrupt);

const OPTIONS = {
  rounds: {type: 'string'},
  image: {type: 'string', multiple: true},
  write: {type: 'boolean', default: false},
  tiny: {type: 'boolean', default: false},
  help: {type: 'boolean', short: 'h', default: false},
} as const;

const USAGE = `usage: npm run bench [-- NAME… [OPTION…]]

Times berth beside its peers on this machine, as root, and prints Markdown. Without a name it runs all benches but those on demand.

benches:
${Object.entries(BENCHES)
  .map(([name, {title, onDemand}]) => `  ${name.padEnd(14)}${title}${onDemand === true ? '; on demand' : ''}`)
  .join('\n')}
  ${'render'.padEnd(14)}Write docs/BENCHMARKS.md anew from the results that are there

options:
  --rounds N    Rounds of every comparison
  --image NAME  Of pull, this image alone: ${IMAGE_NAMES.join(', ')}; may be given several times
  --write       Put the results into docs/BENCHMARKS.md; benches that did not run keep theirs
  --tiny        Try the benches themselves, on small inputs
  -h, --help    Print this
`;

/** What the caller got wrong: a line, without a stack. */
class UsageError extends Error {}

function parse(): ReturnType<typeof parseArgs<{allowPositionals: true; options: typeof OPTIONS}>> {
  try {
    return parseArgs({allowPositionals: true, options: OPTIONS});
  } catch (err) {
    throw new UsageError((err as Error).message);
  }
}

async function main(): Promise<void> {
  const {values, positionals} = parse();
  if (values.help) {
    process.stdout.write(USAGE);
    return;
  }
  const rounds = values.rounds === undefined ? undefined : Number(values.rounds);
  if (rounds !== undefined && !(Number.isInteger(rounds) && rounds > 0)) throw new UsageError('--rounds takes a number from 1 on');
  if (values.write && (values.tiny || values.image !== undefined))
    throw new UsageError('--write takes whole benches: no --tiny, no --image');
  const strange = values.image?.filter((name) => !IMAGE_NAMES.includes(name)) ?? [];
  if (strange.length > 0) throw new UsageError(`no image is called ${strange.join(', ')}; there are ${IMAGE_NAMES.join(', ')}`);
  if (positionals.join() === 'render') {
    writePage(readFindings());
    return;
  }
  const unknown = positionals.filter((name) => !isBench(name));
  if (unknown.length > 0) throw new UsageError(`no bench is called ${unknown.join(', ')}; there are ${Object.keys(BENCHES).join(', ')}`);
  if (!existsSync(EXECUTABLE)) throw new UsageError('there is no executable to measure: npm run build');
  const asked = positionals.filter(isBench);
  const usual = Object.keys(BENCHES)
    .filter(isBench)
    .filter((name) => !BENCHES[name].onDemand);
  const options = {rounds, tiny: values.tiny, ...(values.image === undefined ? {} : {images: values.image})};
  await measure(asked.length === 0 ? usual : asked, options, values.write);
}

try {
  await main();
} catch (err) {
  if (!(err instanceof UsageError || err instanceof Interrupted)) throw err;
  process.stderr.write(`bench: ${err.message}\n`);
  process.exitCode = err instanceof UsageError ? 2 : 130;
}
