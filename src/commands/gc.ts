import {BaseCommand} from '../cli/base-command.ts';
import type {GcResult} from '../lib/client/types/index.ts';

export default class Collect extends BaseCommand {
  static override summary = 'remove unreferenced data, in all namespaces';
  static override description =
    'Commands that remove something collect garbage themselves. gc also removes what killed commands left, recounts references, and syncs new layers to the disk, so that they need not be unpacked again after a reboot.';

  async run(): Promise<GcResult> {
    const {flags} = await this.parse(Collect);
    const client = await this.client(flags);
    const result = await client.gc();
    this.list(Object.entries(result), ([kind, count]) => `${kind}: ${count}`);
    return result;
  }
}
