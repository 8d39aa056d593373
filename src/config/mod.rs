//! Configuration: one declaration per setting ([`settings`]), read from TOML, `pgbouncer.ini`, flags and
//! variables.
//!
//! Every form is first read into one tree of values that know where they were stated, then built and
//! validated by the same code, which tells all problems at once. What comes out is a [`Config`]; the rest of
//! the program sees nothing else.

pub mod access;
mod blank;
mod build;
mod ciphers;
pub mod compat;
pub mod convert;
mod draft;
mod exposure;
mod file;
mod files;
mod flags;
mod foreign;
pub mod hba;
pub mod hidden;
mod hosts;
pub mod ident;
mod ini;
pub mod keys;
pub mod ldap;
mod limits;
mod load;
mod names;
mod override_set;
pub mod pattern;
mod pgbouncer;
mod problem;
mod raw;
pub mod reference;
mod require;
pub mod resolved;
pub mod routing;
mod secrets;
pub mod setting;
pub mod settings;
mod state;
mod summary;
mod tls;
pub mod units;
mod userlist;
mod validate;
mod validate_routing;
mod value;

#[cfg(test)]
mod secrecy;
#[cfg(test)]
mod tests;

pub use draft::{is_public, may_hold_secret, with_setting};
pub use file::is_ini;
pub use flags::{Flags, from_flags};
pub use hidden::Hidden;
pub use load::{Overrides, from_overrides, load, outline};
pub use pgbouncer::VERBOSE;
pub use problem::ConfigError;
pub use raw::Source;
pub use resolved::Config;
pub use summary::{restart_needed, summary};
pub use value::{Kind, Value};

/// The virtual database whose name PgBouncer reserves.
pub const CONSOLE: &str = "pgbouncer";
