import assert from 'node:assert/strict';
import {execFileSync} from 'node:child_process';
import {linkSync, mkdirSync, symlinkSync, truncateSync, utimesSync, writeFileSync} from 'node:fs';
import {join} from 'node:path';
import {describe, it} from 'node:test';
import fc from 'fast-check';
import {createTarReader, type TarHeader} from '../../../src/lib/archive/tar.ts';
import {codeOf} from '../../../src/lib/errdefs.ts';
import {is, requiresProgram, SAMPLE, temporaryDirectory} from '../../support/helpers.ts';
import {
  bytes,
  char,
  dir,
  encode,
  file,
  link,
  padded,
  paxRecord,
  paxRecords,
  sign,
  symlink,
  type TarEntry,
  tar,
} from '../../support/tartest.ts';

interface Read {
  readonly header: TarHeader;
  readonly content: Buffer;
}

/** Reads an archive in chunks, split at the given offsets. */
function read(archive: Uint8Array, cuts: readonly number[] = []): Read[] {
  const entries: {header: TarHeader; content: Buffer}[] = [];
  let open = false;
  let ended = 0;
  const reader = createTarReader({
    entry(header) {
      assert.equal(open, false);
      open = true;
      entries.push({header, content: Buffer.alloc(0)});
    },
    data(chunk) {
      assert.equal(open, true);
      const last = entries.at(-1)!;
      last.content = Buffer.concat([last.content, chunk]);
    },
    entryEnd() {
      assert.equal(open, true);
      open = false;
    },
    end() {
      ended++;
    },
  });
  let from = 0;
  for (const cut of [...cuts, archive.length]) {
    reader.write(archive.subarray(from, cut));
    from = cut;
  }
  reader.end();
  assert.equal(ended, 1);
  return entries;
}

const one = (entry: TarEntry): TarHeader => read(tar(entry))[0]!.header;
const text = ({content}: Read): string => content.toString();

