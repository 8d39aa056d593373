//! The messages that Howdah itself authors; everything else is relayed as it came.
//!
//! Encoded with `pgwire` where it has the message. By hand are: the StartupMessage, since pgwire sorts its
//! parameters and the configured order must hold; and PasswordMessage, whose limit in pgwire (10 000 bytes)
//! is below the tokens that some clouds hand out as passwords. A text with a zero byte is refused, because
//! it would end its field early and shift all that follows.

use bytes::{Bytes, BytesMut};
use pgwire::messages::Message;
use pgwire::messages::cancel::CancelRequest;
use pgwire::messages::extendedquery::{Close, Parse, TARGET_TYPE_BYTE_STATEMENT};
use pgwire::messages::response::{ErrorResponse, NoticeResponse};
use pgwire::messages::simplequery::Query;
use pgwire::messages::startup::{
    Authentication, BackendKeyData, NegotiateProtocolVersion, ParameterStatus, SASLInitialResponse,
    SASLResponse, SecretKey,
};

use super::frame;
use super::pipeline::TxStatus;
use crate::error::{Error, Report};

/// AuthenticationOk (PostgreSQL documentation, 54.7 Message Formats).
pub const AUTHENTICATION_OK: &[u8] = b"R\0\0\0\x08\0\0\0\0";
/// AuthenticationCleartextPassword.
pub const AUTHENTICATION_CLEARTEXT: &[u8] = b"R\0\0\0\x08\0\0\0\x03";
/// ParseComplete.
pub const PARSE_COMPLETE: &[u8] = b"1\0\0\0\x04";
/// CloseComplete.
pub const CLOSE_COMPLETE: &[u8] = b"3\0\0\0\x04";
/// Sync.
/// A Flush message.
pub const FLUSH: &[u8] = b"H\0\0\0\x04";
pub const SYNC: &[u8] = b"S\0\0\0\x04";
/// Describe of the unnamed portal.
pub const DESCRIBE_UNNAMED_PORTAL: &[u8] = b"D\0\0\0\x06P\0";
/// Execute of the unnamed portal, all rows.
pub const EXECUTE_UNNAMED_PORTAL: &[u8] = b"E\0\0\0\x09\0\0\0\0\0";
/// Terminate.
pub const TERMINATE: &[u8] = b"X\0\0\0\x04";
/// SSLRequest.
pub const SSL_REQUEST: &[u8] = b"\0\0\0\x08\x04\xd2\x16\x2f";

/// Sent in place of an error that could not be encoded, so that the client still hears something.
const LAST_RESORT: &[u8] = b"E\0\0\0\x2aSFATAL\0VFATAL\0CXX000\0Minternal error\0\0";

/// ErrorResponse with the fields S, V, C, M, and D and H where there are any (54.8 Error and Notice Message
/// Fields); a report with a verbatim body goes out byte for byte.
pub fn error_response(report: &Report) -> Vec<u8> {
    if let Some(body) = &report.verbatim {
        return frame(b'E', body).unwrap_or_else(|_| LAST_RESORT.to_vec());
    }
    let mut fields = head_fields(report.severity.as_str(), report.sqlstate.0, &report.message);
    fields.extend(report.detail.as_deref().map(|d| (b'D', without_zero(d))));
    fields.extend(report.hint.as_deref().map(|h| (b'H', without_zero(h))));
    pgwire_encode(&ErrorResponse::new(fields)).unwrap_or_else(|_| LAST_RESORT.to_vec())
}

/// NoticeResponse of severity NOTICE, SQLSTATE 00000.
pub fn notice(message: &str) -> Result<Vec<u8>, Error> {
    pgwire_encode(&NoticeResponse::new(head_fields("NOTICE", "00000", message)))
}

/// NoticeResponse of severity WARNING, SQLSTATE 01000.
pub fn warning(message: &str) -> Result<Vec<u8>, Error> {
    pgwire_encode(&NoticeResponse::new(head_fields("WARNING", "01000", message)))
}

/// AuthenticationMD5Password.
pub fn authentication_md5(salt: [u8; 4]) -> Result<Vec<u8>, Error> {
    pgwire_encode(&Authentication::MD5Password(salt.to_vec()))
}

