//! Server to client: takes off what is owed, keeps account of parameters and session state, leaves out what
//! answers Howdah's own messages. No I/O.

use std::sync::Arc;

use crate::net::lane::Lane;
use crate::proto::encode;
use crate::proto::frame::{self, Header, be};
use crate::proto::holdings;
use crate::proto::pipeline::{Expect, Reply, TxStatus};
use crate::proto::sql::TextEffects;
use crate::relay::state::{ClientProto, DISCARDED, Env, Retry, ServerState};

mod compare;
mod error;

use compare::Parameters;

/// Messages that must be seen whole may have this many bytes; longer ones of these types are forwarded unseen
/// (ErrorResponse) or end the connection.
const WHOLE: usize = 64 * 1024;

/// Why the scan stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Down {
    NeedMore,
    /// A ReadyForQuery came, and the server owes nothing and is in no transaction; nothing is unread.
    Boundary,
}

/// The server broke the protocol; the text names how.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BadServer(pub String);

fn bad(why: impl Into<String>) -> BadServer {
    BadServer(why.into())
}

fn unexpected(tag: u8) -> BadServer {
    bad(format!("message of type {} where none can be", char::from(tag).escape_default()))
}

/// The header at the front of the lane.
pub fn next_header(lane: &Lane, max_message: u32) -> Result<Option<Header>, BadServer> {
    frame::header(lane.unscanned(), max_message).map_err(|b| {
        bad(format!("message of type {} announces {} bytes", char::from(b.tag).escape_default(), b.length))
    })
}

/// Deals with everything in `down`.
pub fn scan(
    down: &mut Lane,
    c: &mut ClientProto,
    s: &mut ServerState,
    env: &Env<'_>,
) -> Result<Down, BadServer> {
    s.calls.begin_scan(down.unscanned().len());
    let end = scan_messages(down, c, s, env);
    s.calls.end_scan(down.unscanned().len());
    end
}

fn scan_messages(
    down: &mut Lane,
    c: &mut ClientProto,
    s: &mut ServerState,
    env: &Env<'_>,
) -> Result<Down, BadServer> {
    loop {
        if down.mid_message() {
            down.continue_message();
            if down.mid_message() {
                return Ok(Down::NeedMore);
            }
            emit_local(down, c, s);
        }
        let Some(h) = next_header(down, env.max_message)? else { break };
        if !step(down, h, c, s, env)? {
            return Ok(Down::NeedMore);
        }
    }
    if s.ready_seen && down.unscanned().is_empty() && s.pipeline.at_boundary() {
        s.ready_seen = false;
        return Ok(Down::Boundary);
    }
    Ok(Down::NeedMore)
}