describe('the tar reader', () => {
  it('reads every field of a ustar header', () => {
    const header = one(char('dev/x', 300, 70_000, {mode: 0o4755, uid: 1, gid: 2, mtime: 123}));
    assert.deepEqual(header, {
      name: 'dev/x',
      linkname: '',
      type: 'char',
      mode: 0o4755,
      uid: 1,
      gid: 2,
      size: 0,
      mtimeSec: 123,
      mtimeNs: 0,
      devmajor: 300,
      devminor: 70_000,
      xattrs: new Map(),
      quirks: [],
    });
  });

  it('reads content of any length', () => {
    for (const length of [0, 1, 511, 512, 513, 1024, 70_000]) {
      const [first, second] = read(tar(file('f', Buffer.alloc(length, 7)), file('g', 'after')));
      assert.deepEqual(first!.content, Buffer.alloc(length, 7));
      assert.equal(text(second!), 'after');
    }
  });

  it('keeps names as bytes', () => {
    const name = `${bytes('é')}\xff\n\\ `;
    assert.equal(one(file(name)).name, name);
    assert.equal(one(symlink(name, 's')).linkname, name);
    for (const format of ['ustar', 'gnu'] as const) {
      const long = name.repeat(40);
      assert.equal(one(file(long, '', 0o644, {format})).name, long);
      assert.equal(one(link(long, 's', {format})).linkname, long);
    }
  });

  it('joins the ustar prefix, but not the times that GNU tar stores there', () => {
    assert.equal(one(file('f', '', 0o644, {prefix: 'p/q'})).name, 'p/q/f');
    const times = one(file('f', '', 0o644, {format: 'gnu', patch: (b) => b.write('14000000000\0', 345, 'latin1')}));
    assert.deepEqual([times.name, times.quirks], ['f', ['gnu-times']]);
    const old = one(file('f', '', 0o644, {format: 'gnu', patch: (b) => b.write('not a time', 345, 'latin1')}));
    assert.equal(old.name, 'not a time/f');
    const star = one(file('f', '', 0o644, {prefix: 'p', patch: (b) => b.write('tar\0', 508, 'latin1')}));
    assert.deepEqual([star.name, star.quirks], ['p/f', ['star']]);
  });

  it('reads numbers in base 256', () => {
    const {uid, gid, mtimeSec, size} = one(file('f', 'abc', 0o644, {uid: 4_294_967_294, gid: 3_000_000, mtime: -77}));
    assert.deepEqual([uid, gid, mtimeSec, size], [4_294_967_294, 3_000_000, -77, 3]);
  });

  it('applies a PAX header', () => {
    const pax = {
      path: 'real\xff',
      uid: '3000000',
      gid: '5',
      mtime: '1600000000.0123456789',
      size: '4',
      comment: 'ignored',
      'SCHILY.xattr.user.a=b': 'x',
      'SCHILY.xattr.security.bin': Buffer.from([0, 10, 61, 255]),
    };
    const {header, content} = read(tar(file('short', 'abcd', 0o644, {size: 0, pax})))[0]!;
    assert.deepEqual([header.name, header.uid, header.gid, header.size], ['real\xff', 3_000_000, 5, 4]);
    assert.deepEqual([header.mtimeSec, header.mtimeNs], [1_600_000_000, 12_345_678]);
    assert.deepEqual(
      [...header.xattrs],
      [
        ['user.a', Buffer.from('b=x')],
        ['security.bin', Buffer.from([0, 10, 61, 255])],
      ],
    );
    assert.equal(content.toString(), 'abcd');
    assert.equal(one(symlink('short', 's', {pax: {linkpath: 'p'.repeat(200)}})).linkname, 'p'.repeat(200));
  });

  for (const [mtime, sec, ns] of [
    ['5', 5, 0],
    ['5.5', 5, 500_000_000],
    ['5.', 5, 0],
    ['-1.25', -2, 750_000_000],
    ['-1', -1, 0],
    ['0.000000001', 0, 1],
  ] as const)
    it(`reads the time ${mtime}`, () => {
      const {mtimeSec, mtimeNs} = one(file('f', '', 0o644, {pax: {mtime}}));
      assert.deepEqual([mtimeSec, mtimeNs], [sec, ns]);
    });

  it('reports headers that readers interpret differently', () => {
    const quirks = (pax: TarEntry['pax']): readonly string[] => one(file('f', '', 0o644, {pax: pax!})).quirks;
    assert.deepEqual(quirks({mtime: '1.123456789'}), []);
    assert.deepEqual(quirks({mtime: '1.5'}), ['pax-fraction']);
    assert.deepEqual(quirks({uid: ''}), ['pax-empty']);
    assert.deepEqual(quirks({'LIBARCHIVE.xattr.user.x': 'eA=='}), ['libarchive-xattr']);
    assert.deepEqual(quirks({path: '//'}), ['empty-name']);
    assert.deepEqual(one(dir('d', 0o755, {size: 1})).quirks, ['header-size']);
  });

  it('applies a PAX header to one entry, and ignores records without value', () => {
    const [first, second] = read(tar(file('a', '', 0o644, {pax: {path: 'b', uid: '7'}}), file('c', '', 0o644, {pax: {path: '', uid: ''}})));
    assert.deepEqual([first!.header.name, first!.header.uid, second!.header.name, second!.header.uid], ['b', 7, 'c', 0]);
  });

  it('reports global headers without applying them', () => {
    const [global, entry] = read(tar({name: 'g', typeflag: 'g', content: paxRecord('path', 'elsewhere')}, file('f')));
    assert.deepEqual([global!.header.type, entry!.header.name], ['global', 'f']);
  });

  it('reads old tar: no magic, NUL for a file, a slash for a directory', () => {
    const headers = read(
      tar(
        {...file('d/'), typeflag: '\0', format: 'v7'},
        {...file('d/f', 'x'), typeflag: '\0', format: 'v7'},
        link('d/f', 'l', {format: 'v7'}),
      ),
    ).map(({header}) => [header.type, header.name, header.quirks]);
    assert.deepEqual(headers, [
      ['directory', 'd/', ['v7', 'old-type']],
      ['file', 'd/f', ['v7', 'old-type']],
      ['link', 'l', ['v7']],
    ]);
  });

  it('reads no content for types without content, whatever the size says', () => {
    const entries = read(tar(dir('d', 0o755, {size: 512}), link('x', 'l', {size: 3}), file('f', 'content')));
    assert.deepEqual(
      entries.map(({header, content}) => [header.name, header.size, content.length]),
      [
        ['d', 512, 0],
        ['l', 3, 0],
        ['f', 7, 7],
      ],
    );
  });

  it('accepts a checksum of signed bytes', () => {
    const header = encode(file('\xff\xfe'));
    const sum = header
      .subarray(0, 512)
      .reduce((total, byte, i) => total + (i >= 148 && i < 156 ? 0x20 : byte > 127 ? byte - 256 : byte), 0);
    header.write(`${sum.toString(8).padStart(6, '0')}\0 `, 148, 'latin1');
    assert.equal(read(tar(header))[0]!.header.name, '\xff\xfe');
  });

  it('ends at two blocks of zeros, and ignores the rest', () => {
    assert.equal(read(Buffer.concat([tar(file('f')), Buffer.alloc(10_000, 0xff)])).length, 1);
  });

  it('accepts archives without final zeros and last padding', () => {
    const whole = tar(file('f', 'abc'));
    for (const length of [512 + 3, 1024, 1536, 2048]) assert.equal(read(whole.subarray(0, length)).length, 1, `${length}`);
    assert.deepEqual(read(Buffer.alloc(0)), []);
  });

  const sparse = (regions: readonly (readonly [number, number])[], size: number, rest: Partial<TarEntry> = {}): TarEntry => {
    const stored = regions.map(([offset, length]) => Buffer.alloc(length, `${offset % 10}`));
    return file('sparse', Buffer.concat(stored), 0o644, {
      pax: {
        'GNU.sparse.size': `${size}`,
        'GNU.sparse.numblocks': `${regions.length}`,
        'GNU.sparse.map': regions.join(','),
        'GNU.sparse.name': 'real',
      },
      ...rest,
    });
  };

  it('reads sparse files in each PAX format', () => {
    const expected = {
      name: 'real',
      size: 100,
      sparse: [
        {offset: 5, size: 3},
        {offset: 50, size: 2},
      ],
    };
    const map = Buffer.from('2\n5\n3\n50\n2\n');
    const forms = {
      '0.0': [
        encode({
          name: 'x',
          typeflag: 'x',
          content: Buffer.concat([
            paxRecords({
              'GNU.sparse.size': '100',
              'GNU.sparse.numblocks': '2',
              'GNU.sparse.major': '0',
              'GNU.sparse.minor': '0',
              path: 'real',
            }),
            ...[
              ['offset', '5'],
              ['numbytes', '3'],
              ['offset', '50'],
              ['numbytes', '2'],
            ].map(([key, value]) => paxRecord(`GNU.sparse.${key}`, value!)),
          ]),
        }),
        file('f', 'aaabb'),
      ],
      '0.1': [
        sparse(
          [
            [5, 3],
            [50, 2],
          ],
          100,
          {content: Buffer.from('aaabb')},
        ),
      ],
      '1.0': [
        file('f', Buffer.concat([padded(map), Buffer.from('aaabb')]), 0o644, {
          pax: {'GNU.sparse.major': '1', 'GNU.sparse.minor': '0', 'GNU.sparse.realsize': '100', 'GNU.sparse.name': 'real'},
        }),
      ],
    };
    for (const [form, entries] of Object.entries(forms)) {
      const [{header, content}, after] = read(tar(...entries, file('after'))) as [Read, Read];
      assert.deepEqual({name: header.name, size: header.size, sparse: header.sparse}, expected, form);
      assert.equal(content.toString(), 'aaabb', form);
      assert.equal(after.header.name, 'after', form);
    }
  });

  it('reads sparse files of GNU tar, also with many regions', (t) => {
    if (!requiresProgram(t, 'tar')) return;
    const work = temporaryDirectory(t);
    for (const count of [1, 3, 60]) {
      const path = join(work, `${count}`);
      writeFileSync(path, '');
      truncateSync(path, count * 1_000_000);
      execFileSync('sh', [
        '-c',
        Array.from({length: count}, (_, i) => `printf x | dd of=${path} bs=1 seek=${i * 1_000_000} conv=notrunc status=none`).join('\n'),
      ]);
      for (const format of ['gnu', 'pax']) {
        const archive = execFileSync(
          'tar',
          ['-C', work, `--format=${format}`, '--sparse', '--hole-detection=seek', '-cf', '-', `${count}`],
          {maxBuffer: 1 << 28},
        );
        const [{header, content}] = read(archive) as [Read];
        assert.equal(header.size, count * 1_000_000);
        assert.ok((header.sparse?.length ?? 0) >= count);
        const expanded = Buffer.alloc(header.size);
        let at = 0;
        for (const {offset, size} of header.sparse!) {
          content.copy(expanded, offset, at, at + size);
          at += size;
        }
        assert.deepEqual(
          [...Array(count).keys()].map((i) => expanded[i * 1_000_000]),
          Array(count).fill(0x78),
        );
      }
    }
  });

  it('reads a tree equally in each format of GNU tar', (t) => {
    if (!requiresProgram(t, 'tar')) return;
    const work = temporaryDirectory(t);
    const tree = join(work, 'tree');
    mkdirSync(join(tree, 'dir', 'n'.repeat(80), 'm'.repeat(80)), {recursive: true});
    writeFileSync(join(tree, 'dir/file'), 'content', {mode: 0o640});
    linkSync(join(tree, 'dir/file'), join(tree, 'dir/hard'));
    symlinkSync('file', join(tree, 'dir/soft'));
    utimesSync(join(tree, 'dir/file'), 1_500_000_000, 1_500_000_000);
    const seen = ['ustar', 'gnu', 'oldgnu', 'pax', 'v7'].map((format) => {
      const paths = format === 'v7' ? ['tree/dir/file', 'tree/dir/hard', 'tree/dir/soft'] : ['tree'];
      const archive = execFileSync('tar', ['-C', work, `--format=${format}`, '--sort=name', '-cf', '-', ...paths]);
      return read(archive).map(({header: {name, linkname, type, mode, size}, content}) => [
        name,
        linkname,
        type,
        mode,
        size,
        content.toString(),
      ]);
    });
    for (const other of seen.slice(1, 4)) assert.deepEqual(other, seen[0]);
    for (const entry of seen[4]!) assert.ok(seen[0]!.some((same) => same[0] === entry[0] && same[5] === entry[5]));
  });
});

