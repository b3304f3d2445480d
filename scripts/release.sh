#!/bin/sh
# Builds the release program of the service so that it is the same whatever folder it is built in:
# paths of this checkout and of cargo's own are replaced by fixed names. Toolchain, C compiler and C
# library decide the rest.
# usage: release.sh
#
# Reads CARGO_HOME and CARGO_TARGET_DIR. Written for the plain shell that images have.
set -eu
cd "$(dirname "$0")/.."

sources=$(pwd)
cargo_home=${CARGO_HOME:-$HOME/.cargo}

export RUSTFLAGS="--remap-path-prefix=$sources=/build --remap-path-prefix=$cargo_home=/cargo"
# For the parts in C, which are ring and mimalloc.
export CFLAGS="-ffile-prefix-map=$sources=/build -ffile-prefix-map=$cargo_home=/cargo"
# Symbols stay, so that a backtrace names functions. Line tables are most of the size: none are
# made, and those of the standard library are taken out.
export CARGO_PROFILE_RELEASE_DEBUG=false
export CARGO_PROFILE_RELEASE_STRIP=debuginfo
export SQLX_OFFLINE=true
# The time that anything writes which wants to write one.
export SOURCE_DATE_EPOCH="${SOURCE_DATE_EPOCH:-0}"
cargo build --release --locked --package payment-proxy --bin payment-proxy

# The compiler numbers functions that several modules share by a hash of the module, into which the
# folder has got through generated sources; all else is the same. They are numbered by their place
# in the program instead, and the linker's hash of the whole is left out.
program=${CARGO_TARGET_DIR:-target}/release/payment-proxy
names=$program.names
nm --numeric-sort "$program" | awk '
    $NF ~ /\.llvm\.[0-9]+$/ && !seen[$NF]++ { new = $NF; sub(/[0-9]+$/, ++count, new); print $NF, new }
' >"$names"
objcopy --redefine-syms="$names" --remove-section=.note.gnu.build-id "$program"
rm "$names"
