#!/usr/bin/env bash
# `make drills`: walks outages one by one, each on a deployment of its own, and accounts for every
# payment.
#
#   make drills                                   # all of them, some ten minutes: before a release
#   make drills DRILLS="slow-clients full-disk" SEED=7
#   scripts/drills.sh --list                      # what there is; scripts/drills.sh --help
#
# Disks are filled on small file systems of their own, which takes root; where they cannot be
# mounted the drill says that it is NOT RUN.
set -euo pipefail
cd "$(dirname "$0")/.."

scripts/install.sh cc curl faketime initdb nginx
scripts/build.sh release --bins --example drills

soft_limit=65536 # open files: thousands of clients, of which each is one for nginx, too
ulimit -Sn "$soft_limit" 2>/dev/null || ulimit -Sn "$(ulimit -Hn)"

exec "${CARGO_TARGET_DIR:-target}/release/examples/drills" "$@"
