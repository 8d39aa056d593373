//! Client to server: decides, message by message, what the server gets. No I/O.
//!
//! Statement names are translated, missing statements prepared ahead, closes answered locally. An error of
//! Howdah's own in the middle of a batch is *provoked* on the server by a message that must fail, so that
//! skipping to Sync and aborting the transaction are the server's and therefore exact.

use std::sync::Arc;

use crate::error::{Error, report};
use crate::net::buffer::LARGE;
use crate::net::lane::Lane;
use crate::proto::frame::{self, Header, fe};
use crate::proto::params::ParamSet;
use crate::proto::pipeline::{Compared, Duplicate, Expect, TxStatus};
use crate::proto::prepared::{self, ClientStatements, Known, SERVER_PREFIX, Statement, Under};
use crate::proto::sql::TextEffects as Effects;
use crate::proto::{encode, sql};
use crate::relay::lend;
use crate::relay::state::{ClientProto, Env, Retry, ServerState, Unnamed};
use crate::relay::suspect::{awaits_block, effects_of, refused_pin};
use crate::relay::waits::{Check, Drops, OwnFlush, Stalled};

/// Names and texts that must be seen whole are looked for in this many bytes.
const LOOK: usize = 64 * 1024;

/// Why the scan stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Up {
    /// Everything that is there has been dealt with.
    NeedMore,
    /// Too much is in flight: go on when answers have come.
    Full,
    Terminate,
}

fn violation(why: impl Into<String>) -> Error {
    Error::ProtocolViolation(why.into())
}

/// Reads the header at the front of the lane; errors are what PostgreSQL says of the same bytes.
pub fn next_header(lane: &Lane, max_message: u32) -> Result<Option<Header>, Error> {
    let buf = lane.unscanned();
    let Some(&tag) = buf.first() else { return Ok(None) };
    let Some(max) = frame::frontend_limit(tag, max_message) else {
        return Err(violation(format!("invalid frontend message type {tag}")));
    };
    frame::header(buf, max).map_err(|bad| {
        violation(format!(
            "invalid message length {} of frontend message type {} (at most {max})",
            bad.length,
            char::from(bad.tag).escape_default()
        ))
    })
}

/// A batch of at most this many bytes is kept until its first answer, in case the server has lost its statement.
const REPLAY: usize = 4096;

/// Keeps the batch at the front up to its Sync, if it begins with a named statement at a boundary and is short. What
/// Howdah answers itself may stand before it.
fn keep_for_replay(up: &Lane, c: &mut ClientProto, s: &ServerState, env: &Env<'_>) {
    if !s.pipeline.server_at_boundary() {
        return;
    }
    c.replay.clear();
    let bytes = up.unscanned();
    let named = matches!(bytes.first(), Some(&(fe::BIND | fe::DESCRIBE)));
    if named
        && env.share_statements
        && let Some(batch) = first_batch(bytes)
    {
        c.replay.extend_from_slice(batch);
    }
}

/// The bytes up to and with the first Sync, if it is there and not far; or one message and a Flush, where that is all.
fn first_batch(bytes: &[u8]) -> Option<&[u8]> {
    let mut at = 0;
    for n in 0.. {
        let h = frame::header(bytes.get(at..)?, crate::number::count(REPLAY)).ok()??;
        at += h.total;
        if at > REPLAY {
            return None;
        }
        if h.tag == fe::SYNC || n == 1 && h.tag == fe::FLUSH && at == bytes.len() {
            return bytes.get(..at);
        }
    }
    None
}

/// Ends a batch that is to be sent again and has no Sync.
pub fn end_for_retry(up: &mut Lane, c: &mut ClientProto, s: &mut ServerState) {
    c.retry = Retry::Waiting;
    up.insert().extend_from_slice(encode::SYNC);
    s.pipeline.sent(Expect::OwnSync);
}

/// Deals with everything in `up`.
pub fn scan(up: &mut Lane, c: &mut ClientProto, s: &mut ServerState, env: &Env<'_>) -> Result<Up, Error> {
    if c.retry != Retry::No {
        return Ok(Up::Full);
    }
    if !up.mid_message() {
        keep_for_replay(up, c, s, env);
    }
    loop {
        if up.mid_message() {
            up.continue_message();
            if up.mid_message() {
                return Ok(Up::NeedMore);
            }
        }
        // A short Bind can need a long Parse ahead of it: what is there goes out first.
        if s.full() || up.backlog() > LARGE {
            return Ok(Up::Full);
        }
        s.barrier = false;
        s.stalled = Stalled::No;
        s.own_flush.due = false;
        let Some(h) = next_header(up, env.max_message)? else { return Ok(Up::NeedMore) };
        if s.pipeline.skipping() && !matches!(h.tag, fe::SYNC | fe::TERMINATE) {
            up.discard(h.total);
            continue;
        }
        let owed = s.pipeline.len();
        let seen = match h.tag {
            fe::TERMINATE => return Ok(Up::Terminate),
            fe::QUERY => query(up, h, c, s, env)?,
            fe::PARSE => parse(up, h, c, s, env)?,
            fe::BIND => bind(up, h, c, s, env)?,
            fe::DESCRIBE => describe(up, h, c, s, env)?,
            fe::CLOSE => close(up, h, c, s, env)?,
            tag => {
                plain(up, h, tag, s, env);
                true
            }
        };
        if !seen {
            // Without a Flush, the server would hold back the awaited answers until the Sync.
            s.own_flush.due = matches!(s.stalled, Stalled::ByDrop | Stalled::ByFailure | Stalled::ByCheck);
            return Ok(if s.full() { Up::Full } else { Up::NeedMore });
        }
        if matches!(h.tag, fe::SYNC | fe::FLUSH | fe::QUERY | fe::FUNCTION_CALL) {
            s.asked_by_client();
        } else {
            s.unasked += s.pipeline.len().saturating_sub(owed);
        }
    }
}

