//! Two transactions race for one payment, at each statement that accepts or claims payments or that
//! ends a claim, in each order.
//!
//! The first transaction runs its statement and stays open. The second one runs its statement
//! meanwhile and either waits for the first or passes by; the server says which. Then the first
//! transaction commits, or is rolled back. The tables in these files say how the two meet, what the
//! second statement comes to, and in which state the payment is afterwards.
//!
//! The statements are those of the service, called as the service calls them.

mod accepts;
mod archives;
mod claims;
mod completions;
mod dead_letters;
mod moves;
mod reconciles;
mod site;
mod snapshots;
mod times;
