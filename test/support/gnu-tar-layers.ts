/**
 * Valid but unusual layers, made by GNU tar from real trees, so that they do not depend on a tar library. Needs root, for owners, devices
 * and capabilities.
 */
import {execFileSync} from 'node:child_process';
import {mkdirSync, readdirSync, readFileSync, rmSync} from 'node:fs';
import {join} from 'node:path';

interface Layer {
  /** Shell, run in an empty directory. */
  readonly tree: string;
  readonly flags: readonly string[];
  /** Entries by name and without what is below them; default: the whole tree, sorted, without the root itself. */
  readonly names?: readonly string[];
  /** Names taken out of the archive again. */
  readonly without?: readonly string[];
  /** Ends with the last file's last byte: no padding, no trailer, as `umoci insert` 0.4.7 leaves its layers. */
  readonly cut?: boolean;
}

const LONG = 'n'.repeat(120);
const LONGEST = 'm'.repeat(255);
const DEEP = Array.from({length: 60}, (_, i) => `level${i}`).join('/');

/** Attributes that the recipes set, and none that the filesystem on which they are made gives on its own. */
const ATTRIBUTES = ['--xattrs', '--xattrs-include=user.*', '--xattrs-include=security.capability'];
const PAX = ['--format=pax', ...ATTRIBUTES, '--pax-option=delete=atime,delete=ctime'];

