# The service and the simulated processor: one program.
FROM rust:1-slim-bookworm AS build
WORKDIR /build
# Symbols stay, so that a backtrace names functions; line tables are most of the size.
ENV CARGO_PROFILE_RELEASE_STRIP=debuginfo SQLX_OFFLINE=true

# The dependencies alone, behind an empty program: this layer stays until Cargo.lock changes.
COPY Cargo.toml Cargo.lock ./
RUN mkdir src && echo 'fn main() {}' >src/main.rs && touch src/lib.rs \
    && cargo build --release --locked && rm -r src

# `touch`: cargo compares times, and the files may be older than the empty program.
COPY .sqlx .sqlx
COPY migrations migrations
COPY src src
RUN touch src/lib.rs src/main.rs && cargo build --release --locked

FROM debian:bookworm-slim
COPY --from=build /build/target/release/payment-proxy /usr/local/bin/payment-proxy
# A number, so that it can be checked without a user database. It owns nothing in the image.
USER 10001:10001
ENTRYPOINT ["payment-proxy"]
CMD ["serve"]
