#!/usr/bin/env bash
# Builds programs of this repository: `cargo build`, whose progress (compiling n of m) is shown on a
# terminal only. What went wrong it says in any case.
# usage: build.sh PROFILE ARGUMENTS...    e.g. build.sh release --bins --example torture
#
# PROFILE is `release`, or `quick`, which takes less time and makes programs that are some slower
# (docs/performance.md).
set -euo pipefail
quiet=()
[ -t 2 ] || quiet=(--quiet)
exec cargo build "${quiet[@]}" --locked --profile "$@"
