import assert from 'node:assert/strict';
import {describe, it} from 'node:test';
import fc from 'fast-check';
import {isErrdefs} from '../../../src/lib/errdefs.ts';
import type {Digest} from '../../../src/lib/oci/descriptor.ts';
import {familiarName, formatReference, parseReference, type Reference} from '../../../src/lib/oci/reference.ts';
import {is} from '../../support/helpers.ts';

const HEX = 'dbcc1c35ac38df41fd2f5e4130b32ffdb93ebae8b3dbe638c23575912276fc9c';
const DIGEST = `sha256:${HEX}` as Digest;
const SHA512 = `sha512:${'f'.repeat(128)}` as Digest;

const message = (text: string, normalize = true): string => {
  try {
    return `no error, but ${formatReference(parseReference(text, {normalize}))}`;
  } catch (err) {
    is('invalid_argument')(err);
    return (err as Error).message;
  }
};

describe('parseReference', () => {
  // What is typed, the full name, what docker shows.
  const NAMES: readonly (readonly [text: string, full: string, familiar: string])[] = [
    ['redis', 'docker.io/library/redis:latest', 'redis:latest'],
    ['redis:7.2-Alpine', 'docker.io/library/redis:7.2-Alpine', 'redis:7.2-Alpine'],
    ['library/redis', 'docker.io/library/redis:latest', 'redis:latest'],
    ['docker.io/redis', 'docker.io/library/redis:latest', 'redis:latest'],
    ['docker.io/library/redis', 'docker.io/library/redis:latest', 'redis:latest'],
    ['index.docker.io/redis', 'docker.io/library/redis:latest', 'redis:latest'],
    ['index.docker.io/library/redis:foo', 'docker.io/library/redis:foo', 'redis:foo'],
    [`redis@${DIGEST}`, `docker.io/library/redis@${DIGEST}`, `redis@${DIGEST}`],
    [`redis:7@${DIGEST}`, `docker.io/library/redis:7@${DIGEST}`, `redis:7@${DIGEST}`],
    [`gcr.io/library/busybox:latest@${SHA512}`, `gcr.io/library/busybox:latest@${SHA512}`, `gcr.io/library/busybox:latest@${SHA512}`],
    ['dmcgowan/myapp', 'docker.io/dmcgowan/myapp:latest', 'dmcgowan/myapp:latest'],
    ['library/foo/bar', 'docker.io/library/foo/bar:latest', 'library/foo/bar:latest'],
    ['docker.io/store/foo/bar', 'docker.io/store/foo/bar:latest', 'store/foo/bar:latest'],
    ['nonlibrary/ubuntu', 'docker.io/nonlibrary/ubuntu:latest', 'nonlibrary/ubuntu:latest'],
    ['localhost/fooo/bar', 'localhost/fooo/bar:latest', 'localhost/fooo/bar:latest'],
    ['localhost:5000/x', 'localhost:5000/x:latest', 'localhost:5000/x:latest'],
    ['localhost:5000/library/redis:obj', 'localhost:5000/library/redis:obj', 'localhost:5000/library/redis:obj'],
    ['LOCALDOMAIN/fooo', 'LOCALDOMAIN/fooo:latest', 'LOCALDOMAIN/fooo:latest'],
    ['Foo/bar:Tag', 'Foo/bar:Tag', 'Foo/bar:Tag'],
    ['127.0.0.1:8000/private/moonbase', '127.0.0.1:8000/private/moonbase:latest', '127.0.0.1:8000/private/moonbase:latest'],
    ['test_com/foo', 'docker.io/test_com/foo:latest', 'test_com/foo:latest'],
    ['test:5000/repo', 'test:5000/repo:latest', 'test:5000/repo:latest'],
    ['test.com:5000', 'docker.io/library/test.com:5000', 'test.com:5000'],
    ['192.168.0.1', 'docker.io/library/192.168.0.1:latest', '192.168.0.1:latest'],
    [
      'sub-dom1.foo.com/bar/baz/quux:some-long-tag',
      'sub-dom1.foo.com/bar/baz/quux:some-long-tag',
      'sub-dom1.foo.com/bar/baz/quux:some-long-tag',
    ],
    [
      'b.gcr.io/test.example.com/my-app:test.example.com',
      'b.gcr.io/test.example.com/my-app:test.example.com',
      'b.gcr.io/test.example.com/my-app:test.example.com',
    ],
    ['xn--n3h.com/myimage:xn--n3h.com', 'xn--n3h.com/myimage:xn--n3h.com', 'xn--n3h.com/myimage:xn--n3h.com'],
    [
      `xn--7o8h.com/myimage:xn--7o8h.com@${SHA512}`,
      `xn--7o8h.com/myimage:xn--7o8h.com@${SHA512}`,
      `xn--7o8h.com/myimage:xn--7o8h.com@${SHA512}`,
    ],
    ['[::1]:5000/repo', '[::1]:5000/repo:latest', '[::1]:5000/repo:latest'],
    ['[2001:db8:1:2:3:4:5:6]/repo:tag', '[2001:db8:1:2:3:4:5:6]/repo:tag', '[2001:db8:1:2:3:4:5:6]/repo:tag'],
    ['docker---rules/dock__er', 'docker.io/docker---rules/dock__er:latest', 'docker---rules/dock__er:latest'],
    [`docker.io/${HEX}`, `docker.io/library/${HEX}:latest`, `${HEX}:latest`],
    [HEX.slice(1), `docker.io/library/${HEX.slice(1)}:latest`, `${HEX.slice(1)}:latest`],
    [`docker.io/library/sha256:${HEX}`, `docker.io/library/sha256:${HEX}`, `library/sha256:${HEX}`],
    [`${'a.'.repeat(126)}com/x`, `${'a.'.repeat(126)}com/x:latest`, `${'a.'.repeat(126)}com/x:latest`],
    ['docker.io/localhost/x', 'docker.io/localhost/x:latest', 'docker.io/localhost/x:latest'],
    ['docker.io/foo.bar/x', 'docker.io/foo.bar/x:latest', 'docker.io/foo.bar/x:latest'],
    [`a/${'a'.repeat(253)}`, `docker.io/a/${'a'.repeat(253)}:latest`, `a/${'a'.repeat(253)}:latest`],
    [
      `example.com/${'a'.repeat(255)}:${'t'.repeat(128)}`,
      `example.com/${'a'.repeat(255)}:${'t'.repeat(128)}`,
      `example.com/${'a'.repeat(255)}:${'t'.repeat(128)}`,
    ],
  ];
  for (const [text, full, familiar] of NAMES) {
    it(`${text.slice(0, 80)} is ${full.slice(0, 80)}`, () => {
      const ref = parseReference(text);
      assert.equal(formatReference(ref), full);
      assert.deepEqual(parseReference(full), ref);
      assert.equal(familiarName(ref), familiar);
      assert.deepEqual(parseReference(familiar), ref);
    });
  }

  it('takes a reference apart', () => {
    assert.deepEqual(parseReference(`localhost:5000/a/b:c@${DIGEST}`), {domain: 'localhost:5000', path: 'a/b', tag: 'c', digest: DIGEST});
    assert.deepEqual(parseReference('redis'), {domain: 'docker.io', path: 'library/redis', tag: 'latest'});
    assert.deepEqual(parseReference(`redis@${DIGEST}`), {domain: 'docker.io', path: 'library/redis', digest: DIGEST});
  });

  // Without normalisation the first component is the host and nothing is added.
  const PLAIN: readonly (readonly [text: string, expected: Reference])[] = [
    ['docker.io/library/redis:foo', {domain: 'docker.io', path: 'library/redis', tag: 'foo'}],
    ['docker.io/library/redis', {domain: 'docker.io', path: 'library/redis'}],
    ['docker.io/redis', {domain: 'docker.io', path: 'redis'}],
    ['index.docker.io/redis:x', {domain: 'index.docker.io', path: 'redis', tag: 'x'}],
    ['library/redis:x', {domain: 'library', path: 'redis', tag: 'x'}],
    [`docker.io/library/redis:foo@${DIGEST}`, {domain: 'docker.io', path: 'library/redis', tag: 'foo', digest: DIGEST}],
  ];
  for (const [text, expected] of PLAIN) {
    it(`adds nothing to ${text.slice(0, 80)} without normalisation`, () => {
      const ref = parseReference(text, {normalize: false});
      assert.deepEqual(ref, expected);
      assert.equal(formatReference(ref), text);
    });
  }
  it('needs a host without normalisation', () => {
    assert.match(message('alpine', false), /: hostname required: invalid argument$/);
    assert.match(message('/docker.io/library/redis:obj', false), /: hostname required: invalid argument$/);
  });

  const REASONS: readonly (readonly [text: string, reason: RegExp])[] = [
    ['', /^reference "": must not be empty: invalid argument$/],
    ['Redis:7', /^reference "Redis:7": the repository name must be lower case: /],
    ['docker/Docker', /must be lower case/],
    ['docker.io/docker/Docker', /must be lower case/],
    ['test:5000/Uppercase/lowercase:tag', /must be lower case/],
    ['http://xn--7o8h.com/myimage:tag', /must not have a scheme/],
    ['docker://redis', /must not have a scheme/],
    ['docker.io/library/redis:foo?fooo=asdf', /must not have a query string/],
    ['docker.io/library/redis#x', /must not have a query string or fragment/],
    ['redis latest', /must not contain whitespace/],
    [' redis', /must not contain whitespace/],
    ['redis\n', /must not contain whitespace/],
    ['redis\0', /must not contain whitespace or control/],
    [HEX, /a digest alone does not name a repository/],
    [DIGEST, /a digest alone does not name a repository/],
    ['/docker.io/library/redis', /hostname required/],
    [':justtag', /component of the repository name is empty/],
    [`@${DIGEST}`, /component of the repository name is empty/],
    ['docker/', /component of the repository name is empty/],
    ['docker///docker', /component of the repository name is empty/],
    ['docker.io/docker///docker', /component of the repository name is empty/],
    ['aa/asdf$$^/aa', /component of the repository name must be/],
    ['-docker', /component of the repository name must be/],
    ['docker-/docker', /component of the repository name must be/],
    ['____/____', /component of the repository name must be/],
    ['dock..er/docker', /not a host/],
    ['dock_.er/docker', /not a host/],
    ['docker/dock..er', /component of the repository name must be/],
    ['müller/redis', /component of the repository name must be/],
    ['-docker.io/docker/docker', /not a host/],
    ['host:port/redis', /not a host/],
    ['host:99999/redis', /not a host/],
    ['999.1.1.1/redis', /not a host/],
    ['fc00::1:5000/debian', /not a host/],
    ['[fe80::1%eth0]:5000/debian', /not a host/],
    ['[2001:db8:3:4::192.0.2.33]:5000/debian', /not a host/],
    [`${'a.'.repeat(127)}com/x`, /not a host/],
    ['[fc00::1]', /component of the repository name must be/],
    [`domain.com/${'a'.repeat(256)}:tag`, /must not be more than 255 characters/],
    [`library/${'a'.repeat(248)}`, /must not be more than 255 characters/],
    ['redis:', /the tag must be/],
    ['redis:-x', /the tag must be/],
    [`redis:${'t'.repeat(129)}`, /the tag must be/],
    ['localhost:5000/a:b/c', /the tag must be/],
    ['redis@', /the digest must be/],
    ['docker.io/library/redis@sha256:abcdef', /the digest must be/],
    ['docker.io/library/redis:obj@abcdef', /the digest must be/],
    [`redis@sha256:${HEX.toUpperCase()}`, /the digest must be/],
    [`redis@md5:${'a'.repeat(32)}`, /the digest must be/],
    [`redis@${DIGEST}@${DIGEST}`, /the digest must be/],
    [`redis@${DIGEST}:tag`, /the digest must be/],
    ['redis@sha256:../../../../etc/passwd', /what follows "@" is not a digest/],
  ];
  for (const [text, reason] of REASONS) {
    it(`says why ${JSON.stringify(text.slice(0, 60))} is none`, () => assert.match(message(text), reason));
  }

  it('changes no case, but names the reference that was perhaps meant', () => {
    assert.throws(
      () => parseReference('Redis:7'),
      (err) => isErrdefs(err) && /did you mean "docker.io\/library\/redis"/.test(err.hint ?? ''),
    );
  });

  it('shows no password, token or query string, and not endlessly much', () => {
    for (const text of [
      'user:hunter2@registry.example/redis',
      'https://user:hunter2@registry.example/redis',
      'https://user:hunter2@registry.example',
      'user:hunter2@registry.example',
      'user:hunter2@registry.example:5000',
      'user:hun/ter2@registry.example',
      'a:x@hunter2@registry.example',
      'registry.example/redis?token=hunter2',
    ]) {
      assert.doesNotMatch(message(text), /hunter2|ter2/, text);
      assert.match(message(text), /^reference "/);
    }
    assert.ok(message('A'.repeat(1_000_000)).length < 1000);
    assert.match(message('redis@sha256:abc'), /^reference "redis@sha256:abc": /);
    assert.match(message(`-redis:7@${DIGEST}`), new RegExp(`^reference "-redis:7@${DIGEST}": `));
  });

  const alphabet = 'ab1.:/@-_AZ[]% é\n?'.split('');
  const noise = fc.oneof(
    fc.string({unit: 'binary', maxLength: 60}),
    fc.string({unit: fc.constantFrom(...alphabet, 'sha256:', HEX, 'docker.io', 'localhost', 'library/'), maxLength: 12}),
  );
  it('answers any text with a reference that reads back, or with invalid argument', () => {
    fc.assert(
      fc.property(noise, fc.boolean(), (text, normalize) => {
        let ref: Reference;
        try {
          ref = parseReference(text, {normalize});
        } catch (err) {
          return is('invalid_argument')(err);
        }
        assert.deepEqual(parseReference(formatReference(ref), {normalize}), ref);
        if (normalize) assert.deepEqual(parseReference(familiarName(ref)), ref);
        return true;
      }),
      {seed: 1, numRuns: 3000},
    );
  });

  const component = fc.stringMatching(/^[a-z0-9]{1,5}(?:(?:[._]|__|-{1,3})[a-z0-9]{1,3}){0,2}$/);
  const reference = fc
    .record(
      {
        domain: fc.constantFrom('docker.io', 'localhost', 'localhost:5000', 'Registry.example', '127.0.0.1:80', '[::1]:5000'),
        path: fc.array(component, {minLength: 2, maxLength: 4}).map((parts) => parts.join('/')),
        tag: fc.stringMatching(/^[\w][\w.-]{0,20}$/),
        digest: fc.constantFrom(DIGEST, SHA512),
      },
      {requiredKeys: ['domain', 'path', 'tag']},
    )
    .map((ref): Reference => ({...ref}));
  it('reads every full name back as what it was written from', () => {
    fc.assert(
      fc.property(reference, (ref) => {
        assert.deepEqual(parseReference(formatReference(ref)), ref);
        assert.deepEqual(parseReference(familiarName(ref)), ref);
      }),
      {seed: 2, numRuns: 1000},
    );
  });
});
