/** `ctr __settle ROOT STATE NAMESPACE ID`: conmon calls it once the container of a detached task has ended. */
import type {Context} from './command-context.ts';

export async function settleTask([root, state, namespace, id]: readonly string[], context: Context): Promise<void> {
  const client = await context.open({root: root!, state: state!});
  try {
    await client.namespace(namespace!).tasks.settle(id!);
  } finally {
    await client.close();
  }
}
