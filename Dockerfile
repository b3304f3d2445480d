# The service. The simulated processor has an image of its own: crates/simulator/Dockerfile. The
# same sources give the same program, byte for byte, as long as these two are the same (`make
# reproducible`), so they are named by digest. With `--build-arg SOURCE_DATE_EPOCH=...` and the
# exporter's `rewrite-timestamp=true` BuildKit makes the same image, too.
ARG RUST_IMAGE=rust:1.95.0-slim-bookworm@sha256:d7482085ff5b415f84dba5647ae71606650bdef00db7aeb69f4b3d170c3e4082
ARG DEBIAN_IMAGE=debian:bookworm-20260824-slim@sha256:88200866dfff7ea7f5cbcb6ec7c8a701889efe6fe859fe64d6990e4b07ea4171

FROM $RUST_IMAGE AS build
WORKDIR /build

# The dependencies alone, behind an empty program: this layer stays until Cargo.lock changes.
# Of the simulator and the tools cargo reads the manifests, nothing else.
COPY Cargo.toml Cargo.lock build.rs ./
COPY crates/http1-client/Cargo.toml crates/http1-client/
COPY crates/model/Cargo.toml crates/model/
COPY crates/router/Cargo.toml crates/router/
COPY crates/simulator/Cargo.toml crates/simulator/
COPY crates/tools/Cargo.toml crates/tools/
COPY scripts/release.sh scripts/
RUN mkdir -p src && for crate in crates/*; do mkdir "$crate/src" && touch "$crate/src/lib.rs"; done \
    && touch src/lib.rs && echo 'fn main() {}' >src/main.rs \
    && scripts/release.sh && rm -r src

# `touch`: cargo compares times, and the files may be older than the empty program.
COPY .sqlx .sqlx
COPY migrations migrations
COPY crates/http1-client crates/http1-client
COPY crates/router crates/router
COPY src src
RUN touch crates/*/src/lib.rs src/lib.rs src/main.rs && scripts/release.sh

FROM $DEBIAN_IMAGE
COPY --from=build /build/target/release/payment-proxy /usr/local/bin/payment-proxy
# A number, so that it can be checked without a user database. It owns nothing in the image.
USER 10001:10001
ENTRYPOINT ["payment-proxy"]
CMD ["serve"]
