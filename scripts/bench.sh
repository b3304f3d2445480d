#!/usr/bin/env bash
# `make bench`: the service in the contest's box (1.5 CPUs, 350 MB), measured line by line.
#
#   make bench LINES="settle cpu" SECONDS=20 RATE=6000
#   make bench QUICK=1        # the main lines of what `make run` starts, no box, in five minutes,
#                             # beside our figures; QUICK=record writes those (bench/ours.json)
#   scripts/bench.sh --help
#
# Needs root for the limits of the box; without, it says in the report that there were none.
set -euo pipefail
cd "$(dirname "$0")/.."
PATH=$PATH:/usr/local/sbin:/usr/sbin:/sbin
. scripts/venv.sh

if [ -n "${BENCH_QUICK:-}" ]; then
    # What `make run` has built and starts.
    export BENCH_PROFILE=quick BENCH_OVERLAY="" BENCH_DURABILITY=logged
    scripts/install.sh cc python3
    scripts/postgresql.sh install
    scripts/nginx.sh install
    PATH=$PATH:$(dirname "$(scripts/nginx.sh bin)")
    scripts/build.sh quick --package payment-proxy --package simulator --package tools --bins
    scripts/build.sh quick --package tools --example open_loop
    k6=""
else
    scripts/install.sh cc curl initdb libpq nginx python3
    # Apart: built together, the programs would have what tests ask of their libraries, a clock that
    # can be moved.
    scripts/build.sh release --bins
    scripts/build.sh release --example open_loop --example durability_bench
    k6=$(k6_path) || exit 2
fi
bench_modules || exit 2

soft_limit=65536 # open files: every client is one for nginx and one for an instance
ulimit -Sn "$soft_limit" 2>/dev/null || ulimit -Sn "$(ulimit -Hn)"

# -B: no __pycache__ in the checkout.
exec .venv/bin/python3 -B -m bench --k6 "$k6" "$@"
