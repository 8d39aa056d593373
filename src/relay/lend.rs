//! Statements of the protocol that SQL calls by their names, and the other way round; no I/O.
//!
//! In PostgreSQL a Parse and a PREPARE share one namespace. On a server connection a client's Parse has a name of
//! Howdah's. So where a text says EXECUTE or PREPARE with the name of such a statement, the server is *lent* the
//! statement under its client's own name, for as long as the text runs. Where a Parse or Close is about a name that
//! PREPARE may have taken, the server is asked.

use super::state::{ClientProto, ServerState};
use super::waits::Stalled;
use crate::net::lane::Lane;
use crate::proto::encode;
use crate::proto::holdings;
use crate::proto::params::ParamSet;
use crate::proto::pipeline::Expect;
use crate::proto::prepared::{self, SERVER_PREFIX, Statement};
use crate::proto::sql;

/// A body of a Parse message with an empty text and no parameters.
const EMPTY: &[u8] = &[0, 0, 0];

/// The client's statements of the protocol that a text names. A COPY from the client would take what is sent behind it
/// for its data, so a text with one gets none.
fn named(text: &[u8], c: &ClientProto, s: &ServerState) -> Vec<Box<[u8]>> {
    if c.statements.is_empty() || !sql::names_statements(text) || sql::may_copy(text) {
        return Vec::new();
    }
    let can_be = |name: &Vec<u8>| {
        let stmt = c.statements.get(name);
        let lent = || s.lent.iter().any(|l| **l == **name);
        stmt.is_some_and(|stmt| !sql::may_copy(stmt.text())) && !name.starts_with(SERVER_PREFIX) && !lent()
    };
    sql::statement_names(text).into_iter().filter(can_be).map(Vec::into_boxed_slice).collect()
}

/// Whether a Query must wait for what is in flight before its statements can be lent.
pub(super) fn query_must_wait(text: &[u8], c: &ClientProto, s: &mut ServerState) -> bool {
    !s.pipeline.is_empty() && !named(text, c, s).is_empty() && s.must_wait(Stalled::ByFailure)
}

/// Lends what a Query names. An error of a statement that cannot be prepared any more is not told: the Query finds that it
/// is not there.
pub(super) fn before_query(up: &mut Lane, text: &[u8], c: &ClientProto, s: &mut ServerState) -> Lent {
    if s.pipeline.sync_owed() {
        return Lent(Vec::new());
    }
    let names = named(text, c, s);
    for name in &names {
        let Some(stmt) = c.statements.get(name) else { continue };
        write(up, name, stmt);
        s.pipeline.sent(Expect::QuietParse);
    }
    if !names.is_empty() {
        sync(up, s);
    }
    Lent(names)
}

/// What a Query was lent.
#[must_use]
pub(super) struct Lent(Vec<Box<[u8]>>);

impl Lent {
    /// Takes it back behind the Query.
    pub(super) fn take_back(self, up: &mut Lane, s: &mut ServerState) {
        close(up, s, &self.0);
    }
}

/// Lends what a text names that runs in a batch; it is taken back behind the batch's Sync.
pub(super) fn in_batch(up: &mut Lane, text: &[u8], c: &ClientProto, s: &mut ServerState) {
    for name in named(text, c, s) {
        let Some(stmt) = c.statements.get(&name) else { continue };
        write(up, &name, stmt);
        s.pipeline.sent(Expect::InjectedUnnamed);
        s.lent.push(name);
    }
}

/// Behind the Sync of a batch.
#[inline]
pub(super) fn after_sync(up: &mut Lane, s: &mut ServerState) {
    if !s.lent.is_empty() {
        let names = std::mem::take(&mut s.lent);
        close(up, s, &names);
    }
}

fn write(up: &mut Lane, name: &[u8], stmt: &Statement) {
    prepared::write_parse(up.insert(), name, &stmt.body);
}

fn close(up: &mut Lane, s: &mut ServerState, names: &[Box<[u8]>]) {
    for name in names {
        prepared::write_close(up.insert(), name);
        s.pipeline.sent(Expect::InjectedCloseUnnamed);
    }
    if !names.is_empty() {
        sync(up, s);
    }
}

fn sync(up: &mut Lane, s: &mut ServerState) {
    up.insert().extend_from_slice(encode::SYNC);
    s.pipeline.sent(Expect::OwnSync);
}

/// Whether PREPARE has taken a name, as far as the parameters of a session tell.
pub(super) fn is_prepared(session: &ParamSet, name: &[u8]) -> bool {
    !session.is_empty() && session.get(&holdings::prepared_key(name)).is_some()
}

/// The same, or whether it may have done so in the transaction under way.
pub(super) fn may_be_prepared(name: &[u8], s: &ServerState) -> bool {
    s.marked == Some("PREPARE") || is_prepared(&s.applied, name)
}

/// Has the server refuse a Parse whose name PREPARE has taken: an empty statement by that name, which is closed at once
/// where it is not refused.
pub(super) fn ask_for_name(up: &mut Lane, name: &[u8], s: &mut ServerState) {
    if name.starts_with(SERVER_PREFIX) {
        return;
    }
    prepared::write_parse(up.insert(), name, EMPTY);
    s.pipeline.sent(Expect::InjectedUnnamed);
    prepared::write_close(up.insert(), name);
    s.pipeline.sent(Expect::InjectedCloseUnnamed);
}
