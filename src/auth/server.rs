//! The login of Howdah to PostgreSQL.

use rand::Rng;

use super::message;
use super::require::{Asked, Permitted};
use super::scram::channel::Binding;
use super::scram::{ClientStep, ScramClient, ScramError};
use super::{DeriveJob, SCRAM_SHA_256, SCRAM_SHA_256_PLUS, ScramKeys, md5};
use crate::config::resolved::{ChannelBinding, Secret};
use crate::error::Error;
use crate::proto::encode;

/// What the caller has to do.
#[derive(Clone, PartialEq)]
pub enum ServerAction {
    /// Send this and bring the next authentication message.
    Send(Vec<u8>),
    /// Bring the next authentication message.
    Wait,
    /// Logged in; ParameterStatus, BackendKeyData and ReadyForQuery follow.
    Accept,
    /// Run the job and bring its keys to [`ServerAuth::resume`]; kept, they spare the next derivation.
    Derive(DeriveJob),
    /// Close the connection.
    Fail(Error),
}

impl std::fmt::Debug for ServerAction {
    /// Without the bytes to send, which may be a password.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Send(m) => write!(f, "Send({} bytes)", m.len()),
            Self::Wait => f.write_str("Wait"),
            Self::Accept => f.write_str("Accept"),
            Self::Derive(job) => f.debug_tuple("Derive").field(job).finish(),
            Self::Fail(e) => f.debug_tuple("Fail").field(e).finish(),
        }
    }
}

/// One login to a server (PostgreSQL documentation, 54.2.1 Start-up, and 54.7, the messages of type `R`).
#[derive(Debug)]
pub struct ServerAuth {
    host: String,
    user: String,
    secret: Option<Secret>,
    permitted: Permitted,
    scram: ScramClient,
    can_scram: bool,
    binding: ChannelBinding,
    end_point: Option<Vec<u8>>,
    /// The mechanism with channel binding was chosen.
    plus: bool,
    how: &'static str,
    state: State,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Start,
    /// A password or md5 answer is out.
    Answered,
    /// SCRAM is under way: until its end there is no AuthenticationOk, or the server would not have proved
    /// that it knows the password.
    Scram,
    Proved,
    Ended,
}

impl ServerAuth {
    /// `cached` are keys of an earlier login of this role, or of a client whose verifier is the server's
    /// ([`super::ClientAuth::take_keys`]); used if salt and iterations fit. `host` is for errors.
    pub fn new(
        host: &str,
        user: &str,
        secret: Option<&Secret>,
        cached: Option<ScramKeys>,
        permitted: Permitted,
        rng: &mut dyn Rng,
    ) -> Self {
        let password = match secret {
            Some(Secret::Plain(p)) => Some(p.as_str()),
            Some(Secret::Md5(_) | Secret::Scram(_)) | None => None,
        };
        Self {
            host: host.to_owned(),
            user: user.to_owned(),
            secret: secret.cloned(),
            permitted,
            can_scram: password.is_some() || cached.is_some(),
            scram: ScramClient::new(password, cached, rng),
            binding: ChannelBinding::Prefer,
            end_point: None,
            plus: false,
            how: "none",
            state: State::Start,
        }
    }

    /// What to do about the channel; `end_point` is the hash of the server's certificate, where there is TLS.
    #[must_use]
    pub fn bound_to(mut self, binding: ChannelBinding, end_point: Option<Vec<u8>>) -> Self {
        self.binding = binding;
        self.end_point = end_point;
        self
    }

