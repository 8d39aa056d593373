//! The side that asks: Howdah towards its clients.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rand::Rng;
use subtle::ConstantTimeEq;

use super::channel::Offer;
use super::{ScramKeys, are_extensions, attribute, hmac, is_printable, new_nonce, sha256, xor};
use crate::auth::MAX_SASL_MESSAGE;
use crate::auth::verifier::{Verifier, decode_32};
use crate::error::Error;

/// What follows from a client's message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// server-first-message, for AuthenticationSASLContinue.
    Continue(Vec<u8>),
    /// The login succeeded: server-final-message, for AuthenticationSASLFinal, and the client's keys, with
    /// which one can log in wherever the same verifier is stored.
    Done { server_final: Vec<u8>, keys: ScramKeys },
    /// The proof is wrong, or the user is none.
    WrongProof,
}

/// One SCRAM login of a client. A malformed message is an error and ends it.
#[derive(Debug)]
pub struct ScramServer {
    verifier: Verifier,
    is_mock: bool,
    server_nonce: String,
    offer: Offer,
    state: State,
}

#[derive(Debug)]
enum State {
    Start,
    Challenged(Challenge),
    Ended,
}

#[derive(Debug)]
struct Challenge {
    /// gs2-header as received and what the channel is bound to, in base64: what `c=` must repeat.
    binding: String,
    nonce: String,
    client_first_bare: String,
    server_first: String,
}

impl ScramServer {
    /// `is_mock` runs the same exchange and lets nobody in, for users that do not exist.
    pub fn new(verifier: Verifier, is_mock: bool, rng: &mut dyn Rng) -> Self {
        Self::with_nonce(verifier, is_mock, new_nonce(rng))
    }

    pub(in crate::auth) const fn with_nonce(verifier: Verifier, is_mock: bool, server_nonce: String) -> Self {
        Self {
            verifier,
            is_mock,
            server_nonce,
            offer: Offer { end_point: None, plus: false },
            state: State::Start,
        }
    }

    /// What was on offer, and what of it the client chose; before its first message.
    pub fn offered(&mut self, offer: Offer) {
        self.offer = offer;
    }

    /// client-first-message: `n,,n=<user>,r=<nonce>`. The user name in it does not count, as in PostgreSQL:
    /// the one of the StartupMessage does.
    pub fn on_initial(&mut self, message: &[u8]) -> Result<Step, Error> {
        if !matches!(std::mem::replace(&mut self.state, State::Ended), State::Start) {
            return malformed("unexpected message");
        }
        let text = text_of(message)?;
        let (flag, gs2_header, bare) = split_gs2(text)?;
        let binding = self.offer.expected(flag, gs2_header).or_else(malformed)?;
        if bare.starts_with("m=") {
            return malformed("client requires an unsupported SCRAM extension");
        }
        let Some((_user, Some(rest))) = attribute(bare, 'n') else { return malformed("no user name") };
        let Some((client_nonce, extensions)) = attribute(rest, 'r') else { return malformed("no nonce") };
        if client_nonce.is_empty() || !is_printable(client_nonce) {
            return malformed("non-printable characters in SCRAM nonce");
        }
        if !extensions.is_none_or(are_extensions) {
            return malformed("malformed extension");
        }
        let nonce = format!("{client_nonce}{}", self.server_nonce);
        let server_first =
            format!("r={nonce},s={},i={}", STANDARD.encode(&self.verifier.salt), self.verifier.iterations);
        self.state = State::Challenged(Challenge {
            binding,
            nonce,
            client_first_bare: bare.to_owned(),
            server_first: server_first.clone(),
        });
        Ok(Step::Continue(server_first.into_bytes()))
    }

    /// client-final-message: `c=<gs2-header>,r=<nonce>,p=<proof>`.
    pub fn on_response(&mut self, message: &[u8]) -> Result<Step, Error> {
        let State::Challenged(challenge) = std::mem::replace(&mut self.state, State::Ended) else {
            return malformed("unexpected message");
        };
        let text = text_of(message)?;
        let Some((without_proof, proof)) = text.rsplit_once(",p=") else { return malformed("no proof") };
        let Some((binding, Some(rest))) = attribute(without_proof, 'c') else {
            return malformed("no channel binding");
        };
        let Some((nonce, extensions)) = attribute(rest, 'r') else { return malformed("no nonce") };
        if !extensions.is_none_or(are_extensions) {
            return malformed("malformed extension");
        }
        if binding != challenge.binding {
            return malformed("unexpected SCRAM channel-binding attribute in client-final-message");
        }
        if nonce != challenge.nonce {
            return malformed("nonce does not match");
        }
        let Some(proof) = decode_32(proof) else { return malformed("malformed proof") };
        Ok(self.check(&challenge, without_proof, &proof))
    }

    fn check(&self, challenge: &Challenge, without_proof: &str, proof: &[u8; 32]) -> Step {
        let Challenge { client_first_bare, server_first, .. } = challenge;
        let auth_message = format!("{client_first_bare},{server_first},{without_proof}");
        let signature = hmac(&self.verifier.stored_key, &[auth_message.as_bytes()]);
        let client_key = xor(proof, &signature);
        let matches: bool = sha256(&client_key).ct_eq(&self.verifier.stored_key).into();
        if !matches || self.is_mock {
            return Step::WrongProof;
        }
        let signature = hmac(&self.verifier.server_key, &[auth_message.as_bytes()]);
        Step::Done {
            server_final: format!("v={}", STANDARD.encode(signature)).into_bytes(),
            keys: ScramKeys {
                salt: self.verifier.salt.clone(),
                iterations: self.verifier.iterations,
                client_key,
                server_key: self.verifier.server_key,
            },
        }
    }
}

/// Splits off gs2-header (RFC 5802, section 7), which has its last comma; its flag comes first.
fn split_gs2(text: &str) -> Result<(&str, &str, &str), Error> {
    let mut parts = text.splitn(3, ',');
    let (Some(flag), Some(authzid), Some(bare)) = (parts.next(), parts.next(), parts.next()) else {
        return malformed("no gs2-header");
    };
    if !authzid.is_empty() {
        return malformed("client uses authorization identity, but it is not supported");
    }
    let header = text.len().checked_sub(bare.len()).and_then(|at| text.get(..at)).unwrap_or_default();
    Ok((flag, header, bare))
}

fn text_of(message: &[u8]) -> Result<&str, Error> {
    if message.is_empty() || message.len() > MAX_SASL_MESSAGE {
        return malformed("bad length");
    }
    match std::str::from_utf8(message) {
        Ok(text) if !text.contains('\0') => Ok(text),
        _ => malformed("not a text"),
    }
}

fn malformed<T>(why: &str) -> Result<T, Error> {
    Err(Error::ProtocolViolation(format!("malformed SCRAM message: {why}")))
}
