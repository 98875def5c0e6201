/** `sync`: copies the images of a list. What is there already is skipped, so that an interrupted sync goes on where it stopped. */
import {type Dirent, readdirSync} from 'node:fs';
import {basename, join, relative, resolve} from 'node:path';
import {ErrdefsError, fromErrno, toJSON, wrap} from '../../errdefs.ts';
import {isTemporary} from '../../fs/durable.ts';
import {parseDigest} from '../../oci/descriptor.ts';
import {formatReference, parseReference, type Reference} from '../../oci/reference.ts';
import type {Context} from '../context.ts';
import type {RegistryOptions, SyncedImage, SyncOptions, SyncResult, SyncSource} from '../types/index.ts';
import {copyWith, SharedRemotes} from './copy.ts';
import {parseSyncFile, type SyncRegistry, type WantedImages} from './sync-file.ts';

const MAX_CONCURRENT_IMAGES = 3;

/** One image to copy. */
interface Job {
  readonly source: string;
  readonly destination: string;
  readonly options: RegistryOptions;
}

/** @throws the first failure, after `onReport`; with `keepGoing` failures are in the result */
export async function sync(context: Context, list: SyncSource, destination: string, options: SyncOptions): Promise<SyncResult> {
  const remotes = new SharedRemotes(context);
  try {
    return await syncWith(remotes, list, destination, options);
  } finally {
    await remotes.close();
  }
}

async function syncWith(remotes: SharedRemotes, list: SyncSource, destination: string, options: SyncOptions): Promise<SyncResult> {
  const started = performance.now();
  const place = parseDestination(destination);
  const registries = typeof list === 'string' ? parseSyncFile(list) : [];
  const {credentials, refreshToken} = options.source ?? {};
  const isOneSecret = refreshToken !== undefined || (credentials !== undefined && typeof credentials !== 'function');
  if (isOneSecret && registries.length > 1)
    throw new ErrdefsError('invalid_argument', `credentials for the source, and ${registries.length} registries in the list`, {
      hint: 'one password is not sent to several registries: write credentials below each in the list',
    });
  const jobs: Job[] = [];
  const images: SyncedImage[] = [];
  const failed = (source: string, target: string, err: unknown): SyncedImage => ({
    source,
    destination: target,
    status: 'failed',
    error: toJSON(err),
  });
  const isOver = (): boolean => options.signal?.aborted === true || !options.keepGoing;

  if (typeof list !== 'string')
    for (const {path, name} of imagesBelow(list.directory))
      jobs.push({source: `dir:${path}`, destination: targetOf(place, name, options), options: options.source ?? {}});
  for (const registry of registries) {
    const source = {...options.source, ...sourceOptions(registry)};
    for (const wanted of registry.images) {
      try {
        for (const ref of await referencesOf(remotes, wanted, source, options.signal))
          jobs.push({source: `docker://${formatReference(ref)}`, destination: targetOf(place, nameOf(ref), options), options: source});
      } catch (err) {
        images.push(failed(`docker://${wanted.repository.domain}/${wanted.repository.path}`, destination, err));
        if (!isOver()) continue;
        options.onReport?.(summary([...images, ...jobs.map((job) => ({...namesOf(job), status: 'pending' as const}))], started));
        throw err;
      }
    }
  }
  checkDistinct(jobs);

  if (options.dryRun) {
    images.push(...jobs.map((job) => ({...namesOf(job), status: 'planned' as const})));
    return summary(images, started);
  }
  const reached: SyncedImage[] = [];
  const report = (): SyncResult =>
    summary([...images, ...jobs.map((job, i) => reached[i] ?? {...namesOf(job), status: 'pending' as const})], started);
  try {
    await runAll(jobs, options.maxConcurrentImages ?? MAX_CONCURRENT_IMAGES, async (job, i) => {
      options.signal?.throwIfAborted();
      try {
        const {result, wasCurrent} = await copyWith(remotes, job.source, job.destination, copyOptions(job, options));
        // A tag may be new, or another one, for an image that is there. A directory cannot tell.
        const isExisting = wasCurrent || (place.kind === 'dir' && result.blobs.copied === 0);
        reached[i] = {
          ...namesOf(job),
          status: isExisting ? 'exists' : 'copied',
          digest: result.target.digest,
          transferredBytes: result.transferredBytes,
        };
      } catch (err) {
        if (!options.signal?.aborted) reached[i] = failed(job.source, job.destination, err);
        if (isOver()) throw err;
      }
    });
  } catch (err) {
    options.onReport?.(report());
    throw err;
  }
  return report();
}

