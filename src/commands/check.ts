import {BaseCommand} from '../cli/base-command.ts';
import {Flags} from '../cli/define-flags.ts';
import {openProgress} from '../cli/progress.ts';
import {registryOptions} from '../cli/registry-options.ts';
import {allowForeign, REGISTRY_FLAGS} from '../cli/shared-flags.ts';
import type {CheckResult, Finding} from '../lib/client/types/index.ts';
import {ErrdefsError} from '../lib/errdefs.ts';

export default class Check extends BaseCommand {
  static override summary = 'find damage in the store, and repair it';
  static override description =
    `Checks all namespaces. A finding is damage (data in use is missing or wrong), suspect (data may be wrong, and is recreated when it is needed) or garbage (data is unreferenced, and gc removes it). --repair fetches damaged and suspect data again, or rebuilds it from local data. It moves records that cannot be read or restored to the directory "damaged" of the store. It deletes no user data. The exit status is 15 while damage remains.`;
  static override examples = ['check', 'check --deep', 'check --deep --repair --user me:secret'];
  static override flags = {
    deep: Flags.boolean({description: 'read every byte: verify digests, and compare layers with the blobs they were unpacked from'}),
    repair: Flags.boolean({description: 'repair what is found; change nothing else'}),
    'allow-foreign': allowForeign(),
    ...REGISTRY_FLAGS,
  };

  async run(): Promise<CheckResult> {
    const {flags} = await this.parse(Check);
    const client = await this.client(flags);
    const progress = await openProgress(flags, this.context);
    let result: CheckResult;
    try {
      const registry = await registryOptions(flags, 'the registries of damaged images', this.context);
      result = await client.check({
        ...registry,
        deep: flags.deep,
        repair: flags.repair,
        allowForeign: flags['allow-foreign'],
        onEvent: (event) => progress.update(event),
        signal: this.signal,
      });
    } finally {
      progress.close();
    }
    const {findings, checked, damage} = result;
    this.list(findings, (finding) => this.typedHere(formatFinding(finding)));
    const {namespaces, records, blobs, layers, uncompared} = checked;
    const counts = [counted(namespaces, 'namespace'), counted(records, 'record'), counted(blobs, 'blob'), counted(layers, 'layer')];
    this.print(`${counts.join(', ')}: ${tally(findings)}`);
    if (uncompared > 0) this.print(`${counted(uncompared, 'layer')} could not be compared: no image in the store contains them`);
    if (damage > 0)
      await this.fail(
        new ErrdefsError('data_loss', `damage remains: ${damage} of ${findings.length} findings`, {
          hint: flags.repair ? 'the lines above say why' : 'repair it: berth check --repair',
        }),
      );
    return result;
  }
}

const counted = (count: number, one: string): string => `${count} ${one}${count === 1 ? '' : 's'}`;

function formatFinding({severity, object, namespace, problem, path, action, repaired}: Finding): string {
  const whose = namespace === undefined ? '' : `namespace ${JSON.stringify(namespace)} `;
  return `${repaired ? 'repaired ' : ''}${severity}: ${whose}${object}: ${problem} (${path})${action === undefined ? '' : `: ${action}`}`;
}

function tally(findings: readonly Finding[]): string {
  if (findings.length === 0) return 'nothing wrong';
  const count = (severity: Finding['severity']): number => findings.filter((finding) => finding.severity === severity).length;
  const repaired = findings.filter((finding) => finding.repaired).length;
  return `${count('damage')} damage, ${count('suspect')} suspect, ${count('garbage')} garbage${repaired === 0 ? '' : `, ${repaired} repaired`}`;
}
