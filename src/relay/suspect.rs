//! What a client's text may leave in its session, before it is sent; no I/O.

use crate::error::Error;
use crate::proto::holdings;
use crate::proto::pipeline::TxStatus;
use crate::proto::sql::{self, TextEffects as Effects};
use crate::relay::state::{Env, ServerState};
use crate::relay::waits::Stalled;
use crate::session_state::{Kind, Way};

/// What a statement's text does beyond what its completion tag tells.
pub(super) fn effects_of(text: &[u8], s: &mut ServerState, env: &Env<'_>) -> Effects {
    let mut effects =
        sql::effects(text, &|name| std::str::from_utf8(name).is_ok_and(|n| s.view.get(n).is_some()));
    if env.asks && sql::executes(text) {
        effects.add(effects_of_prepared(s));
    }
    if env.asks && (effects.has(Effects::SESSION_SET) || effects.has(Effects::HIDDEN)) {
        s.doubt_named(text);
    }
    effects
}

/// What an EXECUTE may do: what is hidden in the statements of PREPARE that the connection has.
fn effects_of_prepared(s: &mut ServerState) -> Effects {
    let mut effects = Effects::NONE;
    let applied = s.applied.clone();
    for (_, text) in applied.iter().filter(|(name, _)| holdings::is_prepared(name)) {
        let does = sql::effects(text, &|_| false);
        if does.may_hold() {
            effects.add(Effects::HIDDEN);
            effects.add_if(does.has(Effects::NAMELESS), Effects::NAMELESS);
            s.doubt_named(text);
        }
    }
    // Its text is not known.
    let kept = s.pinned.as_ref().is_some_and(|p| p.kinds.contains(&Kind::Statement));
    effects.add_if(kept, Effects::HIDDEN);
    effects
}

/// Whether a text runs in a transaction block, or begins one.
fn in_block(text: &[u8], s: &ServerState) -> bool {
    s.pipeline.status() == TxStatus::InTransaction || sql::begins_block(text)
}

/// Whether to wait for answers before refusing a statement. Where no client may keep a connection, a statement in a
/// transaction block is allowed, and its BEGIN may not be answered yet.
pub(super) fn awaits_block(effects: Effects, s: &mut ServerState, env: &Env<'_>) -> bool {
    let matters = env.asks && effects.would_pin() && s.pinned.is_none() && env.pins.is_closed();
    matters && s.pipeline.status() == TxStatus::Idle && s.must_wait(Stalled::ByFailure)
}

/// The error for state whose way is `reject`.
fn rejected(text: &[u8], effects: Effects, env: &Env<'_>) -> Option<Error> {
    let mut kinds = if effects.would_pin() { effects.pinning() } else { Vec::new() };
    kinds.retain(|k| env.ways.of(*k) == Way::Reject);
    if env.ways.statements == Way::Reject && sql::prepares(text) {
        kinds.push(Kind::Statement);
    }
    (!kinds.is_empty()).then_some(Error::SessionStateRejected { kinds })
}

/// Takes a pin for a statement that would keep the connection with its client, and says why it is refused before it runs
/// where there is none.
pub(super) fn refused_pin(
    text: &[u8],
    effects: Effects,
    s: &mut ServerState,
    env: &Env<'_>,
) -> Option<Error> {
    if !env.asks {
        return None;
    }
    if let Some(refused) = rejected(text, effects, env) {
        return Some(refused);
    }
    if !effects.would_pin() || s.pinned.is_some() || s.reserved.is_some() {
        return None;
    }
    let kinds: Vec<Kind> = effects.pinning().into_iter().filter(|k| env.ways.of(*k) == Way::Pin).collect();
    if kinds.is_empty() {
        return None;
    }
    match env.pins.take() {
        Ok(taken) => {
            s.reserved = Some(taken);
            None
        }
        // Where nobody may keep a connection, what a transaction block makes can still be gone at its end.
        Err(none) if none.bound == 0 && in_block(text, s) => None,
        Err(none) => Some(Error::NoPinLeft { kinds, taken: none.taken, bound: none.bound }),
    }
}
