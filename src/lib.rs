//! Howdah: a PostgreSQL connection-pooling proxy. Thousands of clients share a bounded number of server
//! connections, one transaction at a time.
//!
//! # The way of a transaction
//!
//! ```text
//! app::listen ── accept ──▶ client::login ── startup, auth, welcome ──▶ client::session
//!                               │ CancelRequest                            │ idle: no server, no buffer
//!                               ▼                                          ▼ first message
//!                            cancel ──▶ pool (who holds what?)      pool::Pool::checkout
//!                                                                          │ an idle connection, or a place
//!                                                                          │ in the queue (FIFO)
//!                                                                          ▼
//!                      client::params: SET what this client has otherwise ─┤ (usually two pointers compared)
//!                                                                          ▼
//!    client socket ◀── net::lane ◀── relay::down ◀──┐            client::flow: one poll loop, both directions
//!    client socket ──▶ net::lane ──▶ relay::up ─────┴─ proto::pipeline: what the server still owes
//!                                                                          │ ReadyForQuery, idle, nothing owed
//!                                                                          ▼
//!                                            pool::Lease::release ── in order ──▶ the next waiter, or idle
//!                                                         │ marked, or left in the middle
//!                                                         ▼
//!                                            server::repair: cancel, drain, roll back, reset, or close
//! ```
//!
//! # The layers
//!
//! A module may use only modules on lower floors. `tests/layering.rs` checks the sources against this table.
//!
//! | floor | module | job | I/O |
//! |---|---|---|---|
//! | 16 | [`app`] | command line, listeners, janitor, signals, reload, drain: the only one that knows all others | all |
//! | 15 | [`console`] | the databases `pgbouncer` and `howdah`: grammar, table of commands, rows (no I/O); one session each | sockets |
//! | 14 | [`doctor`] | `howdah doctor`: advice from the servers' catalogues and a running Howdah's figures | asks servers |
//! | 13 | [`ops`] | HTTP for metrics, statistics and health | own port |
//! | 13 | [`fleet`] | one budget of server connections for all instances, kept by the servers' own count | asks servers |
//! | 12 | [`capacity`] | what the pools of all instances can open against what the servers have; `howdah plan` | asks servers |
//! | 12 | [`client`] | login, session, replication (a server for one client alone); `flow` moves the bytes, `params` brings a server into step | sockets |
//! | 11 | [`cancel`] | whose key, and what that client waits for | none |
//! | 10 | [`services`] | the parts of one running Howdah; nothing is global | none |
//! | 9 | [`pool`] | `core` decides who gets which connection (no I/O); the rest does it; `ledger` holds limits that pools share; `adapt` moves sizes (no I/O) | tasks |
//! | 8 | [`monitor`] | who is primary and how far replicas are behind; `core` says what answers mean (no I/O) | through `server` |
//! | 8 | [`listener`] | LISTEN of many clients through one connection; `core` says who hears what (no I/O) | asks servers |
//! | 8 | [`lookup`] | `auth_query`: secrets of users that are not listed, on a connection of its own | asks servers |
//! | 7 | [`server`] | dial and login, an idle connection's health, questions of our own, repair | sockets |
//! | 7 | [`journal`] | what the log tells of clients: the errors that they were told, and the lines of PgBouncer's log | none |
//! | 6 | [`clients`] | the connected clients and how others reach them; the places that bound clients and logins | none |
//! | 5 | [`shared`] | the clock, counters, buffers, interners, and the configuration in force | none |
//! | 5 | [`relay`] | what passes between one client and one server, decided message by message: `up` and `down` | none |
//! | 4 | [`queries`] | statistics of statements by their fingerprints | none |
//! | 4 | [`routing`] | what a transaction's first message says, and which server it belongs on | none |
//! | 4 | [`auth`] | md5 and SCRAM in both roles, as steps | none |
//! | 3 | [`proto`] | frames, startup packet, what Howdah says, owed replies, parameters, statements, a look at SQL | none |
//! | 3 | [`net`] | sockets, buffers, and the [`net::lane::Lane`]: read bytes of which a first part may be written | sockets |
//! | 3 | [`control`] | what the operator has put in force while the process runs | none |
//! | 3 | [`directory`] | LDAP and PAM, with the cargo features `ldap` and `pam` | asks a directory |
//! | 2 | [`config`] | settings in one table; TOML, `pgbouncer.ini`, variables and flags into one [`config::Config`] | files |
//! | 2 | [`error`] | what can go wrong, and the one table from it to SQLSTATE, code, DETAIL and HINT | none |
//! | 2 | [`metrics`] | counters, histograms and their catalogue | none |
//! | 2 | [`clock`] | the time, as everything that decides is given it | clock |
//! | 1 | [`tls`] | certificates, keys, what of a peer's is accepted; rustls' configurations | none |
//! | 1 | [`session_state`] | the kinds of state that a session has, and what can become of each | none |
//! | 1 | [`ids`] | numbers by which the pool knows connections and places in its queue | none |
//! | 1 | [`number`] | conversions of numbers, none of which wraps | none |
//! | 1 | [`demo`] | a private PostgreSQL, a tiny client and a workload; knows nothing of the rest | processes |
//!
//! # Words
//!
//! One word for one thing, and PostgreSQL's or PgBouncer's where they have one.
//!
//! | word | what it is |
//! |---|---|
//! | client | an application's connection to Howdah, from its login to its end |
//! | server | a PostgreSQL server, or a pooler behind this one; *host* is its address |
//! | server connection | one of Howdah's connections to a server |
//! | connection of Howdah's own | a server connection that no client gets: a question of the monitor, a lookup, the listener |
//! | pool | the server connections of one database, user and role |
//! | role | of a pool: primary, replica or admin; in SQL, PostgreSQL's own meaning |
//! | lease | a server connection in the hands of one client |
//! | place | the right to be one more: of clients, logins, server connections or pins |
//! | ledger | limits of server connections that several pools share |
//! | boundary | the server owes nothing, and no transaction is open |
//! | batch | messages of the extended protocol up to their Sync |
//! | pipeline | the answers that a server connection still owes, in order |
//! | to provoke | to have the server fail by a message that must fail, so that it skips to the Sync itself |
//! | repair | to bring a server connection back to its boundary: cancel, drain, roll back, reset |
//! | mark | the reason why a server connection must be reset before another client gets it |
//! | view | the parameters that a server or a client was told of last, by ParameterStatus |
//! | named, overrides | what a client named in its startup packet; what is in force for it |
//! | applied, doubtful | what is set on a server connection for its client; what may be |
//! | suspicion, question | a trace of session state in a text or tag; what the server is asked about it |
//! | holdings | what a session holds besides parameters: statements, channels, temporary objects, cursors, locks |
//! | way | what becomes of a kind of state: follow, share, pin, reset, reject |
//! | pin | a client keeps its server connection because of what its session holds |
//! | statement, text | what a Parse or PREPARE makes; the SQL of it |
//! | shape | the types of a statement's parameters and its columns |
//! | drain | to let clients go one by one before the process ends or reloads |
//! | core | a file or module that decides and does nothing |
//!
//! # What must always hold
//!
//! * **One owner per fact.** What a server owes and its transaction status are known by
//!   [`proto::pipeline::Pipeline`] alone; who may use a connection by [`pool::core::PoolCore`] alone; what a client
//!   is told by [`error::report()`] alone.
//! * **The release rule.** A connection changes hands only when its pipeline is at a boundary (nothing owed, no
//!   batch without a Sync, idle), nothing read from it is left unread, and no cancel for it is under way. Anything
//!   else is repaired, or closed, and counted.
//! * **A session is its client's.** [`proto::session`] is the model of its parameters, [`proto::holdings`] of all else
//!   that it holds. A look at texts and tags only suspects; what a transaction has left is asked of the server at its
//!   end, and goes with the client, or keeps the connection with it (`client::pinned`).
//! * **A wait is fair and is never lost.** Waiters are served in order by direct hand-off; a waiter that leaves
//!   passes on what it was granted.
//! * **A lease ends exactly once**, by release, abandon or discard; one that is merely dropped (a panic) closes its
//!   connection.
//! * **Locks** are held for nanoseconds, never across an await, and never nest: pool, ledger and registry take turns.
//! * **Time** is an argument to everything that decides. One coarse tick (`app::janitor`) ends waits and wakes those
//!   whose deadline has passed; no timer is armed per query.
//! * **Errors of Howdah's own in the middle of a batch** are provoked on the server by a message that must fail, so
//!   that skipping to Sync and aborting the transaction are PostgreSQL's own and exact.
//!
//! # Room for what is to come
//!
//! A takeover hands over what [`client::session`] and [`server::conn`] hold.

#![cfg_attr(
    test,
    allow(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        clippy::cast_possible_wrap,
        reason = "tests choose their numbers themselves; without tests the lints hold"
    )
)]

pub mod app;
pub mod auth;
pub mod cancel;
pub mod capacity;
pub mod client;
pub mod clients;
pub mod clock;
pub mod config;
pub mod console;
pub mod control;
#[cfg(any(test, feature = "demo"))]
pub mod demo;
pub mod directory;
pub mod doctor;
pub mod error;
pub mod fleet;
pub mod ids;
pub mod journal;
pub mod listener;
pub mod lookup;
pub mod metrics;
pub mod monitor;
pub mod net;
pub mod number;
pub mod ops;
pub mod pool;
pub mod proto;
pub mod queries;
pub mod relay;
pub mod routing;
pub mod server;
pub mod services;
pub mod session_state;
pub mod shared;
pub mod tls;
