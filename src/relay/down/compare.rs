//! Compares a statement that a server has just parsed with the one that is shared for the same text; no I/O.

use super::WHOLE;
use crate::net::lane::Lane;
use crate::proto::frame::{self, Header, be};
use crate::proto::pipeline::Expect;
use crate::proto::prepared::Shape;
use crate::relay::state::{ClientProto, Env, ServerState};
use crate::relay::up::is_own;
use crate::relay::waits::Check;

/// What becomes of a ParameterDescription.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Parameters {
    Pass,
    /// What follows decides, and has not come.
    Wait,
    /// An error follows, and the batch will be sent again.
    Drop,
}

/// A server may describe a statement's parameters and then refuse to describe its columns. If Howdah has answered the Parse
/// itself, it sends the batch again, and the client must get the parameters only once.
pub(super) fn parameters(down: &Lane, h: Header, c: &ClientProto, s: &ServerState) -> Parameters {
    let Some(Expect::Describe(id)) = s.pipeline.front() else { return Parameters::Pass };
    let is_retried = h.tag == be::PARAMETER_DESCRIPTION
        && h.total <= WHOLE
        && !c.replay.is_empty()
        && c.statements.unseen(*id).is_some()
        && (s.pipeline.is_last_batch() || s.pipeline.len() == 1);
    match down.unscanned().get(h.total) {
        _ if !is_retried => Parameters::Pass,
        None => Parameters::Wait,
        Some(&be::ERROR) => Parameters::Drop,
        Some(_) => Parameters::Pass,
    }
}

/// Keeps what a server says of a statement when a client first asks: other servers are held to it. Returns false if it needs
/// more bytes.
pub(super) fn learn(down: &mut Lane, h: Header, c: &ClientProto, s: &mut ServerState, env: &Env<'_>) -> bool {
    // A portal, and an unnamed statement, have no number.
    let Some(&Expect::Describe(id @ 1..)) = s.pipeline.front() else { return true };
    let Some(stmt) = s.statements.get(id).filter(|stmt| !stmt.is_described()) else { return true };
    // PgBouncer knows nothing of descriptions: behind its configuration a Parse is repeated as its client has sent it.
    if !env.asks || h.total > WHOLE || is_own(c, s) {
        return true;
    }
    let Some(body) = down.unscanned().get(frame::HEADER..h.total) else {
        down.reserve(h.total);
        return false;
    };
    if h.tag == be::PARAMETER_DESCRIPTION {
        s.described = Some((id, body.into()));
        return true;
    }
    let columns = if h.tag == be::NO_DATA { 0 } else { env.interner.hash_of(body) };
    if let Some((_, types)) = s.described.take().filter(|(of, _)| *of == id) {
        stmt.learn(Shape::new(types, Some(columns)));
    }
    true
}

/// Reads the server's description of a text that was parsed again. Returns false if it needs more bytes.
pub(super) fn compare(
    down: &mut Lane,
    h: Header,
    c: &mut ClientProto,
    s: &mut ServerState,
    env: &Env<'_>,
) -> bool {
    let short = h.total <= WHOLE;
    if short && down.unscanned().len() < h.total {
        down.reserve(h.total);
        return false;
    }
    let is_own = is_own(c, s);
    let Some(compared) = s.pipeline.compared() else { return true };
    let body = down.unscanned().get(frame::HEADER..h.total).filter(|_| short);
    if h.tag == be::PARAMETER_DESCRIPTION {
        compared.types = body.map(Into::into);
        return true;
    }
    let columns = if h.tag == be::NO_DATA { Some(0) } else { body.map(|b| env.interner.hash_of(b)) };
    if compared.is_check {
        let stmt = compared.fresh.clone();
        s.check = stmt.had_other_columns(columns).then(|| {
            s.statements.remove(stmt.id);
            Check::Other(stmt)
        });
        return true;
    }
    let (Some(types), false) = (compared.types.take(), is_own) else { return true };
    let shared = env.interner.settle(&compared.fresh, Shape::new(types, columns), compared.sent);
    if shared.id != compared.fresh.id {
        c.statements.rename(&compared.name, &compared.fresh, shared);
        s.unshared.push(compared.fresh.clone());
    }
    true
}
