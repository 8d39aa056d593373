//! The login of a client.

use rand::Rng;
use subtle::ConstantTimeEq;

use super::message::{self, violation};
use super::scram::channel::Offer;
use super::scram::{ScramServer, Step, new_nonce, sha256};
use super::{
    DeriveJob, MAX_PASSWORD_MESSAGE, MockSecret, SCRAM_SHA_256, SCRAM_SHA_256_PLUS, ScramKeys, Verifier, md5,
};
use crate::config::resolved::{AuthMethod, Secret};
use crate::error::Error;
use crate::proto::encode;

/// What the caller has to do. AuthenticationOk is the caller's, with the rest of the welcome.
#[derive(Debug, Clone, PartialEq)]
pub enum Action {
    /// Send this and bring the client's next message.
    Send(Vec<u8>),
    /// Send this; the login succeeded.
    SendThenAccept(Vec<u8>),
    /// The login succeeded.
    Accept,
    /// Run the job and bring its keys to [`ClientAuth::resume`].
    Derive(DeriveJob),
    /// Tell the client and close.
    Fail(Error),
}

/// One login of a client to Howdah.
///
/// A user that does not exist gets the same exchange and fails at its end. With `md5`, a secret that is a SCRAM
/// verifier is asked for with SCRAM, as PgBouncer and PostgreSQL do; with `scram-sha-256`, an md5 secret lets
/// nobody in. The first SCRAM login of a plain secret takes one derivation longer than an unknown user's; give
/// its keys back as `cached` and no later one does. `trust` accepts every name: whether the user must exist is the caller's to decide.
#[derive(Debug)]
pub struct ClientAuth {
    user: String,
    state: State,
    keys: Option<ScramKeys>,
    /// What a channel can be bound to.
    end_point: Option<Vec<u8>>,
}

#[derive(Debug)]
enum State {
    /// Not started.
    Start(Method),
    /// Asked; the first answer is due.
    Asked(Method),
    /// A clear-text password is being derived, to be compared with this.
    Comparing(Verifier),
    /// The verifier is being made of a plain secret; the client's first message waits.
    Preparing {
        server_nonce: String,
        first: Vec<u8>,
        plus: bool,
    },
    /// The proof is due.
    Challenged(ScramServer),
    Ended,
}

/// How this client is asked; no secret is no user.
#[derive(Debug)]
enum Method {
    Trust,
    Refused,
    Cleartext(Option<Secret>),
    Md5(Option<Secret>, [u8; 4]),
    Scram(ScramServer),
    /// With a verifier yet to be made; the random part of the nonce is drawn already.
    ScramOfPlain(DeriveJob, String),
}

impl ClientAuth {
    /// `secret` is `None` for a user that is unknown or has none. `cached` are the keys of an earlier
    /// [`Action::Derive`] of this user and this same secret, which spare the derivation.
    pub fn new(
        method: AuthMethod,
        user: &str,
        secret: Option<&Secret>,
        mock: &MockSecret,
        cached: Option<&ScramKeys>,
        rng: &mut dyn Rng,
    ) -> Self {
        // An empty password is never one to log in with, with any method.
        let secret = secret.filter(|s| !matches!(s, Secret::Plain(p) if p.is_empty()));
        let method = match (method, secret) {
            (AuthMethod::Trust | AuthMethod::Any, _) => Method::Trust,
            // Proved before anybody asks, by the socket or a certificate, or not at all.
            (
                AuthMethod::Cert
                | AuthMethod::Peer
                | AuthMethod::Reject
                | AuthMethod::Ldap
                | AuthMethod::Pam
                | AuthMethod::Hba,
                _,
            ) => Method::Refused,
            // The same for the work that it takes to compare.
            (AuthMethod::Password, None) if mock.has_verifiers() => {
                Method::Cleartext(Some(Secret::Scram(mock.verifier(user).to_text())))
            }
            (AuthMethod::Password, _) => Method::Cleartext(secret.cloned()),
            (AuthMethod::ScramSha256, _) | (AuthMethod::Md5, Some(Secret::Scram(_))) => {
                scram_method(user, secret, mock, cached, rng)
            }
            // Whoever does not exist is asked what most that do are asked.
            (AuthMethod::Md5, None) if mock.has_verifiers() => scram_method(user, None, mock, cached, rng),
            (AuthMethod::Md5, _) => {
                let mut salt = [0; 4];
                rng.fill_bytes(&mut salt);
                Method::Md5(secret.cloned(), salt)
            }
        };
        Self { user: user.to_owned(), state: State::Start(method), keys: None, end_point: None }
    }

