//! The command line of `payment-proxy`.

use std::process::ExitCode;

use mimalloc::MiMalloc;
use payment_proxy::program;

/// Takes less time than the system's allocator; `make bench` shows what of it. A process has one by
/// its nature.
#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

fn main() -> ExitCode {
    program::main()
}
