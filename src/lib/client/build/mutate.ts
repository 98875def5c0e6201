/** `images mutate`: changes of an image's config, and of its manifest's annotations. */
import {ErrdefsError} from '../../errdefs.ts';
import {documentType} from '../../oci/mediatypes.ts';
import type {ImageRecord} from '../../store/records.ts';
import type {Context} from '../context.ts';
import type {MutateOptions} from '../types/index.ts';
import {createdOf, deriveManifest, historyOf, type JSONObject, objectAt, type SourceManifest, withLayers} from './documents.ts';
import {deriveImage} from './image-build.ts';

const PORT = /^(?:[1-9]\d{0,4})(?:-[1-9]\d{0,4})?(?:\/(?:tcp|udp|sctp))?$/;

export async function mutateImage(
  context: Context,
  namespace: string,
  source: string,
  target: string,
  options: MutateOptions,
): Promise<ImageRecord> {
  checkOptions(options);
  const {annotations = [], created, comment} = options;
  return deriveImage(context, namespace, source, target, options, async (from, build) => {
    const {family} = from;
    if (annotations.length > 0 && family === 'docker')
      throw new ErrdefsError('failed_precondition', `manifest ${from.descriptor.digest} is docker's, which has no annotations`, {
        hint: 'convert the image first with "berth images convert --oci SOURCE TARGET"',
      });
    const changed = changeConfig(from.config, options);
    const entry = {
      ...createdOf(from.config, created),
      created_by: 'berth images mutate',
      ...(comment === undefined ? {} : {comment}),
      empty_layer: true,
    };
    const config = withLayers(
      changed,
      from.image.layers.map(({diffID}) => diffID),
      historyOf(from)?.concat(entry),
    );
    const manifest = deriveManifest(
      annotations.length === 0 ? from : annotated(from, annotations),
      family,
      build.addDocument(documentType('config', family), config),
      from.manifest.layers,
    );
    return build.addDocument(documentType('manifest', family), manifest);
  });
}

function checkOptions({expose = [], env = [], labels = [], annotations = []}: MutateOptions): void {
  const wrong = expose.find((port) => !PORT.test(port));
  if (wrong !== undefined)
    throw new ErrdefsError('invalid_argument', `${JSON.stringify(wrong)} is not a port`, {hint: 'write 8080, 53/udp or 8000-8010/tcp'});
  const nameless = [...env, ...labels, ...annotations].find((word) => word === '' || word.startsWith('='));
  if (nameless !== undefined) throw new ErrdefsError('invalid_argument', `${JSON.stringify(nameless)} has no key`);
}

const annotated = (from: SourceManifest, words: readonly string[]): SourceManifest => ({
  ...from,
  manifest: {...from.manifest, annotations: changeMap(objectAt(from.manifest, 'annotations'), words)},
});

export function changeConfig(config: JSONObject, options: MutateOptions): JSONObject {
  const own = {...objectAt(config, 'config')};
  const set = (key: string, value: unknown, isEmpty: boolean): void => {
    if (isEmpty) delete own[key];
    else own[key] = value;
  };
  const {env = [], labels = [], entrypoint, cmd, user, workdir, expose = [], created} = options;
  if (env.length > 0) own.Env = changeEnv((own.Env ?? []) as readonly string[], env);
  if (labels.length > 0) own.Labels = changeMap(objectAt(own, 'Labels'), labels);
  if (entrypoint !== undefined) {
    set('Entrypoint', entrypoint, entrypoint.length === 0);
    delete own.Cmd;
  }
  if (cmd !== undefined) set('Cmd', cmd, cmd.length === 0);
  if (user !== undefined) set('User', user, user === '');
  if (workdir !== undefined) set('WorkingDir', workdir, workdir === '');
  if (expose.length > 0) {
    const ports = Object.fromEntries(expose.map((port) => [port.includes('/') ? port : `${port}/tcp`, {}]));
    own.ExposedPorts = {...objectAt(own, 'ExposedPorts'), ...ports};
  }
  return {...config, ...(created === undefined ? {} : {created}), config: own};
}

/** `KEY=VALUE` replaces or appends, `KEY` alone removes. */
function changeEnv(env: readonly string[], words: readonly string[]): readonly string[] {
  const all = [...env];
  for (const word of words) {
    const key = word.split('=', 1)[0]!;
    const at = all.findIndex((entry) => entry.split('=', 1)[0] === key);
    if (!word.includes('=')) {
      if (at >= 0) all.splice(at, 1);
    } else if (at >= 0) all[at] = word;
    else all.push(word);
  }
  return all;
}

function changeMap(map: JSONObject, words: readonly string[]): JSONObject {
  const all = new Map(Object.entries(map));
  for (const word of words) {
    const equals = word.indexOf('=');
    if (equals < 0) all.delete(word);
    else all.set(word.slice(0, equals), word.slice(equals + 1));
  }
  return Object.fromEntries([...all].sort(([a], [b]) => (a < b ? -1 : 1)));
}
