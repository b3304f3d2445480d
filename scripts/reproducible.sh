#!/usr/bin/env bash
# Builds the release program twice, from copies of this checkout in two folders and with two names
# for cargo's own folder, and compares the programs byte for byte. Takes the time of two release
# builds.
# usage: make reproducible
#
# Reads CARGO_PROFILE_RELEASE_OPT_LEVEL: with 0 it takes much less, and compares programs that are
# not optimised. The copies stay in target/reproducible, so that the next time only what has changed
# is built.
# Exit 1 if the programs differ.
set -euo pipefail
cd "$(dirname "$0")/.."
scripts/install.sh cc

folder=${CARGO_TARGET_DIR:-$PWD/target}/reproducible
cargo_home=${CARGO_HOME:-$HOME/.cargo}
copies=("$folder/one" "$folder/somewhere/else")

for copy in "${copies[@]}"; do
    mkdir -p "$copy/scripts"
    # What the image is built from; times are kept, so that a build that was interrupted goes on.
    rm -rf "$copy/src" "$copy/crates" "$copy/migrations" "$copy/.sqlx"
    cp -a Cargo.toml Cargo.lock build.rs src crates migrations .sqlx "$copy"
    cp -a scripts/release.sh "$copy/scripts"
    ln -sfn "$cargo_home" "$copy/cargo"
done
# All are copied before the first is built: who works on here meanwhile does not compare two
# versions.
for copy in "${copies[@]}"; do
    CARGO_HOME=$copy/cargo CARGO_TARGET_DIR=$copy/target "$copy/scripts/release.sh"
done

programs=("${copies[@]/%//target/release/payment-proxy}")
sha256sum "${programs[@]}"
if ! cmp "${programs[@]}"; then
    echo "the programs differ: the build depends on where it is done" >&2
    exit 1
fi
# A path in the program may be the same by chance of this machine, and another on the next.
if grep --text --quiet --fixed-strings -e "$PWD" -e "$cargo_home" "${programs[0]}"; then
    echo "the program contains paths of this machine" >&2
    exit 1
fi
echo "the same program out of both folders, without a path of this machine"
