#!/bin/sh
# Installs the programs and packages that the project needs and the machine lacks. First lists each with its purpose.
#
#   scripts/setup.sh quickstart|test|bench|interop|clock|torture
#
# On Debian and derivatives, as root, it installs with apt-get. Elsewhere it lists what is missing and exits with 1.
# npm installs the Node that the project runs on, in node_modules/.bin/node; the machine's own may be older.
set -eu
cd "$(dirname "$0")/.."

mode=${1:-quickstart}
case $mode in
  quickstart) modes='quickstart' ;;
  test) modes='quickstart test' ;;
  bench) modes='quickstart test bench' ;;
  interop) modes='quickstart test interop' ;;
  clock) modes='quickstart test clock' ;;
  torture) modes='quickstart test torture' ;;
  *)
    echo "usage: scripts/setup.sh quickstart|test|bench|interop|clock|torture" >&2
    exit 3
    ;;
esac

# mode, program, package on Debian, purpose
needs='
quickstart runc            runc             to run containers
quickstart docker-registry docker-registry  the registry that images are pulled from
quickstart busybox         busybox-static   the small image in it
rootless   newuidmap       uidmap           to run containers without root
test       conmon          conmon           to leave containers running
test       perl            perl-base        to attach to tasks
test       setpriv         util-linux       to end a registry together with its test
test       criu            criu             to write running containers to disk, and let them go on
test       tini            tini             to run as the first process of a container
test       skopeo          skopeo           to compare digests and configurations
test       podman          podman           to compare trees, logins and flags
test       cosign          cosign           to sign images, and to verify signatures
test       umoci           umoci            to compare unpacked trees, and to make images
test       ctr             containerd       to compare commands and trees
test       mkfs.erofs      erofs-utils      to compare indexes of layers
test       debootstrap     debootstrap      to make the redis image
test       newuidmap       uidmap           to be a user without root
test       pgrep           procps           to find what such a user left running
test       mkfs.ext4       e2fsprogs        to make filesystems
test       strace          strace           to observe and interrupt system calls
test       getfattr        attr             to make and read extended attributes
test       chattr          e2fsprogs        to make files that cannot be removed
test       setcap          libcap2-bin      to make file capabilities
test       cni-plugins     containernetworking-plugins to connect containers to networks
test       ip              iproute2         to give tests a network of their own
test       iptables        iptables         to publish the ports of containers
test       pasta           passt            to connect containers without root to networks
test       redis-cli       redis-tools      to speak to a container through a published port
test       igzip           isal             to compare decompression speed
test       zsh             zsh              to complete command lines in it
test       fish            fish             to complete command lines in it
test       curl            curl             to fetch as the examples for CI do, and to measure the speed of a registry
bench      unpigz          pigz             decompresses for containerd and podman
bench      zstd            zstd             to compare the decompression speed of zstd
interop    buildah         buildah          to read and write archives
interop    oras            oras             to read and write layouts, and referrers
interop    go              golang-go        to build a registry with the referrers API
interop    go-containerregistry golang-github-google-go-containerregistry-dev to build it of
clock      faketime        faketime         to run the tests on another day
torture    qemu-aarch64    qemu-user        to run the executable for ARM
torture    arm-libraries   libc6-arm64-cross to run the executable for ARM
torture    arm-c++         libstdc++6-arm64-cross to run the executable for ARM with musl
torture    aarch64-linux-gnu-gcc gcc-aarch64-linux-gnu to make what the C++ library lacks on musl for ARM
torture    musl            musl             to run the executable for musl
torture    cc              gcc              to make what the C++ library lacks on musl
torture    qemu-system-x86_64 qemu-system-x86 to run a virtual machine
torture    mmdebstrap      mmdebstrap       to make the root of a virtual machine
torture    mke2fs          e2fsprogs        to make the disks of a virtual machine
torture    apparmor_parser apparmor         to check the profile of containers
'

[ "$(id -u)" = 0 ] || modes="$modes rootless"

PATH=$PATH:/usr/local/sbin:/usr/sbin:/sbin
export PATH

installed() {
  case $1 in
    # It has to be static: the image holds nothing else.
    busybox) command -v busybox >/dev/null && ! ldd "$(command -v busybox)" >/dev/null 2>&1 ;;
    # Programs outside of PATH.
    cni-plugins) [ -x /usr/lib/cni/bridge ] ;;
    # Libraries.
    arm-libraries) [ -e /usr/aarch64-linux-gnu/lib/ld-linux-aarch64.so.1 ] ;;
    arm-c++) [ -e /usr/aarch64-linux-gnu/lib/libstdc++.so.6 ] ;;
    musl) [ -e /lib/ld-musl-x86_64.so.1 ] || [ "$(uname -m)" != x86_64 ] ;;
    go-containerregistry) [ -d /usr/share/gocode/src/github.com/google/go-containerregistry ] ;;
    *) command -v "$1" >/dev/null ;;
  esac
}

missing=''
packages=''
while read -r m program package why; do
  case " $modes " in *" $m "*) ;; *) continue ;; esac
  installed "$program" && continue
  missing="$missing$(printf '  %-16s %s' "$package" "$why")
"
  packages="$packages $package"
done <<EOF_NEEDS
$needs
EOF_NEEDS

install_packages() {
  echo "setup: this machine lacks"
  printf '%s' "$missing"
  if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then
    echo "setup: install them and run this again; on Debian, as root: apt-get install --no-install-recommends$packages" >&2
    exit 1
  fi
  echo "setup: installing with apt-get:$packages"

  # Keeps the services of packages (docker-registry, containerd) from starting, now and at the next boot: none is needed.
  policy=/usr/sbin/policy-rc.d
  if [ ! -e $policy ]; then
    trap 'rm -f $policy' EXIT
    printf '#!/bin/sh\nexit 101\n' >$policy
    chmod 755 $policy
  fi
  log=$(mktemp)
  export DEBIAN_FRONTEND=noninteractive
  # shellcheck disable=SC2086 # a list
  if ! apt-get install -y -q --no-install-recommends $packages >"$log" 2>&1 </dev/null; then
    echo "setup: apt-get update"
    if ! { apt-get update -q && apt-get install -y -q --no-install-recommends $packages; } >"$log" 2>&1 </dev/null; then
      tail -n 30 "$log" >&2
      echo "setup: apt-get failed; its whole output is in $log" >&2
      exit 1
    fi
  fi
  rm -f "$log"
  for service in docker-registry containerd; do
    case " $packages " in
      *" $service "*) if command -v systemctl >/dev/null; then systemctl disable "$service" >/dev/null 2>&1 || true; fi ;;
    esac
  done
}

if [ -n "$missing" ]; then install_packages; fi

# Packages from npm: the versions of package-lock.json, Node and Bun among them.
if ! npm ls --all >/dev/null 2>&1 || [ ! -x node_modules/.bin/node ]; then
  echo 'setup: npm ci, for the packages of package-lock.json'
  npm ci --no-audit --no-fund --loglevel=error </dev/null
  # npm 9 (Debian's) installs optional packages of a workspace without linking their programs.
  if [ ! -x node_modules/.bin/node ]; then npm rebuild --ignore-scripts --loglevel=error </dev/null; fi
fi
if [ ! -x node_modules/.bin/node ]; then
  echo "setup: npm has no Node for this machine ($(uname -m)); scripts will use the one on PATH, which must be 22.19 or newer" >&2
fi