    /// Over TLS, with the hash of the own certificate: SCRAM-SHA-256-PLUS is on offer.
    #[must_use]
    pub fn bound_to(mut self, end_point: Option<Vec<u8>>) -> Self {
        self.end_point = end_point;
        self
    }

    /// The authentication request.
    pub fn start(&mut self) -> Action {
        let State::Start(method) = std::mem::replace(&mut self.state, State::Ended) else {
            return Action::Fail(Error::Internal("a login was started twice".to_owned()));
        };
        let request = match &method {
            Method::Trust => return Action::Accept,
            Method::Refused => return self.accept_if(false),
            Method::Cleartext(_) => Ok(encode::AUTHENTICATION_CLEARTEXT.to_vec()),
            Method::Md5(_, salt) => encode::authentication_md5(*salt),
            Method::Scram(_) | Method::ScramOfPlain(..) => match self.end_point {
                Some(_) => encode::authentication_sasl(&[SCRAM_SHA_256_PLUS, SCRAM_SHA_256]),
                None => encode::authentication_sasl(&[SCRAM_SHA_256]),
            },
        };
        self.state = State::Asked(method);
        request.map_or_else(Action::Fail, Action::Send)
    }

    /// A message of the client: its type byte and body.
    pub fn on_message(&mut self, tag: u8, body: &[u8]) -> Action {
        let state = std::mem::replace(&mut self.state, State::Ended);
        if tag != b'p' {
            return Action::Fail(Error::ProtocolViolation(format!(
                "expected password response, got message type {tag}"
            )));
        }
        if body.len() > MAX_PASSWORD_MESSAGE {
            return Action::Fail(Error::ProtocolViolation("password message is too long".to_owned()));
        }
        let action = match state {
            State::Asked(method) => self.on_answer(method, body),
            State::Challenged(mut scram) => {
                scram.on_response(body).and_then(|step| self.on_step(step, scram))
            }
            State::Start(_) | State::Comparing(_) | State::Preparing { .. } | State::Ended => {
                violation("unexpected password response")
            }
        };
        action.unwrap_or_else(Action::Fail)
    }

    /// The keys of the job that was handed out.
    pub fn resume(&mut self, keys: &ScramKeys) -> Action {
        let action = match std::mem::replace(&mut self.state, State::Ended) {
            State::Comparing(verifier) => {
                Ok(self.accept_if(keys.stored_key().ct_eq(&verifier.stored_key).into()))
            }
            State::Preparing { server_nonce, first, plus } => {
                let scram = ScramServer::with_nonce(Verifier::from_keys(keys), false, server_nonce);
                self.on_scram_first(scram, plus, &first)
            }
            _ => Err(Error::Internal("keys that were not asked for".to_owned())),
        };
        action.unwrap_or_else(Action::Fail)
    }

    /// After a SCRAM login that succeeded: keys with which this client can be logged in wherever its
    /// verifier is stored. Taken, since they are as good as its password.
    pub const fn take_keys(&mut self) -> Option<ScramKeys> {
        self.keys.take()
    }

