//! A payment gateway that settles each payment on exactly one of several unstable processors.

pub mod route;
pub mod simulator;
