//! Logins, of clients to Howdah and of Howdah to PostgreSQL, as state machines without input or output.
//!
//! [`ClientAuth`] and [`ServerAuth`] take message bodies and return what to do. PBKDF2 costs milliseconds and
//! never runs in them: they hand out a [`DeriveJob`], which the caller runs off the threads that do I/O and
//! brings back to `resume`. Each state accepts one kind of message; everything else ends the login.

pub mod access;
mod client;
pub mod failures;
pub mod md5;
mod message;
pub mod require;
pub mod scram;
mod server;
pub mod source;
pub mod verifier;

pub use client::{Action, ClientAuth};
pub use message::password;
pub use scram::{DeriveJob, ScramKeys};
pub use server::{ServerAction, ServerAuth};
pub use verifier::{MockSecret, Verifier};

/// Longest body of a password message that a caller has to accept (`PG_MAX_AUTH_TOKEN_LENGTH`).
pub const MAX_PASSWORD_MESSAGE: usize = 65_535;
/// Longest SCRAM message that is read from a client (`PG_MAX_SASL_MESSAGE_LENGTH`).
pub const MAX_SASL_MESSAGE: usize = 1024;
pub const SCRAM_SHA_256: &str = "SCRAM-SHA-256";
/// The same, bound to the TLS channel: it needs the hash of the server's certificate.
pub const SCRAM_SHA_256_PLUS: &str = "SCRAM-SHA-256-PLUS";
