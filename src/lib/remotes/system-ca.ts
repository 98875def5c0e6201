/**
 * Certificate authorities that the system trusts. Node and Bun know only the list that they were built with, unless a flag or an
 * environment variable says otherwise before they start.
 *
 * Places after Go, crypto/x509/root_linux.go and root_unix.go, which containerd uses; SSL_CERT_FILE and SSL_CERT_DIR as there, except
 * that a file which is named and cannot be read is an error.
 */
import {readdirSync, readFileSync, statSync} from 'node:fs';
import {join} from 'node:path';
import {ErrdefsError} from '../errdefs.ts';

/** The first that has certificates is the one. */
const BUNDLES = [
  '/etc/ssl/certs/ca-certificates.crt', // Debian, Ubuntu, Arch, Gentoo, Alpine
  '/etc/pki/tls/certs/ca-bundle.crt', // Fedora, RHEL 6
  '/etc/ssl/ca-bundle.pem', // SUSE
  '/etc/pki/tls/cacert.pem', // OpenELEC
  '/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem', // RHEL 7
  '/etc/ca-certificates/extracted/tls-ca-bundle.pem', // Arch
  '/etc/ssl/cert.pem', // Alpine without ca-certificates
];
/** Directories of single certificates, looked into where there is no bundle: they have hundreds of files. */
const DIRECTORIES = ['/etc/ssl/certs', '/etc/pki/tls/certs'];

const CERTIFICATE = /-----BEGIN CERTIFICATE-----\n?[^-]+-----END CERTIFICATE-----/g;

const certificatesOf = (file: string): string[] => readFileSync(file, 'latin1').replaceAll('\r', '').match(CERTIFICATE) ?? [];

/** @returns what a directory has in PEM, each certificate once: systems name each of them several times */
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

/** What the first of the bundles has that has any. */
function firstBundle(): string[] {
  for (const bundle of BUNDLES) {
    try {
      const found = certificatesOf(bundle);
      if (found.length > 0) return found;
    } catch {
      // Another system's place.
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

/** What a long-lived program need not read again: the environment and the bundles as they were. */
let known: {readonly stamp: string; readonly certificates: readonly string[]} | undefined;

const stampOf = (path: string): string => {
  const stat = statSync(path, {throwIfNoEntry: false, bigint: true});
  return stat === undefined ? '' : `${stat.ino}.${stat.size}.${stat.mtimeNs}`;
};

/**
 * The system's certificate authorities in PEM, one certificate each; empty where it has none.
 *
 * @throws invalid_argument SSL_CERT_FILE names what cannot be read
 */
export function systemAuthorities(env: NodeJS.ProcessEnv = process.env): readonly string[] {
  const {SSL_CERT_FILE: file = '', SSL_CERT_DIR: directories = ''} = env;
  const places = [...(file ? [file] : BUNDLES), ...(directories ? directories.split(':') : DIRECTORIES)];
  const stamp = [file, directories, ...places.map(stampOf)].join('\n');
  if (known?.stamp !== stamp) known = {stamp, certificates: read(env)};
  return known.certificates;
}
