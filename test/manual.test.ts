/** The manual: a page for every command, with all that its help has, that man(1) shows without a complaint. */
import assert from 'node:assert/strict';
import {spawnSync} from 'node:child_process';
import {describe, it} from 'node:test';
import {manualPages} from '../scripts/man-pages.ts';
import {aliasesOf} from '../src/cli/help.ts';
import {GLOBAL_FLAGS} from '../src/cli/shared-flags.ts';
import {COMMANDS} from '../src/commands/index.ts';
import {requiresProgram} from './support/helpers.ts';

const pages = await manualPages('berth', '0.1.0');

/** A page as text, without its line breaks. */
function shown(page: string): string {
  const {status, stdout, stderr} = spawnSync('groff', ['-man', '-ww', '-Tutf8', '-P-cbou', '-rLL=2000n'], {input: page, encoding: 'utf8'});
  assert.deepEqual({status, stderr}, {status: 0, stderr: ''});
  return stdout.replaceAll(/\s+/g, ' ');
}

describe('the manual', () => {
  it('has a page for every command and names them all on its first', (t) => {
    if (!requiresProgram(t, 'groff')) return;
    const names = Object.keys(COMMANDS.commands).map((id) => `berth-${id.replaceAll(' ', '-')}`);
    assert.deepEqual([...pages.keys()].sort(), ['berth.1', ...names.map((name) => `${name}.1`)].sort());
    const first = shown(pages.get('berth.1')!);
    for (const name of names) assert.ok(first.includes(`${name}(1)`), name);
    const short = Object.entries(COMMANDS.aliases).flatMap(([id, aliases]) => aliases.map((alias) => [id, alias] as const));
    for (const [id, alias] of short) if (!alias.includes(' ')) assert.ok(first.includes(` berth ${alias} berth ${id}`), alias);
  });

  it('has examples of the command itself, with its flags', async () => {
    for (const [id, load] of Object.entries(COMMANDS.commands)) {
      const {examples, flags} = (await load()).default;
      const names = [id, ...aliasesOf(id, COMMANDS)];
      for (const example of examples) {
        assert.ok(
          names.some((name) => example === name || example.startsWith(`${name} `)),
          `${id}: ${example}`,
        );
        for (const [, name] of example.matchAll(/(?<= )--([a-z][a-z-]*)/g)) {
          if (example.indexOf(' -- ') >= 0 && example.indexOf(` --${name}`) > example.indexOf(' -- ')) continue;
          if (id === 'run' || id.startsWith('tasks ') || id.startsWith('containers ')) continue; // the rest of the line may be a container's
          assert.ok(name! in {...GLOBAL_FLAGS, ...flags}, `${id}: --${name}`);
        }
      }
    }
  });

  it('shows what the help shows', async (t) => {
    if (!requiresProgram(t, 'groff')) return;
    for (const [id, load] of Object.entries(COMMANDS.commands)) {
      const {args, description, examples, flags, summary} = (await load()).default;
      const page = shown(pages.get(`berth-${id.replaceAll(' ', '-')}.1`)!);
      const texts = [summary, description ?? '', ...examples.map((example) => `berth ${example}`)];
      for (const [name, {description: text = '', hidden}] of Object.entries({...GLOBAL_FLAGS, ...flags}))
        if (!hidden) texts.push(`--${name}`, text);
      for (const [name, {description: text = ''}] of Object.entries(args)) texts.push(name.toUpperCase(), text);
      for (const text of texts) {
        const flat = text.replaceAll('<%= config.bin %>', 'berth').replaceAll(/\s+/g, ' ').trim();
        assert.ok(page.includes(flat), `${id}: ${flat}\n${page}`);
      }
    }
  });
});
