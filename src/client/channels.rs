//! Moves a client's channels between its server connection and the listener: what Howdah says to the server connection,
//! and which of the notifications that arrive meanwhile belong to the client. See [`crate::listener`].

use crate::listener::Fence;
use crate::listener::core::Name;
use crate::proto::frame::{self, be};
use crate::proto::sql::write_identifier;
use crate::relay::broken::Broken;
use crate::server::conn::ServerConn;
use crate::server::questions::{self, UNLIMIT};

/// The server connection receives the client's notifications from the fence on. Returns those that it has received since.
/// The caller bounds the time.
pub(super) async fn begin(
    conn: &mut ServerConn,
    channels: &[Name],
    fence: &Fence,
) -> Result<Vec<u8>, Broken> {
    let mut all = UNLIMIT.as_bytes().to_vec();
    for name in channels {
        all.extend_from_slice(b";LISTEN ");
        write_identifier(&mut all, name);
    }
    send_fence(&mut all, fence);
    let mut last = b"UNLISTEN ".to_vec();
    write_identifier(&mut last, fence.channel.as_bytes());
    let (_, behind) = heard(conn, &[all, last], fence).await?;
    Ok(behind)
}

/// The server connection receives the client's notifications up to the fence. Returns those that came before it. The
/// caller bounds the time.
pub(super) async fn end(conn: &mut ServerConn, channels: &[Name], fence: &Fence) -> Result<Vec<u8>, Broken> {
    let mut first = UNLIMIT.as_bytes().to_vec();
    send_fence(&mut first, fence);
    let mut last = UNLIMIT.as_bytes().to_vec();
    for name in channels.iter().map(|n| &**n).chain([fence.channel.as_bytes()]) {
        last.extend_from_slice(b";UNLISTEN ");
        write_identifier(&mut last, name);
    }
    let (before, _) = heard(conn, &[first, last], fence).await?;
    Ok(before)
}

/// PostgreSQL sends a session its own notification before the statement's ReadyForQuery, and before that every
/// notification that was committed earlier.
fn send_fence(text: &mut Vec<u8>, fence: &Fence) {
    text.extend_from_slice(b";LISTEN ");
    write_identifier(text, fence.channel.as_bytes());
    text.extend_from_slice(b";NOTIFY ");
    write_identifier(text, fence.channel.as_bytes());
    text.extend_from_slice(format!(", '{}'", fence.text).as_bytes());
}

/// Notifications before the fence, and those behind it.
async fn heard(
    conn: &mut ServerConn,
    texts: &[Vec<u8>],
    fence: &Fence,
) -> Result<(Vec<u8>, Vec<u8>), Broken> {
    conn.state.heard.clear();
    questions::run(conn, texts).await?;
    let all = std::mem::take(&mut conn.state.heard);
    split(&all, fence.channel.as_bytes(), fence.text.as_bytes()).ok_or_else(|| "listen_fence".into())
}

/// `None` if the fence is not among them. Fences of other clients are dropped.
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
    fn what_is_heard_is_parted_at_the_fence() {
        let (a, b, c) = (notification("a", "1"), notification("a", "2"), notification("b", "m"));
        let (fence, other) = (notification("howdah", "m"), notification("howdah", "n"));
        let all = [&a[..], &other, &b, &fence, &c, &other].concat();
        assert_eq!(split(&all, b"howdah", b"m"), Some(([a.clone(), b].concat(), c)));
        assert_eq!(split(&[&a[..], &other].concat(), b"howdah", b"m"), None);
        assert_eq!(split(&fence, b"howdah", b"m"), Some((Vec::new(), Vec::new())));
    }
}
