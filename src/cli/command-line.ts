/** From the words of a command line to an exit status. */
import {exitStatus} from '../lib/errdefs.ts';
import type {Commands, Exit} from './base.ts';
import {BROKEN_PIPE_STATUS, BrokenPipe, type Context} from './context.ts';
import {dispatch} from './dispatch.ts';
import {report} from './report.ts';

export async function runCommandLine(argv: readonly string[], commands: Commands, context: Context): Promise<Exit> {
  try {
    const found = dispatch(argv, commands, context.program);
    if (found.kind === 'command') {
      // The user of a container is no secret.
      if (found.id !== 'run' && found.argv.some((word) => /^--?(?:user|refresh|\w*u)/.test(word)))
        (await import('./conceal.ts')).concealSecrets();
      const {default: Command} = await commands.commands[found.id]!();
      return await new Command({id: found.id, argv: found.argv, commands, context}).execute();
    }
    const {showHelp, showVersion} = await import('./help.ts');
    await (found.kind === 'version' ? showVersion(context) : showHelp(found.id, commands, context));
    return {status: 0};
  } catch (err) {
    if (err instanceof BrokenPipe) return {status: BROKEN_PIPE_STATUS};
    await report(err, context, {json: argv.includes('--json'), debug: argv.includes('--debug')});
    return {status: exitStatus(err)};
  }
}
