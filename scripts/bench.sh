#!/usr/bin/env bash
# `make bench`: the service in the contest's box (1.5 CPUs, 350 MB), measured line by line.
#
#   make bench LINES="settle cpu" SECONDS=20 RATE=6000
#   scripts/bench.sh --help
#
# Needs root for the limits of the box; without, it says in the report that there were none.
set -euo pipefail
cd "$(dirname "$0")/.."
PATH=$PATH:/usr/local/sbin:/usr/sbin:/sbin

scripts/install.sh cc curl initdb libpq nginx python3
# Apart: built together, the programs would have what tests ask of their libraries, a clock that can
# be moved.
cargo build --quiet --release --locked --bins
cargo build --quiet --release --locked --example open_loop --example durability_bench

. scripts/venv.sh
k6=$(k6_path) || exit 2
bench_modules || exit 2

soft_limit=65536 # open files: every client is one for nginx and one for an instance
ulimit -Sn "$soft_limit" 2>/dev/null || ulimit -Sn "$(ulimit -Hn)"

# -B: no __pycache__ in the checkout.
exec .venv/bin/python3 -B -m bench --k6 "$k6" "$@"
