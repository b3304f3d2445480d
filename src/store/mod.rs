//! Every SQL statement, and the connections on which they run.

pub mod archive;
pub mod claim;
pub mod clock;
pub mod database;
pub mod dead_letter;
pub mod divide;
pub mod emptied_queue;
pub mod fee;
pub mod in_doubt;
pub mod queue_statistics;
pub mod situation;
pub mod summary;
pub mod switch;