/// Asks the server for answers that the next message of the client waits for and the client has not asked for; but not
/// before it `has_got` what it did ask for, so that all that comes from then on is kept back.
#[inline]
pub fn flush_for_us(up: &mut Lane, s: &mut ServerState, has_got: bool) {
    if s.own_flush.due && (s.own_flush.keeps_back || (has_got && s.pipeline.len() <= s.unasked)) {
        up.insert().extend_from_slice(encode::FLUSH);
        s.own_flush = OwnFlush { due: false, keeps_back: true };
    }
}

fn plain(up: &mut Lane, h: Header, tag: u8, s: &mut ServerState, env: &Env<'_>) {
    match tag {
        fe::EXECUTE => {
            if env.queries.is_some() {
                let rest = up.unscanned().get(frame::HEADER..).filter(|_| s.calls.has_portals());
                let portal = rest.and_then(frame::cstr).map_or(&b""[..], |(name, _)| name);
                s.calls.execute(portal, h.total);
            }
            s.pipeline.sent(Expect::Execute);
            if s.drops != Drops::No {
                s.drops = Drops::Runs;
            }
        }
        fe::SYNC => {
            s.drops = Drops::No;
            s.pipeline.sent(Expect::Sync);
            s.barrier = std::mem::take(&mut s.barrier_at_sync) || s.one_at_a_time;
        }
        fe::FUNCTION_CALL => s.pipeline.sent(Expect::Function),
        fe::COPY_DATA => s.pipeline.sent(Expect::CopyData),
        fe::COPY_DONE | fe::COPY_FAIL => s.pipeline.sent(Expect::CopyEnd),
        // Flush has no reply.
        _ => {}
    }
    up.forward(h.total);
    if tag == fe::SYNC && !s.lent.is_empty() {
        lend::take_back_after(up.insert(), s);
    }
}

/// The whole message, once it is there; `false` asks for more. Room for a long one is made as its bytes come, not
/// because its header promises them.
fn whole(up: &mut Lane, total: usize) -> bool {
    if up.unscanned().len() >= total {
        return true;
    }
    up.reserve(total.min(LOOK));
    false
}

fn query(
    up: &mut Lane,
    h: Header,
    c: &mut ClientProto,
    s: &mut ServerState,
    env: &Env<'_>,
) -> Result<bool, Error> {
    if !s.lent.is_empty() {
        // Of the batch that this Query stands in.
        if s.must_wait(Stalled::ByFailure) {
            return Ok(false);
        }
        lend::take_back(up.insert(), s);
    }
    if h.total > LOOK {
        // Too long to be looked at: a SET in it, should its tag show one, counts as one that marks.
        c.effects.add(Effects::LONG);
        if let Some(q) = env.queries {
            s.calls.long_query(q, h.total);
        }
        s.barrier = s.one_at_a_time;
    } else {
        if !whole(up, h.total) {
            return Ok(false);
        }
        let text = up.unscanned().get(frame::HEADER..h.total).unwrap_or_default();
        let text = text.strip_suffix(b"\0").unwrap_or(text);
        let found = env.queries.map(|q| s.calls.find(q, text));
        let look = found.as_ref().map_or_else(|| sql::needs_look(text), |f| f.needs_look);
        let drops = sql::drops_statements(text, look);
        if drops && env.share_statements && (awaits_drop(s) || s.must_wait(Stalled::ByNames)) {
            return Ok(false);
        }
        s.barrier = drops || s.one_at_a_time;
        if look {
            let effects = effects_of(text, s, env);
            let names = lend::named(text, c);
            if awaits_block(effects, s, env) || !names.is_empty() && s.must_wait(Stalled::ByFailure) {
                return Ok(false);
            }
            if let Some(e) = refused_pin(text, effects, s, env) {
                refuse_query(up, h.total, c, s, e);
                return Ok(true);
            }
            c.effects.add(effects);
            c.may_lead_back(text, effects);
            let text = up.unscanned().get(frame::HEADER..h.total).unwrap_or_default();
            let text = text.strip_suffix(b"\0").unwrap_or(text);
            if env.share_statements
                && let Some(what) = deallocated(text, c)
            {
                if let Some(found) = found {
                    s.calls.query(found, h.total);
                }
                deallocate(up, h, c, s, what);
                return Ok(true);
            }
            lend::before_query(up, names, s);
        }
        if let Some(found) = found {
            s.calls.query(found, h.total);
        }
    }
    c.statements.drop_sent();
    s.drops = Drops::No;
    s.change_unnamed(Unnamed::Nobody);
    s.pipeline.sent(Expect::Query);
    up.forward(h.total);
    if !s.lent.is_empty() {
        lend::take_back_after(up.insert(), s);
    }
    Ok(true)
}

/// Whether a message that deals with names has to wait for the answer to what may drop them, earlier in its batch.
#[inline]
fn awaits_drop(s: &mut ServerState) -> bool {
    if s.drops == Drops::Runs && s.pipeline.is_empty() {
        s.drops = Drops::Bound;
    }
    s.drops != Drops::No && s.must_wait(Stalled::ByDrop)
}

/// Whether a Bind to a statement that the server lacks has to wait for the answers to what came before it: what is sent
/// in its place depends on whether the transaction has failed.
#[inline]
fn awaits_failure(name: &[u8], c: &ClientProto, s: &mut ServerState) -> bool {
    s.pipeline.status() == TxStatus::Failed
        && c.statements.get(name).is_some_and(|stmt| !s.statements.has(stmt.id))
        && s.must_wait(Stalled::ByFailure)
}

