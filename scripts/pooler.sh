#!/usr/bin/env bash
# `make pooler`: PgBouncer in transaction mode between two instances and PostgreSQL, two simulated
# processors and a load. Kills PgBouncer, the instances and the server, and accounts for every
# payment.
#
#   make pooler                                   # all of them, some four minutes
#   make pooler DRILLS="killed-pooler" SEED=7
#   scripts/pooler.sh --help
set -euo pipefail
cd "$(dirname "$0")/.."

scripts/install.sh cc curl initdb nginx
scripts/pgbouncer.sh install
scripts/build.sh release --bins --example drills

exec "${CARGO_TARGET_DIR:-target}/release/examples/drills" --pooler "$@"
