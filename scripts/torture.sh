#!/usr/bin/env bash
# `make torture`: tortures two instances behind nginx for minutes, then accounts for every payment.
#
# What can be set stands in `scripts/torture.sh --help`; each as a flag here, or as a variable for
# make:
#   make torture MINUTES=10 MODE=logged SEED=7
set -euo pipefail
cd "$(dirname "$0")/.."

scripts/install.sh cc curl faketime initdb nginx
scripts/build.sh release --bins --example torture

soft_limit=65536 # open files: every client is one for nginx and one for an instance
ulimit -Sn "$soft_limit" 2>/dev/null || ulimit -Sn "$(ulimit -Hn)"

exec "${CARGO_TARGET_DIR:-target}/release/examples/torture" "$@"
