import {BaseCommand} from '../cli/base-command.ts';
import {Args} from '../cli/define-flags.ts';

export default class Completion extends BaseCommand {
  static override summary = 'print a script that completes command lines in a shell';
  static override description = `bash:  source <(<%= config.bin %> completion bash)
zsh:   source <(<%= config.bin %> completion zsh), after compinit
fish:  <%= config.bin %> completion fish | source`;
  static override examples = ['completion bash > /etc/bash_completion.d/<%= config.bin %>'];
  static override args = {
    shell: Args.string({required: true, options: ['bash', 'zsh', 'fish'], description: 'shell to print the script for'}),
  };

  async run(): Promise<{readonly shell: string; readonly script: string}> {
    const {args} = await this.parse(Completion);
    const {completionScript} = await import('../cli/completion-scripts.ts');
    const script = completionScript(args.shell, this.context.program);
    this.list(script.trimEnd().split('\n'), (line) => line);
    return {shell: args.shell, script};
  }
}
