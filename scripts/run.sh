#!/usr/bin/env bash
# Runs the whole stack on this machine: PostgreSQL, two simulated processors, two instances, nginx.
# usage: make run              what takes a newcomer the least time to build
#        make run RELEASE=1    the program as it is released: some faster, minutes more to build
#
# Environment: PORT (9999) of the API, POSTGRES_PORT (5433), PROCESSOR_PORTS ("8001 8002") of the
# simulated default and fallback, OPERATOR_PORTS ("8081 8082") of the two instances; PROCESSORS: no
# processors are simulated then, and purging is not allowed unless ALLOW_PURGE=true says so;
# QUEUE_DURABILITY (logged): unlogged loses what waits when PostgreSQL crashes;
# OPERATOR_TOKEN: else one is made once and stays in .run/operator-token. Everything else that
# `serve` reads, such as RUST_LOG, goes to the instances, but for LISTEN, OPERATOR_LISTEN and
# DATABASE_URL.
#
# .run/env holds what the command line needs to know of this deployment; a shell reads it with `.
# .run/env`.
#
# What is to stay is in .run/: the cluster (postgres), the journals of the simulated processors, the
# logs. If .run/ is closed to the user postgres, whom root needs to run PostgreSQL, the cluster is
# in /var/lib/postgresql/ and .run/postgres is a link to it. What is not to stay (sockets, pid
# files) is in a folder of /tmp, .run/runtime being a link to it, because the path of a socket has
# to be short.
#
# Exit: 0 stopped by a signal when it was ready; 1 something could not be started or ended by itself;
# 2 it cannot run here now (a taken port, a run that is going on); 3 a package is missing;
# 129, 130 or 143 stopped by a signal before it was ready.
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/children.sh

port=${PORT:-9999}
postgres_port=${POSTGRES_PORT:-5433}
read -r default_port fallback_port <<<"${PROCESSOR_PORTS:-8001 8002}"
read -r operator_port_1 operator_port_2 <<<"${OPERATOR_PORTS:-8081 8082}"

# A migrated database that was shut down in time is there in a second; one that crashed recovers
# first.
postgres_seconds=60
ready_seconds=30
# Instances promise to be gone within 10 s of a SIGTERM.
instance_stop_seconds=12
postgres_stop_seconds=30
simulator_token=${SIMULATOR_TOKEN:-123} # as the real processors' is by default
export QUEUE_DURABILITY=${QUEUE_DURABILITY:-logged}

state=$PWD/.run
runtime=""
owner_url=""
ready=no

say() { echo "make run: $1"; }
# doing WHAT: for a person who waits.
doing() { [ ! -t 1 ] || say "$1"; }
fail() {
    say "$2" >&2
    exit "$1"
}

clean_up() {
    trap '' INT TERM HUP
    stop_step
    stop TERM 2 nginx
    stop TERM "$instance_stop_seconds" api1 api2
    stop TERM 5 processor-default processor-fallback
    stop INT "$postgres_stop_seconds" postgres
    [ -z "$runtime" ] || rm -rf "$runtime" "$state/runtime"
}

interrupted() {
    if [ "$ready" = yes ]; then
        say "stopping"
        exit 0
    fi
    say "stopped before it was ready" >&2
    exit "$1"
}

# end_of LOG: where it is, and its last line
end_of() {
    local line
    line=$(tail -n 1 "$1" | cut -c 1-300)
    echo "${1#"$PWD/"}, ${line:+which ends with: }${line:-which is empty}"
}

# lost NAME: a child that has ended by itself
lost() {
    local status=0 log=${child_log[$1]}
    wait "${child_pid[$1]}" 2>/dev/null || status=$?
    fail 1 "$1 ended by itself (exit status $status), see $(end_of "$log")"
}

# await SECONDS WHAT LOG COMMAND...: repeats the command until it succeeds, as long as all children
# live
await() {
    local deadline=$((SECONDS + $1)) what=$2 log=$3 name
    shift 3
    until "$@" >/dev/null 2>&1; do
        if name=$(dead_child); then lost "$name"; fi
        ((SECONDS < deadline)) || fail 1 "$what after too long a time, see $(end_of "$log")"
        sleep 0.1
    done
}

port_is_taken() {
    local hex
    printf -v hex '%04X' "$1"
    cat /proc/net/tcp /proc/net/tcp6 2>/dev/null |
        awk -v port=":$hex" '$4 == "0A" && substr($2, length($2) - 4) == port { taken = 1 } END { exit !taken }'
}

refuse_taken_ports() {
    local each wanted=("$port:PORT" "$postgres_port:POSTGRES_PORT"
        "$operator_port_1:OPERATOR_PORTS" "$operator_port_2:OPERATOR_PORTS")
    [ -n "${PROCESSORS:-}" ] || wanted+=("$default_port:PROCESSOR_PORTS" "$fallback_port:PROCESSOR_PORTS")
    for each in "${wanted[@]}"; do
        ! port_is_taken "${each%%:*}" ||
            fail 2 "port ${each%%:*} is taken by another program: free it, or choose another with ${each#*:}="
    done
}

