import {BaseCommand} from '../cli/base-command.ts';
import {type BuildInfo, buildInfo} from '../cli/build-info.ts';
import type {Info as LibraryInfo} from '../lib/client/types/index.ts';

export default class Info extends BaseCommand {
  static override summary = 'show directories, snapshotters, the runtime, and what each namespace has, as JSON';
  static override description = 'See "doctor" for whether this machine meets the requirements, and "df" for disk usage.';

  async run(): Promise<LibraryInfo & Pick<BuildInfo, 'version'>> {
    const {flags} = await this.parse(Info);
    const client = await this.client(flags);
    const info = {version: (await buildInfo()).version, ...(await client.info())};
    this.printJSON(info);
    return info;
  }
}
