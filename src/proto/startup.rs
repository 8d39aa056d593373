//! The first packet of a connection, which has no type byte (PostgreSQL documentation, 54.2.1 Start-up, 54.7
//! Message Formats; `ProcessStartupPacket` in PostgreSQL's source).
//!
//! Names and values must be UTF-8 and are refused otherwise: the configuration is UTF-8, so another name could
//! not be found in it, and a value is sent on inside SQL, where a wrong byte would change its meaning.

mod options;

pub use options::{is_valid_guc_name, parse_options, quote_literal};

use crate::error::Error;

/// Smallest and largest length field. PostgreSQL's limit is `MAX_STARTUP_PACKET_LENGTH`.
pub const MIN_LENGTH: usize = 8;
pub const MAX_LENGTH: usize = 10_000;

/// Newest minor version of protocol 3 that Howdah speaks.
pub const NEWEST_MINOR: u16 = 2;

/// PostgreSQL keeps `NAMEDATALEN - 1` bytes of a role's or database's name.
const MAX_NAME: usize = 63;

/// Each must be named in NegotiateProtocolVersion, so more are refused rather than dropped.
const MAX_EXTENSIONS: usize = 32;

const CANCEL_CODE: u32 = 80_877_102;
const SSL_CODE: u32 = 80_877_103;
const GSSENC_CODE: u32 = 80_877_104;

/// First byte of a TLS record of type handshake.
const TLS_HANDSHAKE: u8 = 0x16;

/// What a connection may begin with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FirstPacket {
    /// SSLRequest; answered by one byte.
    Ssl,
    /// GSSENCRequest; answered by one byte.
    GssEnc,
    /// Not a packet: a TLS handshake begins, without an SSLRequest before it. None of its bytes is used.
    Tls,
    /// CancelRequest; never answered.
    Cancel {
        pid: i32,
        key: Vec<u8>,
    },
    Startup(Startup),
    /// What cannot be a packet, and why. PostgreSQL closes such a connection without a word, for whoever is there need
    /// not speak its protocol; a node-postgres client that ends before it has begun is among them. None of its bytes is
    /// used.
    Unreadable(&'static str),
    /// A StartupMessage of a major version other than 3.
    UnsupportedProtocol {
        major: u16,
        minor: u16,
    },
}

/// What the `replication` parameter asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Replication {
    #[default]
    No,
    Physical,
    /// `replication=database`.
    Logical,
}

/// A StartupMessage of protocol 3.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Startup {
    pub major: u16,
    /// As requested; see [`Startup::effective_minor`].
    pub minor: u16,
    pub user: String,
    /// The user's name where the packet has none.
    pub database: String,
    /// The `options` parameter, for [`parse_options`].
    pub options: Option<String>,
    /// All other parameters, in order; where a name comes twice the last one counts, as in PostgreSQL.
    pub params: Vec<(String, String)>,
    /// Protocol extensions asked for: names that begin with `_pq_.`, with that prefix.
    pub extensions: Vec<String>,
    pub replication: Replication,
}

impl Replication {
    /// In PgBouncer's words.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::No => "none",
            Self::Physical => "physical",
            Self::Logical => "logical",
        }
    }
}

impl Startup {
    /// The minor version that the session will speak. Version 3.1 never existed, and only a lower version may
    /// be proposed to the client, so who asks for it gets 3.0.
    pub fn effective_minor(&self) -> u16 {
        if self.minor >= NEWEST_MINOR { NEWEST_MINOR } else { 0 }
    }
}

/// Content of a NegotiateProtocolVersion.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Negotiate {
    pub newest_minor: u16,
    pub unrecognized: Vec<String>,
}

/// What has to be negotiated, to be sent once and before the authentication request; `None` if the client
/// gets what it asked for. Howdah knows no protocol extension, so each one is unrecognized.
pub fn negotiate(startup: &Startup) -> Option<Negotiate> {
    let newest_minor = startup.effective_minor();
    if newest_minor == startup.minor && startup.extensions.is_empty() {
        return None;
    }
    Some(Negotiate { newest_minor, unrecognized: startup.extensions.clone() })
}

