//! What the fuzz targets `framing` and `reuse` check, on their corpus and on mutations of it. `make
//! fuzz` looks further.

#![allow(
    unreachable_pub,
    reason = "shared with the other parsers, and with the fuzz targets"
)]

#[path = "../../../../tests/parsers/mutations.rs"]
mod mutations;
mod properties;

use std::path::Path;

fn check(target: &str, property: fn(&[u8])) {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/corpus");
    mutations::check(&corpus.join(target), property);
}

#[test]
fn a_reply_is_the_same_however_it_is_cut_into_pieces() {
    check("framing", properties::framing);
}

#[test]
fn a_connection_is_used_again_only_where_the_end_of_the_reply_is_beyond_doubt() {
    check("reuse", properties::reuse);
}
