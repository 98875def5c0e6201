/** `commit`: an image of what a container changed, on top of the image that it was made from. */
import {ErrdefsError} from '../../errdefs.ts';
import {formatReference, parseReference} from '../../oci/reference.ts';
import type {ImageRecord} from '../../store/records.ts';
import {SnapshotStore} from '../../store/snapshots.ts';
import type {Context} from '../context.ts';
import type {CommitOptions, MutateOptions} from '../types/index.ts';
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
  const {author, message, changes = [], created = new Date().toISOString(), compression: asked = 'gzip', level, signal} = options;
  checkLevel(asked, level);
  const mutation = parseChanges(changes);
  const pair = containerPair(context, namespace, id);
  const {parent} = new SnapshotStore(context.store, namespace, pair.snapshotter).get(pair.key);
  const container = context.store.view((tx) => tx.namespace(namespace).containers.get(id));
  if (container.image === '') throw new ErrdefsError('failed_precondition', `container ${JSON.stringify(id)} was not made from an image`);
  const build = new ImageBuild(context, namespace, formatReference(parseReference(target)), options);
  try {
    const {plan} = await build.source(container.image, {});
    const planned = plan.manifests.find(({image}) => image !== undefined && image.layers.at(-1)?.chainID === parent);
    if (planned === undefined)
      throw new ErrdefsError(
        'failed_precondition',
        `${container.image} is not the image any more from which container ${JSON.stringify(id)} was made`,
        {
          hint: `give that image its name again; its top layer has the chain ID ${parent ?? '(none)'}`,
        },
      );
    // Only a time that the caller chose makes the same bytes of the same tree at any time.
    const latest = options.created === undefined ? undefined : Math.floor(Date.parse(created) / 1000);
    const manifest = await layerOnTop(build, sourceManifest(plan, planned), {
      ref: `commit ${id}`,
      author,
      message,
      createdBy: 'berth commit',
      created,
      changes: mutation,
      content: snapshotLayer(context, pair, {latest, signal}),
      compression: asked,
      ...(level === undefined ? {} : {level}),
    });
    return await build.commit(manifest, {});
  } finally {
    await build.close();
  }
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
