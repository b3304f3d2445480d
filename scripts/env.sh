#!/usr/bin/env bash
# Writes the passwords and tokens that docker-compose.yml demands into `.env`, random ones, readable
# for its owner only. Whatever is in that file already stays, so that it can be run again.
# usage: env.sh [FILE]        make env
set -euo pipefail
file=${1:-$(dirname "$0")/../.env}

demanded=(POSTGRES_PASSWORD PAYMENT_PROXY_PASSWORD PAYMENT_PROXY_OWNER_PASSWORD AUDITOR_PASSWORD
    GRAFANA_PASSWORD OPERATOR_TOKEN METRICS_TOKEN)

umask 077
touch "$file"
# A last line without its end would run into the first one that is added.
[ -z "$(tail -c 1 "$file")" ] || echo >>"$file"
for name in "${demanded[@]}"; do
    if ! grep --quiet --extended-regexp "^(export )?$name=." "$file"; then
        echo "$name=$(od -An -N16 -tx1 /dev/urandom | tr -d ' \n')" >>"$file"
        echo "$name is new in .env"
    fi
done
