import {BaseCommand} from '../../cli/base-command.ts';
import {Args} from '../../cli/define-flags.ts';
import {registryOptions} from '../../cli/registry-options.ts';
import {REGISTRY_FLAGS} from '../../cli/shared-flags.ts';
import type {ExplainedHost, RegistryExplanation} from '../../lib/client/types/index.ts';

export default class ConfigExplain extends BaseCommand {
  static override summary = 'show which hosts a reference leads to, and with what';
  static override description =
    'For each host in the order of use: the file that configures it, CAs, client certificate, proxy, and where its credentials come from. Nothing is asked, and no secret is shown.';
  static override examples = ['config explain redis', 'config explain --json registry.example/team/app'];
  static override args = {target: Args.string({required: true, description: 'reference, or registry'})};
  static override flags = REGISTRY_FLAGS;

  async run(): Promise<RegistryExplanation> {
    const {args, flags} = await this.parse(ConfigExplain);
    const {registry} = await this.client(flags);
    const options = await registryOptions(flags, args.target, this.context);
    const explained = await registry.explain(args.target, {...options, signal: this.signal});
    const {order, hosts, hostsDirs, credentialFiles} = explained;
    const all = (words: readonly string[]): string => (words.length === 0 ? 'none' : words.join(', '));
    this.list(
      [
        `registry     ${explained.registry}${explained.repository === undefined ? '' : `, repository ${explained.repository}`}`,
        `tags from    ${all(order.tags)}`,
        `content from ${all(order.content)}`,
        `pushes to    ${all(order.push)}`,
        `searched     ${all([...hostsDirs, ...credentialFiles])}`,
        ...hosts.flatMap((host, i) => [`${i + 1}. ${host.url}`, ...facts(host).map(([name, text]) => `   ${name.padEnd(13)} ${text}`)]),
      ],
      (line) => line,
    );
    return explained;
  }
}

function facts(host: ExplainedHost): (readonly [name: string, text: string])[] {
  const [credentials, ...others] = host.credentials.map(({source, key, user, helper}) => {
    const whose = helper ?? (user === undefined ? 'a token' : `user ${JSON.stringify(user)}`);
    return `${whose} from ${source}${key === undefined ? '' : `, ${key}`}`;
  });
  return [
    ['role', `${host.isMirror ? 'mirror' : 'registry'}: ${host.capabilities.join(', ')}`],
    ['configuration', host.source ?? 'none'],
    ...(host.isProbed ? [['protocol', 'HTTPS, or HTTP if the port does not speak TLS'] as const] : []),
    ['CA', host.skipVerify ? 'any certificate is accepted' : ["the system's", ...host.ca].join(', ')],
    ...host.client.map(({cert, key}) => ['client', cert === key ? cert : `${cert}, ${key}`] as const),
    ...(host.headers.length === 0 ? [] : [['headers', host.headers.join(', ')] as const]),
    ['proxy', host.proxy === undefined ? 'none' : `${host.proxy.url} from ${host.proxy.source}`],
    ['credentials', credentials ?? 'none'],
    ...others.map((text) => ['', `else ${text}`] as const),
  ];
}
