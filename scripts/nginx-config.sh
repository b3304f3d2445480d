#!/usr/bin/env bash
# Prints the repository's nginx.conf with other places and the same rules.
# usage: nginx-config.sh PORT RUNTIME
#
# The instances are the unix sockets api1.sock and api2.sock in folder RUNTIME, where nginx's own
# files go too; it listens on the loopback address only.
set -euo pipefail
port=$1 runtime=$2
conf=$(cd "$(dirname "$0")/.." && pwd)/nginx.conf

# Characters that mean something to sed or to nginx. The callers' folders come from mktemp.
if [[ $runtime =~ [^A-Za-z0-9_./-] ]]; then
    echo "nginx-config.sh: a folder name that nginx.conf cannot hold: $runtime" >&2
    exit 2
fi

derived=$(sed -E \
    -e "s|^( *server unix:)/sockets/(api[12].sock) |\1$runtime/\2 |" \
    -e "s|^( *listen )9999 |\1127.0.0.1:$port |" \
    -e "s|\"/tmp/nginx|\"$runtime/nginx|" \
    "$conf")

# A line that sed did not find is one that somebody has rewritten in nginx.conf.
for part in "unix:$runtime/api1.sock" "unix:$runtime/api2.sock" "127.0.0.1:$port" "pid \"$runtime/nginx.pid\""; do
    if [[ $derived != *"$part"* ]]; then
        echo "nginx-config.sh: nginx.conf has no longer the line that becomes: $part" >&2
        exit 1
    fi
done
printf '%s\n' "$derived"
