//! What a client finds in its session, and what nobody else meets of it.

mod bounds;
mod kept_state;
mod leaks;
mod listen;
mod modes;
mod parameters;
mod random_programs;
mod replication;
mod statement_meaning;