/// A `DEALLOCATE name` of which the server must not be given the name as it is: what the client has by it, if anything.
type Deallocated = (Box<[u8]>, Option<Arc<Statement>>);

/// A name that the client has not is the server's to answer for, unless it could be one of ours.
fn deallocated(text: &[u8], c: &ClientProto) -> Option<Deallocated> {
    let name = sql::deallocate_name(text)?;
    let stmt = c.statements.get(&name).cloned();
    (stmt.is_some() || name.starts_with(SERVER_PREFIX)).then(|| (name.into(), stmt))
}

/// `DEALLOCATE` of a name that the server knows under another: it gets that one.
fn deallocate(up: &mut Lane, h: Header, c: &mut ClientProto, s: &mut ServerState, what: Deallocated) {
    up.discard(h.total);
    let (name, stmt) = what;
    let dropped = match stmt {
        Some(stmt) if s.statements.touch(&stmt) => {
            prepared::write_deallocate(up.insert(), &stmt.server_name);
            Some(stmt)
        }
        Some(_) => {
            stand_in(up, s);
            prepared::write_deallocate(up.insert(), prepared::STAND_IN);
            None
        }
        None => {
            prepared::write_deallocate(up.insert(), prepared::NO_SUCH_STATEMENT);
            None
        }
    };
    c.deallocating.push_back((name, dropped));
    c.statements.drop_sent();
    s.drops = Drops::No;
    s.change_unnamed(Unnamed::Nobody);
    s.pipeline.sent(Expect::Query);
}

/// Prepares the statement that a DEALLOCATE drops in place of one that the server has not, or may not lose. The
/// text of that one may not be valid any more, and nothing would end the skipping then: an empty one is.
fn stand_in(up: &mut Lane, s: &mut ServerState) {
    stand_in_of(up, &[0, 0, 0], s);
}

/// A Parse of a `DEALLOCATE name`, read when it is parsed: which statement the name means, and what runs instead.
fn parse_deallocate(
    up: &mut Lane,
    h: Header,
    name: &[u8],
    what: Deallocated,
    c: &mut ClientProto,
    s: &mut ServerState,
    env: &Env<'_>,
) {
    let gives_up = what.0;
    if name.is_empty() {
        let body = [prepared::deallocate_text(prepared::STAND_IN).as_slice(), &[0, 0, 0]].concat();
        c.statements.unnamed_effects = Effects::default();
        c.statements.unnamed_deallocates = Some(gives_up);
        c.statements.unnamed_drops = true;
        c.statements.unnamed_sent(Some(&body));
        s.change_unnamed(Unnamed::Client { id: c.id, generation: c.statements.generation });
        up.discard(h.total);
        prepared::write_parse(up.insert(), b"", &body);
        c.stats.server_parses += 1;
        s.pipeline.sent(Expect::ParseUnnamed);
        return;
    }
    let stmt = env.interner.deallocation(&gives_up);
    up.discard(h.total);
    c.statements.insert(name, stmt.clone());
    s.change_names();
    hold(up, &stmt, c, s, env);
    stmt.write_parse(up.insert());
    c.stats.server_parses += 1;
    s.pipeline.sent(Expect::ParseNamed(Box::new((name.into(), stmt))));
}

/// Before the Bind of a text that deallocates a name of the client: there is something to drop if it has the name.
fn before_deallocate(up: &mut Lane, c: &mut ClientProto, s: &mut ServerState, name: Box<[u8]>) {
    if c.statements.get(&name).is_none() {
        prepared::write_close(up.insert(), prepared::STAND_IN);
        s.pipeline.sent(Expect::InjectedCloseUnnamed);
    } else {
        stand_in(up, s);
    }
    c.deallocating.push_back((name, None));
}

/// Makes the server fail here, with `error` for the client.
fn provoke(up: &mut Lane, total: usize, c: &mut ClientProto, s: &mut ServerState, error: Error) {
    up.discard(total);
    prepared::write_provoking_bind(up.insert());
    let message = encode::error_response(&report(&error));
    let body = message.get(frame::HEADER..).unwrap_or_default();
    s.pipeline.sent(Expect::Provoked(body.into()));
    c.words.tell(error);
}

/// The same in place of a simple Query.
fn refuse_query(up: &mut Lane, total: usize, c: &mut ClientProto, s: &mut ServerState, error: Error) {
    provoke(up, total, c, s, error);
    up.insert().extend_from_slice(encode::SYNC);
    s.pipeline.sent(Expect::Sync);
}

/// The server will have this statement; others make room for it. There are more than one where the limit was
/// lowered.
fn hold(up: &mut Lane, stmt: &Arc<Statement>, c: &mut ClientProto, s: &mut ServerState, env: &Env<'_>) {
    if s.statements_doubtful {
        // It may have another statement by this name. To close one that it has not is no error.
        prepared::write_close(up.insert(), &stmt.server_name);
        s.pipeline.sent(Expect::InjectedCloseUnnamed);
    }
    close_unshared(up, s);
    s.statements.insert(stmt.clone());
    while let Some(old) = s.statements.excess(env.max_server_statements, env.max_server_memory) {
        c.stats.statement_evictions += 1;
        prepared::write_close(up.insert(), &old.server_name);
        s.pipeline.sent(Expect::InjectedClose(old));
    }
}

/// Closes statements on the server that turned out to be copies of shared ones.
fn close_unshared(up: &mut Lane, s: &mut ServerState) {
    while let Some(one) = s.unshared.pop() {
        if let Some(stmt) = s.statements.remove(one.id) {
            prepared::write_close(up.insert(), &stmt.server_name);
            s.pipeline.sent(Expect::InjectedClose(stmt));
        }
    }
}

