#!/usr/bin/env bash
# `make fuzz MINUTES=4`: runs the fuzz targets (fuzz/), one after the other, for so many minutes
# together.
#
# Reads MINUTES (4) and TARGETS (all). Works with the stable compiler: the targets are safe Rust, so
# they are watched for panics and broken properties, and not by a sanitizer. A failing input is in
# fuzz/artifacts/; exit 1 then, and give it a name among the seeds in fuzz/corpus/ once it is fixed.
# Inputs that reach new code stay in target/fuzz/, where the next run begins with them.
set -euo pipefail
cd "$(dirname "$0")/.."

minutes=${MINUTES:-4}
read -ra targets <<<"${TARGETS:-payment range traceparent verdict framing reuse}"
seconds=$((minutes * 60 / ${#targets[@]}))
# In bytes: longer than what is read of any of them, and short enough for many runs.
longest=2048

scripts/install.sh cc c++
cargo fuzz --version >/dev/null 2>&1 || cargo install --locked cargo-fuzz

# cargo-fuzz passes compiler options that are not stable yet. Without optimisation it builds in
# minutes, and what is fuzzed is small enough to run some thousand times a second all the same.
export RUSTC_BOOTSTRAP=1
fuzz() {
    cargo fuzz run --dev --sanitizer none "$@"
}

for target in "${targets[@]}"; do
    found=${CARGO_TARGET_DIR:-target}/fuzz/$target
    mkdir -p "$found"
    echo "fuzz: $target for $seconds s" >&2
    # New inputs go into the first folder.
    fuzz "$target" "$found" "fuzz/corpus/$target" -- \
        -max_total_time="$seconds" -max_len="$longest" -print_final_stats=1 -verbosity=0
    echo "fuzz: $target found nothing wrong; $(find "$found" -type f | wc -l) inputs reached something new" >&2
done
