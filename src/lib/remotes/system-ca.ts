/**
 * Reads the system's certificate authorities. Node and Bun use their built-in list unless a flag or an environment variable says
 * otherwise at their start.
 *
 * Paths after Go, crypto/x509/root_linux.go and root_unix.go, which containerd uses; likewise SSL_CERT_FILE and SSL_CERT_DIR, but an
 * unreadable SSL_CERT_FILE is an error.
 */
import {readdirSync, readFileSync, statSync} from 'node:fs';
import {join} from 'node:path';
import {ErrdefsError} from '../errdefs.ts';

/** The first one with certificates is used. */
const BUNDLES = [
  '/etc/ssl/certs/ca-certificates.crt', // Debian, Ubuntu, Arch, Gentoo, Alpine
  '/etc/pki/tls/certs/ca-bundle.crt', // Fedora, RHEL 6
  '/etc/ssl/ca-bundle.pem', // SUSE
  '/etc/pki/tls/cacert.pem', // OpenELEC
  '/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem', // RHEL 7
  '/etc/ca-certificates/extracted/tls-ca-bundle.pem', // Arch
  '/etc/ssl/cert.pem', // Alpine without ca-certificates
];
/** Directories of single certificates, read only without a bundle: they have hundreds of files. */
const DIRECTORIES = ['/etc/ssl/certs', '/etc/pki/tls/certs'];

const CERTIFICATE = /-----BEGIN CERTIFICATE-----\n?[^-]+-----END CERTIFICATE-----/g;

const certificatesOf = (file: string): string[] => readFileSync(file, 'latin1').replaceAll('\r', '').match(CERTIFICATE) ?? [];

/** The PEM certificates of a directory. */
function certificatesIn(directory: string): string[] {
  try {
    return readdirSync(directory).flatMap((name) => {
      const file = join(directory, name);
      try {
        return statSync(file).isFile() ? certificatesOf(file) : [];
      } catch {
        return [];
      }
    });
  } catch {
    return [];
  }
}

/** The certificates of the first bundle that has some. */
function firstBundle(): string[] {
  for (const bundle of BUNDLES) {
    try {
      const found = certificatesOf(bundle);
      if (found.length > 0) return found;
    } catch {
      // A path of another distribution.
    }
  }
  return [];
}

function read({SSL_CERT_FILE: file, SSL_CERT_DIR: directories}: NodeJS.ProcessEnv): string[] {
  let bundle: string[];
  try {
    bundle = file ? certificatesOf(file) : firstBundle();
  } catch (err) {
    throw new ErrdefsError('invalid_argument', `unable to read the certificate authorities of SSL_CERT_FILE ${JSON.stringify(file)}`, {
      cause: err,
      hint: 'name a file with certificates in PEM, or unset SSL_CERT_FILE',
    });
  }
  if (directories) return [...new Set([...bundle, ...directories.split(':').flatMap(certificatesIn)])];
  return [...new Set(bundle.length > 0 ? bundle : DIRECTORIES.flatMap(certificatesIn))];
}

/** Cache, with the environment and the state of the files it was read from. */
let known: {readonly stamp: string; readonly certificates: readonly string[]} | undefined;

const stampOf = (path: string): string => {
  const stat = statSync(path, {throwIfNoEntry: false, bigint: true});
  return stat === undefined ? '' : `${stat.ino}.${stat.size}.${stat.mtimeNs}`;
};

/**
 * The system's certificate authorities, one PEM certificate each; empty if there are none.
 *
 * @throws invalid_argument SSL_CERT_FILE is unreadable
 */
export function systemCertificates(env: NodeJS.ProcessEnv = process.env): readonly string[] {
  const {SSL_CERT_FILE: file = '', SSL_CERT_DIR: directories = ''} = env;
  const places = [...(file ? [file] : BUNDLES), ...(directories ? directories.split(':') : DIRECTORIES)];
  const stamp = [file, directories, ...places.map(stampOf)].join('\n');
  if (known?.stamp !== stamp) known = {stamp, certificates: read(env)};
  return known.certificates;
}
