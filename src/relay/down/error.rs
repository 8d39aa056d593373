//! An ErrorResponse of a server: what it undoes, and what the client is told. No I/O.

use std::sync::Arc;

use super::{BadServer, WHOLE, emit_local, pass, whole};
use crate::net::lane::Lane;
use crate::proto::encode;
use crate::proto::frame::{self, Header, be};
use crate::proto::holdings;
use crate::proto::pipeline::{Expect, Reply};
use crate::proto::prepared::{NO_SUCH_STATEMENT, SERVER_PREFIX, STAND_IN};
use crate::relay::state::{ClientProto, Env, Retry, ServerState, Unnamed};

/// An ErrorResponse: undoes what the server did not do, translates names, keeps caches honest.
pub(super) fn error(
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
            b"0A000" => retire(id, &e, s, env),
            _ => {}
        }
    }
    let mut undone = Vec::new();
    let query = matches!(s.pipeline.front(), Some(Expect::Query));
    let reply = s.pipeline.on_error(&mut undone);
    let executes = executes(&undone);
    let lost = failed.is_some() && e.sqlstate() == b"26000";
    // Its Parse was answered from what others have: a new one may be another statement.
    let unseen = failed.filter(|_| !lost).and_then(|id| c.statements.unseen(id).cloned());
    // Nothing but this one message was sent, and a Flush.
    let flushed = undone.len() == 1 && s.pipeline.is_empty() && c.replay.ends_with(encode::FLUSH);
    let again = (lost || unseen.is_some()) && !c.replay.is_empty();
    if again && (s.pipeline.retry_batch() || flushed) {
        if let Some(old) = unseen {
            c.statements.renew(&old, &env.interner.renewed(&old, env.interner.now()));
        }
        // The server has lost a statement that it had, or never had it as it is now, and nothing has run: the client need
        // not know.
        undo(undone, c, s);
        s.calls.forget(executes);
        c.retry = if flushed { Retry::NeedsSync } else { Retry::Waiting };
        down.discard(h.total);
        return Ok(true);
    }
    c.replay.clear();
    call_failed(query, executes, down, s);
    let renamed = translate(&e.body, c, || undone.iter().chain(s.pipeline.iter()));
    let renamed = explain_route(renamed, &e, s);
    let renamed = refused_again(&e, s).or(renamed);
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
        Reply::Forward if e.sqlstate() == b"57014" => c.words.take_cancel().or(renamed),
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

/// A server has refused a plan: the next Parse of its text is a new one everywhere.
fn retire(id: u64, e: &crate::error::ServerError, s: &ServerState, env: &Env<'_>) {
    let Some(stmt) = s.statements.get(id) else { return };
    if e.field(b'R') == Some(b"RevalidateCachedQuery") {
        stmt.make_stale();
    }
    env.interner.retire(stmt);
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
            Expect::InjectedDescribe(compared) if compared.is_check => s.check = None,
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

/// The error for an EXECUTE whose statement this server has refused to prepare: the one that the client would get on a
/// connection of its own.
fn refused_again(e: &crate::error::ServerError, s: &ServerState) -> Option<Box<[u8]>> {
    if s.absent.is_empty() || e.sqlstate() != b"26000" {
        return None;
    }
    let text = e.field(b'M')?;
    let named = |name: &[u8]| memchr::memmem::find(text, &[b"\"", name, b"\""].concat()).is_some();
    let is = |key: &str| holdings::prepared_name(key).is_some_and(|name| named(&name));
    s.absent.iter().find(|a| is(&a.key)).map(|a| a.refusal.clone())
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
