#!/usr/bin/env bash
# `make failover`: three PostgreSQL under Patroni with etcd and HAProxy (the files of deploy/ha),
# each on a loopback address of its own, two instances, two simulated processors and a load. Walks a
# planned switchover, a killed and a frozen leader, etcd and HAProxy away and a lost standby, with a
# logged and an unlogged queue, and accounts for every payment.
#
#   make failover                                   # all of them, some 15 minutes
#   make failover DRILLS="killed-leader etcd-away" QUEUE=logged SEED=7
#   scripts/failover.sh --help
set -euo pipefail
cd "$(dirname "$0")/.."

scripts/install.sh cc curl etcd haproxy initdb nginx patroni
scripts/build.sh release --bins --example drills

exec "${CARGO_TARGET_DIR:-target}/release/examples/drills" --failover "$@"
