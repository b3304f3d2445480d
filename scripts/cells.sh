#!/usr/bin/env bash
# `make cells`: four cells in two PostgreSQL clusters, two instances, two simulated processors and a
# load. One cluster is killed and comes back, a cell moves to the other one, and every payment is
# accounted for; then the throughput of 1, 2 and 4 cells. Then the same walk in a Citus cluster, where
# its extension is installed; where it is not, NOT RUN.
#
#   make cells                       # some two minutes
#   make cells RATE=500 SECONDS=20   # payments per second, and seconds before and after each event
#   scripts/cells.sh --help
set -euo pipefail
cd "$(dirname "$0")/.."

scripts/install.sh cc initdb
scripts/build.sh release --bins --example cells

exec "${CARGO_TARGET_DIR:-target}/release/examples/cells" "$@"
