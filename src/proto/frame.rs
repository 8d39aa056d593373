//! Message boundaries of the PostgreSQL protocol, version 3 (PostgreSQL documentation, 54.7).
//!
//! Looks at headers only; bodies are never copied here.

/// Type bytes that a frontend sends.
pub mod fe {
    pub const BIND: u8 = b'B';
    pub const CLOSE: u8 = b'C';
    pub const COPY_DATA: u8 = b'd';
    pub const COPY_DONE: u8 = b'c';
    pub const COPY_FAIL: u8 = b'f';
    pub const DESCRIBE: u8 = b'D';
    pub const EXECUTE: u8 = b'E';
    pub const FLUSH: u8 = b'H';
    pub const FUNCTION_CALL: u8 = b'F';
    pub const PARSE: u8 = b'P';
    pub const PASSWORD: u8 = b'p';
    pub const QUERY: u8 = b'Q';
    pub const SYNC: u8 = b'S';
    pub const TERMINATE: u8 = b'X';
}

/// Type bytes that a backend sends.
pub mod be {
    pub const AUTHENTICATION: u8 = b'R';
    pub const BACKEND_KEY_DATA: u8 = b'K';
    pub const BIND_COMPLETE: u8 = b'2';
    pub const CLOSE_COMPLETE: u8 = b'3';
    pub const COMMAND_COMPLETE: u8 = b'C';
    pub const COPY_BOTH: u8 = b'W';
    pub const COPY_DATA: u8 = b'd';
    pub const COPY_DONE: u8 = b'c';
    pub const COPY_IN: u8 = b'G';
    pub const COPY_OUT: u8 = b'H';
    pub const DATA_ROW: u8 = b'D';
    pub const EMPTY_QUERY: u8 = b'I';
    pub const ERROR: u8 = b'E';
    pub const FUNCTION_RESULT: u8 = b'V';
    pub const NEGOTIATE_VERSION: u8 = b'v';
    pub const NO_DATA: u8 = b'n';
    pub const NOTICE: u8 = b'N';
    pub const NOTIFICATION: u8 = b'A';
    pub const PARAMETER_DESCRIPTION: u8 = b't';
    pub const PARAMETER_STATUS: u8 = b'S';
    pub const PARSE_COMPLETE: u8 = b'1';
    pub const PORTAL_SUSPENDED: u8 = b's';
    pub const READY: u8 = b'Z';
    pub const ROW_DESCRIPTION: u8 = b'T';
}

/// Bytes of a header: type and length.
pub const HEADER: usize = 5;

/// A message's type and its whole size, header included.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    pub tag: u8,
    pub total: usize,
}

/// A length word that no message can have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BadLength {
    pub tag: u8,
    pub length: u32,
}

/// The header at the start of `buf`, or `None` while fewer than five bytes are there. `max` bounds the length
/// word (which counts itself but not the type byte).
#[inline]
pub fn header(buf: &[u8], max: u32) -> Result<Option<Header>, BadLength> {
    let &[tag, a, b, c, d, ..] = buf else { return Ok(None) };
    let length = u32::from_be_bytes([a, b, c, d]);
    if length < 4 || length > max {
        return Err(BadLength { tag, length });
    }
    Ok(Some(Header { tag, total: length as usize + 1 }))
}

/// The length word of a message whose body has this many bytes.
///
/// Howdah puts messages together from parts of others, whose own lengths were bounded as they came, so that the sum
/// fits. Should it not, the length word is one that no message can have: the peer ends the connection with a protocol
/// error. A length that has wrapped would have it take the rest of the body for further messages.
#[inline]
pub fn length(body: usize) -> [u8; 4] {
    let counted = body.checked_add(4).and_then(|n| i32::try_from(n).ok());
    counted.unwrap_or(-1).to_be_bytes()
}

/// The largest length word that a frontend message of this type may carry: those without a variable part have
/// a fixed size, so a larger one is an attack or a lost boundary. `None` for a type that no frontend sends.
pub fn frontend_limit(tag: u8, max_message: u32) -> Option<u32> {
    Some(match tag {
        fe::SYNC | fe::FLUSH | fe::TERMINATE | fe::COPY_DONE => 4,
        // As PostgreSQL's PQ_SMALL_MESSAGE_LIMIT.
        fe::DESCRIBE | fe::CLOSE | fe::EXECUTE | fe::COPY_FAIL => 10_000,
        fe::QUERY | fe::PARSE | fe::BIND | fe::FUNCTION_CALL | fe::COPY_DATA => max_message,
        _ => return None,
    })
}

/// The cstring at the start of `buf` without its zero byte, and what follows it.
pub fn cstr(buf: &[u8]) -> Option<(&[u8], &[u8])> {
    let end = memchr::memchr(0, buf)?;
    Some((buf.get(..end)?, buf.get(end + 1..)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_need_five_bytes_and_a_sane_length() {
        assert_eq!(header(b"Q\0\0\0", 100), Ok(None));
        assert_eq!(header(b"Q\0\0\0\x04", 100), Ok(Some(Header { tag: b'Q', total: 5 })));
        assert_eq!(header(b"Q\0\0\0\x03", 100), Err(BadLength { tag: b'Q', length: 3 }));
        assert_eq!(header(b"Q\0\0\0\x65", 100), Err(BadLength { tag: b'Q', length: 101 }));
        assert_eq!(
            header(b"Q\xff\xff\xff\xff", u32::MAX - 1),
            Err(BadLength { tag: b'Q', length: u32::MAX })
        );
    }

    #[test]
    fn a_length_that_does_not_fit_is_one_that_no_message_has() {
        assert_eq!(length(0), [0, 0, 0, 4]);
        assert_eq!(length(0x7fff_fffb), [0x7f, 0xff, 0xff, 0xff]);
        for body in [0x7fff_fffc, 0xffff_fffb, 0xffff_fffc, usize::MAX - 3, usize::MAX] {
            assert_eq!(length(body), [0xff; 4], "{body}");
        }
    }

    #[test]
    fn cstrings_split_at_their_zero() {
        assert_eq!(cstr(b"ab\0c"), Some((&b"ab"[..], &b"c"[..])));
        assert_eq!(cstr(b"\0"), Some((&b""[..], &b""[..])));
        assert_eq!(cstr(b"ab"), None);
    }
}
