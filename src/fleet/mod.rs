//! One budget of server connections for all instances, held through PostgreSQL itself.
//!
//! [`share`] decides, without I/O, who may open how many connections and who gives some back. [`sql`] is the same
//! decision as one statement, so that it is made under an advisory lock where the truth is: in the server, whose
//! own count of backends includes those of instances that are gone. [`link`] is the control connection to one host;
//! [`control`] asks through it for what the pools lack, and gives back what others need.
//!
//! What an instance says of itself is the `application_name` of its control connection: every role can read it, it
//! works on a standby, and it ends with its session. It counts only for sessions of the pools' roles, in the database of
//! the control connections or in one that no pool has: so nobody is taken for a member by accident, nor a client of a
//! pool for what it calls itself, unless `fleet.database` is a pool's database, too. Who has the password of such a role
//! is trusted: he can call himself a member with great wants, and nobody grows beyond the minimum; or take the advisory
//! lock and keep it, and nobody grows at all. Neither takes the server beyond the budget.
//!
//! A place is paid for twice for a moment, as an opening and as a backend, and never not at all. The pools' side is
//! [`crate::pool::ledger`]: a dial needs a place that was granted.
//!
//! Each instance looks at the others on a tick. On a primary it is woken besides by a notification of who lacks
//! something, or has given something back: a hint, on which nothing but the delay depends. A standby has none.
//!
//! When a control connection vanishes, logins of its instance may be under way that no one sees yet: for
//! [`control::SETTLE`] nobody grows.

pub mod control;
pub mod link;
pub mod share;
pub mod sql;