const broken = (change: (header: Buffer) => void, entry = file('f', 'x')): Buffer => {
  const archive = tar(entry);
  change(archive);
  sign(archive.subarray(0, 512));
  return archive;
};

describe('the tar reader rejects', () => {
  const cases: readonly (readonly [string, 'data_loss' | 'invalid_argument', Uint8Array])[] = [
    [
      'a checksum that does not match',
      'data_loss',
      (() => {
        const archive = tar(file('f'));
        archive[0] = 0x67;
        return archive;
      })(),
    ],
    ['bytes that are not a tar', 'data_loss', Buffer.alloc(1024, 'no tar ')],
    ['an archive truncated in a header', 'data_loss', tar(file('f', 'x')).subarray(0, 100)],
    ['an archive truncated in a file', 'data_loss', tar(file('f', 'x'.repeat(600))).subarray(0, 1100)],
    ['an archive truncated in a PAX header', 'data_loss', tar(file('f', '', 0o644, {pax: {path: 'x'}})).subarray(0, 515)],
    ['an archive that ends after a PAX header', 'data_loss', tar({name: 'x', typeflag: 'x', content: paxRecord('path', 'x')})],
    ['an archive truncated after a long name', 'data_loss', encode({name: 'L', typeflag: 'L', format: 'gnu', content: Buffer.from('x\0')})],
    ['a header after a block of zeros', 'data_loss', Buffer.concat([Buffer.alloc(512), tar(file('f'))])],
    ['digits that are not octal', 'data_loss', broken((b) => b.write('00000008', 100, 'latin1'))],
    ['a negative size', 'invalid_argument', broken((b) => b.fill(0xff, 124, 136))],
    ['a size that is too large', 'data_loss', broken((b) => b.fill(0x7f, 125, 136) && b.fill(0x80, 124, 125))],
    ['a negative size in PAX', 'invalid_argument', tar(file('f', '', 0o644, {pax: {size: '-1'}}))],
    ['a PAX size that is too large', 'invalid_argument', tar(file('f', '', 0o644, {pax: {size: '99999999999999999'}}))],
    ['a PAX size that is not a number', 'invalid_argument', tar(file('f', '', 0o644, {pax: {size: '0x10'}}))],
    ['a negative owner', 'invalid_argument', tar(file('f', '', 0o644, {pax: {uid: '-1'}}))],
    ['the owner 4294967295', 'invalid_argument', tar(file('f', '', 0o644, {pax: {gid: '4294967295'}}))],
    ['an owner beyond 32 bits', 'invalid_argument', tar(file('f', '', 0o644, {pax: {uid: '4294967296'}}))],
    ['an invalid time', 'invalid_argument', tar(file('f', '', 0o644, {pax: {mtime: '1.2.3'}}))],
    ['device numbers beyond those of Linux', 'invalid_argument', tar(char('c', 4096, 0))],
    ['NUL in a PAX path', 'invalid_argument', tar(file('f', '', 0o644, {pax: {path: 'a\0b'}}))],
    ['NUL in a PAX link target', 'invalid_argument', tar(symlink('x', 's', {pax: {linkpath: 'a\0b'}}))],
    ['a name of 4097 bytes', 'invalid_argument', tar(file('x'.repeat(4097)))],
    ['a long name over a mebibyte', 'invalid_argument', tar({name: 'L', typeflag: 'L', format: 'gnu', size: 1_048_577})],
    ['a PAX header over a mebibyte', 'invalid_argument', tar({name: 'x', typeflag: 'x', size: 1_048_577})],
    ['a PAX header of 8 GiB, at once', 'invalid_argument', tar({name: 'x', typeflag: 'x', size: 8_589_934_592})],
    ['an unknown type', 'invalid_argument', tar({...file('f'), typeflag: '7'})],
    ['a record without its newline', 'data_loss', tar({name: 'x', typeflag: 'x', content: Buffer.from('9 path=xx')}, file('f'))],
    ['a record longer than the header', 'data_loss', tar({name: 'x', typeflag: 'x', content: Buffer.from('99 path=x\n')}, file('f'))],
    ['a record without a length', 'data_loss', tar({name: 'x', typeflag: 'x', content: Buffer.from('path=x\n')}, file('f'))],
    ['a record without a value', 'data_loss', tar({name: 'x', typeflag: 'x', content: Buffer.from('9 noequal\n')}, file('f'))],
    ['a GNU sparse file in a ustar archive', 'data_loss', tar({...file('f'), typeflag: 'S'})],
    [
      'a sparse map that overlaps',
      'data_loss',
      tar(file('f', 'aaaa', 0o644, {pax: {'GNU.sparse.size': '9', 'GNU.sparse.numblocks': '2', 'GNU.sparse.map': '0,3,2,1'}})),
    ],
    [
      'a sparse map beyond the file',
      'data_loss',
      tar(file('f', 'aaaa', 0o644, {pax: {'GNU.sparse.size': '9', 'GNU.sparse.numblocks': '1', 'GNU.sparse.map': '6,4'}})),
    ],
    [
      'a sparse map of another length than the content',
      'data_loss',
      tar(file('f', 'aaaa', 0o644, {pax: {'GNU.sparse.size': '9', 'GNU.sparse.numblocks': '1', 'GNU.sparse.map': '0,3'}})),
    ],
    [
      'a sparse map without numbers',
      'data_loss',
      tar(file('f', 'aaaa', 0o644, {pax: {'GNU.sparse.size': '9', 'GNU.sparse.numblocks': '1', 'GNU.sparse.map': 'x,4'}})),
    ],
    [
      'a sparse map over a mebibyte',
      'invalid_argument',
      tar(
        file('f', Buffer.from(`999999\n${'1\n'.repeat(600_000)}`), 0o644, {
          pax: {'GNU.sparse.major': '1', 'GNU.sparse.minor': '0', 'GNU.sparse.realsize': '9'},
        }),
      ),
    ],
    [
      "GNU's sparse headers without end",
      'invalid_argument',
      Buffer.concat([
        encode({...file('f'), typeflag: 'S', format: 'gnu', patch: (b) => b.writeUInt8(1, 482)}),
        ...Array.from({length: 3000}, () => Buffer.from('00000000001\0'.repeat(42).padEnd(512, '\x01'), 'latin1')),
      ]),
    ],
    [
      'a sparse file without its size',
      'data_loss',
      tar(file('f', 'aaaa', 0o644, {pax: {'GNU.sparse.numblocks': '1', 'GNU.sparse.map': '0,4'}})),
    ],
  ];
  for (const [what, code, archive] of cases) it(what, () => assert.throws(() => read(archive), is(code)));
});

