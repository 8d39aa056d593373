//! Server to client: takes off what is owed, keeps account of parameters and session state, leaves out what
//! answers Howdah's own messages. No I/O.

use std::sync::Arc;

use crate::net::lane::Lane;
use crate::proto::encode;
use crate::proto::frame::{self, Header, be};
use crate::proto::holdings;
use crate::proto::pipeline::{Expect, Reply, TxStatus};
use crate::proto::prepared::{NO_SUCH_STATEMENT, SERVER_PREFIX, STAND_IN};
use crate::proto::sql::TextEffects;
use crate::relay::state::{ClientProto, DISCARDED, Env, Retry, ServerState, Unnamed};

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
        be::ERROR => return error(down, h, c, s, env),
        be::COMMAND_COMPLETE => {
            if !whole(down, h)? {
                return Ok(false);
            }
            let tag = down.unscanned().get(frame::HEADER..h.total.saturating_sub(1)).unwrap_or_default();
            if let [b'S' | b'R' | b'L' | b'P' | b'D' | b'C' | b'U', ..] = tag {
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
        be::NOTIFICATION => down.forward(h.total),
        be::NOTICE => {
            s.own_flush.keeps_back = false;
            if matches!(s.pipeline.front(), Some(Expect::OwnQuery)) {
                down.discard(h.total);
            } else {
                down.forward(h.total);
            }
        }
        tag => {
            c.replay.clear();
            if tag == be::COPY_IN {
                // So that the client knows that it may send.
                s.own_flush.keeps_back = false;
            }
            if tag == be::CLOSE_COMPLETE && matches!(s.pipeline.front(), Some(Expect::CloseUnnamed)) {
                c.statements.drop_done();
            }
            if tag == be::PARSE_COMPLETE {
                match s.pipeline.front() {
                    Some(Expect::ParseUnnamed) => c.statements.unnamed_done(),
                    Some(Expect::ParseNamed(n)) => n.1.prove(),
                    Some(Expect::InjectedParse(stmt)) => stmt.prove(),
                    Some(Expect::ParseDuplicate(d)) => {
                        // It had lost the statement behind our back, and has this one by its name now.
                        s.statements.remove(d.live.id);
                        s.statements_doubtful = true;
                        s.marked = s.marked.filter(|m| *m != DISCARDED).or(Some("PREPARE"));
                        c.statements.insert(&d.name, d.fresh.clone());
                    }
                    _ => {}
                }
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
    if let [b'D' | b'C' | b'U', ..] = tag {
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
fn suspect(tag: &[u8], c: &mut ClientProto, s: &ServerState) {
    let ends: [&[u8]; 5] = [b"DROP", b"CLOSE", b"UNLISTEN", b"DEALLOCATE", b"DISCARD"];
    let holds = || s.pinned.is_some() || s.applied.iter().any(|(n, _)| holdings::is_prepared(n));
    // A search_path may lead into a temporary schema.
    if tag.starts_with(b"CREATE") || ends.iter().any(|w| tag.starts_with(w)) && holds() {
        c.effects.add(TextEffects::HIDDEN);
    }
}

fn forget_statements(c: &mut ClientProto, s: &mut ServerState) {
    s.statements.clear();
    s.statements_doubtful = false;
    c.statements.clear();
}

/// An ErrorResponse: undoes what the server did not do, translates names, keeps caches honest.
fn error(
    down: &mut Lane,
    h: Header,
    c: &mut ClientProto,
    s: &mut ServerState,
    env: &Env<'_>,
) -> Result<bool, BadServer> {
    // PostgreSQL sends an error or a notice at once, and with it all that is before it.
    s.own_flush.keeps_back = false;
    if h.total > WHOLE && !down.mid_message() {
        // Too long to be looked at; what it ends is known all the same.
        let mut undone = Vec::new();
        let query = matches!(s.pipeline.front(), Some(Expect::Query));
        let reply = s.pipeline.on_error(&mut undone);
        let executes = executes(&undone);
        undo(undone, c, s);
        pass(down, h, &reply);
        call_failed(query, executes, down, s);
        emit_local(down, c, s);
        return Ok(true);
    }
    if !whole(down, h)? {
        return Ok(false);
    }
    let body = down.unscanned().get(frame::HEADER..h.total).unwrap_or_default();
    let e = crate::error::ServerError { body: body.to_vec() };
    if matches!(e.field(b'V').or_else(|| e.field(b'S')), Some(b"FATAL" | b"PANIC")) {
        s.fatal = true;
    }
    c.stats.errors += 1;
    match e.sqlstate() {
        b"25006" => c.stats.refused_writes += 1,
        b"40001" => c.stats.conflicts += 1,
        _ => {}
    }
    let alone = s.pipeline.len() <= 1;
    let failed = match s.pipeline.front() {
        Some(Expect::Bind(id) | Expect::Describe(id)) if *id != 0 => Some(*id),
        _ => None,
    };
    if let Some(id) = failed {
        match e.sqlstate() {
            b"26000" => {
                s.statements.remove(id);
            }
            b"0A000" => env.interner.retire(id),
            _ => {}
        }
    }
    let mut undone = Vec::new();
    let query = matches!(s.pipeline.front(), Some(Expect::Query));
    let reply = s.pipeline.on_error(&mut undone);
    let executes = executes(&undone);
    if failed.is_some() && e.sqlstate() == b"26000" && !c.replay.is_empty() && s.pipeline.retry_batch() {
        // The server has lost a statement that it had, and nothing has run: the client need not know.
        undo(undone, c, s);
        s.calls.forget(executes);
        c.retry = Retry::Waiting;
        down.discard(h.total);
        return Ok(true);
    }
    c.replay.clear();
    call_failed(query, executes, down, s);
    let renamed = translate(&e.body, c, || undone.iter().chain(s.pipeline.iter()));
    let renamed = explain_route(renamed, &e, s);
    undo(undone, c, s);
    // A DEALLOCATE is the last in flight: it has failed itself, or was skipped with all the rest.
    if alone || s.pipeline.is_empty() {
        c.deallocating.clear();
    }
    let replacement = match reply {
        Reply::Replace(b) => Some(b),
        Reply::Swallow => {
            down.discard(h.total);
            emit_local(down, c, s);
            return Ok(true);
        }
        Reply::Forward if e.sqlstate() == b"57014" && c.own_cancel.is_some() => {
            c.own_cancel.take().map(|b| b.0)
        }
        Reply::Forward => renamed,
    };
    match replacement {
        Some(b) => {
            down.discard(h.total);
            let out = down.insert();
            out.push(be::ERROR);
            out.extend_from_slice(&frame::length(b.len()));
            out.extend_from_slice(&b);
        }
        None => down.forward(h.total),
    }
    emit_local(down, c, s);
    Ok(true)
}

/// Calls among what the server will not answer any more.
fn executes(undone: &[Expect]) -> usize {
    undone.iter().filter(|e| matches!(e, Expect::Execute)).count()
}

/// For the statistics: whose call it was that failed.
fn call_failed(query: bool, executes: usize, down: &Lane, s: &mut ServerState) {
    if query {
        s.calls.query_failed();
    } else {
        s.calls.batch_failed(executes, down.unscanned().len());
    }
}

/// Takes back, from the last to the first, what was assumed of messages that failed or were skipped.
fn undo(undone: Vec<Expect>, c: &mut ClientProto, s: &mut ServerState) {
    for (i, e) in undone.into_iter().enumerate().rev() {
        match e {
            Expect::ParseNamed(n) => {
                s.statements.remove(n.1.id);
                forget(&n.0, &n.1, c);
            }
            Expect::LocalParse(n) => forget(&n.0, &n.1, c),
            Expect::InjectedParse(stmt) => {
                s.statements.remove(stmt.id);
            }
            Expect::InjectedClose(stmt) => s.statements.restore(stmt),
            Expect::LocalClose(Some(n)) => {
                let (name, stmt) = *n;
                c.statements.insert(&name, stmt);
            }
            Expect::ParseUnnamed if i == 0 => {
                c.statements.unnamed_failed();
                // A later batch may have prepared another already.
                s.unnamed = Unnamed::Unknown;
            }
            Expect::ParseUnnamed => {
                c.statements.unnamed_skipped();
                s.unnamed = Unnamed::Unknown;
            }
            Expect::Query | Expect::CloseUnnamed => {
                c.statements.unnamed_skipped();
                s.unnamed = Unnamed::Unknown;
            }
            Expect::InjectedUnnamed | Expect::InjectedCloseUnnamed => {
                s.unnamed = Unnamed::Unknown;
            }
            _ => {}
        }
    }
}

fn forget(name: &[u8], stmt: &Arc<crate::proto::prepared::Statement>, c: &mut ClientProto) {
    if c.statements.get(name).is_some_and(|s| Arc::ptr_eq(s, stmt)) {
        c.statements.remove(name);
    }
}

/// A replica's word that it cannot do what the primary could, with the reason why the transaction is there.
fn explain_route(
    body: Option<Box<[u8]>>,
    e: &crate::error::ServerError,
    s: &ServerState,
) -> Option<Box<[u8]>> {
    let Some(reason) = s.routed else { return body };
    let text = e.field(b'M').unwrap_or_default();
    let of_standby =
        [&b"during recovery"[..], b"hot standby"].iter().any(|w| memchr::memmem::find(text, w).is_some());
    if !of_standby || !matches!(e.sqlstate(), b"0A000" | b"25006" | b"55000") {
        return body;
    }
    let mut out = body.map_or_else(|| e.body.clone(), Vec::from);
    if out.last() == Some(&0) {
        out.pop();
    }
    if e.field(b'D').is_none() {
        out.extend_from_slice(format!("DThe transaction went to a replica (reason: {reason}).\0").as_bytes());
    }
    if e.field(b'H').is_none() {
        const HINT: &[u8] =
            b"HBegin it READ WRITE, put /* howdah: primary */ before its first statement where \
            route_hints is on, or connect with howdah.role=primary.\0";
        out.extend_from_slice(HINT);
    }
    out.push(0);
    Some(out.into())
}

/// Puts the client's statement names back where an error mentions the server's.
fn translate<'a, I: Iterator<Item = &'a Expect>>(
    body: &[u8],
    c: &'a ClientProto,
    sent: impl Fn() -> I,
) -> Option<Box<[u8]>> {
    memchr::memmem::find(body, SERVER_PREFIX)?;
    let mut out = Vec::with_capacity(body.len());
    let mut rest = body;
    while let Some(at) = memchr::memmem::find(rest, SERVER_PREFIX) {
        let (before, from) = rest.split_at(at);
        out.extend_from_slice(before);
        let digits = from.get(SERVER_PREFIX.len()..).unwrap_or_default();
        if let Some(own) = [STAND_IN, NO_SUCH_STATEMENT].iter().find(|n| from.starts_with(n)) {
            match meant(c, sent()) {
                Some(name) => out.extend_from_slice(name),
                None => out.extend_from_slice(own),
            }
            rest = from.get(own.len()..).unwrap_or_default();
            continue;
        }
        let n = digits.iter().take_while(|b| b.is_ascii_digit()).count();
        let id = std::str::from_utf8(digits.get(..n).unwrap_or_default()).ok().and_then(|t| t.parse().ok());
        let taken = SERVER_PREFIX.len() + n;
        match id.and_then(|id: u64| name_of(id, c, sent())) {
            Some(name) => out.extend_from_slice(&name),
            None => out.extend_from_slice(from.get(..taken).unwrap_or_default()),
        }
        rest = from.get(taken..).unwrap_or_default();
    }
    out.extend_from_slice(rest);
    Some(out.into())
}

/// The client's name in the message that has failed, where another was sent in its place.
fn meant<'a>(c: &'a ClientProto, mut sent: impl Iterator<Item = &'a Expect>) -> Option<&'a [u8]> {
    match sent.next() {
        Some(Expect::Unknown(name)) => Some(name),
        Some(Expect::ParseDuplicate(d)) => Some(&d.name),
        _ => c.deallocating.front().map(|(name, _)| &**name),
    }
}

/// The client's name may be gone already, if it closed it while the message that failed was on its way.
fn name_of<'a>(id: u64, c: &ClientProto, mut sent: impl Iterator<Item = &'a Expect>) -> Option<Vec<u8>> {
    match sent.next() {
        Some(Expect::ParseDuplicate(d)) if d.live.id == id => return Some(d.name.to_vec()),
        _ => {}
    }
    if let Some(n) = c.statements.name_of(id) {
        return Some(n.to_vec());
    }
    sent.find_map(|e| match e {
        Expect::LocalClose(Some(n)) | Expect::ParseNamed(n) if n.1.id == id => Some(n.0.to_vec()),
        _ => None,
    })
}
