#!/bin/sh
# Builds the release program so that it is the same whatever folder it is built in: paths of this checkout and
# of cargo's own are replaced by fixed names. Toolchain, C compiler and C library decide the rest.
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
# Symbols stay, so that a backtrace names functions; line tables are most of the size. None are made, because they
# have checksums of generated sources, which name the folder, and the names of symbols depend on them.
export CARGO_PROFILE_RELEASE_DEBUG=false
export CARGO_PROFILE_RELEASE_STRIP=debuginfo
export SQLX_OFFLINE=true
# The time that anything writes which wants to write one.
export SOURCE_DATE_EPOCH="${SOURCE_DATE_EPOCH:-0}"
exec cargo build --release --locked
