/** The AppArmor profile of berth's own: who gets it, and how the kernel does. */
import assert from 'node:assert/strict';
import {execFileSync} from 'node:child_process';
import {existsSync, mkdirSync, readFileSync, writeFileSync} from 'node:fs';
import {join} from 'node:path';
import {describe, it, type TestContext} from 'node:test';
import {apparmorOf, DEFAULT_RULES, loadProfile, profileText} from '../../../src/lib/runtime/apparmor.ts';
import {createSpec, type Spec} from '../../../src/lib/runtime/spec.ts';
import {findProgram, is, temporaryDirectory} from '../../support/helpers.ts';

/** A kernel's list of profiles, and a parser that notes what it is given and ends with a status. */
function kernel(t: TestContext, {loaded = '', status = 0} = {}) {
  const dir = temporaryDirectory(t);
  const [list, given] = [join(dir, 'profiles'), join(dir, 'given')];
  writeFileSync(list, loaded);
  mkdirSync(join(dir, 'bin'));
  const script = `#!/bin/sh\necho "$*" >>${given}; cat >>${given}; echo the parser speaks >&2; exit ${status}\n`;
  writeFileSync(join(dir, 'bin/apparmor_parser'), script, {mode: 0o755});
  const {PATH} = process.env;
  process.env.PATH = `${join(dir, 'bin')}:${PATH}`;
  t.after(() => {
    process.env.PATH = PATH;
  });
  return {list, none: join(dir, 'absent'), given: () => (existsSync(given) ? readFileSync(given, 'utf8') : '')};
}

const specOf = (profile: string | undefined, annotations: Readonly<Record<string, string>> = {}): Spec => {
  const host = {hostname: '', files: [], capabilities: [], devices: []};
  const user = {uid: 0, gid: 0, additionalGids: [0]};
  const options = {args: ['sh'], annotations, ...(profile === undefined ? {} : {apparmorProfile: profile})};
  return createSpec({cgroupsPath: '/c', image: {}, envFile: [], options, user, host});
};

const ours = (name: string): Spec => specOf(name, {[DEFAULT_RULES]: name});

describe('AppArmor', () => {
  it('confines a container that asks for it', () => {
    for (const options of [{}, {apparmorProfile: 'unconfined'}]) assert.deepEqual(apparmorOf(options), {}, JSON.stringify(options));
    assert.deepEqual(apparmorOf({apparmorProfile: 'some name'}), {profile: 'some name'});
    assert.deepEqual(apparmorOf({apparmorDefaultProfile: 'a.b_c-1'}), {profile: 'a.b_c-1', annotations: {[DEFAULT_RULES]: 'a.b_c-1'}});
    assert.throws(() => apparmorOf({apparmorProfile: 'a', apparmorDefaultProfile: 'b'}), is('invalid_argument'));
  });

  it('takes no name for its own that says more than a name', () => {
    for (const name of ['a b', '', '/bin/sh', 'a{', 'a\n', '-r', '@{PROC}', 'a"', 'a#', 'a,', 'x'.repeat(129), 'é', 'unconfined'])
      assert.throws(() => apparmorOf({apparmorDefaultProfile: name}), is('invalid_argument'), JSON.stringify(name));
  });

  it('gives the kernel the profile that it lacks, and no other', async (t) => {
    const {list, given} = kernel(t, {loaded: 'docker-default (enforce)\nname (v2) (complain)\n'});
    for (const spec of [specOf(undefined), specOf('other'), specOf('other', {[DEFAULT_RULES]: 'own'})]) await loadProfile(spec, list, list);
    assert.equal(given(), '');
    for (const name of ['own', 'docker', 'name']) {
      await loadProfile(ours(name), list);
      assert.ok(given().endsWith(`--replace --skip-cache\n${profileText(name)}`), given());
    }
    const before = given();
    await loadProfile(ours('docker-default'), list);
    assert.equal(given(), before);
  });

  it('says why a profile was not loaded', async (t) => {
    const {list, none} = kernel(t, {status: 1});
    for (const [profiles, why] of [
      [list, /"own": not loaded: the parser speaks/],
      [none, /"own": the kernel has no AppArmor/],
    ] as const)
      await assert.rejects(loadProfile(ours('own'), profiles), (err: Error) => {
        assert.match(err.message, why);
        return is('failed_precondition')(err);
      });
    const theirs = {process: ours('own').process};
    await assert.rejects(loadProfile(theirs, none, none), is('failed_precondition'), 'a profile of somebody else');
    await loadProfile(theirs, none, list);
  });

  it('has a profile that the parser accepts', (t) => {
    const parser = findProgram('apparmor_parser');
    // Not required: a machine without AppArmor has no use for it.
    if (parser === undefined) return t.skip('needs apparmor_parser (apt-get install apparmor)');
    const words = ['--skip-kernel-load', '--skip-cache'];
    execFileSync(parser, words, {input: profileText('some.name-1'), stdio: ['pipe', 'ignore', 'pipe']});
  });
});