    /// How Howdah has proved itself so far: what the metric calls it. Nobody knows what a server would have asked that
    /// let us in as we came (trust, or a certificate).
    pub const fn how(&self) -> &'static str {
        self.how
    }

    /// The body of a message of type `R`.
    pub fn on_auth_message(&mut self, body: &[u8]) -> ServerAction {
        let state = std::mem::replace(&mut self.state, State::Ended);
        let Some((code, rest)) = body.split_first_chunk::<4>() else {
            return self.broken("the server sent an authentication message without a code");
        };
        let action = match (u32::from_be_bytes(*code), state) {
            (0, State::Start | State::Answered | State::Proved)
                if self.binding == ChannelBinding::Require && !self.plus =>
            {
                Err(self.unbound())
            }
            (0, State::Start) if !self.permitted.allows(Asked::None) => Err(self.not_allowed(Asked::None)),
            (0, State::Start | State::Answered | State::Proved) if rest.is_empty() => {
                Ok(ServerAction::Accept)
            }
            (0, State::Scram) => Err(self.protocol("the server ended SCRAM before it proved itself")),
            (3 | 5, State::Start) if self.binding == ChannelBinding::Require => Err(self.unbound()),
            (3, State::Start) if !self.permitted.allows(Asked::Password) => {
                Err(self.not_allowed(Asked::Password))
            }
            (5, State::Start) if !self.permitted.allows(Asked::Md5) => Err(self.not_allowed(Asked::Md5)),
            (10, State::Start) if !self.permitted.allows(Asked::Scram) => Err(self.not_allowed(Asked::Scram)),
            (3, State::Start) if rest.is_empty() => self.on_cleartext(),
            (5, State::Start) => self.on_md5(rest),
            (10, State::Start) => self.on_sasl(rest),
            (11, State::Scram) => self.on_challenge(rest),
            (12, State::Scram) => self.on_signature(rest),
            (0 | 3 | 5 | 10..=12, _) => {
                Err(self.protocol("the server sent an untimely authentication message"))
            }
            (2, _) => Err(self.unanswerable("Kerberos")),
            (7 | 8, _) => Err(self.unanswerable("GSSAPI")),
            (9, _) => Err(self.unanswerable("SSPI")),
            (other, _) => Err(self.unanswerable(&format!("unknown ({other})"))),
        };
        action.unwrap_or_else(ServerAction::Fail)
    }

    /// The keys of the job that was handed out.
    pub fn resume(&mut self, keys: &ScramKeys) -> ServerAction {
        let action = match self.scram.resume(keys) {
            Ok(proof) => self.send_proof(&proof),
            Err(e) => Err(self.scram_error(e)),
        };
        action.unwrap_or_else(|e| {
            self.state = State::Ended;
            ServerAction::Fail(e)
        })
    }

    fn on_cleartext(&mut self) -> Result<ServerAction, Error> {
        match &self.secret {
            Some(Secret::Plain(p)) => {
                (self.state, self.how) = (State::Answered, "password");
                encode::password_message(p).map(ServerAction::Send)
            }
            _ => Err(self.unanswerable("clear-text password")),
        }
    }

    fn on_md5(&mut self, rest: &[u8]) -> Result<ServerAction, Error> {
        let Ok(salt) = <[u8; 4]>::try_from(rest) else {
            return Err(self.protocol("the server sent a bad md5 salt"));
        };
        match self.secret.as_ref().and_then(|s| md5::response(s, &self.user, salt)) {
            Some(answer) => {
                (self.state, self.how) = (State::Answered, "md5");
                encode::password_message(&answer).map(ServerAction::Send)
            }
            None => Err(self.unanswerable("md5")),
        }
    }

    fn on_sasl(&mut self, mechanisms: &[u8]) -> Result<ServerAction, Error> {
        match message::offers_scram(mechanisms) {
            None => Err(self.protocol("the server sent a bad list of SASL mechanisms")),
            Some((false, false)) => Err(self.unanswerable("SASL other than SCRAM-SHA-256")),
            Some(_) if !self.can_scram => Err(self.unanswerable(SCRAM_SHA_256)),
            Some((scram, plus)) => {
                let wanted = self.end_point.take().filter(|_| self.binding != ChannelBinding::Disable);
                let binding = match (wanted, plus) {
                    (Some(hash), true) => Binding::EndPoint(hash),
                    _ if self.binding == ChannelBinding::Require => return Err(self.unbound()),
                    _ if !scram => return Err(self.unanswerable("SASL other than SCRAM-SHA-256")),
                    (Some(_), false) => Binding::NotOffered,
                    (None, _) => Binding::None,
                };
                self.plus = matches!(binding, Binding::EndPoint(_));
                self.how = if self.plus { "scram-sha-256-plus" } else { "scram-sha-256" };
                let mechanism = if self.plus { SCRAM_SHA_256_PLUS } else { SCRAM_SHA_256 };
                self.scram.bind(binding);
                self.state = State::Scram;
                encode::sasl_initial(mechanism, &self.scram.first()).map(ServerAction::Send)
            }
        }
    }

    fn on_challenge(&mut self, data: &[u8]) -> Result<ServerAction, Error> {
        match self.scram.on_continue(data).map_err(|e| self.scram_error(e))? {
            ClientStep::NeedDerive(job) => {
                self.state = State::Scram;
                Ok(ServerAction::Derive(job))
            }
            ClientStep::Respond(proof) => self.send_proof(&proof),
        }
    }

    fn send_proof(&mut self, proof: &[u8]) -> Result<ServerAction, Error> {
        self.state = State::Scram;
        encode::sasl_response(proof).map(ServerAction::Send)
    }

    fn on_signature(&mut self, data: &[u8]) -> Result<ServerAction, Error> {
        self.scram.on_final(data).map_err(|e| self.scram_error(e))?;
        self.state = State::Proved;
        Ok(ServerAction::Wait)
    }

    fn scram_error(&self, e: ScramError) -> Error {
        match e {
            ScramError::Unanswerable => self.unanswerable(SCRAM_SHA_256),
            ScramError::Server(reason) => self.protocol(&reason),
        }
    }

    fn unbound(&self) -> Error {
        self.unanswerable("login without the channel binding that server_channel_binding requires")
    }

    fn unanswerable(&self, method: &str) -> Error {
        Error::ServerAuth { method: method.to_owned(), user: self.user.clone() }
    }

    fn not_allowed(&self, asked: Asked) -> Error {
        Error::ServerAuthNotAllowed {
            host: self.host.clone(),
            user: self.user.clone(),
            word: asked.word(),
            channel: self.permitted.channel.as_str(),
        }
    }

    fn protocol(&self, reason: &str) -> Error {
        Error::ServerProtocol { host: self.host.clone(), reason: reason.to_owned() }
    }

    fn broken(&self, reason: &str) -> ServerAction {
        ServerAction::Fail(self.protocol(reason))
    }
}

#[cfg(test)]
mod tests;
