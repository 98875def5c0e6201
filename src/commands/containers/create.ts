import {BaseCommand} from '../../cli/base-command.ts';
import {CONTAINER_FLAGS, containerID, MISSING_HINTS, REPLACED_ARGS, withContainerOptions} from '../../cli/container-flags.ts';
import {Args} from '../../cli/define-flags.ts';
import {UNSUPPORTED_FLAGS} from '../../cli/unsupported-flags.ts';
import type {ContainerRecord} from '../../lib/client/types/index.ts';

export default class Create extends BaseCommand {
  static override summary = 'make a container without starting it';
  static override description = 'Everything after IMAGE and ID is the container\'s command. "tasks start" starts it.';
  static override examples = ['containers create redis r1', 'containers create alpine a1 sleep 1h'];
  static override positionals = 2;
  static override replacedArgs = REPLACED_ARGS;
  static override missingHints = MISSING_HINTS;
  static override flagHints = UNSUPPORTED_FLAGS;
  static override args = {
    image: Args.string({required: true, description: 'image'}),
    id: Args.string({required: true, description: 'name of the new container'}),
  };
  static override flags = CONTAINER_FLAGS;

  async run(): Promise<ContainerRecord> {
    const {args, flags} = await this.parse(Create);
    const {containers} = await this.namespace(flags);
    const id = await containerID(args.id, flags.name, this.tail);
    return withContainerOptions(flags, id, this.tail, this.context, (options) =>
      containers.create(args.image ?? '', id, {...options, signal: this.signal}),
    );
  }
}
