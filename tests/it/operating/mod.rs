//! What operators see and do: commands, console, ops port, page, log.

mod cli;
mod commands;
mod console;
mod dashboards;
mod doctor;
mod first_steps;
mod operators;
mod ops;
mod page;
mod pgbouncer;
mod queries;
mod secrets;
mod why_waiting;