/// Puts a Parse ahead when the server lacks the statement. Returns whether the message that needs it can be sent: where the
/// tables may have changed since the client's own Parse, it waits until it is known that the columns have not.
fn ensure(
    up: &mut Lane,
    stmt: &Arc<Statement>,
    c: &mut ClientProto,
    s: &mut ServerState,
    env: &Env<'_>,
) -> bool {
    if matches!(s.check, Some(Check::Asked(_))) {
        s.stalled = Stalled::ByCheck;
        return false;
    }
    close_other(up, s);
    if s.statements.touch(stmt) {
        c.stats.statement_hits += 1;
        return true;
    }
    let is_checked = may_have_changed(stmt, c, s, env);
    let owed = s.pipeline.len();
    s.change_names();
    hold(up, stmt, c, s, env);
    stmt.write_parse(up.insert());
    c.stats.server_parses += 1;
    s.pipeline.sent(Expect::InjectedParse(stmt.clone()));
    if is_checked {
        let sent = env.interner.now();
        ask_for_description(up, Box::default(), stmt.clone(), sent, true, s);
        s.check = Some(Check::Asked(stmt.id));
        s.stalled = Stalled::ByCheck;
        s.unasked += s.pipeline.len().saturating_sub(owed);
    }
    !is_checked
}

/// Closes a statement that has other columns here than its client knows.
fn close_other(up: &mut Lane, s: &mut ServerState) {
    if let Some(Check::Other(stmt)) = s.check.take() {
        prepared::write_close(up.insert(), &stmt.server_name);
        s.pipeline.sent(Expect::InjectedClose(stmt));
    }
}

/// Whether a statement that is prepared here now may have other columns than its client has been told. What the client has
/// not yet used is new to it anyway, and what PgBouncer runs is run behind its configuration.
fn may_have_changed(stmt: &Statement, c: &ClientProto, s: &ServerState, env: &Env<'_>) -> bool {
    env.asks
        && stmt.is_described()
        && !stmt.marks_session
        && (s.changes_catalogue || !stmt.is_trusted(env.interner.now()))
        && c.statements.unseen(stmt.id).is_none()
        && !s.pipeline.wants_copy_data()
}

fn ask_for_description(
    up: &mut Lane,
    name: Box<[u8]>,
    fresh: Arc<Statement>,
    sent: prepared::Moment,
    is_check: bool,
    s: &mut ServerState,
) {
    prepared::write_describe(up.insert(), &fresh.server_name);
    let compared = Compared { name, fresh, sent, types: None, is_check };
    s.pipeline.sent(Expect::InjectedDescribe(Box::new(compared)));
}

/// Whether a client may hold a statement more, with a text of so many bytes.
fn room(c: &ClientProto, env: &Env<'_>, name: &[u8], text: usize) -> Result<(), Error> {
    let (held, size) = (c.statements.bytes(), ClientStatements::cost(name, text));
    if held + size > env.max_client_memory {
        return Err(Error::StatementMemory {
            held,
            count: c.statements.len(),
            size,
            limit: env.max_client_memory,
        });
    }
    let held = env.interner.memory().total();
    if held + size > env.max_memory {
        return Err(Error::StatementMemoryInAll { held, size, limit: env.max_memory });
    }
    Ok(())
}

fn parse(
    up: &mut Lane,
    h: Header,
    c: &mut ClientProto,
    s: &mut ServerState,
    env: &Env<'_>,
) -> Result<bool, Error> {
    let available = up.unscanned().len().min(h.total);
    let rest = up.unscanned().get(frame::HEADER..available).unwrap_or_default();
    let Some((name, _)) = frame::cstr(rest) else {
        return short(up, h, s, Expect::Malformed);
    };
    let unnamed = name.is_empty() || !env.share_statements;
    if h.total > env.max_statement {
        if !unnamed {
            let e = Error::StatementTooLarge { size: h.total, limit: env.max_statement };
            provoke(up, h.total, c, s, e);
            return Ok(true);
        }
        c.statements.unnamed_sent(None);
        c.statements.unnamed_effects = Effects::LONG;
        c.statements.unnamed_drops = false;
        if let Some(q) = env.queries {
            c.statements.unnamed_id = s.calls.long_parse(q, h.total);
        }
        return Ok(forward_unnamed_parse(up, h, c, s));
    }
    // A long message is not collected only to be refused.
    if !unnamed
        && h.total > LOOK
        && c.statements.get(name).is_none()
        && let Err(e) = room(c, env, name, h.total)
    {
        provoke(up, h.total, c, s, e);
        return Ok(true);
    }
    if !whole(up, h.total) {
        return Ok(false);
    }
    let rest = up.unscanned().get(frame::HEADER..h.total).unwrap_or_default();
    let names = frame::cstr(rest).and_then(|(n, b)| frame::cstr(b).map(|(text, _)| (n, b, text)));
    let Some((name, body, text)) = names else { return short(up, h, s, Expect::Malformed) };
    // A text that is to be shared is numbered when it is interned.
    let found = env.queries.filter(|_| unnamed).map(|q| s.calls.find(q, text));
    let classify = found.as_ref().map_or_else(|| sql::needs_look(text), |f| f.needs_look);
    let drops = sql::drops_statements(text, classify);
    if env.share_statements && (drops || !unnamed) {
        let means_a_name = !name.is_empty() || sql::deallocate_name(text).is_some();
        if means_a_name && awaits_drop(s) {
            return Ok(false);
        }
    }
    if unnamed {
        c.statements.unnamed_drops = drops;
    }
    if unnamed && c.statements.unnamed_deallocates.is_some() {
        c.statements.unnamed_deallocates = None;
    }
    if classify
        && env.share_statements
        && sql::deallocate_name(text).is_some()
        && s.must_wait(Stalled::ByNames)
    {
        return Ok(false);
    }
    if classify
        && env.share_statements
        && let Some(what) = deallocated(text, c)
        && c.statements.get(name).is_none()
        && c.statements.len() < env.max_client_statements
    {
        c.stats.client_parses += 1;
        let name = Box::<[u8]>::from(name);
        parse_deallocate(up, h, &name, what, c, s, env);
        return Ok(true);
    }
    if unnamed {
        c.stats.client_parses += 1;
        c.statements.unnamed_effects = if classify { effects_of(text, s, env) } else { Effects::default() };
        c.may_lead_back(text, c.statements.unnamed_effects);
        let kept = body.len() <= LOOK || room(c, env, b"", body.len()).is_ok();
        c.statements.unnamed_sent(kept.then_some(body));
        if let Some(found) = found {
            let id = s.calls.parse(&found, h.total);
            if name.is_empty() {
                c.statements.unnamed_id = id;
            } else {
                s.calls.name(name, id);
            }
        }
        if classify {
            let names = lend::named(text, c);
            lend::in_batch(up, names, s);
        }
        return Ok(forward_unnamed_parse(up, h, c, s));
    }
    if s.must_wait(Stalled::ByNames) {
        return Ok(false);
    }
    c.stats.client_parses += 1;
    let (name, body) = (Box::<[u8]>::from(name), Box::<[u8]>::from(body));
    // What an EXECUTE does depends on what is prepared when it runs.
    let marks = classify
        && frame::cstr(&body).is_some_and(|(text, _)| {
            effects_of(text, s, env) != Effects::default() || sql::executes(text) || sql::prepares(text)
        });
    named_parse(up, h, name, &body, marks, c, s, env);
    Ok(true)
}

