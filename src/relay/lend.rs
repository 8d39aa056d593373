//! Statements of the protocol that SQL calls by their names, and the other way round; no I/O.
//!
//! In PostgreSQL a Parse and a PREPARE share one namespace. On a server connection a client's Parse has a name of
//! Howdah's. So where a text says EXECUTE or PREPARE with the name of such a statement, the server is *lent* the
//! statement under its client's own name, for as long as the text runs. If a batch ends in another way than by a Sync or a
//! Query, the connection is repaired before another client gets it. Where a Parse or Close is about a name that
//! PREPARE may have taken, the server is asked.

use std::sync::Arc;

use super::state::{ClientProto, ServerState};
use crate::net::lane::Lane;
use crate::proto::encode;
use crate::proto::holdings;
use crate::proto::params::ParamSet;
use crate::proto::pipeline::Expect;
use crate::proto::prepared::{self, SERVER_PREFIX, Statement};
use crate::proto::sql;

/// A body of a Parse message with an empty text and no parameters.
const EMPTY: &[u8] = &[0, 0, 0];

/// A client's own name that a server has, and the number of the statement that it means there.
pub type Lent = (Box<[u8]>, u64);

/// No statement has this number.
const NOTHING: u64 = 0;

/// The client's statements of the protocol that a text names. A COPY from the client would take what is sent after it
/// for its data, so a text with one gets none.
pub(super) fn named(text: &[u8], c: &ClientProto) -> Vec<(Box<[u8]>, Arc<Statement>)> {
    if c.statements.is_empty() || !sql::names_statements(text) || sql::may_copy(text) {
        return Vec::new();
    }
    let names = sql::statement_names(text).into_iter().filter(|name| !name.starts_with(SERVER_PREFIX));
    let known =
        names.filter_map(|name| c.statements.get(&name).cloned().map(|s| (name.into_boxed_slice(), s)));
    known.filter(|(_, stmt)| !sql::may_copy(stmt.text())).collect()
}

/// Lends what a Query names. An error of a statement that cannot be prepared any more is not told: the Query finds that it
/// is not there. Everything before it is answered; within a batch nothing is lent.
pub(super) fn before_query(up: &mut Lane, names: Vec<(Box<[u8]>, Arc<Statement>)>, s: &mut ServerState) {
    if names.is_empty() || s.pipeline.in_batch() {
        return;
    }
    for (name, stmt) in names {
        prepared::write_parse(up.insert(), &name, &stmt.body);
        s.pipeline.sent(Expect::QuietParse);
        s.lent.push((name, stmt.id));
    }
    sync(up.insert(), s);
}

/// Lends what a text names that runs in a batch; it is taken back after the batch's Sync.
pub(super) fn in_batch(up: &mut Lane, names: Vec<(Box<[u8]>, Arc<Statement>)>, s: &mut ServerState) {
    for (name, stmt) in names {
        if s.lent.iter().any(|(lent, id)| *lent == name && *id == stmt.id) {
            continue;
        }
        // The client may have given its name to another statement meanwhile.
        forget(up, &name, s);
        prepared::write_parse(up.insert(), &name, &stmt.body);
        s.pipeline.sent(Expect::InjectedUnnamed);
        s.lent.push((name, stmt.id));
    }
}

/// The client's name does not mean what was lent under it any more. An error before it may have the server skip this, so
/// that the name stays among those that are taken back.
pub(super) fn forget(up: &mut Lane, name: &[u8], s: &mut ServerState) {
    let mut is_lent = false;
    for (_, id) in s.lent.iter_mut().filter(|(lent, _)| **lent == *name) {
        (is_lent, *id) = (true, NOTHING);
    }
    if is_lent {
        close(up.insert(), name, s);
    }
}

/// Takes everything back. Nothing before it may fail: the server would skip it.
pub fn take_back(out: &mut Vec<u8>, s: &mut ServerState) {
    for (name, _) in std::mem::take(&mut s.lent) {
        close(out, &name, s);
    }
}

/// The same after a Query or a Sync. A COPY that waits for data takes it for that: then the next Sync does it.
pub fn take_back_after(out: &mut Vec<u8>, s: &mut ServerState) {
    if !s.pipeline.wants_copy_data() {
        take_back(out, s);
        sync(out, s);
    }
}

fn close(out: &mut Vec<u8>, name: &[u8], s: &mut ServerState) {
    prepared::write_close(out, name);
    s.pipeline.sent(Expect::InjectedCloseUnnamed);
}

fn sync(out: &mut Vec<u8>, s: &mut ServerState) {
    out.extend_from_slice(encode::SYNC);
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
    close(up.insert(), name, s);
}
