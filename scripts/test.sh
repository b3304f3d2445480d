#!/usr/bin/env bash
# Format, lints, the committed query data, and all tests on a PostgreSQL of their own.
# usage: make test
set -euo pipefail
cd "$(dirname "$0")/.."

if [ "${1:-}" != with-postgres ]; then
    scripts/install.sh cc curl initdb nginx
    cargo fmt --check
    cargo clippy --quiet --locked --all-targets -- --deny warnings
    if scripts/install.sh shellcheck; then
        shellcheck scripts/*.sh .ci/run
    else
        echo "shellcheck is missing: the scripts are not checked" >&2
    fi
    cargo nextest --version >/dev/null 2>&1 || cargo install --locked cargo-nextest
    exec scripts/with-postgres.sh scripts/test.sh with-postgres
fi

scripts/queries.sh check
# nextest comes last: its closing lines are the result.
cargo test --quiet --locked --doc
cargo nextest run --locked --no-fail-fast
