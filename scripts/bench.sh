#!/bin/sh
# npm run bench [-- NAME…]: sets the machine up, builds, then runs bench/main.ts.
set -eu
cd "$(dirname "$0")/.."
sh scripts/setup.sh bench
PATH=$PWD/node_modules/.bin:$PATH
export PATH
npm run --silent build
exec node bench/main.ts "$@"
