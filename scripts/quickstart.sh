#!/bin/sh
# npm run quickstart [-- REF [options of pull…]]: sets the machine up, builds, then runs scripts/quickstart.ts.
set -eu
cd "$(dirname "$0")/.."
sh scripts/setup.sh quickstart
PATH=$PWD/node_modules/.bin:$PATH
export PATH
npm run --silent build
exec node scripts/quickstart.ts "$@"
