#!/usr/bin/env bash
# Installs the Debian packages that a command of this repository needs and that are missing here.
# usage: install.sh PROGRAM...
#   PROGRAM: c++ cc chromedriver curl etcd faketime haproxy initdb jq libevent libpq make nginx node
#   openssl-headers patroni pkg-config postgresql-VERSION promtool shellcheck
#
# Installs as root or with sudo. Exit 3 if something is missing and stays missing, after one line
# that says what to install.
set -euo pipefail

PATH=$PATH:/usr/local/sbin:/usr/sbin:/sbin # nginx is in sbin, which is not in everybody's PATH
here=$(cd "$(dirname "$0")" && pwd)

has() {
    case $1 in
        initdb) "$here/postgres.sh" bin >/dev/null 2>&1 ;;
        node) command -v node >/dev/null && command -v npm >/dev/null ;;
        libevent) pkg-config --exists libevent 2>/dev/null ;;
        postgresql-*) [ -x "/usr/lib/postgresql/${1#postgresql-}/bin/postgres" ] ;;
        openssl-headers) pkg-config --exists openssl 2>/dev/null ;;
        libpq) [ -e "$(pg_config --includedir 2>/dev/null)/libpq-fe.h" ] ;;
        *) command -v "$1" >/dev/null ;;
    esac
}

package_of() {
    case $1 in
        c++) echo g++ ;;
        cc) echo gcc libc6-dev ;;
        chromedriver) echo chromium chromium-driver ;;
        etcd) echo etcd-server ;;
        initdb) echo postgresql ;;
        node) echo nodejs npm ;;
        libevent) echo libevent-dev ;;
        libpq) echo libpq-dev ;;
        openssl-headers) echo libssl-dev ;;
        promtool) echo prometheus ;;
        *) echo "$1" ;;
    esac
}

missing() {
    local program
    for program; do
        has "$program" || package_of "$program"
    done
}

give_up() {
    echo "missing: $(missing "$@" | xargs). $why" >&2
    exit 3
}

mapfile -t packages < <(missing "$@" | xargs -r -n 1)
[ ${#packages[@]} -gt 0 ] || exit 0

why="Install it by hand, this is not a system with apt."
command -v apt-get >/dev/null || give_up "$@"

as_root=()
if [ "$(id -u)" != 0 ]; then
    why="Install it with: sudo apt-get install ${packages[*]}"
    command -v sudo >/dev/null || give_up "$@"
    # A password can only be asked for where there is somebody to type it.
    sudo -n true 2>/dev/null || [ -t 0 ] || give_up "$@"
    as_root=(sudo)
fi

echo "installing ${packages[*]}" >&2
# Debian's packages start a PostgreSQL, an nginx and a Prometheus of their own, which nobody asked
# for here. Debian's hook against that is this file; one that is there already is left alone.
policy=/usr/sbin/policy-rc.d
if [ ! -e "$policy" ]; then
    # The path is expanded now and on purpose.
    # shellcheck disable=SC2064
    trap "${as_root[*]} rm -f $policy" EXIT
    printf '#!/bin/sh\nexit 101\n' | "${as_root[@]}" tee "$policy" >/dev/null
    "${as_root[@]}" chmod 755 "$policy"
fi

apt() {
    "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get -qq -o=Dpkg::Use-Pty=0 "$@" >&2
}
why="apt-get could not install it, see above."
# What counts is that the programs are there, not that apt liked all it did to get them.
{ apt update && apt install --no-install-recommends "${packages[@]}"; } || true
[ -z "$(missing "$@")" ] || give_up "$@"
