/** Applies a layer to an empty directory as a worker of ours does: `apply-layer-program.ts TAR DIRECTORY`. */
import {closeSync, openSync, readSync} from 'node:fs';
import {createApplier} from '../src/lib/archive/apply.ts';

const [archive, root] = process.argv.slice(2) as [string, string];
const applier = createApplier({root, form: 'overlay', warn: (message) => process.stderr.write(`${message}\n`)});
const buffer = Buffer.allocUnsafe(256 << 10);
const fd = openSync(archive, 'r');
for (let n = readSync(fd, buffer); n > 0; n = readSync(fd, buffer)) applier.write(buffer.subarray(0, n));
closeSync(fd);
applier.end();
