#!/bin/sh
# npm run bench [-- NAME…]: sets the machine up, builds, then runs bench/main.ts.
set -eu
cd "$(dirname "$0")/.."
PATH=$PWD/node_modules/.bin:$PATH
export PATH
case " $* " in
  *' --help '* | *' -h '*) exec node bench/main.ts --help ;;
esac
sh scripts/setup.sh bench
npm run --silent build
exec node bench/main.ts "$@"
