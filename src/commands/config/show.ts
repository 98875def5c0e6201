import {BaseCommand} from '../../cli/base-command.ts';
import {configFiles, SETTINGS} from '../../cli/config-file.ts';
import {CONNECTION_FLAGS, GLOBAL_FLAGS, snapshotter} from '../../cli/shared-flags.ts';

/** Value of a flag, and where it comes from. */
interface Shown {
  readonly name: string;
  /** As text; empty if nothing is set and the command decides. */
  readonly value: string;
  readonly from: 'flag' | 'variable' | 'file' | 'default';
  /** The flag, the variable or the file. */
  readonly source?: string;
}

const OWN = {snapshotter: snapshotter(), 'hosts-dir': CONNECTION_FLAGS['hosts-dir'], 'stall-timeout': CONNECTION_FLAGS['stall-timeout']};

export default class ConfigShow extends BaseCommand {
  static override summary = 'show the defaults of flags, and where each comes from';
  static override description =
    `config.toml gives flags other defaults: a key is a flag's name, a value its text, such as namespace = "ci". /etc/berth/config.toml
is read, and for other users than root also the file in XDG_CONFIG_HOME/berth, which has the last word; BERTH_CONFIG names another file
instead of both. Flags and environment variables override them.`;
  static override examples = ['config show', 'config show --json'];
  static override flags = OWN;

  async run(): Promise<{readonly files: readonly string[]; readonly settings: readonly Shown[]}> {
    const {flags} = await this.parse(ConfigShow);
    const definitions = {...GLOBAL_FLAGS, ...OWN};
    const {root, state} = await this.client(flags);
    const settings = SETTINGS.map((name): Shown => {
      const {kind, name: source, texts} = this.origin(name, definitions);
      const value = name === 'root' ? root : name === 'state' ? state : (texts?.at(-1) ?? '');
      return {name, value: value || defaultOf(definitions[name]), from: kind, ...(kind === 'default' ? {} : {source})};
    });
    this.table(['NAME', 'VALUE', 'FROM'], settings, ({name, value, from, source}) => [name, value === '' ? '-' : value, source ?? from]);
    return {files: configFiles(), settings};
  }
}

function defaultOf(definition: unknown): string {
  const {default: value} = definition as {readonly default?: unknown};
  return typeof value === 'number' ? `${value / 1000}s` : typeof value === 'string' ? value : '';
}
