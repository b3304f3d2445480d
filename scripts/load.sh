#!/usr/bin/env bash
# `make load`: runs a load (load/scenarios/NAME.json, by default the public one) against whatever
# listens on 9999, with the processors on 8001 and 8002. `scripts/load.sh --help` tells what can be
# set.
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/venv.sh

command -v python3 >/dev/null || { echo "load: python3 is missing: apt-get install python3" >&2; exit 2; }
k6=$(k6_path) || exit 2

# -B: no __pycache__ in the checkout.
exec python3 -B load/run.py --k6 "$k6" "$@"
