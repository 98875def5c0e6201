/** Applies an archive to a directory, from the command line, for tests with another engine, user or umask. */
import {readFileSync} from 'node:fs';
import {createApplier, type TreeForm} from '../../../src/lib/archive/apply.ts';
import {openInflater} from '../../../src/lib/archive/inflate.ts';

const [root, archive, form, umask] = process.argv.slice(2) as [string, string, TreeForm, string];
process.umask(Number.parseInt(umask, 8));
const warnings: string[] = [];
const applier = createApplier({root, form, warn: (message) => warnings.push(message)});
const inflater = openInflater((chunk) => applier.write(chunk));
await inflater.write(readFileSync(archive));
await inflater.end();
inflater.close();
console.log(JSON.stringify({result: applier.end(), warnings}));
