//! Cleaning a connection off the client's path: after a client has left in the middle, or has left session
//! state behind. Bounded by `server_repair_timeout`; what cannot be cleaned is closed.

use std::sync::Arc;
use std::time::Duration;

use crate::net::lane::Unread;
use crate::proto::encode;
use crate::proto::frame::{self, be, fe};
use crate::proto::params::{self, ParamSet};
use crate::proto::pipeline::{Expect, TxStatus};
use crate::proto::prepared;
use crate::relay::down;
use crate::relay::state::{ServerState, Unnamed};
use crate::server::conn::ServerConn;

/// Why a connection under repair had to be closed; the label of the metric.
pub type Reason = &'static str;

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
) -> Result<Option<&'static str>, Reason> {
    match tokio::time::timeout(deadline, repair_inner(conn, unread, reset, nothing)).await {
        Ok(r) => r,
        Err(_) => Err("repair_timeout"),
    }
}

async fn repair_inner(
    conn: &mut ServerConn,
    unread: Unread,
    reset: Reset<'_>,
    nothing: Arc<ParamSet>,
) -> Result<Option<&'static str>, Reason> {
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
        query(conn, "ROLLBACK", &mut buf, &mut skip).await?;
        if conn.state.pipeline.status() != TxStatus::Idle {
            return Err("rollback_failed");
        }
    }
    if drifted(&conn.state) {
        conn.state.marked.get_or_insert("SET");
    }
    let marked = conn.state.marked;
    if !reset.query.is_empty() && (reset.always || (reset.if_marked && marked.is_some())) {
        query(conn, reset.query, &mut buf, &mut skip).await?;
        for sql in reset.on_connect {
            query(conn, sql, &mut buf, &mut skip).await?;
        }
        let s = &mut conn.state;
        s.statements.clear();
        s.unnamed = Unnamed::Nobody;
        s.applied = nothing;
        s.view_changed = false;
        // The session is as it began, and what on_connect has set is a default of the connection.
        s.defaults = s.view.clone();
    }
    conn.state.marked = None;
    if !conn.state.pipeline.at_boundary() || !buf.is_empty() || skip > 0 {
        return Err("not_clean");
    }
    Ok(marked)
}

/// A parameter that the server reports was changed, and its client has left before it could take it along.
fn drifted(s: &ServerState) -> bool {
    s.view_changed
        && s.view.iter().any(|(name, value)| {
            !params::is_fixed(name) && s.applied.get(name).or_else(|| s.defaults.get(name)) != Some(value)
        })
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
        (b"DISCARD", "PREPARE"),
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

async fn write(conn: &mut ServerConn, bytes: &[u8]) -> Result<(), Reason> {
    conn.stream.write_all(bytes).await.map_err(|_| "write_failed")
}

async fn query(conn: &mut ServerConn, sql: &str, buf: &mut Vec<u8>, skip: &mut usize) -> Result<(), Reason> {
    let q = encode::query(sql).map_err(|_| "bad_reset_query")?;
    conn.state.pipeline.sent(Expect::OwnQuery);
    conn.state.unnamed = Unnamed::Nobody;
    write(conn, &q).await?;
    let errors = drain(conn, buf, skip).await?;
    if errors > 0 { Err("reset_failed") } else { Ok(()) }
}

/// Reads until nothing is owed. Returns how many errors came.
async fn drain(conn: &mut ServerConn, buf: &mut Vec<u8>, skip: &mut usize) -> Result<usize, Reason> {
    let mut errors = 0;
    loop {
        errors += digest(conn, buf, skip)?;
        if conn.state.pipeline.is_empty() && !conn.state.pipeline.skipping() && *skip == 0 && buf.is_empty() {
            return Ok(errors);
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
            Ok(0) => return Err("eof"),
            Ok(_) => {}
            Err(_) => return Err("read_failed"),
        }
    }
}

fn digest(conn: &mut ServerConn, buf: &mut Vec<u8>, skip: &mut usize) -> Result<usize, Reason> {
    let mut errors = 0;
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
                errors += 1;
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
                if tag == be::COMMAND_COMPLETE
                    && !matches!(p.front(), Some(Expect::OwnQuery))
                    && let Some(mark) = leaves_behind(body)
                {
                    conn.state.marked.get_or_insert(mark);
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
    Ok(errors)
}