fn forward_unnamed_parse(up: &mut Lane, h: Header, c: &mut ClientProto, s: &mut ServerState) -> bool {
    s.change_unnamed(Unnamed::Client { id: c.id, generation: c.statements.generation });
    c.stats.server_parses += 1;
    s.pipeline.sent(Expect::ParseUnnamed);
    up.forward(h.total);
    true
}

/// Where a client's text has its meaning; `view` is what is reported of the session that it runs in.
fn under<'a>(c: &'a ClientProto, view: &'a ParamSet, env: &Env<'a>) -> Under<'a> {
    let search_path = view.get("search_path").or_else(|| c.overrides.get("search_path"));
    Under { database: env.database, user: env.user, role: c.overrides.get("role"), search_path }
}

#[expect(clippy::too_many_arguments, reason = "one step of the scan, with its whole state")]
fn named_parse(
    up: &mut Lane,
    h: Header,
    name: Box<[u8]>,
    body: &[u8],
    marks: bool,
    c: &mut ClientProto,
    s: &mut ServerState,
    env: &Env<'_>,
) {
    if let Some(live) = c.statements.get(&name).cloned() {
        // The server refuses the second Parse of a name itself, after it has looked at the text.
        up.discard(h.total);
        if s.statements.touch(&live) {
            prepared::write_parse(up.insert(), &live.server_name, body);
        } else {
            // Under a name that it has for certain: the text of the one that it lacks may not be valid here.
            stand_in(up, s);
            prepared::write_parse(up.insert(), prepared::STAND_IN, body);
        }
        let fresh = env.interner.private(body, marks);
        s.pipeline.sent(Expect::ParseDuplicate(Box::new(Duplicate { name, live, fresh })));
        return;
    }
    if lend::may_be_prepared(&name, s) {
        lend::ask_for_name(up, &name, s);
    }
    if c.statements.len() >= env.max_client_statements {
        let e = Error::TooManyStatements { limit: env.max_client_statements };
        provoke(up, h.total, c, s, e);
        return;
    }
    if let Err(e) = room(c, env, &name, body.len()) {
        provoke(up, h.total, c, s, e);
        return;
    }
    let sent = env.interner.now();
    // What the names in a text stand for is this client's own.
    let text = frame::cstr(body).map_or(&b""[..], |(text, _)| text);
    let names = marks && sql::names_statements(text);
    let known = if names || is_own(c, s) {
        Known::New(env.interner.private(body, marks))
    } else {
        // In a transaction only the server may answer: an error that comes later would abort the transaction.
        // PgBouncer's profile answers there as well, as PgBouncer does.
        let as_pgbouncer = || !env.asks && s.pipeline.is_empty() && s.pipeline.status() != TxStatus::Failed;
        let answerable = s.pipeline.server_at_boundary() || as_pgbouncer();
        env.interner.look(body, &under(c, &s.view, env), marks, sent, answerable)
    };
    up.discard(h.total);
    s.change_names();
    let (stmt, compare) = match known {
        Known::Same(stmt) => {
            c.statements.insert_unseen(&name, stmt.clone());
            c.stats.statement_hits += 1;
            s.pipeline.sent(Expect::LocalParse(Box::new((name, stmt))));
            // For the server, the batch begins with the next message.
            keep_for_replay(up, c, s, env);
            return;
        }
        Known::New(stmt) => (stmt, false),
        Known::Again(stmt) => (stmt, true),
    };
    if names {
        lend::in_batch(up, lend::named(text, c), s);
    }
    c.statements.insert(&name, stmt.clone());
    hold(up, &stmt, c, s, env);
    stmt.write_parse(up.insert());
    c.stats.server_parses += 1;
    s.pipeline.sent(Expect::ParseNamed(Box::new((name.clone(), stmt.clone()))));
    if compare {
        ask_for_description(up, name, stmt, sent, false, s);
    }
}

/// Whether a text that is prepared now may have a meaning of its own in this session, because of temporary objects, or of
/// what the transaction has set or changed.
pub(super) fn is_own(c: &ClientProto, s: &ServerState) -> bool {
    c.set_in_transaction || c.effects.may_hold() || s.changes_catalogue || s.pinned.is_some()
}

