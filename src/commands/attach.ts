import {existsSync, readFileSync} from 'node:fs';
import {BaseCommand} from '../cli/base-command.ts';
import {Args, Flags} from '../cli/define-flags.ts';
import {omitUndefined} from '../cli/omit-undefined.ts';
import {openProgress} from '../cli/progress.ts';
import {registryOptions} from '../cli/registry-options.ts';
import {REGISTRY_FLAGS, repeated} from '../cli/shared-flags.ts';
import {parseLabels} from '../cli/value-parsers.ts';
import type {AttachFile, Descriptor} from '../lib/client/types/index.ts';
import {fromErrno} from '../lib/errdefs.ts';

/** `FILE[:TYPE]`; a file of the whole name comes first. */
const parseFile = (word: string): AttachFile => {
  if (existsSync(word)) return {path: word};
  const [, path, mediaType] = /^(.+):([\w.+-]+\/[\w.+-]+)$/.exec(word) ?? [];
  return path === undefined || mediaType === undefined ? {path: word} : {path, mediaType};
};

const readSignature = (path: string): string => {
  try {
    return readFileSync(path, 'utf8').replaceAll(/\s/g, '');
  } catch (err) {
    throw fromErrno(err, `file ${JSON.stringify(path)}`);
  }
};

export default class Attach extends BaseCommand {
  static override summary = 'push files to a registry as an artifact that refers to an image';
  static override description = 'The streams of a running container are another command: "tasks attach".';
  static override examples = [
    'attach --artifact-type application/spdx+json registry.example/app:1.2 sbom.json:application/spdx+json',
    'attach --artifact-type application/vnd.dev.cosign.simplesigning.v1+json --signature payload.sig registry.example/app:1.2 payload.json',
  ];
  static override args = {
    ref: Args.string({required: true, description: 'reference of the image'}),
    file: Args.string({multiple: true, description: 'file, as FILE or FILE:MEDIATYPE'}),
  };
  static override flags = {
    ...REGISTRY_FLAGS,
    'artifact-type': Flags.string({required: true, helpValue: 'TYPE', description: 'media type of the artifact'}),
    signature: Flags.string({
      helpValue: 'FILE',
      description:
        'FILE has the signature, in base64, of the file that is attached, the payload of a simple signing; cosign, skopeo and podman find it',
    }),
    annotation: repeated({helpValue: 'KEY=VALUE', description: 'annotation of the artifact; may be repeated'}),
  };

  async run(): Promise<Descriptor> {
    const {args, flags} = await this.parse(Attach);
    const {registry} = await this.client(flags);
    const progress = await openProgress(flags, this.context);
    try {
      const manifest = await registry.attach(args.ref, flags['artifact-type'], (args.file ?? []).map(parseFile), {
        ...(await registryOptions(flags, args.ref, this.context)),
        ...omitUndefined({
          annotations: flags.annotation && parseLabels(flags.annotation),
          signature: flags.signature === undefined ? undefined : readSignature(flags.signature),
        }),
        onEvent: (event) => progress.update(event),
        signal: this.signal,
      });
      this.print(manifest.digest);
      return manifest;
    } finally {
      progress.close();
    }
  }
}
