#!/usr/bin/env bash
# Prints the repository's nginx.conf with other places and the same rules.
# usage: nginx-config.sh PORT RUNTIME
#
# The instances are the unix sockets api1.sock and api2.sock in folder RUNTIME, where nginx's own
# files go too; it listens on the loopback address only.
set -euo pipefail
port=$1 runtime=$2
conf=$(cd "$(dirname "$0")/.." && pwd)/nginx.conf

if [[ $runtime == *$'\n'* ]]; then
    echo "nginx-config.sh: a folder name that nginx.conf cannot hold: $runtime" >&2
    exit 2
fi
# As nginx reads it between double quotes.
quoted=${runtime//\\/\\\\}
quoted=${quoted//\"/\\\"}

found=""
while IFS= read -r line; do
    if [[ $line =~ ^(\ *server\ )unix:/sockets/(api[12]\.sock)(\ .*)$ ]]; then
        line="${BASH_REMATCH[1]}\"unix:$quoted/${BASH_REMATCH[2]}\"${BASH_REMATCH[3]}"
        found+=" ${BASH_REMATCH[2]}"
    elif [[ $line =~ ^(\ *listen\ )9999(\ .*)$ ]]; then
        line="${BASH_REMATCH[1]}127.0.0.1:$port${BASH_REMATCH[2]}"
        found+=" listen"
    elif [[ $line =~ ^(.*\")/tmp/(nginx.*)$ ]]; then
        line="${BASH_REMATCH[1]}$quoted/${BASH_REMATCH[2]}"
        [[ $line != "pid "* ]] || found+=" pid"
    fi
    printf '%s\n' "$line"
done <"$conf"

# A line that was not found is one that somebody has rewritten in nginx.conf.
for part in api1.sock api2.sock listen pid; do
    if [[ " $found " != *" $part "* ]]; then
        echo "nginx-config.sh: nginx.conf has no longer the line with: $part" >&2
        exit 1
    fi
done
