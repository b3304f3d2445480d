#!/usr/bin/env bash
# Tests the live page in a Chromium without a window: what it shows and does, and what axe-core says
# of each of its states. These tests are a part of `make test`.
# usage: make page
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/venv.sh
scripts/install.sh cc chromedriver curl faketime initdb node
page_tools || exit 3
cargo nextest --version >/dev/null 2>&1 || cargo install --locked cargo-nextest
exec scripts/with-postgres.sh cargo nextest run --locked --no-fail-fast --test gateway page::
