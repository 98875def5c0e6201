/** Runs commands in the test's process, on a fake client. */

import type {Context} from '../../src/cli/command-context.ts';
import type {Exit} from '../../src/cli/command-types.ts';
import {runCommandLine} from '../../src/cli/run-command-line.ts';
import {COMMANDS} from '../../src/commands/index.ts';
import type {Client, NamespaceClient, OpenOptions} from '../../src/lib/client/types/index.ts';

type DeepPartial<T> = T extends (...args: never[]) => unknown ? T : {[K in keyof T]?: DeepPartial<T[K]>};

export interface FakeWorld {
  /** Methods of the client. A command that calls one that is not given fails. */
  readonly client?: DeepPartial<Omit<Client, 'namespace'>>;
  readonly namespace?: DeepPartial<NamespaceClient>;
  readonly stdout?: Context['stdout'];
}

export interface Outcome extends Exit {
  readonly stdout: string;
  readonly stderr: string;
  readonly opened: readonly OpenOptions[];
  /** Namespaces that the command opened. */
  readonly namespaces: readonly string[];
  readonly closed: number;
}

// The environment of the person who runs the tests must not change them.
for (const name of ['BERTH_HOSTS_DIR', 'BERTH_ROOT', 'BERTH_STATE', 'CONTAINERD_NAMESPACE', 'CONTAINERD_SNAPSHOTTER', 'SOURCE_DATE_EPOCH'])
  delete process.env[name];

export async function runOnFakes(line: string | readonly string[], world: FakeWorld = {}): Promise<Outcome> {
  let stdout = '';
  let stderr = '';
  let closed = 0;
  const opened: OpenOptions[] = [];
  const namespaces: string[] = [];
  const context: Context = {
    program: 'ctr',
    stdout:
      world.stdout ??
      ((data) => {
        stdout += Buffer.from(data as string).toString();
      }),
    stderr: (text) => {
      stderr += text;
    },
    open: async (options) => {
      const {onWarning: _, ...given} = options;
      opened.push(given);
      return {
        ...world.client,
        namespace: (name: string) => {
          namespaces.push(name);
          return world.namespace;
        },
        close: async () => {
          closed++;
        },
      } as Client;
    },
  };
  const exit = await runCommandLine(typeof line === 'string' ? line.split(' ') : line, COMMANDS, context);
  return {...exit, stdout, stderr, opened, namespaces, closed};
}
