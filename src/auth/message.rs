//! Bodies of authentication messages, taken apart; every length in them is the peer's word.

use crate::auth::{SCRAM_SHA_256, SCRAM_SHA_256_PLUS};
use crate::error::Error;

/// PasswordMessage: one string that ends where the message does.
pub fn password(body: &[u8]) -> Result<&[u8], Error> {
    match body.split_last() {
        Some((0, text)) if !text.contains(&0) => Ok(text),
        _ => violation("invalid password packet size"),
    }
}

/// SASLInitialResponse: whether the mechanism is the one with channel binding, and the initial response that SCRAM
/// must have.
pub(super) fn sasl_initial(body: &[u8]) -> Result<(bool, &[u8]), Error> {
    let Some((mechanism, rest)) = cstring(body) else { return violation("invalid SASL message") };
    let plus = mechanism == SCRAM_SHA_256_PLUS.as_bytes();
    if !plus && mechanism != SCRAM_SHA_256.as_bytes() {
        return violation("client selected an invalid SASL authentication mechanism");
    }
    let Some((length, data)) = rest.split_first_chunk::<4>() else {
        return violation("invalid SASL message");
    };
    // A negative length is "no initial response"; it fits no usize and so no data.
    match usize::try_from(i32::from_be_bytes(*length)) {
        Ok(n) if n == data.len() => Ok((plus, data)),
        _ => violation("invalid length of the SASL initial response"),
    }
}

/// Whether AuthenticationSASL offers SCRAM-SHA-256, and with channel binding; `None` if the list has no terminator of its own.
pub(super) fn offers_scram(mut list: &[u8]) -> Option<(bool, bool)> {
    let (mut offered, mut plus) = (false, false);
    loop {
        let (name, rest) = cstring(list)?;
        if name.is_empty() {
            return rest.is_empty().then_some((offered, plus));
        }
        offered |= name == SCRAM_SHA_256.as_bytes();
        plus |= name == SCRAM_SHA_256_PLUS.as_bytes();
        list = rest;
    }
}

fn cstring(buf: &[u8]) -> Option<(&[u8], &[u8])> {
    let end = memchr::memchr(0, buf)?;
    Some((buf.get(..end)?, buf.get(end + 1..)?))
}

pub(super) fn violation<T>(why: &str) -> Result<T, Error> {
    Err(Error::ProtocolViolation(why.to_owned()))
}