/// One message; `false` asks for more bytes.
#[inline]
fn step(
    down: &mut Lane,
    h: Header,
    c: &mut ClientProto,
    s: &mut ServerState,
    env: &Env<'_>,
) -> Result<bool, BadServer> {
    match h.tag {
        be::DATA_ROW | be::COPY_DATA => {
            let reply = s.pipeline.on_message(h.tag).map_err(|u| unexpected(u.tag))?;
            pass(down, h, &reply);
        }
        be::READY => {
            if !whole(down, h)? {
                return Ok(false);
            }
            let status = down.unscanned().get(frame::HEADER).copied().and_then(TxStatus::from_byte);
            let (Some(status), 6) = (status, h.total) else {
                return Err(bad("ReadyForQuery without a status"));
            };
            let query = matches!(s.pipeline.front(), Some(Expect::Query));
            if query {
                c.statements.drop_done();
            }
            let reply = s.pipeline.on_ready(status).map_err(|u| unexpected(u.tag))?;
            if s.changes_catalogue && status == TxStatus::Idle {
                s.changes_catalogue = false;
                env.interner.catalogue_changed();
            }
            if c.retry == Retry::Waiting {
                c.retry = Retry::Now;
            }
            if s.pipeline.is_empty() {
                // Nothing is sent behind one: what it has not given up by now has failed.
                c.deallocating.clear();
            }
            if reply == Reply::Forward {
                c.stats.queries += 1;
                s.ready_seen = true;
            }
            pass(down, h, &reply);
            if query {
                s.calls.complete(down.unscanned().len());
            }
            emit_local(down, c, s);
        }
        be::ERROR => return error::error(down, h, c, s, env),
        be::COMMAND_COMPLETE => {
            if !whole(down, h)? {
                return Ok(false);
            }
            let tag = down.unscanned().get(frame::HEADER..h.total.saturating_sub(1)).unwrap_or_default();
            if let [b'S' | b'R' | b'L' | b'P' | b'D' | b'C' | b'U' | b'A', ..] = tag {
                command_tag(tag, c, s);
            }
            if s.one_at_a_time {
                c.stats.see(tag);
            }
            let executed = matches!(s.pipeline.front(), Some(Expect::Execute));
            if executed || matches!(s.pipeline.front(), Some(Expect::Query)) {
                s.calls.tag(tag);
            }
            let reply = s.pipeline.on_message(h.tag).map_err(|u| unexpected(u.tag))?;
            pass(down, h, &reply);
            if executed {
                s.calls.complete(down.unscanned().len());
            }
            emit_local(down, c, s);
        }
        be::PARAMETER_STATUS => {
            if !whole(down, h)? {
                return Ok(false);
            }
            let body = down.unscanned().get(frame::HEADER..h.total).unwrap_or_default();
            let (name, value) = parameter(body)?;
            let led_back = c.led_back(name, value, s);
            s.on_parameter(name, value).map_err(|e| bad(e.to_string()))?;
            let hidden = s.hides(name);
            if hidden || matches!(s.pipeline.front(), Some(Expect::OwnQuery)) {
                down.discard(h.total);
            } else if let Some((name, tell)) = led_back {
                down.discard(h.total);
                if let Some(value) = tell {
                    encode::write_parameter_status(down.insert(), &name, &value);
                }
            } else {
                down.forward(h.total);
            }
        }
        // Whoever holds the connection listens.
        be::NOTIFICATION => {
            if !whole(down, h)? {
                return Ok(false);
            }
            notification(down, h, c, s);
        }
        be::NOTICE => {
            s.own_flush.keeps_back = false;
            if matches!(s.pipeline.front(), Some(Expect::OwnQuery)) {
                down.discard(h.total);
            } else {
                down.forward(h.total);
            }
        }
        tag => {
            if matches!(tag, be::PARAMETER_DESCRIPTION | be::ROW_DESCRIPTION | be::NO_DATA) {
                match compare::parameters(down, h, c, s) {
                    Parameters::Pass => {}
                    Parameters::Wait => {
                        down.reserve(h.total + frame::HEADER);
                        return Ok(false);
                    }
                    Parameters::Drop => {
                        down.discard(h.total);
                        return Ok(true);
                    }
                }
                if !compare::learn(down, h, c, s, env) {
                    return Ok(false);
                }
            }
            c.replay.clear();
            if tag == be::COPY_IN {
                // So that the client knows that it may send.
                s.own_flush.keeps_back = false;
            }
            match s.pipeline.front() {
                Some(Expect::Query | Expect::Execute) => {}
                Some(Expect::Bind(id) | Expect::Describe(id)) if c.statements.any_unseen() => {
                    c.statements.seen(*id);
                }
                Some(Expect::CloseUnnamed) if tag == be::CLOSE_COMPLETE => c.statements.drop_done(),
                Some(Expect::ParseUnnamed) if tag == be::PARSE_COMPLETE => c.statements.unnamed_done(),
                Some(Expect::ParseNamed(n)) if tag == be::PARSE_COMPLETE => n.1.prove(),
                Some(Expect::InjectedParse(stmt)) if tag == be::PARSE_COMPLETE => stmt.prove(),
                Some(Expect::ParseDuplicate(d)) if tag == be::PARSE_COMPLETE => {
                    // It had lost the statement behind our back, and has this one by its name now.
                    s.statements.remove(d.live.id);
                    s.statements_doubtful = true;
                    s.marked = s.marked.filter(|m| *m != DISCARDED).or(Some("PREPARE"));
                    c.statements.insert(&d.name, d.fresh.clone());
                }
                Some(Expect::InjectedDescribe(_)) => {
                    let seen = compare::compare(down, h, c, s, env);
                    if !seen {
                        return Ok(false);
                    }
                }
                _ => {}
            }
            let executed = matches!(tag, be::EMPTY_QUERY | be::PORTAL_SUSPENDED)
                && matches!(s.pipeline.front(), Some(Expect::Execute));
            let reply = s.pipeline.on_message(tag).map_err(|u| unexpected(u.tag))?;
            pass(down, h, &reply);
            if executed {
                s.calls.complete(down.unscanned().len());
            }
            emit_local(down, c, s);
        }
    }
    Ok(true)
}

#[inline]
fn pass(down: &mut Lane, h: Header, reply: &Reply) {
    match reply {
        Reply::Forward => down.forward(h.total),
        Reply::Swallow | Reply::Replace(_) => down.discard(h.total),
    }
}

/// One that a client has sent itself comes from the process id that its driver knows, that of its cancel key.
fn notification(down: &mut Lane, h: Header, c: &ClientProto, s: &ServerState) {
    const PID: usize = 4;
    let message = down.unscanned().get(..h.total).unwrap_or_default();
    let sender = message.get(frame::HEADER..frame::HEADER + PID);
    let own = sender.is_some_and(|pid| pid == s.pid.to_be_bytes());
    match u32::try_from(c.id) {
        Ok(id) if own => {
            let rest = message.get(frame::HEADER + PID..).unwrap_or_default().to_vec();
            let head = message.get(..frame::HEADER).unwrap_or_default().to_vec();
            down.discard(h.total);
            let out = down.insert();
            out.extend_from_slice(&head);
            out.extend_from_slice(&id.to_be_bytes());
            out.extend_from_slice(&rest);
        }
        _ => down.forward(h.total),
    }
}