const AWKWARD: readonly Layer[] = [
  {
    flags: [...PAX, '--sparse'],
    tree: `
      mkdir dirs; for mode in 0000 0111 0555 0700 0777 1777 2755 6711; do mkdir dirs/$mode; chmod $mode dirs/$mode; done
      mkdir files; for mode in 0000 0111 0444 0640 1644 2755 4755 6777; do echo $mode >files/$mode; chmod $mode files/$mode; done
      mkdir sizes; for size in 0 1 511 512 513 10240 65537; do head -c $size /dev/zero | tr '\\0' x >sizes/$size; done
      mkdir owners; for owner in 1:1 12345:54321 65534:65534 3000000:4000000; do echo $owner >owners/$owner; chown $owner owners/$owner; done
      echo root >owners/setuid; chown 1:2 owners/setuid; chmod 6755 owners/setuid
      mkdir owners/dir; chown 12345:54321 owners/dir; chmod 2750 owners/dir

      mkdir times; touch -d '1970-01-01 00:00:00Z' times/epoch; touch -d '2001-02-03 04:05:06.123456789Z' times/nanoseconds
      touch -d '2001-02-03 04:05:06.1Z' times/tenth; touch -d '2099-12-31 23:59:59Z' times/future
      mkdir times/dir; touch times/dir/file; ln -s file times/dir/link
      touch -h -d '2003-01-01 00:00:00.5Z' times/dir/link; touch -d '2002-02-02 02:02:02.222222222Z' times/dir

      mkdir links; echo target >links/file; ln links/file links/hard1; ln links/file links/hard2
      ln -s file links/relative; ln -s /links/file links/absolute; ln -s nowhere links/dangling; ln -s loop links/loop
      ln -s ../../../../links/file links/above; ln -s . links/here; ln -s ../dirs links/dir; ln -s 'a b
c' links/newline; ln links/relative links/hard-to-symlink
      ln -s ${LONG}${LONG} links/long; mkdir other; ln links/file other/hard3

      mkdir special; mkfifo -m 0622 special/fifo; mknod -m 0666 special/null c 1 3; mknod -m 0660 special/loop b 7 200
      mknod special/large c 300 70000; chown 1:5 special/loop; ln special/null special/null-again

      mkdir names; cd names; touch -- 'a b' 'tab	' 'new
line' 'back\\slash' "quote'" 'quote"' '*' '?' ' leading' 'trailing ' -dash --delete .dot ... ..two .wh .whiteout '#' '%41' 'c:colon'
      touch "$(printf 'latin\\351')" "$(printf 'invalid\\377\\376')" 'été' "$(printf 'e\\314\\201te\\314\\201')" '日本語' '🚢'
      touch ${LONG} ${LONGEST}; mkdir ${LONG}dir; touch ${LONG}dir/${LONG}; mkdir -p deep/${DEEP}; touch deep/${DEEP}/file; cd ..

      mkdir xattrs; echo a >xattrs/file; setfattr -n user.key -v value xattrs/file; setfattr -n user.empty xattrs/file
      setfattr -n user.binary -v 0x00ff0a3d00 xattrs/file; setfattr -n user.été -v x xattrs/file
      mkdir xattrs/dir; setfattr -n user.dir -v directory xattrs/dir; echo a >xattrs/changed; setfattr -n user.key -v old xattrs/changed
      cp /bin/true xattrs/capable; chown 1:1 xattrs/capable; setcap cap_net_bind_service,cap_net_raw=+ep xattrs/capable
      ln xattrs/capable xattrs/capable-too

      mkdir sparse; truncate -s 1M sparse/hole; printf begin >sparse/both; truncate -s 300K sparse/both; printf end >>sparse/both

      mkdir gone gone/dir gone/opaque gone/opaque/dir; touch gone/file gone/dir/a gone/dir/b gone/opaque/dir/a gone/opaque/old gone/opaque/both
      ln -s file gone/symlink; touch gone/one; ln gone/one gone/two; mkfifo gone/fifo; mknod gone/null c 1 3; mkdir gone/again; touch gone/again/old
      mkdir turn; cd turn; touch file-dir file-symlink file-fifo file-device; mkdir dir-file dir-symlink dir-dir; touch dir-file/a dir-symlink/a
      touch dir-dir/kept; ln -s file-dir symlink-file; ln -s dir-dir symlink-dir; ln -s nowhere symlink-symlink; mknod device-file c 1 3
      echo shared >hard1; ln hard1 hard2; mkfifo fifo-dir; cd ..
      mkdir -m 0700 private; chown 12345:54321 private; touch private/old; mkdir -p private/sub; chmod 2711 private/sub`,
  },
  {
    // Not --sparse: GNU's own sparse entries are refused by the peers that trees are compared with, those of PAX are not.
    flags: ['--format=gnu'],
    tree: `
      mkdir gnu; touch gnu/${LONG}; mkdir gnu/${LONG}dir; touch gnu/${LONG}dir/${LONGEST}; ln gnu/${LONG} gnu/${LONG}hard
      ln -s ${LONG}${LONG}${LONG} gnu/symlink; touch "gnu/$(printf 'latin\\351')"; chown 3000000:4000000 gnu/${LONG}
      touch -d '2001-02-03 04:05:06Z' gnu/${LONG}; touch -d '2250-01-01 00:00:00Z' gnu/far`,
  },
  {
    flags: ['--format=ustar'],
    tree: `
      mkdir -p ustar/${'p'.repeat(60)}/${'q'.repeat(60)}; echo prefix >ustar/${'p'.repeat(60)}/${'q'.repeat(60)}/${'r'.repeat(90)}
      mkdir -p ${'a'.repeat(97)}; echo 101 >${'a'.repeat(97)}/foo; mknod ustar/null c 1 3; mkfifo ustar/fifo`,
  },
  {flags: ['--format=v7'], tree: 'mkdir v7; echo old >v7/file; ln v7/file v7/hard; ln -s file v7/symlink; mkdir v7/dir; chmod 0701 v7/dir'},
  {
    flags: [...PAX],
    tree: `
      mkdir gone; cd gone; for name in file dir symlink one fifo null absent again; do touch .wh.$name; done
      mkdir opaque opaque/new; touch opaque/.wh..wh..opq opaque/new/a opaque/both; chmod 0711 opaque; cd ..; touch -d '2005-05-05 05:05:05Z' gone`,
  },
  {
    flags: [...PAX],
    tree: `
      mkdir gone; mkdir gone/again; touch gone/again/new
      mkdir turn; cd turn; mkdir file-dir; touch file-dir/a; ln -s dir-dir file-symlink; mkfifo file-fifo; mknod file-device b 7 1
      echo now >dir-file; ln -s dir-dir dir-symlink; mkdir -m 0710 dir-dir; touch dir-dir/added; echo now >symlink-file; mkdir symlink-dir
      touch symlink-dir/a; ln -s elsewhere symlink-symlink; echo now >device-file; echo alone >hard1; mkdir fifo-dir; cd ..
      mkdir files; echo changed >files/4755; chmod 0755 files/4755; mkdir xattrs; cp /bin/true xattrs/capable; echo b >xattrs/changed
      setfattr -n user.other -v new xattrs/changed; mkdir xattrs/dir; setfattr -n user.second -v 2 xattrs/dir`,
  },
  {
    // Parents that no layer has, and parents that only a lower layer has.
    flags: [...PAX, '--no-recursion'],
    tree: 'mkdir -p implied/by/name private/sub; echo i >implied/by/name/file; echo n >private/new; echo s >private/sub/new; printf cut >private/cut',
    names: ['implied/by/name/file', 'private/new', 'private/sub/new', 'private/cut'],
    cut: true,
  },
];

