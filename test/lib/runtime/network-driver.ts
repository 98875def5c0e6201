/**
 * Attaches or detaches a run, for tests that kill it: `node network-driver.ts attach|detach RUN [REQUEST]`. After `attach` it prints the
 * attachment, a line of JSON, and keeps the namespace until its standard input ends.
 */
import {type AttachmentRequest, attach, detach} from '../../../src/lib/runtime/network/attachment.ts';

const [command, run = '', request = '{}'] = process.argv.slice(2);
if (command === 'detach') await detach(run);
else {
  const {namespace, attachment} = await attach(run, async (write) => write(JSON.parse(request) as AttachmentRequest));
  process.stdout.write(`${JSON.stringify({...attachment, namespace: namespace.path})}\n`);
  for await (const _ of process.stdin);
  namespace.close();
}