# Prints where the cluster is; see the top of this file.
cluster_folder() {
    local here=$state/postgres elsewhere
    elsewhere=/var/lib/postgresql/payment-proxy-$(printf '%s' "$PWD" | sha256sum | cut -c 1-12)
    if [ -L "$here" ]; then
        # In a copy of the folder the link still leads to the original's cluster.
        if [ "$(readlink "$here")" = "$elsewhere" ]; then
            echo "$elsewhere"
            return
        fi
        rm "$here"
    fi
    if [ ! -d "$here" ] && [ "$(id -u)" = 0 ] &&
        ! setpriv --reuid=postgres --regid=postgres --init-groups -- test -x "$state"; then
        ln -s "$elsewhere" "$here"
        here=$elsewhere
    fi
    echo "$here"
}

# Passwords are needed over TCP only, by people; they are made once and stay in a file that psql
# reads.
read_passwords() {
    local file=$state/pgpass user
    (umask 077 && touch "$file")
    for user in payment_proxy payment_proxy_owner auditor; do
        grep --quiet ":$user:" "$file" ||
            echo "*:*:payments:$user:$(od -An -N16 -tx1 /dev/urandom | tr -d ' \n')" >>"$file"
    done
    PAYMENT_PROXY_PASSWORD=$(sed -n 's/^.*:payment_proxy://p' "$file")
    PAYMENT_PROXY_OWNER_PASSWORD=$(sed -n 's/^.*:payment_proxy_owner://p' "$file")
    AUDITOR_PASSWORD=$(sed -n 's/^.*:auditor://p' "$file")
    export PAYMENT_PROXY_PASSWORD PAYMENT_PROXY_OWNER_PASSWORD AUDITOR_PASSWORD
}

