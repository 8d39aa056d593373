//! The few rules of the PostgreSQL protocol that all three roles of the bench share.
//!
//! Written apart from the library on purpose: the instrument must not change when the thing it
//! measures does.

use std::io;

pub(crate) const PROTOCOL_3_0: u32 = 196_608;
pub(crate) const SSL_REQUEST: u32 = 80_877_103;
pub(crate) const GSSENC_REQUEST: u32 = 80_877_104;
pub(crate) const CANCEL_REQUEST: u32 = 80_877_102;

/// Appends one message, filling in its length.
pub(crate) fn message(out: &mut Vec<u8>, tag: u8, body: impl FnOnce(&mut Vec<u8>)) {
    out.push(tag);
    let at = out.len();
    out.extend_from_slice(&[0; 4]);
    body(out);
    let length = (out.len() - at) as u32;
    out[at..at + 4].copy_from_slice(&length.to_be_bytes());
}

pub(crate) fn cstring(out: &mut Vec<u8>, text: &[u8]) {
    out.extend_from_slice(text);
    out.push(0);
}

pub(crate) fn startup(user: &str, database: &str) -> Vec<u8> {
    let mut out = vec![0; 4];
    out.extend_from_slice(&PROTOCOL_3_0.to_be_bytes());
    for text in ["user", user, "database", database, "client_encoding", "UTF8"] {
        cstring(&mut out, text.as_bytes());
    }
    out.push(0);
    let length = out.len() as u32;
    out[..4].copy_from_slice(&length.to_be_bytes());
    out
}

pub(crate) fn query(text: &str) -> Vec<u8> {
    let mut out = Vec::with_capacity(text.len() + 6);
    message(&mut out, b'Q', |body| cstring(body, text.as_bytes()));
    out
}

pub(crate) fn malformed(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what.to_owned())
}

/// The four bytes at `at`, if there are so many.
pub(crate) fn be_u32(bytes: &[u8], at: usize) -> Option<u32> {
    let four = bytes.get(at..at + 4)?;
    Some(u32::from_be_bytes(four.try_into().ok()?))
}

/// The bytes up to the next NUL, and what follows it.
pub(crate) fn split_cstring(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let end = memchr::memchr(0, bytes)?;
    Some((&bytes[..end], &bytes[end + 1..]))
}

/// The first whole message of `bytes`: tag, body, and how many bytes it takes in all.
pub(crate) fn whole(bytes: &[u8]) -> io::Result<Option<(u8, &[u8], usize)>> {
    let Some(length) = be_u32(bytes, 1) else { return Ok(None) };
    if length < 4 {
        return Err(malformed("message length below 4"));
    }
    let end = 1 + length as usize;
    Ok(bytes.get(5..end).map(|body| (bytes[0], body, end)))
}

/// Finds message ends in a stream cut anywhere, keeping nothing but a header.
#[derive(Default)]
pub(crate) struct Scanner {
    header: [u8; 5],
    have: usize,
    left: usize,
    first: Option<u8>,
}

impl Scanner {
    /// Calls `each(tag, first body byte or 0)` for every message that ends in `chunk`.
    pub(crate) fn feed(&mut self, mut chunk: &[u8], mut each: impl FnMut(u8, u8)) -> io::Result<()> {
        while !chunk.is_empty() {
            if self.have < 5 {
                let take = chunk.len().min(5 - self.have);
                self.header[self.have..self.have + take].copy_from_slice(&chunk[..take]);
                self.have += take;
                chunk = &chunk[take..];
                if self.have < 5 {
                    return Ok(());
                }
                let length = be_u32(&self.header, 1).unwrap_or(0);
                if length < 4 {
                    return Err(malformed("message length below 4"));
                }
                self.left = length as usize - 4;
                self.first = None;
            } else {
                self.first.get_or_insert(chunk[0]);
                let take = chunk.len().min(self.left);
                self.left -= take;
                chunk = &chunk[take..];
            }
            if self.left == 0 {
                each(self.header[0], self.first.unwrap_or(0));
                self.have = 0;
            }
        }
        Ok(())
    }
}
