/** Builds Debian images: programs change a tree, and each change becomes a layer. Needs root and a mirror. */
import {execFileSync} from 'node:child_process';
import {closeSync, mkdirSync, openSync, readFileSync, rmSync} from 'node:fs';
import {join} from 'node:path';

/** Suite and mirror that this machine's apt installs from, by its configuration. */
export function debianArchive(): {suite: string; mirror: string} {
  const codename = /^VERSION_CODENAME=(.*)$/m.exec(readFileSync('/etc/os-release', 'utf8'))?.[1] ?? '';
  const suites = [codename, 'stable', 'oldstable', 'testing', 'sid', 'unstable'];
  const format = '$(RELEASE) $(COMPONENT) $(REPO_URI)';
  const [first] = execFileSync('apt-get', ['indextargets', '--format', format, 'Created-By: Packages'], {encoding: 'utf8'})
    .split('\n')
    .map((line) => line.split(' '))
    .filter(([suite, component]) => component === 'main' && suites.includes(suite!))
    .sort(([a], [b]) => suites.indexOf(a!) - suites.indexOf(b!));
  const [suite, , mirror] = first ?? [];
  if (suite === undefined || mirror === undefined) throw new Error("apt has no Debian archive's main component among its sources");
  return {suite, mirror};
}

/**
 * An image in the making: an OCI layout in umoci's hands, and its tree unpacked.
 *
 * What changes the tree runs in a mount namespace of its own, so nothing stays mounted. apt runs outside, with this
 * machine's way to the mirror, and installs inside.
 */
export class Workshop {
  /** The tree. */
  readonly root: string;
  readonly layout: string;
  readonly #bundle: string;
  readonly #log: string;

  /** @param dir an empty directory */
  constructor(dir: string) {
    this.layout = join(dir, 'layout');
    this.#bundle = join(dir, 'bundle');
    this.#log = join(dir, 'log');
    this.root = join(this.#bundle, 'rootfs');
    this.run('umoci', 'init', '--layout', this.layout);
    this.run('umoci', 'new', '--image', this.#image);
    this.#unpack();
  }

  get #image(): string {
    return `${this.layout}:latest`;
  }

  #unpack(): void {
    rmSync(this.#bundle, {recursive: true, force: true});
    this.run('umoci', 'unpack', '--image', this.#image, this.#bundle);
  }

  /** Runs a program; its output is shown when it fails. */
  run(program: string, ...args: readonly string[]): void {
    const fd = openSync(this.#log, 'a');
    try {
      const env = {...process.env, DEBIAN_FRONTEND: 'noninteractive', LC_ALL: 'C.UTF-8'};
      execFileSync(program, args, {stdio: ['ignore', fd, fd], env});
    } catch (cause) {
      const tail = readFileSync(this.#log, 'utf8').split('\n').slice(-20).join('\n');
      throw new Error(`${[program, ...args].join(' ')} failed:\n${tail}`, {cause});
    } finally {
      closeSync(fd);
    }
  }

  /** Runs a program while the tree has this machine's /dev. */
  #withDevices(...command: readonly string[]): void {
    const script = 'mount --bind /dev "$1"; shift; exec "$@"';
    this.run('unshare', '--mount', '--propagation', 'private', 'sh', '-ec', script, 'sh', join(this.root, 'dev'), ...command);
  }

  /** Puts a minimal Debian into the tree, without what an image does not need to run. */
  debootstrap(): void {
    const {suite, mirror} = debianArchive();
    this.run('debootstrap', '--variant=minbase', suite, this.root, mirror);
    rmSync(join(this.root, 'dev'), {recursive: true});
    mkdirSync(join(this.root, 'dev'));
    this.sh(`
      printf '#!/bin/sh\\nexit 101\\n' >/usr/sbin/policy-rc.d; chmod 755 /usr/sbin/policy-rc.d
      printf 'path-exclude=/usr/share/%s/*\\n' doc man info locale >/etc/dpkg/dpkg.cfg.d/slim
      rm -rf /usr/share/doc/* /usr/share/man/* /usr/share/info/* /usr/share/locale/*
      rm -rf /var/cache/apt/archives/*.deb /var/lib/apt/lists/* /var/log/*`);
  }

  install(...packages: readonly string[]): void {
    const apt = ['apt-get', '-y', '-o', `Dir=${this.root}`, '-o', `DPkg::Chroot-Directory=${this.root}`];
    apt.push('-o', 'APT::Sandbox::User=root', '-o', 'Dpkg::Use-Pty=0');
    this.run(...(apt as [string, ...string[]]), 'update');
    this.#withDevices(...apt, 'install', '--no-install-recommends', ...packages);
    this.sh('rm -rf /var/cache/apt/*.bin /var/cache/apt/archives/*.deb /var/lib/apt/lists/* /var/log/apt /var/log/dpkg.log');
  }

  /** Runs a shell script in the tree. */
  sh(script: string): void {
    this.#withDevices('chroot', this.root, '/bin/sh', '-ec', script);
  }

  /** Makes a layer of what has changed since the last. */
  commit(createdBy: string): void {
    this.run('umoci', 'repack', '--image', this.#image, `--history.created_by=${createdBy}`, '--refresh-bundle', this.#bundle);
  }

  /** Makes a layer of files below `dir`, by exactly these names and as root's. The tree is not changed by it. */
  add(createdBy: string, dir: string, ...names: readonly string[]): void {
    const tar = join(this.#bundle, 'layer.tar');
    this.run('tar', '--owner=0', '--group=0', '--numeric-owner', '--no-recursion', '-C', dir, '-cf', tar, ...names);
    this.run('umoci', 'raw', 'add-layer', '--image', this.#image, `--history.created_by=${createdBy}`, tar);
    rmSync(tar);
  }

  /** Sets the image's configuration, by umoci's flags: `config.cmd=…`. */
  configure(...settings: readonly string[]): void {
    this.run('umoci', 'config', '--image', this.#image, ...settings.map((setting) => `--${setting}`));
  }
}
