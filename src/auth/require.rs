//! Which of a server's questions are answered. A server is whoever answers at its address, unless something vouches for
//! it; so what would give a secret away, or let a stranger pass for the database, depends on the connection.

use crate::config::resolved::ServerMethod;

/// What a connection to a server vouches for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Channel {
    UnixSocket,
    /// TCP to an address of this machine that nobody outside reaches.
    Loopback,
    /// TLS with a certificate that a configured CA has signed.
    VerifiedTls,
    UnverifiedTls,
    Plain,
}

impl Channel {
    /// Whether nobody can be in between, or pass for the server.
    pub const fn is_trusted(self) -> bool {
        matches!(self, Self::UnixSocket | Self::Loopback | Self::VerifiedTls)
    }

    pub const fn as_str(self) -> &'static str {
        match self {
            Self::UnixSocket => "a Unix socket",
            Self::Loopback => "loopback",
            Self::VerifiedTls => "TLS with a verified certificate",
            Self::UnverifiedTls => "TLS without a verified certificate",
            Self::Plain => "TCP without TLS",
        }
    }
}

/// What a server asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Asked {
    /// Nothing: it lets Howdah in as it came.
    None,
    Password,
    Md5,
    Scram,
}

impl Asked {
    /// The word of `server_require_auth` that allows it everywhere.
    pub const fn word(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Password => "password",
            Self::Md5 => "md5",
            Self::Scram => "scram-sha-256",
        }
    }

    const fn method(self) -> ServerMethod {
        match self {
            Self::None => ServerMethod::None,
            Self::Password => ServerMethod::Password,
            Self::Md5 => ServerMethod::Md5,
            Self::Scram => ServerMethod::ScramSha256,
        }
    }
}

/// What the configuration says of such questions, and the connection that they come by.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Permitted {
    /// `server_require_auth`
    pub words: Vec<ServerMethod>,
    /// `server_cleartext_password`
    pub cleartext: bool,
    pub channel: Channel,
}

impl Permitted {
    pub fn allows(&self, asked: Asked) -> bool {
        let word = |w: &ServerMethod| match w {
            ServerMethod::Any => asked != Asked::Password || self.cleartext || self.channel != Channel::Plain,
            ServerMethod::ByChannel => match asked {
                Asked::Scram | Asked::Md5 => true,
                Asked::Password => self.cleartext || self.channel.is_trusted(),
                Asked::None => self.channel.is_trusted(),
            },
            stated => *stated == asked.method(),
        };
        self.words.iter().any(word)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: [Asked; 4] = [Asked::None, Asked::Password, Asked::Md5, Asked::Scram];

    fn allowed(words: &[ServerMethod], cleartext: bool, channel: Channel) -> Vec<&'static str> {
        let permitted = Permitted { words: words.to_vec(), cleartext, channel };
        ALL.into_iter().filter(|a| permitted.allows(*a)).map(Asked::word).collect()
    }

    #[test]
    fn what_a_server_may_ask_for_depends_on_the_channel() {
        let by_channel = [ServerMethod::ByChannel];
        for channel in [Channel::UnixSocket, Channel::Loopback, Channel::VerifiedTls] {
            assert_eq!(allowed(&by_channel, false, channel), ["none", "password", "md5", "scram-sha-256"]);
        }
        for channel in [Channel::UnverifiedTls, Channel::Plain] {
            assert_eq!(allowed(&by_channel, false, channel), ["md5", "scram-sha-256"], "{channel:?}");
            assert_eq!(allowed(&by_channel, true, channel), ["password", "md5", "scram-sha-256"]);
            let trusts = [ServerMethod::ByChannel, ServerMethod::None];
            assert_eq!(allowed(&trusts, false, channel), ["none", "md5", "scram-sha-256"]);
        }
    }

    #[test]
    fn what_is_listed_is_all_there_is_on_every_channel() {
        use Channel::{Loopback, Plain, UnixSocket, UnverifiedTls, VerifiedTls};
        for channel in [UnixSocket, Loopback, VerifiedTls, UnverifiedTls, Plain] {
            assert_eq!(allowed(&[ServerMethod::ScramSha256], true, channel), ["scram-sha-256"]);
            let two = [ServerMethod::Password, ServerMethod::None];
            assert_eq!(allowed(&two, false, channel), ["none", "password"]);
            assert_eq!(allowed(&[ServerMethod::Any], true, channel).len(), ALL.len());
        }
        assert_eq!(allowed(&[ServerMethod::Any], false, Plain), ["none", "md5", "scram-sha-256"]);
    }
}
