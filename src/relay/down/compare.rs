//! What a server says of a statement that is prepared although others have prepared its text before; no I/O.

use super::WHOLE;
use crate::net::lane::Lane;
use crate::proto::frame::{self, Header, be};
use crate::proto::pipeline::{Compared, Expect};
use crate::proto::prepared::Shape;
use crate::relay::state::{ClientProto, Env, ServerState};
use crate::relay::up::is_own;

/// Whether a server describes the parameters of a statement whose Parse was answered from what others have, and the batch
/// can be sent again if it refuses the rest.
pub(super) fn of_unseen(h: Header, c: &ClientProto, s: &ServerState) -> bool {
    let Some(Expect::Describe(id)) = s.pipeline.front() else { return false };
    h.total <= WHOLE
        && !c.replay.is_empty()
        && c.statements.is_unseen(*id)
        && (s.pipeline.is_last_batch() || s.pipeline.len() == 1)
}

/// A server describes a text that was parsed before and is parsed anew; `false` asks for more bytes.
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
    let Some(compared) = s.pipeline.compared() else { return true };
    let body = down.unscanned().get(frame::HEADER..h.total).filter(|_| short);
    if h.tag == be::PARAMETER_DESCRIPTION {
        compared.types = body.map(Into::into);
        return true;
    }
    let columns = if h.tag == be::NO_DATA { Some(0) } else { body.map(|b| env.interner.hash_of(b)) };
    let (Some(types), false) = (compared.types.take(), is_own(c, s)) else { return true };
    let Some(Compared { name, fresh, sent, .. }) = s.pipeline.compared().cloned() else { return true };
    let shared = env.interner.settle(&fresh, Shape::new(types, columns), sent);
    if shared.id != fresh.id {
        c.statements.rename(&name, &fresh, shared);
        s.unshared.push(fresh);
    }
    true
}
