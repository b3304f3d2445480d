# shellcheck shell=bash
# Sourced by scripts that fetch a program which the system lacks.

# tools_folder: where such programs are kept, for all checkouts. The server's user has to be able to
# read it, who cannot enter root's home.
tools_folder() {
    if [ "$(id -u)" = 0 ]; then
        echo /var/cache/payment-proxy
    else
        echo "${XDG_CACHE_HOME:-${HOME:-/tmp}/.cache}/payment-proxy"
    fi
}