fn whole(down: &mut Lane, h: Header) -> Result<bool, BadServer> {
    if down.unscanned().len() >= h.total {
        return Ok(true);
    }
    if h.total > WHOLE {
        return Err(bad(format!(
            "message of type {} has {} bytes",
            char::from(h.tag).escape_default(),
            h.total
        )));
    }
    down.reserve(h.total);
    Ok(false)
}

/// Name and value of a ParameterStatus.
pub fn parameter(body: &[u8]) -> Result<(&str, &[u8]), BadServer> {
    let parts = frame::cstr(body).and_then(|(n, rest)| frame::cstr(rest).map(|(v, _)| (n, v)));
    let Some((name, value)) = parts else { return Err(bad("malformed ParameterStatus")) };
    let name = std::str::from_utf8(name).map_err(|_| bad("ParameterStatus with a name that is not text"))?;
    Ok((name, value))
}

/// Sends the replies that Howdah owes itself and whose turn has come; not in the middle of a message.
#[inline]
pub fn emit_local(down: &mut Lane, c: &mut ClientProto, s: &mut ServerState) {
    if down.mid_message() {
        return;
    }
    while let Some(e) = s.pipeline.pop_local() {
        down.insert().extend_from_slice(match e {
            Expect::LocalParse(_) => encode::PARSE_COMPLETE,
            _ => encode::CLOSE_COMPLETE,
        });
    }
    if s.pipeline.is_empty() {
        c.statements.answered();
    }
}

/// What a completion tag tells of the session's state.
fn command_tag(tag: &[u8], c: &mut ClientProto, s: &mut ServerState) {
    if matches!(tag, b"SET" | b"RESET") {
        c.set_in_transaction = true;
        if tag == b"RESET" && !c.named.is_empty() {
            c.led_back.get_or_insert_default();
        }
    }
    if let [b'D' | b'C' | b'U' | b'A', ..] = tag {
        suspect(tag, c, s);
    }
    let mark = match tag {
        b"SET" if c.effects.has(TextEffects::SESSION_SET) => "SET",
        b"RESET" if c.effects.has(TextEffects::SESSION_SET) => "RESET",
        b"LISTEN" => "LISTEN",
        b"PREPARE" => "PREPARE",
        b"LOAD" => "LOAD",
        b"DECLARE CURSOR" if c.effects.has(TextEffects::HOLD) => "DECLARE CURSOR",
        b"DEALLOCATE ALL" => {
            forget_statements(c, s);
            return;
        }
        b"DEALLOCATE" => {
            let Some((name, stmt)) = c.deallocating.pop_front() else {
                // Among several statements of one text, or in a function: it may have been one of the shared ones.
                s.mark("PREPARE");
                return;
            };
            if let Some(stmt) = stmt {
                s.statements.remove(stmt.id);
            }
            c.statements.remove(&name);
            return;
        }
        b"DISCARD ALL" => {
            forget_statements(c, s);
            // All that marked it is gone, and what on_connect did; what is set from here on marks it again.
            s.marked = Some(DISCARDED);
            s.nothing_applied(Arc::default());
            c.discarded = true;
            return;
        }
        t if c.effects.has(TextEffects::TEMP) && (t.starts_with(b"CREATE") || t.starts_with(b"SELECT")) => {
            "CREATE TEMP"
        }
        _ => return,
    };
    s.marked = Some(mark);
}

/// Commands that may end what a session holds, or make a part of it without a trace of that in their text.
fn suspect(tag: &[u8], c: &mut ClientProto, s: &mut ServerState) {
    let changes: [&[u8]; 3] = [b"CREATE", b"ALTER", b"DROP"];
    // What a block or a procedure does is not told.
    s.changes_catalogue |= matches!(tag, b"DO" | b"CALL") || changes.iter().any(|w| tag.starts_with(w));
    let ends: [&[u8]; 5] = [b"DROP", b"CLOSE", b"UNLISTEN", b"DEALLOCATE", b"DISCARD"];
    let holds = || s.pinned.is_some() || s.applied.iter().any(|(n, _)| holdings::is_prepared(n));
    // A search_path may lead into a temporary schema.
    if tag.starts_with(b"CREATE") || ends.iter().any(|w| tag.starts_with(w)) && holds() {
        c.effects.add(TextEffects::HIDDEN);
    }
}

fn forget_statements(c: &mut ClientProto, s: &mut ServerState) {
    s.absent.clear();
    s.statements.clear();
    s.statements_doubtful = false;
    c.statements.clear();
}