/// AuthenticationSASL: the mechanisms on offer, best first.
pub fn authentication_sasl(mechanisms: &[&str]) -> Result<Vec<u8>, Error> {
    for m in mechanisms {
        no_zero(m)?;
    }
    pgwire_encode(&Authentication::SASL(mechanisms.iter().map(|m| (*m).to_owned()).collect()))
}

/// AuthenticationSASLContinue.
pub fn sasl_continue(data: &[u8]) -> Result<Vec<u8>, Error> {
    pgwire_encode(&Authentication::SASLContinue(Bytes::copy_from_slice(data)))
}

/// AuthenticationSASLFinal.
pub fn sasl_final(data: &[u8]) -> Result<Vec<u8>, Error> {
    pgwire_encode(&Authentication::SASLFinal(Bytes::copy_from_slice(data)))
}

/// ParameterStatus.
pub fn parameter_status(name: &str, value: &str) -> Result<Vec<u8>, Error> {
    no_zero(name)?;
    no_zero(value)?;
    pgwire_encode(&ParameterStatus::new(name.to_owned(), value.to_owned()))
}

/// ParameterStatus with a value of any bytes, as a server has sent it: neither has a zero byte in it.
pub fn write_parameter_status(out: &mut Vec<u8>, name: &str, value: &[u8]) {
    out.push(frame::be::PARAMETER_STATUS);
    out.extend_from_slice(&frame::length(name.len() + value.len() + 2));
    out.extend_from_slice(name.as_bytes());
    out.push(0);
    out.extend_from_slice(value);
    out.push(0);
}

/// BackendKeyData; a key has 4 bytes in protocol 3.0 and 4 to 256 in 3.2.
pub fn backend_key_data(pid: i32, key: &[u8]) -> Result<Vec<u8>, Error> {
    pgwire_encode(&BackendKeyData::new(pid, SecretKey::Bytes(Bytes::copy_from_slice(key))))
}

/// ReadyForQuery.
pub const fn ready_for_query(status: TxStatus) -> [u8; 6] {
    [b'Z', 0, 0, 0, 5, status.as_byte()]
}

/// NegotiateProtocolVersion. The documentation speaks of the newest *minor* version, but PostgreSQL sends and
/// libpq expects the whole number, `3 << 16 | minor` (`SendNegotiateProtocolVersion`).
pub fn negotiate_protocol_version(newest_minor: u16, unrecognized: &[String]) -> Result<Vec<u8>, Error> {
    for name in unrecognized {
        no_zero(name)?;
    }
    let version = (3 << 16) | i32::from(newest_minor);
    pgwire_encode(&NegotiateProtocolVersion::new(version, unrecognized.to_vec()))
}

/// StartupMessage of protocol 3.0, the parameters in the order given.
pub fn startup_message(params: &[(&str, &str)]) -> Result<Vec<u8>, Error> {
    let mut body = vec![0, 3, 0, 0];
    for (name, value) in params {
        // An empty name is the terminator: what follows it would not be read.
        if name.is_empty() {
            return Err(Error::Internal("empty parameter name in a StartupMessage".to_owned()));
        }
        put_cstr(&mut body, name)?;
        put_cstr(&mut body, value)?;
    }
    body.push(0);
    Ok([&length_of(&body)?[..], &body].concat())
}

/// PasswordMessage: a clear-text password, or the `md5…` answer.
pub fn password_message(password: &str) -> Result<Vec<u8>, Error> {
    let mut body = Vec::with_capacity(password.len() + 1);
    put_cstr(&mut body, password)?;
    frame(b'p', &body)
}

/// SASLInitialResponse.
pub fn sasl_initial(mechanism: &str, data: &[u8]) -> Result<Vec<u8>, Error> {
    no_zero(mechanism)?;
    pgwire_encode(&SASLInitialResponse::new(mechanism.to_owned(), Some(Bytes::copy_from_slice(data))))
}

/// SASLResponse.
pub fn sasl_response(data: &[u8]) -> Result<Vec<u8>, Error> {
    pgwire_encode(&SASLResponse::new(Bytes::copy_from_slice(data)))
}

