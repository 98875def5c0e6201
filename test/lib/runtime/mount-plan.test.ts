import assert from 'node:assert/strict';
import {mkdirSync, readFileSync, readlinkSync} from 'node:fs';
import {join} from 'node:path';
import {describe, it, type TestContext} from 'node:test';
import {absoluteTarget, type Mount, mountScript, planMounts, writeFstab} from '../../../src/lib/runtime/mount-plan.ts';
import {is, temporaryDirectory} from '../../support/helpers.ts';

/** The lines of fstab that a list of mounts becomes, `@` for the bundle, and the links that they name. */
function lay(
  t: TestContext,
  mounts: readonly Mount[],
  options?: {volatile: boolean},
): {readonly lines: readonly string[]; readonly links: readonly string[]} {
  const bundle = temporaryDirectory(t);
  const plan = planMounts(mounts, options);
  writeFstab(bundle, plan, join(bundle, 'rootfs'));
  const lines = readFileSync(join(bundle, 'fstab'), 'utf8').replaceAll(bundle, '@').trimEnd().split('\n');
  return {lines, links: plan.links.map((_, i) => readlinkSync(join(bundle, 'l', String(i))))};
}

describe('mounts of a snapshot', () => {
  it('are an overlay of links, whose names are short and have no commas or colons', (t) => {
    const options = ['workdir=/w,1', 'upperdir=/u 2', 'lowerdir=/a\\:b:/c\\\\', 'index=off'];
    const {lines, links} = lay(t, [{type: 'overlay', source: 'overlay', options}]);
    assert.deepEqual(lines, ['overlay @/rootfs overlay workdir=l/0,upperdir=l/1,lowerdir=l/2:l/3,index=off 0 0']);
    assert.deepEqual(links, ['/w,1', '/u 2', '/a:b', '/c\\']);
  });

  it('are bound without a type', (t) => {
    const {lines} = lay(t, [{type: 'bind', source: '/a b#\\\t', options: ['ro', 'rbind']}]);
    assert.deepEqual(lines, ['/a\\040b\\043\\134\\011 @/rootfs none ro,rbind 0 0']);
  });

  it('have places of their own below the last', (t) => {
    const {lines} = lay(t, [
      {type: 'erofs', source: '/a.erofs', options: ['ro', 'device=/a.tar']},
      {type: 'bind', source: '{{ mount 0 }}', options: []},
      {type: 'overlay', source: 'overlay', options: ['lowerdir={{ mount 1 }}:{{ mount 0 }}:/c']},
    ]);
    assert.deepEqual(lines, [
      '/a.erofs @/m/0 erofs ro,device=l/0 0 0',
      '@/m/0 @/m/1 none defaults 0 0',
      'overlay @/rootfs overlay lowerdir=m/1:m/0:l/1 0 0',
    ]);
  });

  it('are volatile only where something is written', (t) => {
    const overlay = (...options: string[]) => lay(t, [{type: 'overlay', source: 'overlay', options}], {volatile: true}).lines[0];
    assert.match(overlay('lowerdir=/a', 'upperdir=/b', 'workdir=/c')!, /,volatile 0 0$/);
    assert.doesNotMatch(overlay('lowerdir=/a:/b')!, /volatile/);
  });

  it('name only what comes before them, and are not none', (t) => {
    const bundle = temporaryDirectory(t);
    assert.throws(() => planMounts([]), is('invalid_argument'));
    mkdirSync(join(bundle, 'x'));
    assert.throws(() => planMounts([{type: 'bind', source: '{{ mount 0 }}', options: []}]), is('invalid_argument'));
  });

  it('are written out for people while they fit, and by links where they do not', () => {
    const overlay = (lowers: readonly string[]) => [{type: 'overlay', source: 'overlay', options: [`lowerdir=${lowers.join(':')}`]}];
    const [line] = mountScript(planMounts(overlay(['/a', '/b']), {literal: true}), '/target');
    assert.equal(line, 'env LIBMOUNT_FORCE_MOUNT2=always mount -t overlay overlay /target -o lowerdir=/a:/b');
    for (const lowers of [['/a,b', '/c'], ['/a"', '/c'], Array.from({length: 500}, (_, i) => `/layers/${i}`)]) {
      assert.deepEqual(planMounts(overlay(lowers), {literal: true}).links, lowers);
    }
  });

  it('have a target that is no option, and is there', () => {
    assert.equal(absoluteTarget('-o'), `${process.cwd()}/-o`);
    assert.equal(absoluteTarget('/a/../b'), '/a/../b');
    for (const target of ['', 'a\0b']) assert.throws(() => absoluteTarget(target), is('invalid_argument'));
  });
});
