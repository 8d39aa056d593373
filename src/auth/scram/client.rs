//! The side that is asked: Howdah towards PostgreSQL. All that a hostile server may say is bounded before any
//! work is spent on it.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rand::Rng;
use subtle::ConstantTimeEq;

use super::channel::Binding;
use super::{DeriveJob, ScramKeys, are_extensions, attribute, hmac, is_printable, new_nonce, xor};
use crate::auth::verifier::{decode_32, parse_iterations};
use crate::config::Hidden;

/// Longest server-first-message that is read.
pub const MAX_SERVER_FIRST: usize = 4096;
/// Largest iteration count that is computed for a server.
pub const MAX_ITERATIONS: u32 = 100_000;

/// What follows from a server's message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ClientStep {
    /// Run it and bring the keys to [`ScramClient::resume`].
    NeedDerive(DeriveJob),
    /// client-final-message, for SASLResponse.
    Respond(Vec<u8>),
}

/// Why a login to a server ended.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ScramError {
    /// There is no password, and the keys at hand are of another salt or iteration count.
    #[error("no password, and no keys that fit the server's salt and iterations")]
    Unanswerable,
    /// The server did what it must not do.
    #[error("{0}")]
    Server(String),
}

/// One SCRAM login to a server. An error says what the server did wrong, and ends it.
pub struct ScramClient {
    password: Option<Hidden>,
    /// Keys of an earlier login, of use if salt and iterations are still the same.
    cached: Option<ScramKeys>,
    nonce: String,
    client_first_bare: String,
    binding: Binding,
    state: State,
}

enum State {
    Start,
    Deriving { auth_message: String, without_proof: String, salt: Vec<u8>, iterations: u32 },
    Proved { signature: [u8; 32] },
    Ended,
}

impl std::fmt::Debug for ScramClient {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("ScramClient(..)")
    }
}

impl ScramClient {
    /// With a password, or with keys of an earlier login, or with both: then the keys are tried first.
    pub fn new(password: Option<&str>, cached: Option<ScramKeys>, rng: &mut dyn Rng) -> Self {
        // The name is empty as libpq has it: PostgreSQL goes by the StartupMessage.
        Self::with_nonce(password, cached, "", new_nonce(rng))
    }

    pub(super) fn with_nonce(
        password: Option<&str>,
        cached: Option<ScramKeys>,
        user: &str,
        nonce: String,
    ) -> Self {
        Self {
            password: password.map(Hidden::from),
            cached,
            client_first_bare: format!("n={user},r={nonce}"),
            nonce,
            binding: Binding::None,
            state: State::Start,
        }
    }

    /// Before the first message.
    pub fn bind(&mut self, binding: Binding) {
        self.binding = binding;
    }

    /// client-first-message, for SASLInitialResponse.
    pub fn first(&self) -> Vec<u8> {
        format!("{}{}", self.binding.header(), self.client_first_bare).into_bytes()
    }

