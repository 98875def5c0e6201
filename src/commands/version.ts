import {BaseCommand} from '../cli/base-command.ts';
import {type BuildInfo, buildInfo} from '../cli/build-info.ts';

export default class Version extends BaseCommand {
  static override summary = 'print version information';

  async run(): Promise<BuildInfo> {
    await this.parse(Version);
    const info = await buildInfo();
    const {name, version, revision, engine, platform} = info;
    this.print('Client:');
    this.list(
      Object.entries({
        Name: name,
        Version: version,
        Revision: revision ?? '-',
        Engine: `${engine.name} ${engine.version}`,
        Platform: platform,
      }),
      ([key, value]) => `  ${`${key}:`.padEnd(9)} ${value}`,
    );
    return info;
  }
}
