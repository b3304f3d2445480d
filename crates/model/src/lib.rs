//! A model of the protocol by which payments are accepted, claimed, charged and settled, explored
//! in every interleaving by a model checker.
//!
//! - [`state`]: what there is at one moment;
//! - [`protocol`]: what can happen;
//! - [`tables`]: the statements of the service, as functions of the tables;
//! - [`verdict`]: what a reply proves;
//! - [`properties`]: what must hold in every state;
//! - [`guard`]: the conditions on which that rests, each of which can be taken away;
//! - [`mutations`]: what happens then;
//! - [`healing`]: what becomes of a state once nothing goes wrong any more.
//!
//! `docs/protocol.md` says what is left out. The service does not depend on this crate.

pub mod guard;
pub mod healing;
pub mod mutations;
pub mod properties;
pub mod protocol;
pub mod state;
pub mod tables;
pub mod verdict;
