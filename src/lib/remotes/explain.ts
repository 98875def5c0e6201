/** Tells how the hosts of a registry would be asked, without a connection to any. */

import type {HostPlan} from './explained-host.ts';
import {DEFAULT_HOST_CONFIG} from './host-config-types.ts';
import {registryHosts} from './hosts.ts';
import {readRegistryConfig} from './hosts-dir.ts';
import {proxyOrigin, proxyRules} from './proxy.ts';
import {CAPABILITIES, type RemoteOptions} from './types.ts';

/** @throws invalid_argument the configuration, or a variable with a proxy, is unusable */
export async function explainHosts(domain: string, options: RemoteOptions): Promise<readonly HostPlan[]> {
  const {plainHTTP = false, skipVerify = false, hostsDirs = [], tls = {}, env = {}} = options;
  const probed = new Set<string>();
  const source = registryHosts({
    plainHTTP,
    connectTimeoutMs: 0,
    hostsDirs,
    tls,
    probe: async (host) => {
      probed.add(host);
      return 'https';
    },
  });
  const hosts = await source(domain, undefined);
  const found = await readRegistryConfig(hostsDirs, domain);
  const rules = proxyRules(env);
  const given = tls.cert === undefined || tls.key === undefined ? [] : [{cert: tls.cert, key: tls.key}];
  return hosts.map((host, i) => {
    const config = found?.hosts[i] ?? DEFAULT_HOST_CONFIG;
    const url = new URL(host.origin);
    const proxy = config.proxy === undefined ? rules(url) : {url: config.proxy, source: found!.source};
    return {
      url: host.origin + host.path,
      domain: host.domain,
      isProbed: probed.has(url.host),
      isMirror: i < hosts.length - 1,
      capabilities: [...(host.capabilities ?? CAPABILITIES)],
      ...(found === undefined ? {} : {source: found.source}),
      ca: [...config.ca, ...(tls.ca === undefined ? [] : [tls.ca])],
      client: config.client.length > 0 ? config.client : given,
      skipVerify: config.skipVerify ?? skipVerify,
      headers: Object.keys(config.headers),
      ...(proxy === undefined ? {} : {proxy: {url: proxyOrigin(proxy.url), source: proxy.source}}),
    };
  });
}
