#!/usr/bin/env bash
# `make soak`: the load of a day in MINUTES=30, and what is different at its end from what it was
# after a tenth.
#
#   make soak MINUTES=30 RATE=1500 SEED=7
#   scripts/soak.sh --help
#
# It runs in the box of `make bench`, and its report, with curves, goes to target/soak/latest/.
set -euo pipefail
cd "$(dirname "$0")/.."
PATH=$PATH:/usr/local/sbin:/usr/sbin:/sbin

scripts/install.sh cc curl initdb nginx python3
# Apart, as in bench.sh.
scripts/build.sh release --bins
scripts/build.sh release --example open_loop

. scripts/venv.sh
bench_modules || exit 2

soft_limit=65536 # open files: every client is one for nginx and one for an instance
ulimit -Sn "$soft_limit" 2>/dev/null || ulimit -Sn "$(ulimit -Hn)"

# -B: no __pycache__ in the checkout.
exec .venv/bin/python3 -B -m bench.soak "$@"