const namesOf = ({source, destination}: Job): Pick<SyncedImage, 'source' | 'destination'> => ({source, destination});

function summary(images: readonly SyncedImage[], started: number): SyncResult {
  const count = (status: SyncedImage['status']): number => images.filter((image) => image.status === status).length;
  return {
    images,
    copied: count('copied'),
    exists: count('exists'),
    failed: count('failed'),
    transferredBytes: images.reduce((sum, {transferredBytes = 0}) => sum + transferredBytes, 0),
    elapsedMs: performance.now() - started,
  };
}

const copyOptions = (job: Job, {destination, all, platform, maxConcurrent, onEvent, signal}: SyncOptions) => ({
  source: job.options,
  ...(destination && {destination}),
  ...(all === undefined ? {} : {all}),
  ...(platform === undefined ? {} : {platform}),
  ...(maxConcurrent === undefined ? {} : {maxConcurrent}),
  ...(onEvent && {onEvent}),
  ...(signal && {signal}),
});

/** What the list says about a registry, over the caller's options. */
function sourceOptions({credentials, tlsVerify, certDir, host}: SyncRegistry): RegistryOptions {
  return {
    ...(credentials && {credentials}),
    ...(tlsVerify === undefined ? {} : {skipVerify: !tlsVerify}),
    ...(certDir === undefined ? {} : certificatesIn(certDir, `${host}: cert-dir`)),
  };
}

/**
 * The certificates of a `cert-dir`: a CA as `*.crt`, a client certificate as `*.cert` and its key as `*.key`.
 *
 * @throws not_implemented several of a kind
 */
function certificatesIn(dir: string, what: string): Pick<RegistryOptions, 'tlsCACert' | 'tlsCert' | 'tlsKey'> {
  let names: readonly string[];
  try {
    names = readdirSync(dir);
  } catch (err) {
    throw fromErrno(err, what);
  }
  const ending = (end: string): readonly string[] => names.filter((name) => name.endsWith(end)).map((name) => join(dir, name));
  const [authorities, certificates] = [ending('.crt'), ending('.cert')];
  if (authorities.length > 1 || certificates.length > 1)
    throw new ErrdefsError('not_implemented', `${what}: several certificates of one kind`, {
      hint: 'put the CAs into one file, or the directory below that of --hosts-dir, named after the registry',
    });
  return {
    ...(authorities[0] && {tlsCACert: authorities[0]}),
    ...(certificates[0] && {tlsCert: certificates[0], tlsKey: certificates[0].replace(/cert$/, 'key')}),
  };
}

async function referencesOf(
  remotes: SharedRemotes,
  {repository, references, wants}: WantedImages,
  options: RegistryOptions,
  signal: AbortSignal | undefined,
): Promise<readonly Reference[]> {
  if (references !== undefined) return references;
  const remote = await remotes.get(options);
  const tags: string[] = [];
  for await (const tag of remote.api(repository).tags({signal})) if (wants!(tag)) tags.push(tag);
  // docker's registry lists them in another order each time.
  return tags.sort().map((tag) => ({...repository, tag}));
}

type Destination = {readonly kind: 'registry'; readonly prefix: string} | {readonly kind: 'dir'; readonly path: string};

