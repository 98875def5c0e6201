/** Tiny static programs, for images whose containers run. */

const CODE: Readonly<Record<string, Readonly<Record<'exit' | 'wait', readonly number[]>>>> = {
  x64: {
    // exit(0)
    exit: [0x31, 0xff, 0xb8, 0x3c, 0, 0, 0, 0x0f, 0x05],
    // ppoll(NULL, 0, NULL, NULL, …)
    wait: [0x31, 0xff, 0x31, 0xf6, 0x31, 0xd2, 0x45, 0x31, 0xd2, 0xb8, 0x0f, 0x01, 0, 0, 0x0f, 0x05],
  },
  arm64: {
    exit: words(0xd2800000, 0xd2800ba8, 0xd4000001),
    wait: words(0xd2800000, 0xd2800001, 0xd2800002, 0xd2800003, 0xd2800004, 0xd2800928, 0xd4000001),
  },
};

function words(...instructions: readonly number[]): readonly number[] {
  return instructions.flatMap((word) => [word & 0xff, (word >>> 8) & 0xff, (word >>> 16) & 0xff, word >>> 24]);
}

const ADDRESS = 0x400000;
const HEADERS = 64 + 56;

/** A 32-bit executable for x86 that ends at once with status 0. */
export function program32(): Buffer {
  // exit(0) by int 0x80
  const code = Buffer.from([0xb8, 1, 0, 0, 0, 0x31, 0xdb, 0xcd, 0x80]);
  const headers = 52 + 32;
  const file = Buffer.alloc(headers + code.length);
  file.write('\x7fELF\x01\x01\x01', 'latin1');
  const address = 0x8048000;
  file.writeUInt16LE(2, 16);
  file.writeUInt16LE(3, 18);
  file.writeUInt32LE(1, 20);
  file.writeUInt32LE(address + headers, 24);
  file.writeUInt32LE(52, 28);
  file.writeUInt16LE(52, 40);
  file.writeUInt16LE(32, 42);
  file.writeUInt16LE(1, 44);
  // One segment, as above.
  [1, 0, address, address, file.length, file.length, 5, 0x1000].forEach((value, i) => void file.writeUInt32LE(value, 52 + 4 * i));
  code.copy(file, headers);
  return file;
}

/** An ELF executable for this machine: one that ends at once with status 0, or one that waits until it is killed. */
export function program(what: 'exit' | 'wait'): Buffer {
  const code = Buffer.from(CODE[process.arch]![what]);
  const file = Buffer.alloc(HEADERS + code.length);
  file.write('\x7fELF\x02\x01\x01', 'latin1');
  file.writeUInt16LE(2, 16);
  file.writeUInt16LE(process.arch === 'arm64' ? 183 : 62, 18);
  file.writeUInt32LE(1, 20);
  file.writeBigUInt64LE(BigInt(ADDRESS + HEADERS), 24);
  file.writeBigUInt64LE(64n, 32);
  file.writeUInt16LE(64, 52);
  file.writeUInt16LE(56, 54);
  file.writeUInt16LE(1, 56);
  // The one segment is the whole file, to be read and executed.
  file.writeUInt32LE(1, 64);
  file.writeUInt32LE(5, 68);
  file.writeBigUInt64LE(BigInt(ADDRESS), 80);
  file.writeBigUInt64LE(BigInt(ADDRESS), 88);
  file.writeBigUInt64LE(BigInt(file.length), 96);
  file.writeBigUInt64LE(BigInt(file.length), 104);
  file.writeBigUInt64LE(0x1000n, 112);
  code.copy(file, HEADERS);
  return file;
}
