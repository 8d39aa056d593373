//! Compares a statement that a server has just parsed with the one that is shared for the same text; no I/O.

use super::WHOLE;
use crate::net::lane::Lane;
use crate::proto::frame::{self, Header, be};
use crate::proto::pipeline::Expect;
use crate::proto::prepared::Shape;
use crate::relay::state::{ClientProto, Env, ServerState};
use crate::relay::up::is_own;

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
    let is_retried = h.total <= WHOLE
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
    let (Some(types), false) = (compared.types.take(), is_own) else { return true };
    let shared = env.interner.settle(&compared.fresh, Shape::new(types, columns), compared.sent);
    if shared.id != compared.fresh.id {
        c.statements.rename(&compared.name, &compared.fresh, shared);
        s.unshared.push(compared.fresh.clone());
    }
    true
}
