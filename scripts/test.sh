#!/bin/sh
# npm test [-- --short] [--clock=±DAYSd] [FILE…] [options of node --test…]: sets the machine up, then runs scripts/test.ts.
set -eu
cd "$(dirname "$0")/.."
case " $* " in
  *' --clock='*) sh scripts/setup.sh clock ;;
  *' --torture '*) sh scripts/setup.sh torture ;;
  *) sh scripts/setup.sh test ;;
esac
PATH=$PWD/node_modules/.bin:$PATH
export PATH
exec node scripts/test.ts "$@"
