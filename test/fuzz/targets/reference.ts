/** References, platforms and identifiers. */
import assert from 'node:assert/strict';
import {isErrdefs} from '../../../src/lib/errdefs.ts';
import {parseLabelArgs, validateIdentifier} from '../../../src/lib/oci/identifier.ts';
import {formatPlatform, matcher, normalizePlatform, parsePlatform} from '../../../src/lib/oci/platform.ts';
import {familiarName, formatReference, parseReference} from '../../../src/lib/oci/reference.ts';
import type {Target} from '../target.ts';

function attempt<T>(read: () => T): T | undefined {
  try {
    return read();
  } catch (err) {
    if (!isErrdefs(err) || err.code !== 'invalid_argument') throw err;
    return undefined;
  }
}

export const target: Target = {
  name: 'reference',
  seeds: [
    'redis',
    'docker.io/library/redis:7',
    'localhost:5000/a/b__c--d.e:tag_1.2-x',
    `[::1]:5000/x@sha256:${'a'.repeat(64)}`,
    `registry.example/app:1.2@sha512:${'0'.repeat(128)}`,
    'index.docker.io/a',
    'user:password@host/x',
    'linux/arm64/v8',
    'windows(10.0.17763+win32k)/amd64',
    'linux/amd64/v3',
    'aarch64',
    'name.with-parts_1',
    'key=value=more',
  ].map((text) => Buffer.from(text)),
  tokens: [
    '/',
    ':',
    '@',
    '.',
    '-',
    '__',
    '[',
    ']',
    '::',
    '%',
    '%00',
    '%ff',
    '(',
    ')',
    '+',
    '*',
    '://',
    '?',
    '#',
    'sha256:',
    'docker.io',
    'library/',
    'é',
    '\0',
    ' ',
    '\n',
  ],
  sources: ['/oci/reference.ts', '/oci/platform.ts', '/oci/identifier.ts', '/oci/descriptor.ts'],
  refuses: [],
  run(bytes) {
    const text = bytes.toString();
    for (const normalize of [true, false]) {
      const ref = attempt(() => parseReference(text, {normalize}));
      if (ref === undefined) continue;
      assert.deepEqual(parseReference(formatReference(ref), {normalize}), ref, 'the full name reads back');
      if (normalize) assert.deepEqual(parseReference(familiarName(ref)), ref, 'the short name reads back');
      assert.doesNotThrow(() => new URL(`http://${ref.domain}/v2/${ref.path}/manifests/${ref.digest ?? ref.tag}`));
    }
    const platform = attempt(() => parsePlatform(text));
    if (platform !== undefined) {
      const normal = normalizePlatform(platform);
      assert.deepEqual(normalizePlatform(normal), normal);
      assert.ok(matcher([platform]).match(normal), 'a platform matches itself');
      assert.equal(typeof formatPlatform(platform), 'string');
    }
    attempt(() => validateIdentifier(text));
    attempt(() => parseLabelArgs([text], {empty: 'true'}));
  },
};
