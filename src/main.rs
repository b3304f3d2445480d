//! The command line of `payment-proxy`.

fn main() {}
