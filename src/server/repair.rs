//! Cleaning a connection off the client's path: after a client has left in the middle, or has left session
//! state behind. Bounded by `server_repair_timeout`; what cannot be cleaned is closed.

use std::sync::Arc;
use std::time::Duration;

use crate::error::ServerError;
use crate::net::lane::Unread;
use crate::proto::encode;
use crate::proto::frame::{self, be, fe};
use crate::proto::params::ParamSet;
use crate::proto::pipeline::{Expect, TxStatus};
use crate::proto::prepared;
use crate::relay::broken::Broken;
use crate::relay::down;
use crate::relay::lend;
use crate::relay::state::{DISCARDED, ServerState, Unnamed};
use crate::server::conn::ServerConn;
use crate::server::questions;

/// Why a connection under repair had to be closed.
#[derive(Debug)]
pub struct Failure {
    /// The label of the metric.
    pub reason: &'static str,
    /// What the server refused, and the setting that it is from.
    pub refused: Option<(ServerError, &'static str)>,
}

impl From<&'static str> for Failure {
    fn from(reason: &'static str) -> Self {
        Self { reason, refused: None }
    }
}

impl From<Broken> for Failure {
    fn from(why: Broken) -> Self {
        why.label.into()
    }
}

/// What came while a connection was drained.
#[derive(Debug, Default)]
struct Seen {
    error: Option<ServerError>,
    /// A statement of our own has dropped every prepared statement.
    deallocated: bool,
    /// It was DISCARD ALL,
    discarded: bool,
    /// and a SET came behind it.
    set_behind: bool,
}

impl Seen {
    /// The completion tag of a statement of our own.
    fn own(&mut self, tag: &[u8]) {
        let tag = tag.strip_suffix(b"\0").unwrap_or(tag);
        self.deallocated |= matches!(tag, b"DISCARD ALL" | b"DEALLOCATE ALL");
        self.discarded |= tag == b"DISCARD ALL";
        self.set_behind = self.discarded && (self.set_behind || matches!(tag, b"SET" | b"SELECT 1"));
    }
}

/// How the session is reset, and when; what runs to its end under repair may be what makes it necessary.
#[derive(Debug, Clone, Copy)]
pub struct Reset<'a> {
    pub query: &'a str,
    pub always: bool,
    pub if_marked: bool,
    /// Run again behind it: what they set is gone with all the rest.
    pub on_connect: &'a [String],
}

/// Brings the connection to a boundary: ends a COPY, skips what is owed, rolls back, resets. `unread` is
/// what was read from it and not looked at. Returns the mark for which it was reset.
pub async fn repair(
    conn: &mut ServerConn,
    unread: Unread,
    reset: Reset<'_>,
    deadline: Duration,
    nothing: Arc<ParamSet>,
) -> Result<Option<&'static str>, Failure> {
    match tokio::time::timeout(deadline, repair_inner(conn, unread, reset, nothing)).await {
        Ok(r) => r,
        Err(_) => Err("repair_timeout".into()),
    }
}

async fn repair_inner(
    conn: &mut ServerConn,
    unread: Unread,
    reset: Reset<'_>,
    nothing: Arc<ParamSet>,
) -> Result<Option<&'static str>, Failure> {
    let (mut buf, mut skip) = (unread.bytes, unread.owed);
    if conn.state.pipeline.sync_owed() {
        let mut out = Vec::new();
        fail_copy(conn, &mut out);
        // A Sync alone would commit what the batch has done so far.
        prepared::write_rollback_sync(&mut out);
        conn.state.pipeline.sent(Expect::QuietProvoked);
        conn.state.pipeline.sent(Expect::OwnSync);
        write(conn, &out).await?;
    } else if conn.state.pipeline.wants_copy_data() {
        let mut out = Vec::new();
        fail_copy(conn, &mut out);
        write(conn, &out).await?;
    }
    drain(conn, &mut buf, &mut skip).await?;
    if conn.state.pipeline.status() != TxStatus::Idle {
        query(conn, "ROLLBACK", "", &mut buf, &mut skip).await?;
        if conn.state.pipeline.status() != TxStatus::Idle {
            return Err("rollback_failed".into());
        }
    }
    if !conn.state.lent.is_empty() {
        let mut out = Vec::new();
        lend::take_back_after(&mut out, &mut conn.state);
        write(conn, &out).await?;
        drain(conn, &mut buf, &mut skip).await?;
    }
    if drifted(&conn.state) {
        conn.state.mark("SET");
    }
    let marked = conn.state.marked;
    let resets = !reset.query.is_empty() && (reset.always || (reset.if_marked && marked.is_some()));
    if conn.state.pinned.is_some() && !resets {
        return Err("pin_not_reset".into());
    }
    if resets {
        run_reset(conn, &reset, nothing, &mut buf, &mut skip).await?;
    } else if matches!(marked, Some("SET" | "RESET" | DISCARDED)) {
        // What its client has set there is not known, and nothing undoes it.
        return Err("parameter_source".into());
    }
    conn.state.marked = None;
    conn.state.forget_batch();
    if !conn.state.pipeline.at_boundary() || !buf.is_empty() || skip > 0 {
        return Err("not_clean".into());
    }
    Ok(marked)
}

