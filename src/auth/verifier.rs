//! Stored SCRAM-SHA-256 verifiers, `SCRAM-SHA-256$<iterations>:<salt>$<StoredKey>:<ServerKey>` (PostgreSQL
//! documentation, 52.8 pg_authid; RFC 5803), and the stand-in for users that do not exist.

use crate::config::Hidden;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use zeroize::{Zeroize, ZeroizeOnDrop, Zeroizing};

use super::scram::{DeriveJob, ScramKeys, hmac, sha256};

/// Iterations of a verifier that Howdah makes; PostgreSQL's default.
pub const DEFAULT_ITERATIONS: u32 = 4096;
/// Largest count that a stored verifier may have. Only a clear-text password is checked at this cost.
pub const MAX_ITERATIONS: u32 = 1_000_000;
/// Longest salt of a verifier; PostgreSQL makes 16 bytes.
const MAX_SALT: usize = 256;

const PREFIX: &str = "SCRAM-SHA-256$";

/// What a server needs to check a SCRAM login.
#[derive(Clone, PartialEq, Eq, Zeroize, ZeroizeOnDrop)]
pub struct Verifier {
    #[zeroize(skip)]
    pub iterations: u32,
    #[zeroize(skip)]
    pub salt: Vec<u8>,
    pub stored_key: [u8; 32],
    pub server_key: [u8; 32],
}

impl std::fmt::Debug for Verifier {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Verifier(..)")
    }
}

/// Why a verifier's text is none; it never quotes the text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("malformed SCRAM verifier: {0}")]
pub struct MalformedVerifier(&'static str);

impl Verifier {
    /// Reads a stored verifier strictly.
    pub fn parse(text: &str) -> Result<Self, MalformedVerifier> {
        let bad = MalformedVerifier;
        let rest = text.strip_prefix(PREFIX).ok_or(bad("it does not begin with SCRAM-SHA-256$"))?;
        let (head, keys) = rest.split_once('$').ok_or(bad("it has no keys"))?;
        let (iterations, salt) = head.split_once(':').ok_or(bad("it has no salt"))?;
        let (stored, server) = keys.split_once(':').ok_or(bad("it has no ServerKey"))?;
        let iterations = parse_iterations(iterations, MAX_ITERATIONS)
            .ok_or(bad("its iteration count is not within 1 and 1000000"))?;
        let salt = STANDARD.decode(salt).map_err(|_| bad("its salt is not base64"))?;
        if salt.is_empty() || salt.len() > MAX_SALT {
            return Err(bad("its salt does not have 1 to 256 bytes"));
        }
        let stored_key = decode_32(stored).ok_or(bad("its StoredKey is not base64 of 32 bytes"))?;
        let server_key = decode_32(server).ok_or(bad("its ServerKey is not base64 of 32 bytes"))?;
        Ok(Self { iterations, salt, stored_key, server_key })
    }

    /// From keys that were derived of a password.
    pub fn from_keys(keys: &ScramKeys) -> Self {
        Self {
            iterations: keys.iterations,
            salt: keys.salt.clone(),
            stored_key: keys.stored_key(),
            server_key: keys.server_key,
        }
    }

    /// The stored form.
    pub fn to_text(&self) -> Hidden {
        Hidden::from(format!(
            "{PREFIX}{}:{}${}:{}",
            self.iterations,
            STANDARD.encode(&self.salt),
            STANDARD.encode(self.stored_key),
            STANDARD.encode(self.server_key)
        ))
    }
}

/// The secret of a process from which salts of users are made that have no verifier.
///
/// A user's salt is the same at every attempt, known or not, so that it does not tell whether the user exists
/// (`scram_mock_salt` in PostgreSQL). Give all instances that share clients the same bytes.
#[derive(Clone, Zeroize, ZeroizeOnDrop)]
pub struct MockSecret {
    bytes: [u8; 32],
    /// Of verifiers that are made here.
    iterations: u32,
    /// Users that exist have verifiers, as far as is known.
    verifiers: bool,
}

impl std::fmt::Debug for MockSecret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("MockSecret(..)")
    }
}

impl MockSecret {
    pub const fn new(bytes: [u8; 32]) -> Self {
        Self { bytes, iterations: DEFAULT_ITERATIONS, verifiers: true }
    }

    /// Made of `scram_mock_secret`.
    pub fn of(text: &str) -> Self {
        Self::new(sha256(text.as_bytes()))
    }

    /// The same with `scram_iterations`.
    #[must_use]
    pub const fn iterations(mut self, n: u32) -> Self {
        self.iterations = n;
        self
    }