/// What a Parse or Close of an idle client comes to when no server is needed for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Alone {
    /// Answered with this.
    Answered(&'static [u8]),
    NeedsServer,
    NeedMore,
}

/// A Parse of a text that a server has accepted before, or a Close of a name, of a client that has no server:
/// answered at once. Without it, a client that prepares would queue behind transactions that may be waiting for
/// that very client.
pub fn alone(up: &mut Lane, h: Header, c: &mut ClientProto, env: &Env<'_>) -> Result<Alone, Error> {
    // A client that has no server keeps at most so much of a message that has not come whole.
    if !env.share_statements || h.total > env.max_statement.min(LOOK) {
        return Ok(Alone::NeedsServer);
    }
    if !whole(up, h.total) {
        return Ok(Alone::NeedMore);
    }
    let rest = up.unscanned().get(frame::HEADER..h.total).unwrap_or_default();
    if h.tag == fe::CLOSE {
        let Some((name, _)) = rest.strip_prefix(b"S").and_then(frame::cstr) else {
            return Ok(Alone::NeedsServer);
        };
        if name.is_empty() || lend::is_prepared(&c.overrides, name) {
            return Ok(Alone::NeedsServer);
        }
        c.statements.remove(name);
        up.discard(h.total);
        return Ok(Alone::Answered(encode::CLOSE_COMPLETE));
    }
    let Some((name, body)) = frame::cstr(rest) else { return Ok(Alone::NeedsServer) };
    if name.is_empty() || c.statements.get(name).is_some() || c.statements.len() >= env.max_client_statements
    {
        return Ok(Alone::NeedsServer);
    }
    if room(c, env, name, body.len()).is_err() || lend::is_prepared(&c.overrides, name) {
        return Ok(Alone::NeedsServer);
    }
    let under = under(c, &c.view, env);
    // What a DEALLOCATE names is this client's own.
    let drops = frame::cstr(body).is_some_and(|(text, _)| sql::drops_statements(text, sql::needs_look(text)));
    let now = env.interner.now();
    let Some(stmt) = env.interner.trusted(body, &under, now).filter(|_| !drops) else {
        return Ok(Alone::NeedsServer);
    };
    c.statements.insert_unseen(name, stmt);
    c.stats.client_parses += 1;
    up.discard(h.total);
    Ok(Alone::Answered(encode::PARSE_COMPLETE))
}

/// A client that has said Terminate behind a batch without a Sync: what it was owed still comes, and nothing of
/// the batch is committed.
pub fn close_batch(up: &mut Lane, s: &mut ServerState) {
    if s.pipeline.sync_owed() {
        prepared::write_rollback_sync(up.insert());
        s.pipeline.sent(Expect::QuietProvoked);
        s.pipeline.sent(Expect::OwnSync);
    }
}

/// Asks the server where it stands, see [`crate::proto::pipeline::Pipeline::needs_probe`].
pub fn probe(up: &mut Lane, s: &mut ServerState) {
    if s.pipeline.needs_probe() && !up.mid_message() {
        up.insert().extend_from_slice(b"Q\0\0\0\x05\0");
        s.unnamed = Unnamed::Nobody;
        s.pipeline.sent(Expect::Probe { answered: false });
    }
}

/// A message whose name is not there: not yet, or never, and then the server says so.
fn short(up: &mut Lane, h: Header, s: &mut ServerState, e: Expect) -> Result<bool, Error> {
    let there = up.unscanned().len();
    if there >= h.total {
        s.pipeline.sent(e);
        up.forward(h.total);
        return Ok(true);
    }
    if there >= LOOK {
        return Err(violation(format!("name longer than {LOOK} bytes")));
    }
    up.reserve(h.total.min(LOOK));
    Ok(false)
}

/// The client's unnamed statement was too long to be kept, and this server has another one.
fn unnamed_is_gone(c: &ClientProto, s: &ServerState) -> bool {
    let mine = Unnamed::Client { id: c.id, generation: c.statements.generation };
    c.statements.unnamed_not_kept() && !c.statements.unnamed_pending() && s.unnamed != mine
}

fn not_kept(env: &Env<'_>) -> Error {
    Error::UnnamedNotKept { statement: env.max_statement, client: env.max_client_memory, all: env.max_memory }
}

/// Sees to it that the server's unnamed statement is this client's, or nobody's, and lends what it names.
fn ensure_unnamed(up: &mut Lane, c: &mut ClientProto, s: &mut ServerState) {
    if c.statements.unnamed_pending() {
        return;
    }
    if let Some((text, _)) = c.statements.unnamed().and_then(frame::cstr) {
        lend::in_batch(up, lend::named(text, c), s);
    }
    let mine = Unnamed::Client { id: c.id, generation: c.statements.generation };
    match c.statements.unnamed() {
        Some(_) if s.unnamed == mine => {}
        Some(body) if !body.is_empty() => {
            prepared::write_parse(up.insert(), b"", body);
            c.stats.server_parses += 1;
            s.pipeline.sent(Expect::InjectedUnnamed);
            s.change_unnamed(mine);
        }
        _ if s.unnamed == Unnamed::Nobody => {}
        _ => {
            prepared::write_close(up.insert(), b"");
            s.pipeline.sent(Expect::InjectedCloseUnnamed);
            s.change_unnamed(Unnamed::Nobody);
        }
    }
}

