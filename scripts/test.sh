#!/bin/sh
# npm test [-- --short] [FILE…] [options of node --test…]: sets the machine up, then runs scripts/test.ts, which see.
set -eu
cd "$(dirname "$0")/.."
sh scripts/setup.sh test
PATH=$PWD/node_modules/.bin:$PATH
export PATH
exec node scripts/test.ts "$@"
