#!/usr/bin/env bash
# Prints a configuration of nginx with other places and the same rules, what it includes in its
# place.
# usage: nginx-config.sh PORT RUNTIME [CONFIGURATION]
#
# The instances are the unix sockets api1.sock, api2.sock, ... in folder RUNTIME, where nginx's own
# files go too; it listens on the loopback address only. CONFIGURATION is nginx.conf if not given.
set -euo pipefail
port=$1 runtime=$2
root=$(cd "$(dirname "$0")/.." && pwd)
conf=${3:-$root/nginx.conf}

if [[ $runtime == *$'\n'* ]]; then
    echo "nginx-config.sh: a folder name that nginx.conf cannot hold: $runtime" >&2
    exit 2
fi
# As nginx reads it between double quotes.
quoted=${runtime//\\/\\\\}
quoted=${quoted//\"/\\\"}

found=""
# elsewhere INDENT <FILE
elsewhere() {
    local line
    while IFS= read -r line; do
        if [[ $line =~ ^(\ *)include\ ([a-z-]+\.conf)\;$ ]]; then
            elsewhere "$1${BASH_REMATCH[1]}" <"$root/${BASH_REMATCH[2]}"
            continue
        elif [[ $line =~ ^(\ *server\ )unix:/sockets/(api[0-9]+\.sock)(\ .*)$ ]]; then
            line="${BASH_REMATCH[1]}\"unix:$quoted/${BASH_REMATCH[2]}\"${BASH_REMATCH[3]}"
            found+=" ${BASH_REMATCH[2]}"
        elif [[ $line =~ ^(\ *listen\ )9999(\ .*)$ ]]; then
            line="${BASH_REMATCH[1]}127.0.0.1:$port${BASH_REMATCH[2]}"
            found+=" listen"
        elif [[ $line =~ ^(.*\")/tmp/(nginx.*)$ ]]; then
            line="${BASH_REMATCH[1]}$quoted/${BASH_REMATCH[2]}"
            [[ $line != "pid "* ]] || found+=" pid"
        fi
        printf '%s\n' "${line:+$1}$line"
    done
}
elsewhere "" <"$conf"

# A line that was not found is one that somebody has rewritten.
for part in api1.sock api2.sock listen pid; do
    if [[ " $found " != *" $part "* ]]; then
        echo "nginx-config.sh: $conf has no longer the line with: $part" >&2
        exit 1
    fi
done