fn bind(
    up: &mut Lane,
    h: Header,
    c: &mut ClientProto,
    s: &mut ServerState,
    env: &Env<'_>,
) -> Result<bool, Error> {
    let available = up.unscanned().len().min(h.total);
    let rest = up.unscanned().get(frame::HEADER..available).unwrap_or_default();
    let Some((portal, after)) = frame::cstr(rest) else { return short(up, h, s, Expect::Malformed) };
    let Some((name, _)) = frame::cstr(after) else { return short(up, h, s, Expect::Malformed) };
    if env.share_statements {
        let means_a_name = !name.is_empty() || c.statements.unnamed_deallocates.is_some();
        let by = if means_a_name { Stalled::ByNames } else { Stalled::ByUnnamed };
        if (means_a_name && awaits_drop(s)) || awaits_failure(name, c, s) || s.must_wait(by) {
            return Ok(false);
        }
    }
    if name.is_empty() || !env.share_statements {
        if awaits_block(c.statements.unnamed_effects, s, env) {
            return Ok(false);
        }
        if let Some(e) = refused_pin(b"", c.statements.unnamed_effects, s, env) {
            provoke(up, h.total, c, s, e);
            return Ok(true);
        }
        c.effects.add(c.statements.unnamed_effects);
    }
    c.stats.binds += 1;
    if let Some(q) = env.queries
        && (name.is_empty() || !env.share_statements)
    {
        s.calls.bind_own(q, portal, name, c.statements.unnamed_id, h.total);
    }
    if !env.share_statements {
        s.pipeline.sent(Expect::Bind(0));
        up.forward(h.total);
        return Ok(true);
    }
    if name.is_empty() {
        if unnamed_is_gone(c, s) {
            provoke(up, h.total, c, s, not_kept(env));
            return Ok(true);
        }
        ensure_unnamed(up, c, s);
        if c.statements.unnamed_drops {
            bound_drop(s);
        }
        if let Some(name) = c.statements.unnamed_deallocates.clone() {
            before_deallocate(up, c, s, name);
        }
        s.pipeline.sent(Expect::Bind(0));
        up.forward(h.total);
        return Ok(true);
    }
    let Some(stmt) = c.statements.get(name).cloned() else {
        let ours = name.starts_with(SERVER_PREFIX).then(|| name.into());
        return Ok(unknown_statement(up, h, ours, Expect::Bind(0), s));
    };
    if stmt.marks_session {
        let text = stmt.text();
        let effects = if text.len() > LOOK { Effects::LONG } else { effects_of(text, s, env) };
        if awaits_block(effects, s, env) {
            c.stats.binds -= 1;
            return Ok(false);
        }
        if let Some(e) = refused_pin(text, effects, s, env) {
            provoke(up, h.total, c, s, e);
            return Ok(true);
        }
        c.effects.add(effects);
        c.may_lead_back(text, effects);
    }
    if is_stale(&stmt, s) {
        refuse_stale(up, h.total, s);
        return Ok(true);
    }
    let failed = is_refused(&stmt, s);
    let name_on_server = if failed { prepared::STAND_IN } else { &stmt.server_name };
    // Portal and statement names with their zero bytes.
    let (portal_len, names) = (portal.len(), portal.len() + name.len() + 2);
    let total = h.total - name.len() + name_on_server.len();
    let own_name: Box<[u8]> = if failed { name.into() } else { Box::default() };
    if total > env.max_message as usize {
        return Err(violation("Bind message too large to be renamed"));
    }
    let Ok(length) = u32::try_from(total - 1) else { return Err(violation("invalid Bind length")) };
    if stmt.marks_session && !failed {
        lend::in_batch(up, lend::named(stmt.text(), c), s);
    }
    if !failed && !ensure(up, &stmt, c, s, env) {
        c.stats.binds -= 1;
        return Ok(false);
    }
    if let Some(q) = env.queries {
        let portal = up.unscanned().get(frame::HEADER..frame::HEADER + portal_len).unwrap_or_default();
        s.calls.bind(q, portal, &stmt, h.total);
    }
    if failed {
        stand_in_for(up, &stmt, s);
    } else {
        if stmt.drops {
            bound_drop(s);
        }
        if let Some(name) = stmt.deallocates.clone() {
            before_deallocate(up, c, s, name);
        }
    }
    let (head, tail) = (frame::HEADER + names, h.total - frame::HEADER - names);
    up.replace_head(head, tail, |old, out| {
        out.push(fe::BIND);
        out.extend_from_slice(&length.to_be_bytes());
        out.extend_from_slice(old.get(frame::HEADER..=frame::HEADER + portal_len).unwrap_or_default());
        out.extend_from_slice(name_on_server);
        out.push(0);
    });
    s.pipeline.sent(if failed { Expect::Unknown(own_name) } else { Expect::Bind(stmt.id) });
    Ok(true)
}

/// The body of PostgreSQL's error for a statement whose columns have changed. Drivers know it by its routine, and prepare
/// the statement anew.
const STALE: &[u8] =
    b"SERROR\0VERROR\0C0A000\0Mcached plan must not change result type\0RRevalidateCachedQuery\0\0";

/// Whether a statement would be prepared here with its columns of today: on a connection of its own the client would
/// have it as it was, and PostgreSQL would refuse to run it.
fn is_stale(stmt: &Statement, s: &ServerState) -> bool {
    if let Some(Check::Other(other)) = &s.check {
        return other.id == stmt.id;
    }
    stmt.is_stale() && !s.statements.has(stmt.id) && s.pipeline.status() != TxStatus::Failed
}

fn refuse_stale(up: &mut Lane, total: usize, s: &mut ServerState) {
    up.discard(total);
    close_other(up, s);
    prepared::write_provoking_bind(up.insert());
    s.pipeline.sent(Expect::Provoked(STALE.into()));
}

/// A text was bound that may drop prepared statements: what comes behind its batch waits for it, and so does what deals
/// with names behind its Execute.
fn bound_drop(s: &mut ServerState) {
    s.barrier_at_sync = true;
    if s.drops == Drops::No {
        s.drops = Drops::Bound;
    }
}

