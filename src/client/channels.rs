//! Moves a client's channels between its server connection and the listener: what is said to the server connection, and
//! which of the notifications that it hears meanwhile are its client's. See [`crate::listener`].

use std::sync::Arc;

use crate::proto::frame::{self, be};
use crate::proto::sql::write_identifier;
use crate::relay::broken::Broken;
use crate::server::conn::ServerConn;
use crate::server::questions;

/// A notification of Howdah's own, at whose place one hears for the other.
#[derive(Debug, Clone, Copy)]
pub(super) struct Mark<'a> {
    pub(super) channel: &'a str,
    /// Digits.
    pub(super) text: &'a str,
}

/// A channel in the encoding of the database, which is that of the client.
type Name = Arc<[u8]>;

/// The session's own limits are not meant for this.
const UNLIMITED: &[u8] = b"SET LOCAL statement_timeout = 0;SET LOCAL lock_timeout = 0";

/// From the mark on, the server connection hears for its client. Returns what it has heard since. The caller bounds the
/// time.
pub(super) async fn begin(
    conn: &mut ServerConn,
    channels: &[Name],
    mark: Mark<'_>,
) -> Result<Vec<u8>, Broken> {
    let own = mark.channel.as_bytes();
    let mut all = UNLIMITED.to_vec();
    for name in channels {
        all.extend_from_slice(b";LISTEN ");
        write_identifier(&mut all, name);
    }
    send_mark(&mut all, mark);
    let mut last = b"UNLISTEN ".to_vec();
    write_identifier(&mut last, own);
    let (_, behind) = heard(conn, &[all, last], mark).await?;
    Ok(behind)
}

/// From the mark on, the server connection hears nothing for its client. Returns what it has heard before. The caller
/// bounds the time.
pub(super) async fn end(conn: &mut ServerConn, channels: &[Name], mark: Mark<'_>) -> Result<Vec<u8>, Broken> {
    let own = mark.channel.as_bytes();
    let mut first = UNLIMITED.to_vec();
    send_mark(&mut first, mark);
    let mut last = UNLIMITED.to_vec();
    for name in channels.iter().map(|n| &**n).chain([own]) {
        last.extend_from_slice(b";UNLISTEN ");
        write_identifier(&mut last, name);
    }
    let (before, _) = heard(conn, &[first, last], mark).await?;
    Ok(before)
}

/// Who sends a notification on a channel that it listens to hears it before the statement's ReadyForQuery, and all that
/// was committed before it.
fn send_mark(text: &mut Vec<u8>, mark: Mark<'_>) {
    text.extend_from_slice(b";LISTEN ");
    write_identifier(text, mark.channel.as_bytes());
    text.extend_from_slice(b";NOTIFY ");
    write_identifier(text, mark.channel.as_bytes());
    text.extend_from_slice(format!(", '{}'", mark.text).as_bytes());
}

/// Notifications before the mark, and those behind it.
async fn heard(
    conn: &mut ServerConn,
    texts: &[Vec<u8>],
    mark: Mark<'_>,
) -> Result<(Vec<u8>, Vec<u8>), Broken> {
    conn.state.heard.clear();
    questions::run(conn, texts).await?;
    let all = std::mem::take(&mut conn.state.heard);
    split(&all, mark.channel.as_bytes(), mark.text.as_bytes()).ok_or_else(|| "listen_mark".into())
}

/// `None` where the mark is not among them. Marks of other clients are nobody's.
fn split(all: &[u8], channel: &[u8], text: &[u8]) -> Option<(Vec<u8>, Vec<u8>)> {
    let (mut before, mut behind, mut found) = (Vec::new(), Vec::new(), false);
    let mut rest = all;
    while let Ok(Some(h)) = frame::header(rest, u32::MAX) {
        let (message, after) = rest.split_at_checked(h.total)?;
        rest = after;
        if h.tag != be::NOTIFICATION {
            continue;
        }
        let (name, says) = frame::cstr(message.get(frame::HEADER + 4..)?)?;
        if name == channel {
            found |= frame::cstr(says)?.0 == text;
        } else if found {
            behind.extend_from_slice(message);
        } else {
            before.extend_from_slice(message);
        }
    }
    found.then_some((before, behind))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn notification(channel: &str, text: &str) -> Vec<u8> {
        let body = [&[0, 0, 0, 1][..], channel.as_bytes(), b"\0", text.as_bytes(), b"\0"].concat();
        [&[be::NOTIFICATION][..], &frame::length(body.len()), &body].concat()
    }

    #[test]
    fn what_is_heard_is_parted_at_the_mark() {
        let (a, b, c) = (notification("a", "1"), notification("a", "2"), notification("b", "m"));
        let (mark, other) = (notification("howdah", "m"), notification("howdah", "n"));
        let all = [&a[..], &other, &b, &mark, &c, &other].concat();
        assert_eq!(split(&all, b"howdah", b"m"), Some(([a.clone(), b].concat(), c)));
        assert_eq!(split(&[&a[..], &other].concat(), b"howdah", b"m"), None);
        assert_eq!(split(&mark, b"howdah", b"m"), Some((Vec::new(), Vec::new())));
    }
}
