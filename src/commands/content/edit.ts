import {BaseCommand} from '../../cli/base-command.ts';
import {Args, Flags} from '../../cli/define-flags.ts';
import type {ContentRecord} from '../../lib/client/types/index.ts';

export default class Edit extends BaseCommand {
  static override summary = 'edit a document, and store the result under its own digest';
  static override description =
    'The document itself stays. What is stored is kept until "content rm". If it cannot be stored, the edited file stays, and the error names it.';
  static override examples = ['content edit --editor "vi -n" sha256:00000000…'];
  static override args = {digest: Args.string({required: true, description: 'digest of the document'})};
  static override flags = {editor: Flags.string({env: 'EDITOR', helpValue: 'COMMAND', description: 'editor, with its arguments'})};

  async run(): Promise<ContentRecord> {
    const {args, flags} = await this.parse(Edit);
    if (flags.editor === undefined) throw this.usage('no editor: name one with --editor or EDITOR');
    const {content} = await this.namespace(flags);
    const made = await content.edit(args.digest, flags.editor);
    this.print(made.digest);
    return made;
  }
}
