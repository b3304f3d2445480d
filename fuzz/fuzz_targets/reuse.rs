#![no_main]

#[path = "../../crates/http1-client/tests/framing/properties.rs"]
#[allow(dead_code)]
mod properties;

libfuzzer_sys::fuzz_target!(|data: &[u8]| properties::reuse(data));
