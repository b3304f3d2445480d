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
. scripts/tools-folder.sh
. scripts/venv.sh

# Debian's package has all that Patroni needs, and Patroni itself in a version (3.0.2) in which a
# leader that stood still takes the lock from its successor (docs/high-availability.md).
version=4.1.5
patroni=$(tools_folder)/patroni/$version

# fetch: whole or not at all.
fetch() {
    local new=$patroni.new
    venv_unpack "$new" "patroni==$version" &&
        mkdir "$new/bin" &&
        printf '#!/bin/sh\nPYTHONPATH=%s exec /usr/bin/python3 -m patroni "$@"\n' "$patroni" >"$new/bin/patroni" &&
        chmod 755 "$new/bin/patroni" &&
        mv "$new" "$patroni"
}

scripts/install.sh cc curl etcd haproxy initdb nginx patroni
[ -x "$patroni/bin/patroni" ] || {
    echo "failover: taking Patroni $version from PyPI, into $(tools_folder)" >&2
    fetch
}
PATH=$patroni/bin:$PATH
scripts/build.sh release --bins --example drills

exec "${CARGO_TARGET_DIR:-target}/release/examples/drills" --failover "$@"
