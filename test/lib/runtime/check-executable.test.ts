/** The command of an image is a stranger's file: whatever its bytes, the answer is yes, no with a class, or "ask the runtime". */
import assert from 'node:assert/strict';
import {mkdirSync, writeFileSync} from 'node:fs';
import {join} from 'node:path';
import {it, type TestContext} from 'node:test';
import fc from 'fast-check';
import {isErrdefs} from '../../../src/lib/errdefs.ts';
import {checkCommand, mountPoints} from '../../../src/lib/runtime/check-executable.ts';
import {RootReader} from '../../../src/lib/runtime/path-in-root.ts';
import {createSpec} from '../../../src/lib/runtime/spec.ts';
import {onEnd, SAMPLE, temporaryDirectory} from '../../support/helpers.ts';

const spec = createSpec({
  cgroupsPath: '/ns/id',
  image: {},
  options: {args: ['/command']},
  envFile: [],
  user: {uid: 0, gid: 0, additionalGids: [0]},
  host: {hostname: '', files: [], capabilities: [], devices: []},
});

/** The status that a command of these bytes gets, 0 when nothing speaks against it. */
function judge(t: TestContext): (bytes: Uint8Array) => number {
  const dir = temporaryDirectory(t);
  mkdirSync(join(dir, 'proc'));
  const rootfs = new RootReader(dir);
  onEnd(t, () => rootfs.close());
  const mounts = mountPoints(rootfs, spec);
  return (bytes) => {
    writeFileSync(join(dir, 'command'), bytes, {mode: 0o755});
    try {
      checkCommand(rootfs, spec, mounts);
      return 0;
    } catch (err) {
      if (!isErrdefs(err)) throw err;
      return err.details?.runExit as number;
    }
  };
}

const NUMBERS = fc.oneof(fc.constantFrom(0n, 1n, 64n, 2n ** 31n, 2n ** 53n, 2n ** 63n, 2n ** 64n - 1n), fc.bigInt(0n, 2n ** 64n - 1n));

it('a program whose tables point anywhere is judged', (t) => {
  const status = judge(t);
  fc.assert(
    fc.property(
      fc.record({
        wide: fc.boolean(),
        little: fc.boolean(),
        machine: fc.constantFrom(62, 183, 3, 9999),
        table: NUMBERS,
        size: fc.nat(65535),
        count: fc.nat(65535),
      }),
      fc.record({type: fc.constantFrom(1, 3), at: NUMBERS, length: NUMBERS}),
      fc.uint8Array({maxLength: 200}),
      ({wide, little, machine, table, size, count}, header, rest) => {
        const file = Buffer.alloc(400);
        file.write('\x7fELF', 'latin1');
        file[4] = wide ? 2 : 1;
        file[5] = little ? 1 : 2;
        const u16 = (value: number, at: number) => (little ? file.writeUInt16LE(value, at) : file.writeUInt16BE(value, at));
        const u32 = (value: number, at: number) => (little ? file.writeUInt32LE(value, at) : file.writeUInt32BE(value, at));
        const word = (value: bigint, at: number) =>
          wide ? (little ? file.writeBigUInt64LE(value, at) : file.writeBigUInt64BE(value, at)) : u32(Number(value & 0xffffffffn), at);
        u16(machine, 18);
        word(table, wide ? 32 : 28);
        u16(size, wide ? 54 : 42);
        u16(count, wide ? 56 : 44);
        u32(header.type, 64);
        word(header.at, 64 + (wide ? 8 : 4));
        word(header.length, 64 + (wide ? 32 : 16));
        file.set(rest, 150);
        assert.ok([0, 126, 127].includes(status(file)));
      },
    ),
    {seed: SAMPLE, numRuns: 300},
  );
});

it('any other bytes are judged', (t) => {
  const status = judge(t);
  const begin = fc.constantFrom('', '#!', '#! ', '#!/proc/', '#!/command ', '#!\0', '\x7fELF');
  fc.assert(
    fc.property(begin, fc.uint8Array({maxLength: 300}), (head, rest) => {
      assert.ok([0, 126, 127].includes(status(Buffer.concat([Buffer.from(head, 'latin1'), rest]))));
    }),
    {seed: SAMPLE, numRuns: 300},
  );
});

it('an interpreter that is its own comes to an end, as in the kernel', (t) => {
  assert.equal(judge(t)(Buffer.from('#!/command\n')), 126);
});
