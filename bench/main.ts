/**
 * Times berth and its peers on this machine, as root:
 *
 *     npm run bench [-- NAME… [--rounds N] [--write] [--tiny]]
 *
 * By default all but those that are asked for by name only. Prints Markdown. `--write` also puts the results into
 * docs/BENCHMARKS.md and docs/benchmarks/, where benches that did not run keep theirs; with `render` as the only name it writes
 * these anew from what is there. `--tiny` tries the benches themselves, on small inputs.
 */
import {existsSync} from 'node:fs';
import {parseArgs} from 'node:util';
import {BENCHES, type BenchName, isBench} from './benches.ts';
import {interrupt} from './measure.ts';
import {readFindings, writePage} from './page.ts';
import {environment} from './peers.ts';
import {formatReport} from './report.ts';
import {EXECUTABLE, Site, type SiteOptions} from './site.ts';

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

const {values, positionals} = parseArgs({
  allowPositionals: true,
  options: {rounds: {type: 'string'}, write: {type: 'boolean', default: false}, tiny: {type: 'boolean', default: false}},
});
const rounds = values.rounds === undefined ? undefined : Number(values.rounds);
if (rounds !== undefined && !(Number.isInteger(rounds) && rounds > 0)) throw new Error('--rounds takes a number from 1 on');
if (values.tiny && values.write) throw new Error('--tiny measures nothing that is worth writing down');
if (positionals.join() === 'render') {
  writePage(readFindings());
} else {
  const unknown = positionals.filter((name) => !isBench(name));
  if (unknown.length > 0) throw new Error(`no bench is called ${unknown.join(', ')}; there are ${Object.keys(BENCHES).join(', ')}`);
  if (!existsSync(EXECUTABLE)) throw new Error('there is no executable to measure: npm run build');
  const asked = positionals.filter(isBench);
  const usual = Object.keys(BENCHES)
    .filter(isBench)
    .filter((name) => !BENCHES[name].onDemand);
  await measure(asked.length === 0 ? usual : asked, {rounds, tiny: values.tiny}, values.write);
}
