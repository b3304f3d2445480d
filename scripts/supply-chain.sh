#!/usr/bin/env bash
# Checks what the program is made of: licences, sources, duplicates and crates that are not wanted
# (deny.toml), dependencies that nobody uses, known vulnerabilities; and writes the bill of
# materials of the images' program (CycloneDX, JSON) to target/sbom/.
# usage: make supply-chain
#
# The tools are compiled into target/tools the first time, which takes some minutes. They and the
# crates come from the registry, the list of known vulnerabilities (RustSec) from GitHub: where that
# cannot be reached they are not checked, which is said in the end. Reads SOURCE_DATE_EPOCH, the
# time that the bill bears.
#
# Exit: 0 nothing found; 1 something found; 3 nothing found, but a part could not be checked.
set -euo pipefail
cd "$(dirname "$0")/.."
scripts/install.sh cc jq

target=${CARGO_TARGET_DIR:-$PWD/target}
tools=$target/tools
sbom=$target/sbom/payment-proxy.cdx.json
# Of the images.
platform=x86_64-unknown-linux-gnu
fetch_seconds=120

# tool NAME VERSION: not optimised, because that takes longer than the tools run.
tool() {
    [ ! -e "$tools/$1-$2" ] || return 0
    echo "installing $1 $2 into $tools" >&2
    CARGO_PROFILE_DEV_DEBUG=0 cargo install --quiet --locked --debug --root "$tools" "$1@$2" || {
        echo "$1 could not be installed, see above" >&2
        exit 3
    }
    touch "$tools/$1-$2"
}

# built: `name version` of every crate that the release program is built from or with, one a line
built() {
    cargo tree --locked --offline --package payment-proxy --edges normal,build --target "$platform" --prefix none --format '{p}' |
        sed -E 's/^([^ ]+) v([^ ]+).*/\1 \2/' | sort -u
}

tool cargo-deny 0.20.2
tool cargo-machete 0.9.2
tool cargo-cyclonedx 0.5.9
PATH=$tools/bin:$PATH
cargo fetch --quiet --locked

wrong=() unchecked=()

echo "licences, sources, duplicates, crates that are not wanted:"
# With warnings denied, what deny.toml allows and nobody has is an error, too.
cargo deny --locked --offline check --deny warnings bans licenses sources || wrong+=("see cargo-deny above")

echo "dependencies that nobody uses:"
cargo machete || wrong+=("unused dependencies")

echo "known vulnerabilities:"
if timeout "$fetch_seconds" cargo deny --locked fetch db; then
    cargo deny --locked check advisories || wrong+=("known vulnerabilities, or crates that were given up")
else
    unchecked+=("known vulnerabilities: https://github.com/RustSec/advisory-db could not be fetched")
fi

echo "bill of materials:"
written=payment-proxy.cdx # next to each Cargo.toml, cargo-cyclonedx knows no other place
trap 'rm -f "$written.json" crates/*/"$written.json"' EXIT
SOURCE_DATE_EPOCH=${SOURCE_DATE_EPOCH:-0} cargo cyclonedx -qq --format json --spec-version 1.5 --target "$platform" \
    --override-filename "$written"
mkdir -p "$(dirname "$sbom")"
# It names what optional features of dependencies would need, too (the other databases of sqlx), and
# the folder of this checkout: both go. What it does not name stays visible below.
jq --arg folder "path+file://$PWD" --rawfile built <(built) '
    ($built | split("\n")) as $built
    | .components |= map(select("\(.name) \(.version)" | IN($built[])))
    | ([.metadata.component, .components[]] | map(."bom-ref")) as $kept
    | .dependencies |= map(select(.ref | IN($kept[])) | .dependsOn |= [.[]? | select(IN($kept[]))])
    | walk(if type == "string" and startswith($folder) then "path+file:///build" + .[$folder | length:] else . end)
' "$written.json" >"$sbom"
if diff <(built) <(jq -r '.metadata.component, .components[] | "\(.name) \(.version)"' "$sbom" | sort -u); then
    echo "$sbom names all $(built | wc -l) crates"
else
    wrong+=("the bill of materials names other crates than are built")
fi

echo
for part in "${unchecked[@]}"; do echo "NOT CHECKED: $part"; done
for part in "${wrong[@]}"; do echo "FOUND: $part"; done
[ ${#wrong[@]} = 0 ] || exit 1
[ ${#unchecked[@]} = 0 ] || exit 3
echo "nothing found"