/// Reads the first packet from what has arrived so far: it and its length in bytes, or `None` if more is
/// needed. A length that cannot be right is refused at once, before its bytes are waited for.
pub fn parse_first(buf: &[u8]) -> Result<Option<(FirstPacket, usize)>, Error> {
    if buf.first() == Some(&TLS_HANDSHAKE) {
        return Ok(Some((FirstPacket::Tls, 0)));
    }
    let Some(length) = be_u32(buf) else { return Ok(None) };
    let length = match usize::try_from(length) {
        Ok(n) if (MIN_LENGTH..=MAX_LENGTH).contains(&n) => n,
        _ => return Ok(Some((FirstPacket::Unreadable("invalid length of startup packet"), 0))),
    };
    let Some(packet) = buf.get(..length) else { return Ok(None) };
    let body = packet.get(4..).unwrap_or_default();
    let (Some(code), Some(rest)) = (be_u32(body), body.get(4..)) else {
        return violation("invalid length of startup packet");
    };
    let first = match code {
        SSL_CODE | GSSENC_CODE if !rest.is_empty() => {
            return violation("invalid length of encryption request packet");
        }
        SSL_CODE => FirstPacket::Ssl,
        GSSENC_CODE => FirstPacket::GssEnc,
        CANCEL_CODE => parse_cancel(rest),
        _ => {
            let [a, b, c, d] = code.to_be_bytes();
            let (major, minor) = (u16::from_be_bytes([a, b]), u16::from_be_bytes([c, d]));
            if major == 3 {
                FirstPacket::Startup(parse_startup(major, minor, rest)?)
            } else {
                FirstPacket::UnsupportedProtocol { major, minor }
            }
        }
    };
    Ok(Some((first, length)))
}

fn violation<T>(why: impl Into<String>) -> Result<T, Error> {
    Err(Error::ProtocolViolation(why.into()))
}

fn be_u32(buf: &[u8]) -> Option<u32> {
    buf.first_chunk().map(|b| u32::from_be_bytes(*b))
}

fn parse_cancel(rest: &[u8]) -> FirstPacket {
    match rest.split_first_chunk() {
        Some((pid, key)) if (4..=256).contains(&key.len()) => {
            FirstPacket::Cancel { pid: i32::from_be_bytes(*pid), key: key.to_vec() }
        }
        _ => FirstPacket::Unreadable("invalid length of cancel request packet"),
    }
}

fn parse_startup(major: u16, minor: u16, mut rest: &[u8]) -> Result<Startup, Error> {
    let mut s = Startup {
        major,
        minor,
        user: String::new(),
        database: String::new(),
        options: None,
        params: Vec::new(),
        extensions: Vec::new(),
        replication: Replication::No,
    };
    loop {
        let (name, after) = cstring(rest)?;
        if name.is_empty() {
            // The empty name is the terminator and must be the packet's last byte.
            if !after.is_empty() {
                return violation(LAYOUT);
            }
            break;
        }
        let (value, after) = cstring(after)?;
        rest = after;
        s.take(utf8(name)?, utf8(value)?)?;
    }
    if s.user.is_empty() {
        return Err(Error::NoUserName);
    }
    if s.database.is_empty() {
        s.database.clone_from(&s.user);
    }
    clip(&mut s.user);
    clip(&mut s.database);
    Ok(s)
}

const LAYOUT: &str = "invalid startup packet layout: expected terminator as last byte";

impl Startup {
    fn take(&mut self, name: &str, value: &str) -> Result<(), Error> {
        match name {
            "user" => value.clone_into(&mut self.user),
            "database" => value.clone_into(&mut self.database),
            "options" => self.options = Some(value.to_owned()),
            "replication" => self.replication = parse_replication(value)?,
            _ if name.starts_with("_pq_.") => {
                if self.extensions.len() >= MAX_EXTENSIONS {
                    return violation("too many protocol extensions in startup packet");
                }
                self.extensions.push(name.to_owned());
            }
            _ => self.params.push((name.to_owned(), value.to_owned())),
        }
        Ok(())
    }
}

fn cstring(buf: &[u8]) -> Result<(&[u8], &[u8]), Error> {
    let split = memchr::memchr(0, buf).and_then(|end| Some((buf.get(..end)?, buf.get(end + 1..)?)));
    split.map_or_else(|| violation(LAYOUT), Ok)
}

fn utf8(bytes: &[u8]) -> Result<&str, Error> {
    std::str::from_utf8(bytes)
        .or_else(|_| violation("startup packet has a name or value that is not valid UTF-8"))
}

/// Shortens a name as PostgreSQL does, but never within a character.
fn clip(name: &mut String) {
    let end = (0..=MAX_NAME.min(name.len())).rev().find(|i| name.is_char_boundary(*i)).unwrap_or(0);
    name.truncate(end);
}

/// `database`, or a boolean as `parse_bool` of PostgreSQL reads it: any unambiguous prefix of its words.
fn parse_replication(value: &str) -> Result<Replication, Error> {
    if value == "database" {
        return Ok(Replication::Logical);
    }
    let v = value.to_ascii_lowercase();
    let prefix_of = |word: &str, min: usize| v.len() >= min && word.starts_with(v.as_str());
    if v == "1" || prefix_of("true", 1) || prefix_of("yes", 1) || v == "on" {
        Ok(Replication::Physical)
    } else if v == "0" || prefix_of("false", 1) || prefix_of("no", 1) || prefix_of("off", 2) {
        Ok(Replication::No)
    } else {
        violation("invalid value for parameter \"replication\"")
    }
}

#[cfg(test)]
mod tests;
