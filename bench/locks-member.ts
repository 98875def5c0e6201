/** One of the crowd of ./locks.ts: `locks-member.ts ROOT NAME CHANGES`. Says when it is ready, is told to go, prints the milliseconds that each change waited. */
import {writeSync} from 'node:fs';
import {Store} from '../src/lib/store/store.ts';

const [root, name, changes] = process.argv.slice(2) as [string, string, string];
const store = new Store({root, lockTimeoutMs: 60_000});
// What a process loads at its first change is no part of waiting.
await import('proper-lockfile');

writeSync(1, 'ready\n');
await new Promise((go) => process.stdin.once('data', go));
process.stdin.destroy();

for (let change = 1; change <= Number(changes); change++) {
  const begun = performance.now();
  let waited = 0;
  await store.update(`change ${change} of ${name}`, (tx) => {
    waited = performance.now() - begun;
    const namespace = tx.namespaces.find(name);
    const now = new Date().toISOString();
    tx.namespaces.put({name, labels: {change: String(change)}, createdAt: namespace?.createdAt ?? now, updatedAt: now});
  });
  writeSync(1, `${waited.toFixed(3)}\n`);
}
