/** The user of an image, looked up in its own accounts. */
import assert from 'node:assert/strict';
import {imageUser, requestedUser} from '../../../src/lib/runtime/user.ts';
import type {Target} from '../target.ts';

const seed = (user: string, passwd: string, group: string): Buffer => Buffer.from(`${user}\f${passwd}\f${group}`);

export const target: Target = {
  name: 'accounts',
  seeds: [
    seed('redis', 'root:x:0:0:root:/root:/bin/sh\nredis:x:999:999::/data:/bin/false\n', 'root:x:0:\nredis:x:999:\nwheel:x:10:root,redis\n'),
    seed('1000:wheel', '1000:x:0:0::/:\n', 'wheel:x:10:1000\n'),
    seed('4294967296', 'a:b:c:d\n#x\n', '::\n'),
    seed('0:0', '', ''),
  ],
  tokens: [':', '\n', '\f', ',', '-1', '4294967295', '2147483648', '+1', '0x0', '#', ' ', '\0', '::', '00000000000000000001'],
  sources: ['/runtime/user.ts'],
  refuses: ['invalid_argument', 'not_found', 'failed_precondition'],
  run(bytes) {
    const [user = '', passwd, group] = bytes.toString().split('\f');
    const files = {readFile: (path: string) => (path === '/etc/passwd' ? passwd : group)};
    for (const read of [imageUser, requestedUser]) {
      const {uid, gid, additionalGids} = read(files, user);
      for (const id of [uid, gid, ...additionalGids]) assert.ok(Number.isInteger(id) && id >= 0 && id < 2 ** 31);
      assert.ok(additionalGids.includes(gid));
    }
  },
};
