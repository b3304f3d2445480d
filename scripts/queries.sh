#!/usr/bin/env bash
# The committed data about our SQL queries (.sqlx), from which builds without a database take their
# types, against the migrations and the code as they are now.
# usage: with-postgres.sh queries.sh check|write      check: with the lints
#
# sqlx's macros ask a database when told to, and leave what it answered in SQLX_OFFLINE_DIR. So this
# needs no sqlx-cli: an all-new database, the migrations, and one `cargo check`, or `cargo clippy`
# for its lints.
set -euo pipefail
cd "$(dirname "$0")/.."

fresh=$(mktemp -d)
written=$fresh/sqlx
stamp=$fresh/stamp
mkdir "$written"

# Cargo does not know that the macros read a database, so it would see nothing to do. A lib.rs that
# looks newer makes it compile the package, and only the package, again. Its time is put back, so
# that the builds that come after this one do not start all over.
touch -r src/lib.rs "$stamp"
trap 'touch -r "$stamp" src/lib.rs; rm -rf "$fresh"' EXIT

database=queries
url=${TEST_DATABASE_URL:?scripts/with-postgres.sh sets it}
psql=("$(scripts/postgres.sh bin)/psql" --no-psqlrc --quiet --set=ON_ERROR_STOP=1)
"${psql[@]}" "$url" --command="CREATE DATABASE $database OWNER payment_proxy_owner"
url=${url%/*}/$database
url=${url/postgres@/payment_proxy_owner@} # as in production

# sqlx's own table, which a query of ours reads; what fills it, `payment-proxy migrate`, may not be
# possible to build as long as .sqlx is out of date.
"${psql[@]}" "$url" --command="CREATE TABLE _sqlx_migrations (
    version bigint PRIMARY KEY,
    description text NOT NULL,
    installed_on timestamptz NOT NULL DEFAULT now(),
    success boolean NOT NULL,
    checksum bytea NOT NULL,
    execution_time bigint NOT NULL
)"

shopt -s nullglob
for migration in migrations/*.sql; do
    [[ $migration != *.down.sql ]] || continue
    PGOPTIONS='-c client_min_messages=warning' "${psql[@]}" "$url" --file="$migration"
done

touch src/lib.rs
# One compilation for the query data and for the lints.
lint=(clippy --quiet --locked --all-targets -- --deny warnings)
[ "${1:-}" != write ] || lint=(check --quiet --locked --all-targets)
SQLX_OFFLINE=false DATABASE_URL=$url SQLX_OFFLINE_DIR=$written cargo "${lint[@]}"

case ${1:-} in
    write)
        rm -rf .sqlx
        cp -R "$written" .sqlx
        echo "wrote .sqlx, $(find .sqlx -name '*.json' | wc -l) queries"
        ;;
    check)
        mkdir -p .sqlx # there is none as long as there are no queries
        if ! diff --recursive --brief .sqlx "$written" >"$fresh/differences"; then
            sed -e "s|$written|(now)|g" "$fresh/differences" >&2
            echo ".sqlx is not what the queries and the migrations say now: make queries, and commit .sqlx" >&2
            exit 1
        fi
        ;;
    *)
        echo "usage: queries.sh check|write" >&2
        exit 2
        ;;
esac