start_postgres() {
    local data settings
    data=$(cluster_folder)
    mapfile -t settings < <(sed -n 's/^\([a-z_]*\) = /\1=/p' postgresql.conf)
    mkdir "$runtime/postgres"
    STOP_WITH_PARENT=yes start postgres "$state/logs/postgres.log" scripts/postgres.sh run \
        "$data" "$runtime/postgres" "$postgres_port" listen_addresses=127.0.0.1 "${settings[@]}"
    await "$postgres_seconds" "PostgreSQL does not answer" "$state/logs/postgres.log" \
        scripts/postgres.sh accepts "$runtime/postgres" "$postgres_port"
    read_passwords
    scripts/postgres.sh init "$runtime/postgres" "$postgres_port" || fail 1 "init.sql failed, see above"

    local server=${runtime//\//%2F}%2Fpostgres:$postgres_port/payments
    export DATABASE_URL="postgres://payment_proxy@$server"
    owner_url=postgres://payment_proxy_owner@$server # the instances are not told of it
    MIGRATE_DATABASE_URL=$owner_url ALLOW_PURGE=$(allows_purge) \
        step "$state/logs/migrate.log" "$binary" migrate ||
        fail 1 "the migrations failed, see $(end_of "$state/logs/migrate.log")"
}

# What is simulated is nobody's money.
allows_purge() {
    if [ -z "${PROCESSORS:-}" ]; then echo "${ALLOW_PURGE:-true}"; else echo "${ALLOW_PURGE:-false}"; fi
}

start_processors() {
    [ -z "${PROCESSORS:-}" ] || return 0
    start processor-default "$state/logs/processor-default.log" "${binary%/*}/processor-simulator" \
        --listen "127.0.0.1:$default_port" --fee 0.05 --token "$simulator_token" --journal "$state/journals/default"
    start processor-fallback "$state/logs/processor-fallback.log" "${binary%/*}/processor-simulator" \
        --listen "127.0.0.1:$fallback_port" --fee 0.15 --token "$simulator_token" --journal "$state/journals/fallback"
    ALLOW_PURGE=$(allows_purge)
    export ALLOW_PURGE
    export PROCESSORS="default,0.05,http://127.0.0.1:$default_port fallback,0.15,http://127.0.0.1:$fallback_port"
    export SIMULATOR_TOKEN="$simulator_token" # so the live page may make them slow or failing
}

# Made once, so that a browser that is signed in stays so.
read_operator_token() {
    local file=$state/operator-token
    if [ -z "${OPERATOR_TOKEN:-}" ]; then
        [ -s "$file" ] || (umask 077 && od -An -N16 -tx1 /dev/urandom | tr -d ' \n' >"$file.new" && mv "$file.new" "$file")
        OPERATOR_TOKEN=$(cat "$file")
    fi
    export OPERATOR_TOKEN
}

start_instances() {
    local name
    read_operator_token
    LISTEN=unix:$runtime/api1.sock OPERATOR_LISTEN=127.0.0.1:$operator_port_1 \
        start api1 "$state/logs/api1.log" "$binary" serve
    LISTEN=unix:$runtime/api2.sock OPERATOR_LISTEN=127.0.0.1:$operator_port_2 \
        start api2 "$state/logs/api2.log" "$binary" serve
    for name in api1 api2; do
        await "$ready_seconds" "$name is not ready" "$state/logs/$name.log" \
            env LISTEN="unix:$runtime/$name.sock" "$binary" probe
    done
}

start_nginx() {
    scripts/nginx-config.sh "$port" "$runtime" >"$state/nginx.conf"
    start nginx "$state/logs/nginx.log" "$nginx" -e stderr -p "$runtime" -c "$state/nginx.conf" -g "daemon off;"
    await "$ready_seconds" "nginx does not answer" "$state/logs/nginx.log" \
        env LISTEN="127.0.0.1:$port" "$binary" probe
}

# What a person's shell needs for the command line to find this deployment.
write_environment() {
    local settings=(DATABASE_URL "$DATABASE_URL" MIGRATE_DATABASE_URL "$owner_url" PROCESSORS "$PROCESSORS"
        OPERATOR_LISTEN "127.0.0.1:$operator_port_1" OPERATOR_TOKEN "$OPERATOR_TOKEN"
        QUEUE_DURABILITY "$QUEUE_DURABILITY")
    [ -z "${SIMULATOR_TOKEN:-}" ] || settings+=(PROCESSOR_TOKEN "$SIMULATOR_TOKEN")
    (
        umask 077
        {
            printf 'export %s=%q\n' "${settings[@]}"
            printf "export PATH=%q:\"\$PATH\"\n" "${binary%/*}"
        } >"$state/env"
    )
}

tell() {
    local api=http://localhost:$port psql=psql
    command -v psql >/dev/null || psql=$(printf '%q' "$(scripts/postgres.sh bin)/psql")
    psql="PGPASSFILE=$(printf '%q' "$state/pgpass") $psql -h 127.0.0.1 -p $postgres_port -U auditor payments"
    cat <<END

Ready. Ctrl-C stops it; what is in .run/ stays for the next time. Watch it work, and make it hard:

  http://127.0.0.1:$operator_port_1/#token=$OPERATOR_TOKEN

  API         $api
  operators   http://127.0.0.1:$operator_port_1 and $operator_port_2, one per instance
  processors  $PROCESSORS
  logs        .run/logs/

Post a payment, look at the summary, look into the tables:

  curl -i $api/payments -H 'Content-Type: application/json' -d '{"correlationId": "$(cat /proc/sys/kernel/random/uuid)", "amount": 19.90}'
  curl $api/payments-summary
  $psql -c 'SELECT * FROM payment_processed ORDER BY requested_at DESC LIMIT 5'

What waits, what is stuck and why, in another terminal (payment-proxy --help has more):

  cd $(printf '%q' "$PWD") && . .run/env
  payment-proxy status

END
}

for number in "$port" "$postgres_port" "$default_port" "$fallback_port" "$operator_port_1" "$operator_port_2"; do
    [[ $number =~ ^[1-9][0-9]{0,4}$ ]] ||
        fail 2 "\"$number\" is not a port: PORT and POSTGRES_PORT are one each, PROCESSOR_PORTS and OPERATOR_PORTS are two"
done
command -v cargo >/dev/null || fail 3 "missing: cargo. Install Rust as https://rustup.rs says."
scripts/install.sh cc
scripts/postgresql.sh install
scripts/nginx.sh install
nginx=$(scripts/nginx.sh bin)

mkdir -p "$state/logs" "$state/journals" || fail 2 "cannot write into .run/, which another user may have made"
exec 9>"$state/lock" || fail 2 "cannot write into .run/, which another user has made"
# The children have the lock too, so it is free when the last of them is gone.
flock --nonblock 9 || fail 2 "already running in this folder (somebody holds .run/lock)"
refuse_taken_ports

trap clean_up EXIT
trap 'interrupted 130' INT
trap 'interrupted 143' TERM
trap 'interrupted 129' HUP

profile=quick
[ -z "${RELEASE:-}" ] || profile=release
binary=${CARGO_TARGET_DIR:-$PWD/target}/$profile/payment-proxy
[ -x "$binary" ] || say "compiling, which takes minutes the first time"
# No program of the tools: with them libraries are as `make bench QUICK=1` wants them, too.
step - scripts/build.sh "$profile" --package payment-proxy --package simulator --package tools --bins 9>&- ||
    fail 1 "the build failed, see above"

# What a run that was killed with -9 could not take away.
leftover=$(readlink "$state/runtime" || true)
case $leftover in /tmp/payment-proxy.*) rm -rf "$leftover" ;; esac
runtime=$(mktemp -d /tmp/payment-proxy.XXXXXX)
chmod 711 "$runtime" # the users of PostgreSQL and nginx have to reach their sockets
ln -sfn "$runtime" "$state/runtime"

soft_limit=65536 # open files: every client is one for nginx and one for an instance
ulimit -Sn "$soft_limit" 2>/dev/null || ulimit -Sn "$(ulimit -Hn)"

say "starting"
doing "PostgreSQL"
start_postgres
start_processors
start_instances
start_nginx
write_environment
ready=yes
tell

# Without bash's own line about a killed child.
{ wait -n "${child_pid[@]}" || true; } 2>/dev/null
lost "$(dead_child)"
