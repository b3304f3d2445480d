//! The router against a model of the processors, in virtual time, and against arbitrary events.

#[path = "../../examples/routing_bench/simulation/mod.rs"]
mod simulation;

mod earnings;
mod explanations;
mod invariants;
mod permits;
