#!/usr/bin/env bash
# Runs a command with an empty PostgreSQL cluster of its own, which is gone when the command ends.
# usage: with-postgres.sh COMMAND...     e.g. with-postgres.sh cargo nextest run one_test
#
# The command finds the superuser's URL in TEST_DATABASE_URL (a unix socket, database `postgres`).
# The exit status is the command's.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
. "$here/children.sh"

# Settings are PostgreSQL's own, fsync included: tests that crash the server mean the real one. Only
# the connections are more, because many tests run at once and each has pools of its own.
settings=(max_connections=300 shared_buffers=128MB)
port=5432 # a name in a folder of our own, so it is never taken
start_seconds=60

folder=$(mktemp -d /tmp/payment-proxy-test.XXXXXX)
chmod 711 "$folder" # for the server's user
mkdir "$folder/socket"

clean_up() {
    trap '' INT TERM HUP
    stop_step
    # At once: a fast stop (INT) writes a checkpoint first, of as many databases as there were
    # tests, to a folder that is removed then.
    stop QUIT 10 postgres
    rm -rf "$folder"
}
trap clean_up EXIT
trap 'exit 130' INT
trap 'exit 143' TERM
trap 'exit 129' HUP

fail() {
    cat "$folder/log" >&2
    echo "PostgreSQL for the tests $1, its log is above" >&2
    exit 1
}

export PAYMENT_PROXY_PASSWORD=test PAYMENT_PROXY_OWNER_PASSWORD=test AUDITOR_PASSWORD=test
STOP_WITH_PARENT=yes start postgres "$folder/log" "$here/postgres.sh" run "$folder/data" "$folder/socket" "$port" "${settings[@]}"
until "$here/postgres.sh" accepts "$folder/socket" "$port"; do
    ! dead_child >/dev/null || fail "did not start"
    ((SECONDS < start_seconds)) || fail "takes too long to start"
    sleep 0.05
done
"$here/postgres.sh" init "$folder/socket" "$port" || fail "refuses init.sql"

export TEST_DATABASE_URL="postgres://postgres@${folder//\//%2F}%2Fsocket:$port/postgres"
step - "$@"