/// What the query has dropped is known from what the server says, not from the fact that it ran.
async fn run_reset(
    conn: &mut ServerConn,
    reset: &Reset<'_>,
    nothing: Arc<ParamSet>,
    buf: &mut Vec<u8>,
    skip: &mut usize,
) -> Result<(), Failure> {
    let seen = query(conn, reset.query, "reset_query", buf, skip).await?;
    if seen.deallocated {
        conn.state.statements.clear();
    }
    conn.state.view_changed = false;
    if conn.state.pinned.is_some() && !seen.discarded {
        // What its session holds is known to be gone behind DISCARD ALL alone.
        return Err("pin_not_reset".into());
    }
    conn.state.pinned = None;
    if seen.discarded {
        conn.state.nothing_applied(nothing.clone());
        conn.state.pool_set = nothing;
        // The server's configuration may have changed since its login.
        conn.state.defaults = conn.state.view.clone();
    } else {
        questions::undo_all(conn, nothing).await?;
    }
    for sql in reset.on_connect {
        query(conn, sql, "on_connect", buf, skip).await?;
    }
    if !reset.on_connect.is_empty() || seen.set_behind {
        questions::ask_pool_set(conn).await?;
    }
    conn.state.view_changed = false;
    Ok(())
}

/// A parameter that the server reports was changed, and its client has left before it could take it along.
fn drifted(s: &ServerState) -> bool {
    s.view_changed && s.standing().is_unexplained(&s.applied)
}

/// The mark of a command that ran to its end after its client had left. Its text is not known any more, so what
/// may leave something behind counts as doing so.
fn leaves_behind(tag: &[u8]) -> Option<&'static str> {
    let marks: [(&[u8], &'static str); 9] = [
        (b"SET", "SET"),
        (b"RESET", "RESET"),
        (b"LISTEN", "LISTEN"),
        (b"PREPARE", "PREPARE"),
        (b"DEALLOCATE", "PREPARE"),
        (b"DISCARD", DISCARDED),
        (b"LOAD", "LOAD"),
        (b"DECLARE CURSOR", "DECLARE CURSOR"),
        (b"CREATE", "CREATE TEMP"),
    ];
    marks.iter().find(|(begins, _)| tag.starts_with(begins)).map(|(_, mark)| *mark)
}

/// A COPY that may be under way is ended; outside of one, the server ignores the message.
fn fail_copy(conn: &mut ServerConn, out: &mut Vec<u8>) {
    let text = b"the client has left\0";
    out.push(fe::COPY_FAIL);
    out.extend_from_slice(&frame::length(text.len()));
    out.extend_from_slice(text);
    conn.state.pipeline.sent(Expect::CopyEnd);
}

async fn write(conn: &mut ServerConn, bytes: &[u8]) -> Result<(), Failure> {
    conn.stream.write_all(bytes).await.map_err(|_| "write_failed".into())
}

/// A statement of our own, from this setting.
async fn query(
    conn: &mut ServerConn,
    sql: &str,
    setting: &'static str,
    buf: &mut Vec<u8>,
    skip: &mut usize,
) -> Result<Seen, Failure> {
    let q = encode::query(sql).map_err(|_| "bad_reset_query")?;
    conn.state.pipeline.sent(Expect::OwnQuery);
    conn.state.unnamed = Unnamed::Nobody;
    write(conn, &q).await?;
    let mut seen = drain(conn, buf, skip).await?;
    match seen.error.take() {
        Some(e) => Err(Failure { reason: "reset_failed", refused: Some((e, setting)) }),
        None => Ok(seen),
    }
}