    /// server-first-message: `r=<nonce>,s=<salt>,i=<iterations>`.
    pub fn on_continue(&mut self, message: &[u8]) -> Result<ClientStep, ScramError> {
        if !matches!(std::mem::replace(&mut self.state, State::Ended), State::Start) {
            return broken("a second SCRAM challenge");
        }
        if message.len() > MAX_SERVER_FIRST {
            return broken("a SCRAM challenge that is too long");
        }
        let Ok(text) = std::str::from_utf8(message) else {
            return broken("a SCRAM challenge that is no text");
        };
        if text.starts_with("e=") {
            return broken("a SCRAM error");
        }
        let Some((nonce, Some(rest))) = attribute(text, 'r') else { return broken("no SCRAM nonce") };
        let Some((salt, Some(rest))) = attribute(rest, 's') else { return broken("no SCRAM salt") };
        let Some((iterations, extensions)) = attribute(rest, 'i') else {
            return broken("no SCRAM iteration count");
        };
        let extends_ours = nonce.strip_prefix(self.nonce.as_str()).is_some_and(|own| !own.is_empty());
        if !extends_ours || !is_printable(nonce) {
            return broken("a bad SCRAM nonce");
        }
        let salt = match STANDARD.decode(salt) {
            Ok(s) if !s.is_empty() => s,
            _ => return broken("a bad SCRAM salt"),
        };
        // Keys that are at hand need no work.
        let bounded =
            parse_iterations(iterations, MAX_ITERATIONS).or_else(|| self.at_hand(&salt, iterations));
        let Some(iterations) = bounded else {
            return broken("a SCRAM iteration count that is not within 1 and 100000");
        };
        if !extensions.is_none_or(are_extensions) {
            return broken("a malformed SCRAM extension");
        }
        let without_proof = format!("c={},r={nonce}", self.binding.value());
        let auth_message = format!("{},{text},{without_proof}", self.client_first_bare);
        self.state = State::Deriving { auth_message, without_proof, salt: salt.clone(), iterations };
        self.keys_or_job(salt, iterations)
    }

    /// The rounds of the keys at hand, if they are of this salt and these rounds.
    fn at_hand(&self, salt: &[u8], iterations: &str) -> Option<u32> {
        let of_keys = self.cached.as_ref().filter(|k| k.salt == salt)?.iterations;
        (of_keys.to_string() == iterations).then_some(of_keys)
    }

    fn keys_or_job(&mut self, salt: Vec<u8>, iterations: u32) -> Result<ClientStep, ScramError> {
        match (&self.password, self.cached.take()) {
            (_, Some(keys)) if keys.salt == salt && keys.iterations == iterations => {
                self.resume(&keys).map(ClientStep::Respond)
            }
            (Some(p), _) => Ok(ClientStep::NeedDerive(DeriveJob::new(p.as_bytes(), salt, iterations))),
            (None, _) => {
                self.state = State::Ended;
                Err(ScramError::Unanswerable)
            }
        }
    }

    /// client-final-message, made with keys for the salt and iterations that the server named.
    pub fn resume(&mut self, keys: &ScramKeys) -> Result<Vec<u8>, ScramError> {
        let State::Deriving { auth_message, without_proof, salt, iterations } =
            std::mem::replace(&mut self.state, State::Ended)
        else {
            return Err(ScramError::Unanswerable);
        };
        if keys.salt != salt || keys.iterations != iterations {
            return Err(ScramError::Unanswerable);
        }
        let proof = xor(&keys.client_key, &hmac(&keys.stored_key(), &[auth_message.as_bytes()]));
        self.state = State::Proved { signature: hmac(&keys.server_key, &[auth_message.as_bytes()]) };
        Ok(format!("{without_proof},p={}", STANDARD.encode(proof)).into_bytes())
    }

    /// server-final-message: `v=<signature>`, which proves that the server knows the verifier, or `e=<error>`.
    pub fn on_final(&mut self, message: &[u8]) -> Result<(), ScramError> {
        let State::Proved { signature } = std::mem::replace(&mut self.state, State::Ended) else {
            return broken("an untimely end of SCRAM");
        };
        let text =
            std::str::from_utf8(message).ok().filter(|t| t.len() <= MAX_SERVER_FIRST).unwrap_or_default();
        let Some((value, extensions)) = attribute(text, 'v') else {
            return broken(if text.starts_with("e=") { "a SCRAM error" } else { "no SCRAM signature" });
        };
        if !extensions.is_none_or(are_extensions) {
            return broken("a malformed SCRAM extension");
        }
        match decode_32(value) {
            Some(given) if bool::from(given.ct_eq(&signature)) => Ok(()),
            _ => broken("a wrong SCRAM signature"),
        }
    }
}

fn broken<T>(what: &str) -> Result<T, ScramError> {
    Err(ScramError::Server(format!("the server sent {what}")))
}
