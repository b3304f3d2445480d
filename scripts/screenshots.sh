#!/usr/bin/env bash
# Takes the pictures of the live page in docs/screenshots/, in a Chromium without a window, of two
# instances with simulated processors that are made slow, failing and well again. It takes some
# minutes.
# usage: make screenshots
set -euo pipefail
cd "$(dirname "$0")/.."
scripts/install.sh cc chromedriver curl initdb
cargo nextest --version >/dev/null 2>&1 || cargo install --locked cargo-nextest
exec scripts/with-postgres.sh cargo nextest run --locked --test gateway --run-ignored only page::screenshots