/** A directory as `dir:DIR`, or a registry with a path or without. @throws invalid_argument */
function parseDestination(text: string): Destination {
  if (text.startsWith('dir:')) {
    if (text === 'dir:') throw new ErrdefsError('invalid_argument', 'destination "dir:" has no path');
    return {kind: 'dir', path: resolve(text.slice('dir:'.length))};
  }
  const prefix = text.replace(/^docker:\/\//, '').replace(/\/+$/, '');
  const probe = parseReference(`${prefix}/x`);
  if (`${probe.domain}/${probe.path}` !== `${prefix}/x`)
    throw new ErrdefsError('invalid_argument', `destination ${JSON.stringify(text)}`, {
      hint: 'write HOST[:PORT][/PATH], such as registry.example:5000/mirror, or dir:DIRECTORY',
    });
  return {kind: 'registry', prefix};
}

/** Name of an image at its source: a repository, with the registry's name or without, and a tag or a digest. */
interface ImageName extends Pick<Reference, 'tag' | 'digest'> {
  readonly repository: string;
}

const nameOf = ({domain, path, tag, digest}: Reference): ImageName => ({
  repository: `${domain}/${path}`,
  ...(tag === undefined ? {} : {tag}),
  ...(digest === undefined ? {} : {digest}),
});

/**
 * Images in skopeo's format `dir:` at or below a directory, as a sync into it lays them out: named by their paths from there.
 *
 * @throws not_found no directory, or no image in it @throws invalid_argument a path that is no name of an image
 */
function imagesBelow(directory: string): readonly {readonly path: string; readonly name: ImageName}[] {
  const root = resolve(directory);
  const found: {readonly path: string; readonly name: ImageName}[] = [];
  const visit = (path: string): void => {
    let entries: readonly Dirent[];
    try {
      entries = readdirSync(path, {withFileTypes: true});
    } catch (err) {
      throw fromErrno(err, `directory ${path}`);
    }
    if (entries.some(({name}) => name === 'manifest.json') && entries.some(({name}) => name === 'version'))
      found.push({path, name: nameOfPath(path === root ? basename(root) : relative(root, path), path)});
    else for (const entry of entries) if (entry.isDirectory() && !isTemporary(entry.name)) visit(join(path, entry.name));
  };
  visit(root);
  if (found.length === 0)
    throw new ErrdefsError('not_found', `image in directory ${root}`, {hint: 'images are there as sync to dir: writes them'});
  return found.sort((a, b) => (a.path < b.path ? -1 : 1));
}

function nameOfPath(text: string, path: string): ImageName {
  const [, repository, tag, digest] = /^(.*?)(?::([^:/@]+))?(?:@([^/@]+))?$/.exec(text)!;
  try {
    // Only the last component has a tag; a registry's port may stand before it.
    parseReference(
      `registry.example/${repository!.replaceAll(':', '_')}${tag === undefined ? '' : `:${tag}`}${digest === undefined ? '' : `@${digest}`}`,
    );
  } catch (err) {
    throw wrap(`directory ${JSON.stringify(path)} is not named after an image`, err);
  }
  return {
    repository: repository!,
    ...(tag === undefined && digest === undefined ? {tag: 'latest'} : {}),
    ...(tag === undefined ? {} : {tag}),
    ...(digest === undefined ? {} : {digest: parseDigest(digest)}),
  };
}

/** Where skopeo puts it: the last component of the repository, or with `scoped` all of it below the registry's name. */
function targetOf(place: Destination, {repository: name, tag, digest}: ImageName, {scoped, appendSuffix = ''}: SyncOptions): string {
  const below = scoped ? name : name.slice(name.lastIndexOf('/') + 1);
  if (place.kind === 'dir') return `dir:${join(place.path, `${below}${tag === undefined ? `@${digest}` : `:${tag}${appendSuffix}`}`)}`;
  // A port has a colon, which no component of a repository may have.
  const repository = `${place.prefix}/${below.replaceAll(':', '_')}`;
  return `docker://${repository}${tag === undefined ? `@${digest}` : `:${tag}${appendSuffix}`}`;
}

/** @throws invalid_argument two images would have one destination */
function checkDistinct(jobs: readonly Job[]): void {
  const sources = new Map<string, string>();
  for (const {source, destination} of jobs) {
    const other = sources.get(destination);
    if (other !== undefined && other !== source)
      throw new ErrdefsError('invalid_argument', `${other} and ${source} would both become ${destination}`, {
        hint: 'use --scoped, which keeps registries and repositories apart',
      });
    sources.set(destination, source);
  }
}

/** Runs a task for each item, at most `limit` at once; after a failure no other begins, and those that have begun end. */
async function runAll<T>(items: readonly T[], limit: number, task: (item: T, i: number) => Promise<void>): Promise<void> {
  const failure = {err: undefined as unknown, isSet: false};
  const queue = items.entries();
  const worker = async (): Promise<void> => {
    for (const [i, item] of queue) {
      if (failure.isSet) return;
      try {
        await task(item, i);
      } catch (err) {
        if (!failure.isSet) Object.assign(failure, {err, isSet: true});
        return;
      }
    }
  };
  await Promise.all(Array.from({length: Math.min(limit, items.length)}, worker));
  if (failure.isSet) throw failure.err;
}
