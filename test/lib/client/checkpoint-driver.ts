/** A process that makes or restores a checkpoint, for checkpoints.test.ts to kill. */
import {openClient} from '../../../src/lib/client/index.ts';

export interface CheckpointRequest {
  readonly root: string;
  readonly state: string;
  readonly program: readonly string[];
  readonly namespace: string;
  readonly id: string;
  readonly verb: 'checkpoint' | 'restore';
}

const {root, state, program, namespace, id, verb} = JSON.parse(process.argv[2]!) as CheckpointRequest;
const client = openClient({root, state, program});
await client.namespace(namespace).containers[verb](id);
await client.close();