/// Query.
pub fn query(sql: &str) -> Result<Vec<u8>, Error> {
    no_zero(sql)?;
    pgwire_encode(&Query::new(sql.to_owned()))
}

/// Query, of bytes in the encoding that the server expects.
pub fn query_bytes(sql: &[u8]) -> Result<Vec<u8>, Error> {
    if sql.contains(&0) {
        return Err(Error::Internal("a zero byte in a query".to_owned()));
    }
    let mut message = vec![frame::fe::QUERY];
    message.extend_from_slice(&frame::length(sql.len() + 1));
    message.extend_from_slice(sql);
    message.push(0);
    Ok(message)
}

/// Parse; the empty name is the unnamed statement.
pub fn parse(name: &str, sql: &str, oids: &[u32]) -> Result<Vec<u8>, Error> {
    no_zero(name)?;
    no_zero(sql)?;
    if u16::try_from(oids.len()).is_err() {
        return Err(Error::Internal("too many parameter types in a Parse".to_owned()));
    }
    pgwire_encode(&Parse::new(Some(name.to_owned()), sql.to_owned(), oids.to_vec()))
}

/// Bind of the unnamed statement to the unnamed portal: text parameters, text results.
pub fn bind_text(values: &[Option<&str>]) -> Result<Vec<u8>, Error> {
    let long = || Error::Internal("too much in a Bind".to_owned());
    let mut body = vec![0, 0, 0, 0];
    body.extend_from_slice(&u16::try_from(values.len()).map_err(|_| long())?.to_be_bytes());
    for value in values {
        match value {
            None => body.extend_from_slice(&(-1i32).to_be_bytes()),
            Some(v) => {
                body.extend_from_slice(&i32::try_from(v.len()).map_err(|_| long())?.to_be_bytes());
                body.extend_from_slice(v.as_bytes());
            }
        }
    }
    body.extend_from_slice(&[0, 0]);
    frame(b'B', &body)
}

/// Close of a prepared statement.
pub fn close_statement(name: &str) -> Result<Vec<u8>, Error> {
    no_zero(name)?;
    pgwire_encode(&Close::new(TARGET_TYPE_BYTE_STATEMENT, Some(name.to_owned())))
}

/// CancelRequest.
pub fn cancel_request(pid: i32, key: &[u8]) -> Result<Vec<u8>, Error> {
    pgwire_encode(&CancelRequest::new(pid, SecretKey::Bytes(Bytes::copy_from_slice(key))))
}

fn head_fields(severity: &str, sqlstate: &str, message: &str) -> Vec<(u8, String)> {
    vec![
        (b'S', severity.to_owned()),
        (b'V', severity.to_owned()),
        (b'C', sqlstate.to_owned()),
        (b'M', without_zero(message)),
    ]
}

/// In an error's text a zero byte is replaced: the client must hear the error all the same.
fn without_zero(text: &str) -> String {
    text.replace('\0', "\u{fffd}")
}

fn no_zero(text: &str) -> Result<(), Error> {
    match memchr::memchr(0, text.as_bytes()) {
        None => Ok(()),
        Some(_) => Err(Error::Internal("zero byte in a protocol string".to_owned())),
    }
}

fn put_cstr(out: &mut Vec<u8>, text: &str) -> Result<(), Error> {
    no_zero(text)?;
    out.extend_from_slice(text.as_bytes());
    out.push(0);
    Ok(())
}

fn pgwire_encode<M: Message>(message: &M) -> Result<Vec<u8>, Error> {
    let mut buf = BytesMut::new();
    message.encode(&mut buf).map_err(|e| Error::Internal(format!("cannot encode a message: {e}")))?;
    Ok(buf.to_vec())
}

/// Length field for a body: it counts itself.
fn length_of(body: &[u8]) -> Result<[u8; 4], Error> {
    body.len()
        .checked_add(4)
        .and_then(|n| i32::try_from(n).ok())
        .map(i32::to_be_bytes)
        .ok_or_else(|| Error::Internal("message too long to be encoded".to_owned()))
}

fn frame(tag: u8, body: &[u8]) -> Result<Vec<u8>, Error> {
    Ok([&[tag][..], &length_of(body)?, body].concat())
}

#[cfg(test)]
mod tests;
