//! The console: the virtual databases `pgbouncer` and `howdah`, where operators and monitoring look at what runs
//! and change it, in PgBouncer's words.
//!
//! ```text
//! bytes ─▶ protocol::Dialogue ─▶ command::parse ─▶ table::resolve ─▶ Command ─▶ right? ─▶ show/ (a View → rows)
//!   ◀─ both protocols, both formats ◀────────── rows ◀───────────────────────────────┴─▶ act (pools, clients, orders)
//! ```
//!
//! [`table`] is the one list of commands with the right that each needs; the default is that nobody may. **A new
//! SHOW is one line there**, one list of columns and one function from a [`view::View`] to rows; see [`table`].
//!
//! `pgbouncer` shows exactly PgBouncer's columns where clients are told PgBouncer's things ([`Profile::PgBouncer`]);
//! `howdah`, and `pgbouncer` elsewhere, show also the columns that are marked as our own.
//!
//! [`Profile::PgBouncer`]: crate::config::resolved::Profile::PgBouncer

mod act;
mod advice;
mod command;
mod message;
mod protocol;
pub mod reference;
pub mod rows;
mod session;
mod show;
pub mod table;
pub mod view;

pub use session::serve;
