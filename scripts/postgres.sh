#!/usr/bin/env bash
# A private PostgreSQL cluster: for `make run`, for `make test`, and for tests that need one of
# their own to crash.
#
# usage: postgres.sh run DATA SOCKETS PORT [NAME=VALUE...]
#            Makes the cluster in folder DATA if there is none yet, and becomes its server: in the
#            foreground, with this process's id, logging to stderr. Its socket is in folder SOCKETS;
#            it listens on TCP only if told to (listen_addresses=127.0.0.1). NAME=VALUE are server
#            settings. Stop it with SIGINT, or crash it with SIGKILL: the next start recovers.
#        postgres.sh accepts SOCKETS PORT
#            Exit 0 if the server answers already.
#        postgres.sh init SOCKETS PORT
#            Runs init.sql, which reads PAYMENT_PROXY_PASSWORD, PAYMENT_PROXY_OWNER_PASSWORD and
#            AUDITOR_PASSWORD.
#        postgres.sh standby SOCKETS PORT DATA
#            Copies the cluster of that server into folder DATA, which `run` then runs as its standby.
#        postgres.sh bin [DATA]
#            Prints where the server's programs are.
#
# With PG=18 that version makes the cluster; scripts/postgresql.sh sees to it that it is there.
# Debian's packages are looked for in POSTGRESQL_PACKAGES (/usr/lib/postgresql).
#
# The superuser is `postgres`. Over the socket nobody needs a password, but only root and the user
# that the server runs as may open it; TCP needs a password. PostgreSQL refuses to run as root: for
# root the server runs as user `postgres`, who has to be able to enter DATA and SOCKETS.
#
# With STOP_WITH_PARENT=yes the server stops also when the process that started it is killed.
#
# With WAL_FOLDER=path a new cluster has its WAL there. The folder is there already, and empty.
#
# With CLOCK_FILE=path the server's clock differs from the machine's by what stands in that file, in
# seconds with a sign (`+85`), and steps when the file is replaced. It takes Debian's libfaketime.
set -euo pipefail

wanted=${PG:-}
unset "${!PG@}" # whoever calls may have settings for another server
. "$(dirname "$0")/tools-folder.sh"
oldest=15       # the first whose psql knows \getenv

fail() {
    echo "postgres: $1" >&2
    exit 1
}

# Debian's packages, and what scripts/postgresql.sh has fetched.
packages=${POSTGRESQL_PACKAGES:-/usr/lib/postgresql}
fetched=$(tools_folder)/postgresql

# programs_of VERSION: where they are, if they are anywhere.
programs_of() {
    local folder
    for folder in "$packages/$1/bin" "$fetched/$1/bin"; do
        [ ! -x "$folder/postgres" ] || echo "$folder"
    done | head -n 1
}

# newest FOLDER: the programs of the newest version there.
newest() { printf '%s\n' "$1"/[1-9][0-9]/bin | sort -V | tail -n 1; }

# What a cluster was made with, it has to be run with; a new one is made with what is wanted, or
# else with the newest that is installed, or else with the newest that was fetched.
bin() {
    local found="" asked=$wanted folder version old=""
    [ ! -f "${1:-}/PG_VERSION" ] || asked=$(cat "$1/PG_VERSION")
    [ -z "$asked" ] || found=$(programs_of "$asked")
    if [ -z "$found" ] && [ -n "$wanted" ]; then
        fail "PostgreSQL $asked is not installed: scripts/postgresql.sh install $asked"
    fi
    for folder in ${found:+"$found"} "$(newest "$packages")" \
        "$(dirname "$(command -v postgres || echo /none/postgres)")" "$(newest "$fetched")"; do
        { [ -x "$folder/postgres" ] && [ -x "$folder/initdb" ]; } || continue
        version=$("$folder/postgres" --version | sed -E 's/[^0-9]*([0-9]+).*/\1/')
        if [ "$version" -lt "$oldest" ]; then
            old="version $version in $folder is too old, $oldest or later is needed"
        elif [ -z "$asked" ] || [ "$version" = "$asked" ]; then
            echo "$folder"
            return
        else
            old="$1 was made by version $asked, here is only $version"
        fi
    done
    fail "${old:-PostgreSQL is not installed}"
}