/// Reads until nothing is owed.
async fn drain(conn: &mut ServerConn, buf: &mut Vec<u8>, skip: &mut usize) -> Result<Seen, Failure> {
    let mut seen = Seen::default();
    loop {
        digest(conn, buf, skip, &mut seen)?;
        if conn.state.pipeline.is_empty() && !conn.state.pipeline.skipping() && *skip == 0 && buf.is_empty() {
            return Ok(seen);
        }
        if conn.state.pipeline.wants_copy_data() {
            // It began after the client had left.
            let mut out = Vec::new();
            fail_copy(conn, &mut out);
            write(conn, &out).await?;
        }
        if conn.state.pipeline.skipping() && conn.state.pipeline.is_empty() {
            // The Sync that was meant to end it was read, and ignored, inside of a COPY.
            conn.state.pipeline.sent(Expect::OwnSync);
            write(conn, encode::SYNC).await?;
        }
        match conn.stream.read_some(buf).await {
            Ok(0) => return Err("eof".into()),
            Ok(_) => {}
            Err(_) => return Err("read_failed".into()),
        }
    }
}

fn digest(
    conn: &mut ServerConn,
    buf: &mut Vec<u8>,
    skip: &mut usize,
    seen: &mut Seen,
) -> Result<(), &'static str> {
    let mut at = 0;
    loop {
        let n = (*skip).min(buf.len() - at);
        at += n;
        *skip -= n;
        let rest = buf.get(at..).unwrap_or_default();
        let Some(h) = frame::header(rest, i32::MAX as u32).map_err(|_| "protocol")? else { break };
        let small = matches!(h.tag, be::READY | be::PARAMETER_STATUS | be::ERROR | be::COMMAND_COMPLETE);
        if small && rest.len() < h.total {
            if h.total > 1024 * 1024 {
                return Err("protocol");
            }
            break;
        }
        let body = rest.get(frame::HEADER..h.total.min(rest.len())).unwrap_or_default();
        let p = &mut conn.state.pipeline;
        match h.tag {
            be::READY => {
                let status = TxStatus::of_ready(body).ok_or("protocol")?;
                p.on_ready(status).map_err(|_| "protocol")?;
            }
            be::ERROR => {
                seen.error = Some(ServerError { body: body.to_vec() });
                let mut undone = Vec::new();
                p.on_error(&mut undone);
                for e in undone.into_iter().rev() {
                    match e {
                        Expect::ParseNamed(n) => {
                            conn.state.statements.remove(n.1.id);
                        }
                        Expect::InjectedParse(s) => {
                            conn.state.statements.remove(s.id);
                        }
                        Expect::InjectedClose(s) => conn.state.statements.restore(s),
                        Expect::ParseUnnamed
                        | Expect::InjectedUnnamed
                        | Expect::CloseUnnamed
                        | Expect::InjectedCloseUnnamed
                        | Expect::Query => {
                            conn.state.unnamed = Unnamed::Unknown;
                        }
                        _ => {}
                    }
                }
            }
            be::PARAMETER_STATUS => {
                let (n, v) = down::parameter(body).map_err(|_| "protocol")?;
                let (n, v) = (n.to_owned(), v.to_vec());
                let kept = conn.state.on_parameter(&n, &v);
                kept.map_err(|e| conn.reports_too_much(&e))?;
            }
            be::NOTICE | be::NOTIFICATION => {}
            tag => {
                if tag == be::COMMAND_COMPLETE {
                    if matches!(p.front(), Some(Expect::OwnQuery)) {
                        seen.own(body);
                    } else if let Some(mark) = leaves_behind(body) {
                        conn.state.mark(mark);
                    }
                }
                let p = &mut conn.state.pipeline;
                p.on_message(tag).map_err(|_| "protocol")?;
            }
        }
        while conn.state.pipeline.pop_local().is_some() {}
        let here = h.total.min(buf.len() - at);
        at += here;
        *skip = h.total - here;
    }
    buf.drain(..at);
    Ok(())
}
