/** A second real registry on loopback, with the referrers API: go-containerregistry's, built from Debian's source packages. */
import {execFileSync, spawn} from 'node:child_process';
import {createHash} from 'node:crypto';
import {once} from 'node:events';
import {existsSync, mkdirSync, readFileSync, renameSync, rmSync} from 'node:fs';
import {join} from 'node:path';
import {createInterface} from 'node:readline';
import {findProgram, onEnd, type Scope} from './helpers.ts';

/** Where Debian has the sources of Go packages. */
const GOPATH = '/usr/share/gocode';
const SOURCE = join(import.meta.dirname, 'go-registry/main.go');

/** What is missing to build it. */
export const missingForGoRegistry = (): readonly string[] => [
  ...(findProgram('go') === undefined ? ['go'] : []),
  ...(existsSync(join(GOPATH, 'src/github.com/google/go-containerregistry')) ? [] : ['golang-github-google-go-containerregistry-dev']),
];

/** Builds it, which takes some 15 s the first time. @returns its path */
function built(): string {
  const cache = join(import.meta.dirname, '../..', '.cache', 'go-registry');
  const version = execFileSync('go', ['version'], {encoding: 'utf8'});
  const key = createHash('sha256').update(version).update(readFileSync(SOURCE)).digest('hex').slice(0, 16);
  const path = join(cache, `registry-${key}`);
  if (existsSync(path)) return path;
  mkdirSync(cache, {recursive: true});
  const temporary = `${path}.${process.pid}`;
  const build = join(cache, `build.${process.pid}`);
  try {
    const env = {
      PATH: process.env.PATH ?? '/usr/bin:/bin',
      HOME: cache,
      GO111MODULE: 'off',
      GOPATH,
      GOCACHE: build,
      GOFLAGS: '',
      CGO_ENABLED: '0',
    };
    execFileSync('go', ['build', '-o', temporary, SOURCE], {env, stdio: ['ignore', 'pipe', 'pipe']});
    renameSync(temporary, path);
  } finally {
    rmSync(build, {recursive: true, force: true});
  }
  return path;
}

/** Starts one, which keeps everything in memory. @returns its host, such as `127.0.0.1:41817` */
export async function startGoRegistry(scope: Scope): Promise<string> {
  const running = spawn(built(), [], {stdio: ['ignore', 'pipe', 'ignore']});
  onEnd(scope, async () => {
    if (running.exitCode !== null) return;
    const ended = once(running, 'exit');
    running.kill('SIGKILL');
    await ended;
  });
  const [host] = (await once(createInterface(running.stdout), 'line')) as [string];
  return host;
}
