//! What is said with a client that is not logged in.

use zeroize::Zeroize as _;

use crate::error::Error;
use crate::net::stream::Stream;
use crate::proto::frame;

/// The client has left before its answer.
pub(super) fn gone<E>(_: E) -> Error {
    Error::ClientLeft { at: "answer" }
}

/// The next message of a client that is not logged in: short, whatever it says.
pub(super) async fn message(stream: &mut Stream, buf: &mut Vec<u8>) -> Result<(u8, Vec<u8>), Error> {
    loop {
        let h = frame::header(buf, crate::number::count(crate::auth::MAX_PASSWORD_MESSAGE + 4))
            .map_err(|b| Error::ProtocolViolation(format!("invalid message length {}", b.length)))?;
        if let Some(h) = h
            && buf.len() >= h.total
        {
            let rest = buf.split_off(h.total);
            let mut m = std::mem::replace(buf, rest);
            let body = m.split_off(frame::HEADER);
            // It may have been a password.
            m.zeroize();
            return Ok((h.tag, body));
        }
        match stream.read_some(buf).await {
            Ok(n) if n > 0 => {}
            _ => return Err(Error::ClientLeft { at: "password" }),
        }
    }
}
