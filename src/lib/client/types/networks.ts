/** How containers reach the network. */

/** Options of `run` and `containers.create`. */
export interface NetworkOptions {
  /**
   * `none`, `host`, `container:ID` (that of a running container), `default`, or a network's name. Default: `none`, or with `ports` `default`:
   * the first network of the configuration directory, or a bridge of berth's own where there is none. Without root `default` is `pasta`, and
   * there is no other.
   */
  readonly network?: string;
  /** Published ports, each `[[IP:][HOST]:]CONTAINER[/PROTOCOL]`, with ranges; without a HOST the system chooses one. */
  readonly ports?: readonly string[];
  /** Addresses of name servers. Default: the network's, else the host's. */
  readonly dns?: readonly string[];
  readonly dnsSearch?: readonly string[];
  /** As in resolv.conf(5). */
  readonly dnsOptions?: readonly string[];
  /** Entries of /etc/hosts, each `NAME:IP`; the address `host-gateway` is the host's. */
  readonly addHosts?: readonly string[];
}

/** A task's place in a network. */
export interface TaskNetwork {
  readonly name: string;
  /** With the length of their prefix: `10.90.0.2/16`. */
  readonly addresses: readonly string[];
  /** Published ports, each `[IP:]HOST:CONTAINER/PROTOCOL`. */
  readonly ports: readonly string[];
  /** The process that is the network has ended: the container runs without one until it is started anew. Absent otherwise. */
  readonly down?: true;
}
