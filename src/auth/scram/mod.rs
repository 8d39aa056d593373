//! SCRAM-SHA-256 (RFC 5802, RFC 7677; PostgreSQL documentation, 54.3 SASL Authentication), both sides.

pub mod channel;
mod client;
mod server;

#[cfg(test)]
mod tests;

use std::borrow::Cow;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, KeyInit, Mac};
use rand::Rng;
use sha2::{Digest, Sha256};
use zeroize::{Zeroize, ZeroizeOnDrop, Zeroizing};

pub use client::{ClientStep, MAX_ITERATIONS, MAX_SERVER_FIRST, ScramClient, ScramError};
pub use server::{ScramServer, Step};

/// What a password, a salt and an iteration count give; enough to log in wherever both are the same.
#[derive(Clone, PartialEq, Eq, Zeroize, ZeroizeOnDrop)]
pub struct ScramKeys {
    #[zeroize(skip)]
    pub salt: Vec<u8>,
    #[zeroize(skip)]
    pub iterations: u32,
    pub client_key: [u8; 32],
    pub server_key: [u8; 32],
}

impl std::fmt::Debug for ScramKeys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("ScramKeys(..)")
    }
}

impl ScramKeys {
    /// H(ClientKey).
    pub fn stored_key(&self) -> [u8; 32] {
        sha256(&self.client_key)
    }
}

/// One PBKDF2, to be run off the threads that do I/O.
#[derive(Clone, PartialEq, Eq, Zeroize, ZeroizeOnDrop)]
pub struct DeriveJob {
    password: Vec<u8>,
    #[zeroize(skip)]
    salt: Vec<u8>,
    #[zeroize(skip)]
    iterations: u32,
}

impl std::fmt::Debug for DeriveJob {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("DeriveJob(..)")
    }
}

impl DeriveJob {
    /// The password is normalised here; `iterations` must have been bounded by the caller.
    pub fn new(password: &[u8], salt: Vec<u8>, iterations: u32) -> Self {
        Self { password: normalise(password).to_vec(), salt, iterations }
    }

    /// Milliseconds of computing.
    pub fn run(self) -> ScramKeys {
        let mut salted = Zeroizing::new([0; 32]);
        pbkdf2::pbkdf2_hmac::<Sha256>(&self.password, &self.salt, self.iterations.max(1), &mut *salted);
        ScramKeys {
            salt: self.salt.clone(),
            iterations: self.iterations,
            client_key: hmac(&*salted, &[b"Client Key"]),
            server_key: hmac(&*salted, &[b"Server Key"]),
        }
    }
}

/// SASLprep (RFC 4013); a password that it refuses is taken as it is, as PostgreSQL does.
fn normalise(password: &[u8]) -> Zeroizing<Vec<u8>> {
    let prepared = match std::str::from_utf8(password) {
        Ok(text) if !text.is_ascii() => stringprep::saslprep(text).ok().filter(|p| !p.is_empty()),
        _ => None,
    };
    Zeroizing::new(match prepared {
        Some(Cow::Owned(p)) => p.into_bytes(),
        Some(Cow::Borrowed(p)) => p.as_bytes().to_vec(),
        None => password.to_vec(),
    })
}

pub(super) fn sha256(data: &[u8]) -> [u8; 32] {
    Sha256::digest(data).into()
}

/// HMAC-SHA-256 over the parts in turn.
pub(super) fn hmac(key: &[u8], parts: &[&[u8]]) -> [u8; 32] {
    let mut mac = <Hmac<Sha256> as KeyInit>::new_from_slice(key).expect("HMAC takes a key of any length");
    for part in parts {
        mac.update(part);
    }
    mac.finalize().into_bytes().into()
}

pub(super) fn xor(a: &[u8; 32], b: &[u8; 32]) -> [u8; 32] {
    let mut out = *a;
    for (o, b) in out.iter_mut().zip(b) {
        *o ^= b;
    }
    out
}

/// 18 random bytes, as PostgreSQL has, in base64.
pub(super) fn new_nonce(rng: &mut dyn Rng) -> String {
    let mut raw = [0; 18];
    rng.fill_bytes(&mut raw);
    STANDARD.encode(raw)
}

/// `printable` of RFC 5802: 0x21 to 0x7e, without the comma.
pub(super) fn is_printable(text: &str) -> bool {
    text.bytes().all(|b| matches!(b, 0x21..=0x2b | 0x2d..=0x7e))
}

/// Takes one attribute `<name>=<value>` off a list that commas divide: the value, and what follows the comma.
pub(super) fn attribute(list: &str, name: char) -> Option<(&str, Option<&str>)> {
    let (first, rest) = match list.split_once(',') {
        Some((first, rest)) => (first, Some(rest)),
        None => (list, None),
    };
    let value = first.strip_prefix(name)?.strip_prefix('=')?;
    Some((value, rest))
}

/// Whether each of the attributes has the form `<letter>=<value>`; their meaning is not ours to know.
pub(super) fn are_extensions(list: &str) -> bool {
    list.split(',').all(|a| {
        let mut bytes = a.bytes();
        bytes.next().is_some_and(|b| b.is_ascii_alphabetic())
            && bytes.next() == Some(b'=')
            && !a.contains('\0')
    })
}
