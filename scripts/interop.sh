#!/bin/sh
# Prints which tools read what berth writes, and the other way round, in which formats. Installs the tools that Debian has.
set -eu
cd "$(dirname "$0")/.."
sh scripts/setup.sh interop
exec node_modules/.bin/node scripts/interop.ts "$@"