/// Whether a transaction that has failed refuses the Parse that would have to go ahead of a message, whatever the message
/// itself comes to.
fn is_refused(stmt: &Statement, s: &ServerState) -> bool {
    let lacks =
        s.pipeline.is_empty() && s.pipeline.status() == TxStatus::Failed && !s.statements.has(stmt.id);
    lacks && !stmt.ends_failed()
}

/// In a transaction that has failed: an empty statement, which is still taken, with as many parameters as the one that
/// the server lacks. A Bind to it fails as one to that would.
fn stand_in_for(up: &mut Lane, stmt: &Statement, s: &mut ServerState) {
    let n = stmt.parameters();
    let mut body = vec![0];
    body.extend_from_slice(&n.to_be_bytes());
    for _ in 0..n {
        // Of type text.
        body.extend_from_slice(&25_u32.to_be_bytes());
    }
    stand_in_of(up, &body, s);
}

/// Prepares what stands in for a statement; `body` is what follows the name in a Parse message.
fn stand_in_of(up: &mut Lane, body: &[u8], s: &mut ServerState) {
    prepared::write_close(up.insert(), prepared::STAND_IN);
    s.pipeline.sent(Expect::InjectedCloseUnnamed);
    prepared::write_parse(up.insert(), prepared::STAND_IN, body);
    s.pipeline.sent(Expect::InjectedUnnamed);
}

/// A name that the client has not: the server answers for it, except where the name could be one of ours.
fn unknown_statement(
    up: &mut Lane,
    h: Header,
    ours: Option<Box<[u8]>>,
    e: Expect,
    s: &mut ServerState,
) -> bool {
    if let Some(name) = ours {
        up.discard(h.total);
        prepared::write_provoking_bind(up.insert());
        s.pipeline.sent(Expect::Unknown(name));
    } else {
        up.forward(h.total);
        s.pipeline.sent(e);
    }
    true
}

fn describe(
    up: &mut Lane,
    h: Header,
    c: &mut ClientProto,
    s: &mut ServerState,
    env: &Env<'_>,
) -> Result<bool, Error> {
    if !whole(up, h.total) {
        return Ok(false);
    }
    let rest = up.unscanned().get(frame::HEADER..h.total).unwrap_or_default();
    let (Some(b'S'), true) = (rest.first(), env.share_statements) else {
        s.pipeline.sent(Expect::Describe(0));
        up.forward(h.total);
        return Ok(true);
    };
    let Some((name, _)) = rest.get(1..).and_then(frame::cstr) else {
        return short(up, h, s, Expect::Malformed);
    };
    let named = !name.is_empty();
    let by = if named { Stalled::ByNames } else { Stalled::ByUnnamed };
    if (named && awaits_drop(s)) || awaits_failure(name, c, s) || s.must_wait(by) {
        return Ok(false);
    }
    if name.is_empty() {
        if unnamed_is_gone(c, s) {
            provoke(up, h.total, c, s, not_kept(env));
            return Ok(true);
        }
        ensure_unnamed(up, c, s);
        s.pipeline.sent(Expect::Describe(0));
        up.forward(h.total);
        return Ok(true);
    }
    let Some(stmt) = c.statements.get(name).cloned() else {
        let ours = name.starts_with(SERVER_PREFIX).then(|| name.into());
        return Ok(unknown_statement(up, h, ours, Expect::Describe(0), s));
    };
    if is_stale(&stmt, s) {
        refuse_stale(up, h.total, s);
        return Ok(true);
    }
    if is_refused(&stmt, s)
        && let Some(types) = stmt.described_without_rows()
    {
        up.discard(h.total);
        stand_in_of(up, &[&[0], types].concat(), s);
        prepared::write_describe(up.insert(), prepared::STAND_IN);
        s.pipeline.sent(Expect::Describe(0));
        return Ok(true);
    }
    if stmt.marks_session {
        lend::in_batch(up, lend::named(stmt.text(), c), s);
    }
    if !ensure(up, &stmt, c, s, env) {
        return Ok(false);
    }
    up.discard(h.total);
    prepared::write_describe(up.insert(), &stmt.server_name);
    s.pipeline.sent(Expect::Describe(stmt.id));
    Ok(true)
}

fn close(
    up: &mut Lane,
    h: Header,
    c: &mut ClientProto,
    s: &mut ServerState,
    env: &Env<'_>,
) -> Result<bool, Error> {
    if !whole(up, h.total) {
        return Ok(false);
    }
    let rest = up.unscanned().get(frame::HEADER..h.total).unwrap_or_default();
    let (Some(b'S'), true) = (rest.first(), env.share_statements) else {
        s.pipeline.sent(Expect::ClosePortal);
        up.forward(h.total);
        return Ok(true);
    };
    let Some((name, _)) = rest.get(1..).and_then(frame::cstr) else {
        return short(up, h, s, Expect::Malformed);
    };
    if name.is_empty() {
        c.statements.drop_sent();
        s.change_unnamed(Unnamed::Nobody);
        s.pipeline.sent(Expect::CloseUnnamed);
        up.forward(h.total);
        return Ok(true);
    }
    if awaits_drop(s) || s.must_wait(Stalled::ByNames) {
        return Ok(false);
    }
    if c.statements.get(name).is_none() && !name.starts_with(SERVER_PREFIX) && lend::may_be_prepared(name, s)
    {
        // A statement of PREPARE, whose end the server is asked about.
        c.effects.add(Effects::HIDDEN);
        s.pipeline.sent(Expect::ClosePortal);
        up.forward(h.total);
        return Ok(true);
    }
    s.change_names();
    let name = Box::<[u8]>::from(name);
    lend::forget(up, &name, s);
    // The statement itself stays on the server, where other clients use it.
    let gone = c.statements.remove(&name).map(Box::new);
    up.discard(h.total);
    s.pipeline.sent(Expect::LocalClose(gone));
    Ok(true)
}
