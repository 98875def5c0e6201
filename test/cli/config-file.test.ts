/** Defaults from config.toml: who has the last word, and what a faulty file says. */
import assert from 'node:assert/strict';
import {chmodSync, mkdirSync, writeFileSync} from 'node:fs';
import {join} from 'node:path';
import {describe, it} from 'node:test';
import {configFiles, readSettings, SETTINGS} from '../../src/cli/config-file.ts';
import {GLOBAL_FLAGS} from '../../src/cli/shared-flags.ts';
import {COMMANDS} from '../../src/commands/index.ts';
import {temporaryDirectory} from '../support/helpers.ts';
import {commandLine, forEachEngine} from './harness.ts';

describe('config.toml', () => {
  it('is looked for where root and other users have it', () => {
    assert.deepEqual(configFiles({HOME: '/home/u'}, 1000), ['/etc/berth/config.toml', '/home/u/.config/berth/config.toml']);
    assert.deepEqual(configFiles({HOME: '/home/u', XDG_CONFIG_HOME: '/c'}, 1000), ['/etc/berth/config.toml', '/c/berth/config.toml']);
    assert.deepEqual(configFiles({XDG_CONFIG_HOME: 'relative'}, 1000), ['/etc/berth/config.toml']);
    assert.deepEqual(configFiles({HOME: '/home/u', XDG_CONFIG_HOME: '/home/u/c'}, 0), ['/etc/berth/config.toml'], 'sudo keeps variables');
    assert.deepEqual(configFiles({BERTH_CONFIG: '/x', HOME: '/home/u'}, 1000), ['/x']);
  });

  it('gives defaults to flags that exist', async () => {
    const flags = new Set(Object.keys(GLOBAL_FLAGS));
    for (const load of Object.values(COMMANDS.commands)) for (const name of Object.keys((await load()).default.flags)) flags.add(name);
    for (const name of SETTINGS) assert.ok(flags.has(name), name);
  });

  it("is overridden key by key by the user's own", async (t) => {
    const dir = temporaryDirectory(t);
    const [system, own] = [join(dir, 'system'), join(dir, 'own')];
    writeFileSync(system, 'namespace = "a"\nprogress = "plain"\n');
    writeFileSync(own, '# mine\nnamespace = "b"\n');
    assert.deepEqual(Object.fromEntries(await readSettings([system, own, join(dir, 'missing'), join(own, 'through-a-file')])), {
      namespace: {value: 'b', file: own},
      progress: {value: 'plain', file: system},
    });
  });

  it('that is faulty is named, with the place and what was meant', async (t) => {
    const dir = temporaryDirectory(t);
    const config = join(dir, 'config.toml');
    for (const [text, message, hint] of [
      ['namespace = ', /line 1, column \d+: /, undefined],
      ['a = 1\nb = [', /line 2, column \d+: /, undefined],
      ['namespac = "x"', /unknown key "namespac"/, 'did you mean "namespace"?'],
      ['[default]\nnamespace = "x"', /unknown key "default"/, `known are ${SETTINGS.join(', ')}`],
      ['timeout = "1s"', /unknown key "timeout"/, undefined],
      ['lock-timeout = 30', /lock-timeout must be a text, such as lock-timeout = "30s"/, undefined],
      ['namespace = ["a"]', /namespace must be a text/, undefined],
      [`namespace = "${'x'.repeat(70_000)}"`, /more than 65536/, undefined],
    ] as const) {
      writeFileSync(config, text);
      await assert.rejects(readSettings([config]), (err: Error & {code?: string; hint?: string}) => {
        assert.equal(err.code, 'invalid_argument');
        assert.ok(err.message.startsWith(`configuration ${config}: `), err.message);
        assert.match(err.message, message);
        if (hint !== undefined) assert.equal(err.hint, hint);
        return true;
      });
    }
    mkdirSync(join(dir, 'directory'));
    await assert.rejects(readSettings([join(dir, 'directory')]), /directory/);
    writeFileSync(config, '');
    chmodSync(config, 0);
    assert.equal(
      (await readSettings([config]).catch((err) => err.code as string)) === 'permission_denied' || process.getuid?.() === 0,
      true,
    );
  });
});

/** Where a value may come from, in the order of their word. */
const PLACES = ['flag', 'variable', 'file'] as const;

forEachEngine('config show', (engine) => {
  it('says which of flag, variable and file has the last word, as the command itself finds', async (t) => {
    const ctr = commandLine(t, engine);
    const config = join(temporaryDirectory(t), 'config.toml');
    for (const name of PLACES) await ctr.ok(['namespaces', 'create', `of-${name}`, `from=${name}`]);
    for (let mask = 0; mask < 2 ** PLACES.length; mask++) {
      const given = PLACES.filter((_, i) => (mask & (1 << i)) !== 0);
      writeFileSync(config, given.includes('file') ? 'namespace = "of-file"\n' : '');
      const env = {BERTH_CONFIG: config, ...(given.includes('variable') ? {CONTAINERD_NAMESPACE: 'of-variable'} : {})};
      const words = given.includes('flag') ? ['--namespace', 'of-flag'] : [];
      const {settings} = JSON.parse(await ctr.ok([...words, 'config', 'show', '--json'], {env})) as {
        settings: readonly {name: string; value: string; from: string; source?: string}[];
      };
      const [first = 'default'] = given;
      const {value, from, source} = settings.find(({name}) => name === 'namespace')!;
      const sources = {flag: '--namespace', variable: 'CONTAINERD_NAMESPACE', file: config, default: undefined};
      assert.deepEqual([value, from, source], [given.length === 0 ? 'default' : `of-${first}`, first, sources[first]], given.join());
      await ctr.ok([...words, 'content', 'ingest', 'key'], {env, input: `x${mask}`});
      const listed = JSON.parse(await ctr.ok(['-n', value, 'content', 'ls', '--json'])) as unknown[];
      assert.ok(listed.length > 0, given.join());
    }
  });

  it('prints a table', async (t) => {
    const ctr = commandLine(t, engine);
    const config = join(temporaryDirectory(t), 'config.toml');
    writeFileSync(config, 'lock-timeout = "5s"\n');
    const shown = await ctr.ok(['config', 'show'], {env: {BERTH_CONFIG: config}});
    assert.match(shown, /^NAME +VALUE +FROM\n/);
    assert.ok(shown.includes(`${ctr.env.BERTH_ROOT}`) && shown.includes('BERTH_ROOT'));
    assert.match(shown, new RegExp(`^lock-timeout +5s +${config}$`, 'm'));
    assert.match(shown, /^connect-timeout +30s +default$/m);
  });

  it('and every other command names a faulty value with its file', async (t) => {
    const ctr = commandLine(t, engine);
    const config = join(temporaryDirectory(t), 'config.toml');
    writeFileSync(config, 'lock-timeout = "soon"\n');
    const {status, stderr} = await ctr(['images', 'ls'], {env: {BERTH_CONFIG: config}});
    assert.equal(status, 3);
    assert.match(stderr, new RegExp(`^ctr: configuration ${config}: lock-timeout: .*: invalid argument\n`));
    assert.equal((await ctr(['--help'], {env: {BERTH_CONFIG: config}})).status, 0);
  });
});
