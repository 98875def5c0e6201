/** `commit`: an image of what a container changed, on top of the image that it was made from. */
import {ErrdefsError} from '../../errdefs.ts';
import {formatReference, parseReference} from '../../oci/reference.ts';
import type {ImageRecord} from '../../store/records.ts';
import {SnapshotStore} from '../../store/snapshots.ts';
import type {Context} from '../context.ts';
import type {CommitOptions, MutateOptions} from '../types/index.ts';
import type {RawDescriptor, SourceManifest} from './documents.ts';
import {ImageBuild, sourceManifest} from './image-build.ts';
import {layerOnTop} from './layer-on-top.ts';
import {checkLevel} from './new-blob.ts';
import {containerPair, snapshotLayer} from './snapshot-changes.ts';

export async function commitContainer(
  context: Context,
  namespace: string,
  id: string,
  target: string,
  options: CommitOptions,
): Promise<ImageRecord> {
  checkLevel(options.compression ?? 'gzip', options.level);
  const changes = parseChanges(options.changes ?? []);
  const build = new ImageBuild(context, namespace, formatReference(parseReference(target)), options);
  try {
    const {manifest} = await addCommitted(build, id, {...options, changes, createdBy: 'berth commit'});
    return await build.commit(manifest, {});
  } finally {
    await build.close();
  }
}

interface CommittedOptions extends Omit<CommitOptions, 'changes'> {
  readonly changes?: MutateOptions;
  /** For the history. */
  readonly createdBy: string;
}

/** Adds the image of what a container changed. @returns its manifest, and that of the image that the container was made from */
export async function addCommitted(
  build: ImageBuild,
  id: string,
  options: CommittedOptions,
): Promise<{readonly manifest: RawDescriptor; readonly base: SourceManifest}> {
  const {context, namespace} = build;
  const {author, message, changes, createdBy, created, compression = 'gzip', level, signal} = options;
  const pair = containerPair(context, namespace, id);
  const {parent} = new SnapshotStore(context.store, namespace, pair.snapshotter).get(pair.key);
  const container = context.store.view((tx) => tx.namespace(namespace).containers.get(id));
  if (container.image === '') throw new ErrdefsError('failed_precondition', `container ${JSON.stringify(id)} was not made from an image`);
  const {plan} = await build.source(container.image, {});
  const planned = plan.manifests.find(({image}) => image !== undefined && image.layers.at(-1)?.chainID === parent);
  if (planned === undefined)
    throw new ErrdefsError(
      'failed_precondition',
      `${container.image} is not the image any more from which container ${JSON.stringify(id)} was made`,
      {hint: `give that image its name again; its top layer has the chain ID ${parent ?? '(none)'}`},
    );
  const base = sourceManifest(plan, planned);
  const layer = {ref: `commit ${id}`, author, message, createdBy, created, compression, level};
  const manifest = await layerOnTop(build, base, {
    ...layer,
    ...(changes === undefined ? {} : {changes}),
    content: (latest) => snapshotLayer(context, pair, {latest, signal}),
  });
  return {manifest, base};
}

/** Instructions of a Dockerfile. @throws invalid_argument */
function parseChanges(changes: readonly string[]): MutateOptions {
  const mutation: {-readonly [K in keyof MutateOptions]: MutateOptions[K]} = {};
  for (const text of changes) {
    const [, name = '', value = ''] = /^\s*([A-Za-z]+)\s+(.*?)\s*$/s.exec(text) ?? [];
    switch (name.toUpperCase()) {
      case 'CMD':
        mutation.cmd = wordsOf(value);
        break;
      case 'ENTRYPOINT':
        mutation.entrypoint = wordsOf(value);
        break;
      case 'ENV':
        mutation.env = [...(mutation.env ?? []), ...pairsOf(value)];
        break;
      case 'LABEL':
        mutation.labels = [...(mutation.labels ?? []), ...pairsOf(value)];
        break;
      case 'EXPOSE':
        mutation.expose = [...(mutation.expose ?? []), ...value.split(/\s+/)];
        break;
      case 'USER':
        mutation.user = value;
        break;
      case 'WORKDIR':
        mutation.workdir = value;
        break;
      default:
        throw new ErrdefsError('invalid_argument', `change ${JSON.stringify(text)}`, {
          hint: 'write CMD, ENTRYPOINT, ENV, LABEL, EXPOSE, USER or WORKDIR and its value, as in a Dockerfile',
        });
    }
  }
  return mutation;
}

/** A JSON list, or a command for the shell. */
function wordsOf(value: string): readonly string[] {
  if (value.startsWith('['))
    try {
      const words: unknown = JSON.parse(value);
      if (Array.isArray(words) && words.every((word) => typeof word === 'string')) return words;
    } catch {
      // For the shell, then, as in a Dockerfile.
    }
  return ['/bin/sh', '-c', value];
}

/**
 * Pairs as a Dockerfile has them: `KEY=VALUE …`, where quotes and backslashes keep spaces in a value, or one `KEY VALUE` up to the end.
 *
 * After moby's buildkit, frontend/dockerfile/parser (parseNameVal, parseWords).
 */
function pairsOf(text: string): readonly string[] {
  const refuse = (word: string): never => {
    throw new ErrdefsError('invalid_argument', `${JSON.stringify(word)} is not KEY=VALUE`);
  };
  const [, oldKey, oldValue] = /^([^\s=]+)\s+(.*)$/s.exec(text) ?? [];
  if (oldKey !== undefined) return [`${oldKey}=${unquote(oldValue!)}`];
  const words = text.match(/(?:\\.|"(?:\\.|[^"\\])*"|'[^']*'|[^\s"'\\])+|\S+/gs) ?? [];
  if (words.length === 0) refuse(text);
  return words.map((word) => {
    const equals = word.indexOf('=');
    return equals <= 0 ? refuse(word) : `${unquote(word.slice(0, equals))}=${unquote(word.slice(equals + 1))}`;
  });
}

/** Without the quotes and backslashes of a shell. */
const unquote = (text: string): string =>
  text.replace(
    /\\(.)|"((?:\\.|[^"\\])*)"|'([^']*)'/gs,
    (_, escaped?: string, double?: string, single?: string) => escaped ?? single ?? double!.replace(/\\(["\\$])/g, '$1'),
  );