    fn on_answer(&mut self, method: Method, body: &[u8]) -> Result<Action, Error> {
        match method {
            Method::Cleartext(secret) => {
                let given = message::password(body)?;
                Ok(self.check_cleartext(secret.as_ref(), given))
            }
            Method::Md5(secret, salt) => {
                let given = message::password(body)?;
                Ok(self.accept_if(secret.is_some_and(|s| md5::verify(&s, &self.user, salt, given))))
            }
            Method::Scram(scram) => {
                let (plus, first) = message::sasl_initial(body)?;
                self.on_scram_first(scram, plus, first)
            }
            Method::ScramOfPlain(job, server_nonce) => {
                let (plus, first) = message::sasl_initial(body)?;
                self.state = State::Preparing { server_nonce, first: first.to_vec(), plus };
                Ok(Action::Derive(job))
            }
            Method::Trust | Method::Refused => violation("unexpected password response"),
        }
    }

    fn check_cleartext(&mut self, secret: Option<&Secret>, given: &[u8]) -> Action {
        let accepted = match (secret, std::str::from_utf8(given)) {
            // Nor is it compared: an empty message is a failure (`recv_password_packet` in PostgreSQL).
            _ if given.is_empty() => false,
            // Digests, so that the time does not tell the length either.
            (Some(Secret::Plain(p)), _) => sha256(p.as_bytes()).ct_eq(&sha256(given)).into(),
            (Some(s @ Secret::Md5(_)), Ok(given)) => md5::verify_plain(s, &self.user, given),
            (Some(Secret::Scram(text)), _) => match Verifier::parse(text) {
                Ok(v) => {
                    let job = DeriveJob::new(given, v.salt.clone(), v.iterations);
                    self.state = State::Comparing(v);
                    return Action::Derive(job);
                }
                Err(_) => false,
            },
            (Some(Secret::Md5(_)), Err(_)) | (None, _) => false,
        };
        self.accept_if(accepted)
    }

    fn on_scram_first(&mut self, mut scram: ScramServer, plus: bool, first: &[u8]) -> Result<Action, Error> {
        if plus && self.end_point.is_none() {
            return violation("client selected an invalid SASL authentication mechanism");
        }
        scram.offered(Offer { end_point: self.end_point.clone(), plus });
        let step = scram.on_initial(first)?;
        self.on_step(step, scram)
    }

    fn on_step(&mut self, step: Step, scram: ScramServer) -> Result<Action, Error> {
        match step {
            Step::Continue(data) => {
                self.state = State::Challenged(scram);
                encode::sasl_continue(&data).map(Action::Send)
            }
            Step::Done { server_final, keys } => {
                self.keys = Some(keys);
                encode::sasl_final(&server_final).map(Action::SendThenAccept)
            }
            Step::WrongProof => Ok(self.accept_if(false)),
        }
    }

    fn accept_if(&self, accepted: bool) -> Action {
        if accepted {
            Action::Accept
        } else {
            Action::Fail(Error::AuthenticationFailed { user: self.user.clone() })
        }
    }
}

fn scram_method(
    user: &str,
    secret: Option<&Secret>,
    mock: &MockSecret,
    cached: Option<&ScramKeys>,
    rng: &mut dyn Rng,
) -> Method {
    // For no user, no usable secret, or a verifier that the configuration should not have let through.
    let as_if = |rng| Method::Scram(ScramServer::new(mock.verifier(user), true, rng));
    match secret {
        Some(Secret::Plain(p)) => match cached {
            Some(keys) if keys.salt == mock.salt(user) => {
                Method::Scram(ScramServer::new(Verifier::from_keys(keys), false, rng))
            }
            _ => Method::ScramOfPlain(mock.derive_job(user, p), new_nonce(rng)),
        },
        Some(Secret::Scram(text)) => match Verifier::parse(text) {
            Ok(verifier) => Method::Scram(ScramServer::new(verifier, false, rng)),
            Err(_) => as_if(rng),
        },
        _ => as_if(rng),
    }
}

#[cfg(test)]
mod tests;