/** Archives that exercise every state of the reader. */
const anyArchive = fc
  .array(
    fc.oneof(
      fc
        .record({
          name: fc.string({unit: 'binary-ascii', minLength: 1, maxLength: 150}),
          size: fc.nat(1500),
          format: fc.constantFrom('ustar' as const, 'gnu' as const),
        })
        .map(({name, size, format}) => file(name.replaceAll('\0', '0'), Buffer.alloc(size, 'x'), 0o644, {format})),
      fc.string({minLength: 1, maxLength: 120}).map((name) => dir(bytes(name).replaceAll('\0', '0'))),
      fc
        .string({minLength: 1, maxLength: 120})
        .map((name) => symlink(bytes(name).replaceAll('\0', '0'), 's', {xattrs: {'user.x': bytes(name)}})),
      fc.constant(sparseSample()),
    ),
    {maxLength: 6},
  )
  .map((entries) => tar(...entries));

function sparseSample(): TarEntry {
  const map = Buffer.concat([Buffer.from('1\n600\n700\n'), Buffer.alloc(502)]);
  const pax = {'GNU.sparse.major': '1', 'GNU.sparse.minor': '0', 'GNU.sparse.realsize': '5000'};
  return file('sparse', Buffer.concat([map, Buffer.alloc(700, 's')]), 0o644, {pax});
}

