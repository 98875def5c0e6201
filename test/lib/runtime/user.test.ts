import assert from 'node:assert/strict';
import {describe, it} from 'node:test';
import type {Code} from '../../../src/lib/errdefs.ts';
import {
  additionalGids,
  imageUser,
  parseGroup,
  parsePasswd,
  requestedUser,
  type UserFiles,
  userByName,
} from '../../../src/lib/runtime/user.ts';
import {is} from '../../support/helpers.ts';

const files = (passwd?: string, group?: string): UserFiles => ({
  readFile: (path) => ({'/etc/passwd': passwd, '/etc/group': group})[path],
});

// The tables of this file are those of containerd, pkg/oci/spec_opts_user_test.go.
const guests = files(
  'root:x:0:0:root:/root:/bin/ash\nguest:x:405:100:guest:/dev/null:/sbin/nologin\n',
  'root:x:0:root\nbin:x:1:root,bin,daemon\ndaemon:x:2:root,bin,daemon\nsys:x:3:root,bin,adm\nguest:x:100:guest\n',
);

describe('USER', () => {
  for (const [value, uid, gid] of [
    ['0', 0, 0],
    ['root', 0, 0],
    ['root:root', 0, 0],
    ['guest', 405, 100],
    ['guest:guest', 405, 100],
    ['guest:0', 405, 0],
    ['405', 405, 100],
    ['405:100', 405, 100],
    ['405:guest', 405, 100],
    ['1000', 1000, 0],
    ['2147483647:2147483647', 2147483647, 2147483647],
    [':guest', 0, 100],
    ['guest:', 405, 0],
  ] as const)
    it(`${value} is ${uid}:${gid}`, () => {
      for (const resolve of [imageUser, requestedUser]) {
        const user = resolve(guests, value);
        assert.deepEqual([user.uid, user.gid], [uid, gid]);
        assert.ok(user.additionalGids.includes(gid));
      }
    });

  for (const [value, code, words] of [
    ['guest:nobody', 'not_found', 'group "nobody": no groups found'],
    ['nobody', 'not_found', 'user "nobody": no users found'],
    ['405:2147483648', 'invalid_argument', 'invalid USER value "405:2147483648": gid out of range'],
    ['-1000', 'invalid_argument', 'invalid USER value "-1000": uid out of range'],
    ['2147483648', 'invalid_argument', 'invalid USER value "2147483648": uid out of range'],
    ['4294967296', 'invalid_argument', 'invalid USER value "4294967296": uid out of range'],
    ['9'.repeat(36), 'invalid_argument', `invalid USER value "${'9'.repeat(36)}": uid out of range`],
    [`0:${'9'.repeat(36)}`, 'invalid_argument', `invalid USER value "0:${'9'.repeat(36)}": gid out of range`],
    ['a:b:c', 'invalid_argument', 'invalid USER value "a:b:c"'],
  ] as readonly (readonly [string, Code, string])[])
    it(`${value} is refused`, () => {
      for (const resolve of [imageUser, requestedUser])
        assert.throws(
          () => resolve(guests, value),
          (err: Error) => is(code)(err) && err.message.startsWith(words),
        );
    });

  it('that is a number is never looked up as a name', () => {
    const tricky = files('1000:x:0:0::/:/bin/sh\nroot:x:0:0::/:/bin/sh\n', '1000:x:0:\n');
    assert.deepEqual(imageUser(tricky, '1000'), {uid: 1000, gid: 0, additionalGids: [0]});
    assert.equal(requestedUser(tricky, '5:1000').gid, 1000);
    assert.equal(userByName(tricky, '1000').uid, 0);
    assert.throws(() => userByName(guests, '1000'), is('not_found'));
  });

  it('works without /etc/passwd and /etc/group as far as IDs go', () => {
    assert.deepEqual(imageUser(files(), ''), {uid: 0, gid: 0, additionalGids: [0]});
    assert.deepEqual(imageUser(files(), '7:8'), {uid: 7, gid: 8, additionalGids: [8]});
    assert.throws(() => imageUser(files(), 'guest'), is('not_found'));
  });
});

describe('additional groups', () => {
  const system = files(
    'root:x:0:0:root:/root:/bin/ash\nbin:x:1:1:bin:/bin:/sbin/nologin\ndaemon:x:2:2:daemon:/sbin:/sbin/nologin\n',
    'root:x:0:root\nbin:x:1:root,bin,daemon\ndaemon:x:2:root,bin,daemon\nsys:x:3:root,bin,adm\n',
  );
  for (const [user, gids] of [
    ['root', [0, 1, 2, 3]],
    ['1000', [0]],
    ['bin', [0, 2, 3]],
    ['1', [0, 2, 3]],
    ['bin:root', [0]],
    ['daemon', [0, 1]],
  ] as const)
    it(`of ${user} are ${gids}`, () => assert.deepEqual(additionalGids(system, user, 0), gids));

  it('of an image without USER are those of root', () => assert.deepEqual(imageUser(system, '').additionalGids, [0, 1, 2, 3]));

  it('are those of the uid in an image, and only the named one when asked for by a caller', () => {
    assert.deepEqual(imageUser(system, 'bin:daemon').additionalGids, [2, 3]);
    assert.deepEqual(requestedUser(system, 'bin:daemon').additionalGids, [2]);
    assert.deepEqual(requestedUser(system, 'bin').additionalGids, [1, 2, 3]);
  });
});

describe('passwd and group', () => {
  it('skip comments, blanks and lines whose IDs are none, which would else be root', () => {
    assert.deepEqual(parsePasswd('# x\n\n  a:x:1:2  \nb:x:one:0\nc:x\nd:x::\ne:x:4294967296:0\nf:x:-1:0\n'), [{name: 'a', uid: 1, gid: 2}]);
    assert.deepEqual(parseGroup('g:x:3:a,b\nh:x:bad:a\ni:x:4\n'), [
      {name: 'g', gid: 3, members: ['a', 'b']},
      {name: 'i', gid: 4, members: ['']},
    ]);
  });

  it('give the first of several entries', () => assert.equal(imageUser(files('a:x:1:1\na:x:2:2\n'), 'a').uid, 1));
});