    /// Whether users that exist are to be taken to have verifiers.
    #[must_use]
    pub const fn verifiers(mut self, have: bool) -> Self {
        self.verifiers = have;
        self
    }

    pub const fn has_verifiers(&self) -> bool {
        self.verifiers
    }

    /// The salt of this user's name.
    pub fn salt(&self, user: &str) -> Vec<u8> {
        hmac(&self.bytes, &[b"salt", user.as_bytes()]).iter().take(16).copied().collect()
    }

    /// A verifier that no password matches; whoever uses it must refuse a match all the same.
    pub fn verifier(&self, user: &str) -> Verifier {
        Verifier {
            iterations: self.iterations,
            salt: self.salt(user),
            stored_key: hmac(&self.bytes, &[b"stored", user.as_bytes()]),
            server_key: hmac(&self.bytes, &[b"server", user.as_bytes()]),
        }
    }

    /// Makes the keys of a plain password, with this user's salt: the same at every login, so that the caller
    /// can keep them.
    pub fn derive_job(&self, user: &str, password: &str) -> DeriveJob {
        DeriveJob::new(password.as_bytes(), self.salt(user), self.iterations)
    }
}

/// A decimal number from 1 to `max`, without sign or leading zero.
pub(super) fn parse_iterations(text: &str, max: u32) -> Option<u32> {
    let plain = text.bytes().all(|b| b.is_ascii_digit()) && !text.starts_with('0');
    let n = text.parse().ok().filter(|_| plain)?;
    (1..=max).contains(&n).then_some(n)
}

/// Base64 of exactly 32 bytes.
pub(super) fn decode_32(text: impl AsRef<[u8]>) -> Option<[u8; 32]> {
    Zeroizing::new(STANDARD.decode(text).ok()?).as_slice().try_into().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn round_trip() {
        let keys = DeriveJob::new(b"pencil", b"0123456789abcdef".to_vec(), 1).run();
        let v = Verifier::from_keys(&keys);
        assert_eq!(Verifier::parse(&v.to_text()).unwrap(), v);
        assert_eq!(format!("{v:?}"), "Verifier(..)");
    }

    #[test]
    fn malformed_verifiers_are_refused() {
        let k = STANDARD.encode([7; 32]);
        let short = STANDARD.encode([7; 31]);
        assert!(Verifier::parse(&format!("SCRAM-SHA-256$4096:c2FsdA==${k}:{k}")).is_ok());
        for bad in [
            String::new(),
            "SCRAM-SHA-256$".to_owned(),
            "SCRAM-SHA-256$4096".to_owned(),
            "SCRAM-SHA-256$4096:c2FsdA==".to_owned(),
            format!("SCRAM-SHA-1$4096:c2FsdA==${k}:{k}"),
            format!("SCRAM-SHA-256$4096:c2FsdA==${k}"),
            format!("SCRAM-SHA-256$4096:c2FsdA==${k}:"),
            format!("SCRAM-SHA-256$4096:c2FsdA==${k}:{short}"),
            format!("SCRAM-SHA-256$4096:c2FsdA==${short}:{k}"),
            format!("SCRAM-SHA-256$4096:c2FsdA==${k}:{k}:{k}"),
            format!("SCRAM-SHA-256$4096:c2FsdA==${k}:{k} "),
            format!("SCRAM-SHA-256$4096:c2FsdA=${k}:{k}"),
            format!("SCRAM-SHA-256$4096:${k}:{k}"),
            format!("SCRAM-SHA-256$4096:-${k}:{k}"),
            format!("SCRAM-SHA-256$0:c2FsdA==${k}:{k}"),
            format!("SCRAM-SHA-256$-1:c2FsdA==${k}:{k}"),
            format!("SCRAM-SHA-256$+1:c2FsdA==${k}:{k}"),
            format!("SCRAM-SHA-256$01:c2FsdA==${k}:{k}"),
            format!("SCRAM-SHA-256$1000001:c2FsdA==${k}:{k}"),
            format!("SCRAM-SHA-256$99999999999999999999:c2FsdA==${k}:{k}"),
            format!("SCRAM-SHA-256$:c2FsdA==${k}:{k}"),
            format!("SCRAM-SHA-256$1:{}${k}:{k}", STANDARD.encode([1; 257])),
        ] {
            assert!(Verifier::parse(&bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn the_mock_salt_is_stable_and_differs_by_user_and_process() {
        let m = MockSecret::new([1; 32]);
        assert_eq!(m.salt("a"), m.salt("a"));
        assert_ne!(m.salt("a"), m.salt("b"));
        assert_ne!(m.salt("a"), MockSecret::new([2; 32]).salt("a"));
        assert_eq!(m.salt("a").len(), 16);
    }
}
