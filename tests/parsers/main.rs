//! What the fuzz targets check, on the corpus that is kept and on mutations of it: always the same
//! ones. `make fuzz` looks further.

#![allow(unreachable_pub)]

mod mutations;
mod properties;

use std::path::Path;

/// Runs a property on the corpus of a fuzz target, then on mutations of it.
fn check(target: &str, property: fn(&[u8])) {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus");
    mutations::check(&corpus.join(target), property);
}

#[test]
fn a_payment_that_is_read_can_be_recorded_and_reads_the_same_again() {
    check("payment", properties::payment);
}

#[test]
fn a_range_that_is_read_is_in_order_and_cut_without_gaps() {
    check("range", properties::range);
}

#[test]
fn a_traceparent_that_is_read_is_passed_on_as_it_came() {
    check("traceparent", properties::traceparent);
}

#[test]
fn a_verdict_is_never_more_than_what_is_proved() {
    check("verdict", properties::verdict);
}
