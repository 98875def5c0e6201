/** Flags of the commands that have a registry at each end. */
import type {RegistryOptions} from '../lib/client/types/index.ts';
import type {Context} from './command-context.ts';
import {Flags} from './define-flags.ts';
import {type RegistryFlags, registryOptions} from './registry-options.ts';
import {count, REGISTRY_FLAGS} from './shared-flags.ts';

const {user: _user, 'password-stdin': _stdin, refresh: _refresh, ...BOTH_ENDS} = REGISTRY_FLAGS;

/** Flags for both ends, and those of one. */
export const COPY_FLAGS = {
  ...BOTH_ENDS,
  'src-creds': Flags.string({
    helpValue: 'USER[:PASSWORD]',
    description: 'credentials for the source; without a password, berth asks for it (other users can briefly see one that is given here)',
  }),
  'src-password-stdin': Flags.boolean({description: 'read the password of --src-creds from standard input', dependsOn: ['src-creds']}),
  'src-plain-http': Flags.boolean({description: 'use plain HTTP for the source'}),
  'src-skip-verify': Flags.boolean({description: "do not verify the source's TLS certificate"}),
  'dest-creds': Flags.string({helpValue: 'USER[:PASSWORD]', description: 'credentials for the destination, as --src-creds'}),
  'dest-password-stdin': Flags.boolean({
    description: 'read the password of --dest-creds from standard input',
    dependsOn: ['dest-creds'],
    exclusive: ['src-password-stdin'],
  }),
  'dest-plain-http': Flags.boolean({description: 'use plain HTTP for the destination'}),
  'dest-skip-verify': Flags.boolean({description: "do not verify the destination's TLS certificate"}),
  all: Flags.boolean({char: 'a', exclusive: ['platform'], description: 'copy the images of all platforms, and the index'}),
  platform: Flags.string({helpValue: 'OS/ARCH', description: "platform of an index to copy; by default this machine's"}),
  'max-concurrent-downloads': count({description: 'number of blobs to copy at once; 6 by default'}),
};

/** Flags of skopeo that have another name here. */
export const SKOPEO_HINTS = {
  '--src-tls-verify': 'use --src-skip-verify to accept any certificate',
  '--dest-tls-verify': 'use --dest-skip-verify to accept any certificate',
  '--override-os': 'use --platform OS/ARCH',
  '--override-arch': 'use --platform OS/ARCH',
  '--multi-arch': 'use --all',
  '--encryption-key': 'images are not encrypted; skopeo does it',
  '--decryption-key': 'encrypted layers are copied as they are; skopeo decrypts them',
};

type EndFlags = Omit<RegistryFlags, 'user' | 'password-stdin' | 'refresh'> & {
  readonly [K in 'src' | 'dest' as `${K}-creds`]: string | undefined;
} & {readonly [K in 'src' | 'dest' as `${K}-password-stdin` | `${K}-plain-http` | `${K}-skip-verify`]: boolean};

/** Options of the library for one end. @param place names the registry in an error about its password */
export const endOptions = (end: 'src' | 'dest', flags: EndFlags, place: string, context: Context): Promise<RegistryOptions> =>
  registryOptions(
    {
      ...flags,
      user: flags[`${end}-creds`],
      'password-stdin': flags[`${end}-password-stdin`],
      refresh: undefined,
      'plain-http': flags['plain-http'] || flags[`${end}-plain-http`],
      'skip-verify': flags['skip-verify'] || flags[`${end}-skip-verify`],
    },
    place,
    context,
  );
