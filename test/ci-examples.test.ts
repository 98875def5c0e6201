/** docs/CI.md: the examples are run as the two services run them: each step in a shell of its own, or all lines in one. */
import assert from 'node:assert/strict';
import {createHash} from 'node:crypto';
import {chmodSync, cpSync, linkSync, mkdirSync, readFileSync, writeFileSync} from 'node:fs';
import {delimiter, join} from 'node:path';
import {describe, it, type TestContext} from 'node:test';
import {parse} from 'yaml';
import {environment, executable, type Result, root, run} from './cli/harness.ts';
import {requiresImage} from './support/cached-images.ts';
import {onEnd, requiresProgram, requiresRoot, temporaryDirectory} from './support/helpers.ts';
import {pushImage, type Registry, startRegistry} from './support/registry.ts';

const page = readFileSync(join(root, 'docs/CI.md'), 'utf8');
const {version} = JSON.parse(readFileSync(join(root, 'package.json'), 'utf8')) as {version: string};
const example = (service: string): never => parse(new RegExp(`^\`\`\`yaml ${service}\n(.*?)^\`\`\``, 'ms').exec(page)![1]!) as never;

/** Programs that the services' machines have and this one may lack. */
const STUBS: Readonly<Record<string, string>> = {
  sudo: '#!/bin/sh\n[ "$1" = -E ] && shift\nexec "$@"\n',
  'apt-get': '#!/bin/sh\nexit 0\n',
};

interface World {
  readonly dir: string;
  readonly registry: Registry;
  readonly env: Record<string, string>;
  /** Runs lines in one shell, as the service's runner does. */
  shell(text: string, more?: Readonly<Record<string, string>>): Promise<Result>;
}

async function world(t: TestContext): Promise<World | undefined> {
  if (process.arch !== 'x64') return void t.skip('the examples are for x64');
  if (!requiresRoot(t) || !requiresProgram(t, 'runc', 'curl')) return undefined;
  const image = requiresImage(t, 'busybox');
  if (image === undefined) return undefined;
  const registry = await startRegistry(t);
  await pushImage(registry, 'team/app:base', image.layout);
  const dir = temporaryDirectory(t);
  const [release, stubs, job] = ['release', 'stubs', 'job'].map((name) => {
    mkdirSync(join(dir, name));
    return join(dir, name);
  }) as [string, string, string];
  for (const [name, text] of Object.entries(STUBS)) {
    writeFileSync(join(stubs, name), text);
    chmodSync(join(stubs, name), 0o755);
  }
  // The package's tarball without its documents, and packed fast.
  const name = `berth-${version}-linux-x64`;
  cpSync(join(root, 'bin'), join(release, name, 'bin'), {recursive: true});
  mkdirSync(join(release, name, 'dist'));
  linkOrCopy(executable, join(release, name, 'dist/berth-linux-x64'));
  assert.equal((await run('tar', ['-C', release, '-I', 'gzip -1', '-cf', join(release, `${name}.tar.gz`), name])).status, 0);
  const sum = createHash('sha256')
    .update(readFileSync(join(release, `${name}.tar.gz`)))
    .digest('hex');
  const env = {
    BERTH_RELEASE: `file://${release}`,
    BERTH_SHA256: sum,
    BERTH_ROOT: join(dir, 'root'),
    BERTH_STATE: join(dir, 'state'),
    REGISTRY_TOKEN: 'secret',
    HOME: dir,
    XDG_RUNTIME_DIR: dir,
    CONTAINERD_NAMESPACE: `ci-${process.pid}`,
    PATH: `${stubs}${delimiter}${environment().PATH}`,
  };
  onEnd(t, () => run(join(root, 'bin/berth'), ['namespaces', 'rm', '--recursive', env.CONTAINERD_NAMESPACE], {env}));
  const host = registry.url.replace('http://', '');
  const shell = async (text: string, more: Readonly<Record<string, string>> = {}): Promise<Result> => {
    const result = await run('bash', ['-e', '-o', 'pipefail', '-c', text.replaceAll('registry.example', host)], {
      cwd: job,
      env: {...env, IMAGE: `${host}/team/app`, ...more},
      timeoutMs: 120_000,
    });
    assert.equal(result.status, 0, `${text}: ${result.stderr}`);
    return result;
  };
  return {dir, registry, env, shell};
}

function linkOrCopy(from: string, to: string): void {
  try {
    linkSync(from, to);
  } catch {
    cpSync(from, to);
  }
}

const tags = async ({registry}: World): Promise<readonly string[]> =>
  ((await (await fetch(`${registry.url}/v2/team/app/tags/list`)).json()) as {tags: string[]}).tags.sort();

describe('docs/CI.md', () => {
  it('names this version', () => {
    for (const [, found] of page.matchAll(/berth-(\d+\.\d+\.\d+)-/g)) assert.equal(found, version);
  });

  it('has a workflow for GitHub that tests and names an image, and leaves nothing', async (t) => {
    const w = await world(t);
    if (w === undefined) return;
    const files = {GITHUB_PATH: join(w.dir, 'path'), GITHUB_OUTPUT: join(w.dir, 'output')};
    for (const file of Object.values(files)) writeFileSync(file, '');
    const {jobs} = example('github') as {jobs: {test: {steps: {name: string; run: string}[]}}};
    const outputs = new Map<string, string>();
    for (const step of jobs.test.steps) {
      const added = readFileSync(files.GITHUB_PATH, 'utf8')
        .split('\n')
        .filter((line) => line !== '');
      const {stdout} = await w.shell(step.run, {
        ...files,
        GITHUB_SHA: 'abc123',
        GITHUB_RUN_ID: '7',
        PATH: [...added.reverse(), w.env.PATH].join(delimiter),
      });
      outputs.set(step.name, stdout);
    }
    assert.equal(outputs.get('test inside the image'), 'tested\n');
    assert.equal(readFileSync(files.GITHUB_OUTPUT, 'utf8'), 'known=false\n');
    assert.deepEqual(await tags(w), ['abc123', 'base']);
    assert.equal((await run(join(root, 'bin/berth'), ['namespaces', 'ls', '-q'], {env: w.env})).stdout, '');
  });

  it('has a job for GitLab that tests and names an image, and leaves nothing', async (t) => {
    const w = await world(t);
    if (w === undefined) return;
    const {image} = example('gitlab') as {image: Record<'before_script' | 'script' | 'after_script', string[]>};
    const more = {CI_COMMIT_SHA: 'abc123', CI_JOB_ID: '7'};
    // GitLab runs the first two in one shell, and the last in another.
    const {stdout} = await w.shell([...image.before_script, ...image.script].join('\n'), more);
    assert.match(stdout, /^tested$/m);
    await w.shell(image.after_script.join('\n'), more);
    assert.deepEqual(await tags(w), ['abc123', 'base']);
    assert.equal((await run(join(root, 'bin/berth'), ['namespaces', 'ls', '-q'], {env: w.env})).stdout, '');
  });
});