# as_owner COMMAND...: runs it as the user that owns the cluster
owner=(env)
if [ "$(id -u)" = 0 ]; then
    id postgres >/dev/null 2>&1 || fail "there is no user postgres to run the server as"
    owner=(setpriv --reuid=postgres --regid=postgres --init-groups --)
fi
as_owner() { (cd / && "${owner[@]}" "$@"); }

# Made under another name and then renamed, so that a DATA that is there is a whole cluster.
make_cluster() {
    local data=$1 new=$1.new
    rm -rf "$new"
    mkdir -p "$(dirname "$data")"
    mkdir -m 700 "$new"
    [ "$(id -u)" != 0 ] || chown postgres: "$new"
    [ "$(id -u)" != 0 ] || [ -z "${WAL_FOLDER:-}" ] || chown postgres: "$WAL_FOLDER"
    as_owner "$programs/initdb" --pgdata="$new" --username=postgres --encoding=UTF8 --no-locale \
        --auth-local=trust --auth-host=scram-sha-256 ${WAL_FOLDER:+--waldir="$WAL_FOLDER"} >&2
    mv "$new" "$data"
}

run() {
    local data sockets=$2 port=$3 setting settings=()
    data=$(realpath -m "$1")
    sockets=$(realpath "$sockets")
    shift 3
    # A server killed with -9 leaves its socket behind, and nothing minds; but a name that is too
    # long for the kernel is better told here than by a server that cannot be reached.
    [ ${#sockets} -le 90 ] || fail "the path of $sockets is too long for a socket"
    [ "$(id -u)" != 0 ] || chown postgres: "$sockets"

    programs=$(bin "$data")
    [ -f "$data/PG_VERSION" ] || make_cluster "$data"

    for setting in "listen_addresses=" "$@"; do
        settings+=(-c "$setting")
    done
    local become=("${owner[@]}")
    # After the change of user, which would undo it.
    [ "${STOP_WITH_PARENT:-no}" = no ] || become+=(setpriv --pdeathsig INT --)
    # What PyPI's programs load later they would look for where they were built.
    [[ $programs == /usr/* ]] || become+=(env "LD_LIBRARY_PATH=$programs/../lib")
    if [ -n "${CLOCK_FILE:-}" ]; then
        local faketime
        faketime=$(printf '%s\n' /usr/lib/*/faketime/libfaketime.so.1 | head -n 1)
        [ -e "$faketime" ] || fail "libfaketime is not installed"
        # Timers and pauses go on as they are: only what the clock shows is changed.
        become+=(env "LD_PRELOAD=$faketime" "FAKETIME_TIMESTAMP_FILE=$CLOCK_FILE" FAKETIME_NO_CACHE=1
            FAKETIME_DONT_FAKE_MONOTONIC=1 FAKE_STAT=0)
    fi
    cd /
    exec "${become[@]}" "$programs/postgres" -D "$data" -p "$port" \
        -c "unix_socket_directories=\"$sockets\"" -c unix_socket_permissions=0700 "${settings[@]}"
}

accepts() {
    "$(bin)/pg_isready" --quiet --host="$1" --port="$2" --timeout=1 \
        --username=postgres --dbname=postgres
}

init() {
    local sql
    sql=$(cd "$(dirname "$0")/.." && pwd)/init.sql
    PGOPTIONS='-c client_min_messages=warning' "$(bin)/psql" --no-psqlrc --quiet --host="$1" --port="$2" \
        --username=postgres --dbname=postgres --set=ON_ERROR_STOP=1 --file="$sql" >&2
}

standby() {
    local data
    data=$(realpath -m "$3")
    programs=$(bin)
    mkdir -m 700 "$data"
    [ "$(id -u)" != 0 ] || chown postgres: "$data"
    as_owner "$programs/pg_basebackup" --pgdata="$data" --host="$(realpath "$1")" --port="$2" \
        --username=postgres --checkpoint=fast --write-recovery-conf >&2
}

command=${1:-}
case $command in
    run) [ $# -ge 4 ] || fail "usage: postgres.sh run DATA SOCKETS PORT [NAME=VALUE...]" ;;
    accepts | init) [ $# -eq 3 ] || fail "usage: postgres.sh $command SOCKETS PORT" ;;
    standby) [ $# -eq 4 ] || fail "usage: postgres.sh standby SOCKETS PORT DATA" ;;
    bin) ;;
    *) fail "usage: postgres.sh run|accepts|init|standby|bin ..." ;;
esac
"$@"