const THROUGH: readonly Layer[] = [
  {
    // One that can be indexed: a fraction of a second without all nine digits, as one in ten is, could not.
    flags: [...PAX, '--mtime=2021-02-03 04:05:06Z'],
    tree: `
      mkdir -p usr/lib usr/bin etc/real; echo tool >usr/bin/tool; ln -s usr/lib lib; ln -s /usr/bin bin; ln -s real etc/link
      echo conf >etc/real/conf; echo lower >usr/lib/lower; chmod 4755 usr/bin/tool; ln -s ../usr/lib/lower etc/to-lower`,
  },
  {
    // Through symbolic links that a lower layer made, relative and absolute.
    flags: [...PAX, '--no-recursion'],
    tree: 'mkdir lib bin etc etc/link; echo so >lib/new.so; echo new >bin/new; echo conf2 >etc/link/conf2; touch bin/.wh.tool',
    names: ['lib/new.so', 'bin/new', 'etc/link/conf2', 'bin/.wh.tool'],
  },
  {
    // A hard link to a file, and one to a symbolic link, that only a lower layer has.
    flags: [...PAX, '--no-recursion'],
    tree: 'mkdir -p etc usr/lib usr/share; echo lower >usr/lib/lower; ln usr/lib/lower usr/share/linked; ln -s x etc/to-lower; ln etc/to-lower etc/zz-linked',
    names: ['usr/lib/lower', 'usr/share/linked', 'etc/to-lower', 'etc/zz-linked'],
    without: ['usr/lib/lower', 'etc/to-lower'],
  },
];

const BLOCK = 512;

/** The archive up to the last byte of its last entry, a regular file of `size` bytes. */
function cutTail(tar: Buffer, size: number): Buffer {
  let end = tar.length;
  while (end > 0 && tar.subarray(end - BLOCK, end).every((byte) => byte === 0)) end -= BLOCK;
  return tar.subarray(0, end - BLOCK + size);
}

function makeLayer(layer: Layer, work: string): Buffer {
  const [tree, file] = [join(work, 'tree'), join(work, 'tar')];
  mkdirSync(tree, {mode: 0o755});
  try {
    execFileSync('sh', ['-ec', `umask 022\n${layer.tree}`], {cwd: tree, env: {...process.env, LC_ALL: 'C.UTF-8'}});
    const names = layer.names ?? readdirSync(tree).sort();
    execFileSync('tar', [...layer.flags, '--sort=name', '--numeric-owner', '-C', tree, '-cf', file, ...names]);
    if (layer.without !== undefined) execFileSync('tar', ['--delete', '-f', file, ...layer.without]);
    const tar = readFileSync(file);
    return layer.cut === true ? cutTail(tar, readFileSync(join(tree, names.at(-1)!)).length) : tar;
  } finally {
    rmSync(tree, {recursive: true, force: true});
    rmSync(file, {force: true});
  }
}

/** Every kind of entry, attribute and name; every format; whiteouts; everything turned into something else. */
export const awkwardLayers = (work: string): Buffer[] => AWKWARD.map((layer) => makeLayer(layer, work));

/** Layers whose entries lead through, or point at, what only lower layers have. */
export const throughLayers = (work: string): Buffer[] => THROUGH.map((layer) => makeLayer(layer, work));