describe('the tar reader, for any archive', () => {
  it('gives the same entries for any chunk size', () => {
    fc.assert(
      fc.property(anyArchive, fc.array(fc.nat(), {maxLength: 20}), (archive, at) => {
        const cuts = at.map((n) => n % (archive.length + 1)).sort((a, b) => a - b);
        assert.deepEqual(read(archive, cuts), read(archive));
      }),
      {seed: SAMPLE, numRuns: 150},
    );
    const archive = tar(file('a', 'x'.repeat(700), 0o644, {pax: {path: 'long'}}), sparseSample());
    assert.deepEqual(read(archive, [...archive.keys()]), read(archive));
  });

  it('fails on damage with one of its error classes, or gives entries', () => {
    fc.assert(
      fc.property(
        anyArchive,
        fc.array(fc.tuple(fc.nat(), fc.nat(255)), {minLength: 1, maxLength: 8}),
        fc.boolean(),
        (archive, damage, signed) => {
          for (const [at, byte] of damage) archive[at % archive.length] = byte;
          if (signed) sign(archive.subarray(0, 512));
          try {
            read(archive);
          } catch (err) {
            assert.ok(['data_loss', 'invalid_argument'].includes(codeOf(err)), String(err));
          }
        },
      ),
      {seed: SAMPLE, numRuns: 300},
    );
  });
});
