#!/usr/bin/env bash
# A PgBouncer that keeps prepared statements in transaction mode: 1.21 or later. Debian 12 has an
# older one, so there it is built from the source package of a later Debian, which apt verifies.
# usage: pgbouncer.sh install    sees to it that there is one, which takes half a minute once
#        pgbouncer.sh bin        prints where it is
set -euo pipefail

least=1.21
suites=(trixie forky sid) # the first that has one
here=$(cd "$(dirname "$0")" && pwd)
. "$here/tools-folder.sh"
built=$(tools_folder)/pgbouncer

fail() {
    echo "pgbouncer: $1" >&2
    exit 3
}

knows_prepared_statements() {
    local version
    version=$("$1" --version 2>/dev/null | sed -nE '1s/^PgBouncer ([0-9.]+).*/\1/p')
    [ -n "$version" ] && [ "$(printf '%s\n' "$least" "$version" | sort -V | head -n 1)" = "$least" ]
}

bin() {
    local candidate
    for candidate in "$(PATH=$PATH:/usr/sbin command -v pgbouncer || true)" "$built"; do
        if [ -x "$candidate" ] && knows_prepared_statements "$candidate"; then
            echo "$candidate"
            return
        fi
    done
    fail "no PgBouncer $least or later; scripts/pgbouncer.sh install"
}

# fetch SUITE: the source of that Debian's package into the folder where this runs.
fetch() {
    local options
    mkdir -p lists/partial archives/partial
    printf 'deb-src [signed-by=%s] http://deb.debian.org/debian %s main\n' \
        /usr/share/keyrings/debian-archive-keyring.gpg "$1" >sources.list
    options=(-qq -o "Dir::Etc::SourceList=$PWD/sources.list" -o Dir::Etc::SourceParts=-
        -o "Dir::State::Lists=$PWD/lists" -o "Dir::Cache=$PWD" -o APT::Sandbox::User=root)
    apt-get "${options[@]}" update >&2 &&
        apt-get "${options[@]}" --download-only source pgbouncer >&2
}

build() (
    folder=$(mktemp -d)
    trap 'rm -rf "$folder"' EXIT
    cd "$folder"
    for suite in "${suites[@]}"; do
        ! fetch "$suite" || break
    done
    set -- pgbouncer_*.orig.tar.gz
    [ -f "$1" ] || fail "apt-get has no source of it"
    tar --extract --strip-components=1 --file="$1"
    echo "building $(basename "$1" .orig.tar.gz)" >&2
    { ./configure --without-cares --without-pam && make -j "$(nproc)" pgbouncer; } >build.log 2>&1 ||
        { tail -n 20 build.log >&2 && fail "it does not build, see above"; }
    mkdir -p "$(dirname "$built")"
    cp pgbouncer "$built.new"
    chmod 755 "$built.new"
    mv "$built.new" "$built"
)

install() {
    (bin >/dev/null 2>&1) && return
    command -v apt-get >/dev/null || fail "install PgBouncer $least or later by hand"
    "$here/install.sh" cc libevent make openssl-headers pkg-config
    build
    bin >/dev/null
}

case ${1:-} in
    bin | install) "$1" ;;
    *) fail "usage: pgbouncer.sh bin|install" ;;
esac
