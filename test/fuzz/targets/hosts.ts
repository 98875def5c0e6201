/** hosts.toml files. */
import assert from 'node:assert/strict';
import {parseHosts} from '../../../src/lib/remotes/hosts-toml.ts';
import type {Target} from '../target.ts';

export const target: Target = {
  name: 'hosts',
  seeds: [
    'server = "https://registry-1.docker.io"\n\n[host."https://mirror.example"]\n  capabilities = ["pull", "resolve"]\n',
    '[host."http://127.0.0.1:5000"]\nskip_verify = true\nca = ["a.crt", "/b.crt"]\nclient = [["c.cert", "c.key"], ["d.pem", ""]]\n',
    'server = "x"\n[host."https://h/v2/prefix"]\noverride_path = true\ndial_timeout = "10s"\n[host."https://h/v2/prefix".header]\nx-one = "1"\nx-two = ["2", "3"]\n',
    'capabilities = ["push"]\nca = "root.pem"\nclient = "both.pem"\n[header]\nA = "b"\n',
    '',
  ].map((text) => Buffer.from(text)),
  tokens: [
    '[',
    ']',
    '[[',
    '"',
    "'",
    '"""',
    '=',
    '\n',
    '#',
    '.',
    '{',
    '}',
    ',',
    'host',
    'server',
    'true',
    '1979-05-27T07:32:00Z',
    '0x',
    'inf',
    'nan',
    '\\u0000',
    '\\uD800',
    '__proto__',
    'https://',
    'http://[::1]:1/',
    '\0',
    '\xff',
    '../',
  ],
  sources: ['/remotes/hosts-toml.ts', '/smol-toml/'],
  refuses: ['invalid_argument', 'failed_precondition', 'not_implemented'],
  run(bytes) {
    for (const host of parseHosts(bytes.toString(), '/etc/containerd/certs.d/example')) assert.equal(typeof host, 'object');
  },
};
