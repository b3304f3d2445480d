#!/usr/bin/env bash
# Format, lints, the committed query data, and all tests on a PostgreSQL of their own.
# usage: make test            on the newest PostgreSQL that is installed
#        make test PG=18      on that version
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/children.sh
. scripts/venv.sh

trap stop_step EXIT
trap 'exit 130' INT
trap 'exit 143' TERM
trap 'exit 129' HUP

if [ "${1:-}" != with-postgres ]; then
    [ -z "${PG:-}" ] || scripts/postgresql.sh install "$PG"
    scripts/install.sh cc chromedriver curl faketime initdb nginx promtool python3
    if ! scripts/pgbouncer.sh install; then
        echo "NOT TESTED: poolers, see above" >&2
        export PGBOUNCER_NOT_INSTALLED=1
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

step - scripts/queries.sh check
step - cargo test --quiet --locked --doc
# nextest comes last: its closing lines are the result. --tests: what has tests, and not the programs
# in examples/, which are compiled with the lints above and take half a minute to link.
left_out=()
[ -z "${PGBOUNCER_NOT_INSTALLED:-}" ] || left_out=(--filterset 'not test(/^poolers::/)')
step - cargo nextest run --locked --no-fail-fast --tests "${left_out[@]}"
