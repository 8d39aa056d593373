//! Brings a server's parameters to what its next client wants, before the client's first message is sent: a
//! statement must never run under somebody else's settings. What that takes, and what a transaction has left behind,
//! is decided in [`crate::proto::session`]; here it is said to the server.

use std::sync::Arc;
use std::time::Duration;

use crate::clients::handle::ClientCtl;
use crate::error::ServerError;
use crate::net::lane::Lane;
use crate::proto::encode;
use crate::proto::holdings::{self, Holdings, Rules};
use crate::proto::params::ParamSet;
use crate::proto::session::{self, Outcome, ParamChange, Scope};
use crate::proto::sql::TextEffects;
use crate::relay::broken::Broken;
use crate::relay::state::{Absent, ClientProto, DISCARDED, ServerState};
use crate::server::conn::ServerConn;
use crate::server::questions::{ask_everything, ask_session, change};
use crate::session_state::Way;
use crate::shared::Shared;

/// The usual case: the server is as this client left it, or as one like it did.
#[inline]
pub(super) fn in_step(c: &ClientProto, conn: &ServerConn) -> bool {
    Arc::ptr_eq(&conn.state.applied, &c.overrides) && Arc::ptr_eq(&conn.state.view, &c.view)
}

/// The first parameter that the server refused, with its words.
#[derive(Debug)]
pub(super) struct Refused(pub ServerError);

/// Sets and resets what differs; tells the client what it sees changed. What the server refuses is no longer
/// asked for.
pub(super) async fn bring_into_step(
    shared: &Shared,
    ctl: &ClientCtl,
    c: &mut ClientProto,
    conn: &mut ServerConn,
    down: &mut Lane,
    limit: Duration,
) -> Result<Option<Refused>, Broken> {
    let nothing = shared.nothing.clone();
    conn.state.heard.clear();
    let done = apply(shared, ctl, c, conn, &nothing, limit).await?;
    if conn.state.pinned.is_some() && !conn.state.heard.is_empty() {
        down.insert().append(&mut conn.state.heard);
    }
    tell(c, &conn.state.view, down);
    Ok(done.refused)
}

/// What came of a login's parameters.
#[derive(Debug, Default)]
pub(super) struct Applied {
    pub refused: Option<Refused>,
    /// What the server said about each of `raw`: NoticeResponses, for whoever asks for the same value.
    pub notices: Vec<(String, Vec<u8>)>,
}

/// The same without telling the client. Values of `raw` are as the client's startup packet spells them.
pub(super) async fn apply(
    shared: &Shared,
    ctl: &ClientCtl,
    c: &mut ClientProto,
    conn: &mut ServerConn,
    raw: &ParamSet,
    limit: Duration,
) -> Result<Applied, Broken> {
    let list = session::changes(&conn.state.standing(), &c.overrides, raw);
    let mut done = Applied::default();
    let mut overrides = (*c.overrides).clone();
    conn.state.absent.clear();
    if !list.is_empty() {
        shared.counters.count("parameter_syncs_total", "");
        let answers = match tokio::time::timeout(limit, change(conn, &list)).await {
            Ok(r) => r?,
            Err(_) => return Err("parameter_timeout".into()),
        };
        let mut ended: Vec<Outcome> = Vec::new();
        for (change, a) in list.iter().zip(answers) {
            if raw.get(&change.name).is_some() && !a.notices.is_empty() {
                done.notices.push((change.name.clone(), a.notices.clone()));
            }
            let Some(e) = a.error else {
                ended.push(Some(a.last_value()?));
                continue;
            };
            ended.push(None);
            shared.counters.count("parameter_refused_total", "");
            if holdings::is_prepared(&change.name) {
                // A table that is gone, say. On a connection of its own that shows when it is used, and is mended when
                // the table is there again.
                if !change.undoes {
                    let key = change.name.clone();
                    conn.state.absent.push(Absent { key, refusal: e.without(b'P').into() });
                }
                continue;
            }
            if !change.undoes && e.sqlstate() != b"57014" {
                overrides.remove(&change.name);
                drop_named(shared, c, &change.name);
            }
            done.refused.get_or_insert(Refused(e));
        }
        note_defaults(&mut conn.state, &list, &ended);
        // The server may spell a value otherwise; its spelling is the one to compare with from now on.
        let (applied, doubtful) = session::after(&conn.state.standing(), &list, &ended);
        for (name, _) in (*c.overrides).iter() {
            if let (Some(_), Some(now)) = (overrides.get(name), applied.get(name)) {
                overrides.set(name, now);
            }
        }
        stand(shared, conn, applied, doubtful);
    } else if !conn.state.doubtful.is_empty() || !Arc::ptr_eq(&conn.state.applied, &c.overrides) {
        let (applied, doubtful) = session::after(&conn.state.standing(), &[], &[]);
        stand(shared, conn, applied, doubtful);
    }
    conn.state.view_changed = false;
    adopt(shared, ctl, c, conn, overrides);
    Ok(done)
}

/// Puts what is known of a connection into force.
fn stand(shared: &Shared, conn: &mut ServerConn, applied: ParamSet, doubtful: Vec<Box<str>>) {
    // Where something is in doubt, it is no set that a client could have.
    conn.state.applied = if doubtful.is_empty() { shared.params.intern(applied) } else { Arc::new(applied) };
    conn.state.doubtful = doubtful;
}

/// What the server has refused is not asked for again, nor returned to.
fn drop_named(shared: &Shared, c: &mut ClientProto, name: &str) {
    if c.named.get(name).is_some() {
        let mut named = (*c.named).clone();
        named.remove(name);
        c.named = shared.params.intern(named);
    }
}

/// What a RESET led to is the server's default now, whatever it was at its login.
fn note_defaults(s: &mut ServerState, list: &[ParamChange], ended: &[Outcome]) {
    let reset = list.iter().zip(ended).filter(|(c, e)| c.value.is_none() && e.is_some());
    for (change, _) in reset {
        if let Some(now) = s.view.get(&change.name)
            && s.defaults.get(&change.name) != Some(now)
        {
            let mut d = (*s.defaults).clone();
            d.set(&change.name, now);
            s.new_defaults(Arc::new(d));
        }
    }
}

fn adopt(shared: &Shared, ctl: &ClientCtl, c: &mut ClientProto, conn: &mut ServerConn, overrides: ParamSet) {
    c.overrides = shared.params.intern(overrides);
    let s = &mut conn.state;
    s.view = shared.params.intern((*s.view).clone());
    let name = c.overrides.get("application_name").or_else(|| s.view.get("application_name"));
    if let Some(name) = name
        && c.view.get("application_name") != Some(name)
    {
        ctl.set_application_name(&String::from_utf8_lossy(name));
    }
}

/// ParameterStatus for everything that the client has seen otherwise.
fn tell(c: &mut ClientProto, view: &Arc<ParamSet>, down: &mut Lane) {
    if Arc::ptr_eq(&c.view, view) {
        return;
    }
    for (name, value) in view.iter() {
        if c.view.get(name) != Some(value) {
            encode::write_parameter_status(down.insert(), name, value);
        }
    }
    c.view = view.clone();
}

/// Whether the server must be asked what a transaction has left: a text that may set or reset what the server reports
/// was answered SET or RESET, or the server reports what nobody accounts for. What is set behind a DISCARD ALL is the
/// client's over what it named at its login. Where `rules` say that it is asked what the session holds, any trace of
/// something that it may hold is enough.
pub(super) fn in_doubt(c: &ClientProto, s: &ServerState, rules: &Rules) -> bool {
    if rules.asks && may_hold(c, s, rules) {
        return true;
    }
    if c.discarded {
        return c.set_in_transaction
            || !s.pool_set.is_empty()
            || s.standing().is_unexplained(&ParamSet::default());
    }
    (c.set_in_transaction && c.effects.has(TextEffects::REPORTED_SET))
        || (s.view_changed && s.standing().is_unexplained(&c.overrides))
}

/// Whether the session may hold what the server does not report.
#[inline]
fn may_hold(c: &ClientProto, s: &ServerState, rules: &Rules) -> bool {
    c.effects.may_hold() || s.marked.is_some_and(|m| m != DISCARDED) || !s.doubtful.is_empty() || rules.always
}

/// Asks the server what a transaction has left, and takes it in. Returns what the session holds besides, where the
/// `rules` say that it is asked.
pub(super) async fn attribute(
    shared: &Shared,
    ctl: &ClientCtl,
    c: &mut ClientProto,
    conn: &mut ServerConn,
    down: &mut Lane,
    limit: Duration,
    rules: &Rules,
) -> Result<Holdings, Broken> {
    shared.counters.count("parameter_sources_asked_total", "");
    conn.state.heard.clear();
    // What keeps the connection with its client is there until the server says that it is gone.
    let holds = rules.asks && (conn.state.pinned.is_some() || may_hold(c, &conn.state, rules));
    let asked = async {
        if holds {
            return ask_everything(conn, rules.ways.statements == Way::Follow).await;
        }
        let mut set = ask_session(conn).await?;
        // Nothing has touched what is prepared.
        for (name, text) in conn.state.applied.iter().filter(|(n, _)| holdings::is_prepared(n)) {
            set.set(name, text);
        }
        Ok((set, Holdings::default(), true))
    };
    let asked = tokio::time::timeout(limit, asked).await;
    if !conn.state.heard.is_empty() {
        // The session is still its client's, who may listen.
        down.insert().append(&mut conn.state.heard);
    }
    let (mut set, held, complete) = match asked.unwrap_or(Err("parameter_timeout".into())) {
        Ok(set) => set,
        Err(why) => {
            // The connection is of no use any more; what its client has set is not to be lost with it.
            c.overrides = shared.params.intern(session::guessed(c.carried(), &conn.state.standing()));
            return Err(why);
        }
    };
    if holds {
        holdings::with_paths(&mut set, c.carried());
    }
    let absent = std::mem::take(&mut conn.state.absent);
    let scope = match (rules.own_connection, rules.ways.parameters) {
        (true, _) => Scope::OwnConnection,
        // What is not asked for does not show in the answer.
        (false, Way::Follow) if rules.asks => Scope::Everything,
        _ => Scope::Reported,
    };
    let found = session::settled(&c.named, c.carried(), &conn.state.standing(), &set, scope);
    if found.pool_lost || !complete {
        conn.state.marked = Some("RESET");
    } else if holds {
        // What does not follow is reset: what the text did not name, and what nobody keeps account of.
        let unknown =
            c.effects.has(TextEffects::NAMELESS) || conn.state.standing().has_more(&set, &found.applied);
        conn.state.marked = rules.mark(&held, conn.state.marked, unknown);
    }
    if found.defaults != *conn.state.defaults {
        conn.state.new_defaults(shared.params.intern(found.defaults));
    }
    stand(shared, conn, found.applied, Vec::new());
    let mut overrides = found.overrides;
    for one in absent {
        // The client still has what this server could not prepare again.
        if let (None, Some(kept)) = (overrides.get(&one.key), c.carried().get(&one.key)) {
            overrides.set(&one.key, kept);
        }
    }
    taken_in(shared, ctl, c, conn, down, overrides);
    Ok(held)
}

/// After a transaction in which the server reported changes that are all accounted for, or of which nothing is left.
pub(super) fn learn(
    shared: &Shared,
    ctl: &ClientCtl,
    c: &mut ClientProto,
    conn: &mut ServerConn,
    down: &mut Lane,
) {
    if !conn.state.view_changed && !c.discarded {
        return;
    }
    let overrides = if c.discarded {
        stand(shared, conn, ParamSet::default(), Vec::new());
        (*c.named).clone()
    } else {
        (*c.overrides).clone()
    };
    taken_in(shared, ctl, c, conn, down, overrides);
}

/// The client has these overrides from now on, and is told where it has seen something else meanwhile.
fn taken_in(
    shared: &Shared,
    ctl: &ClientCtl,
    c: &mut ClientProto,
    conn: &mut ServerConn,
    down: &mut Lane,
    overrides: ParamSet,
) {
    conn.state.view_changed = false;
    adopt(shared, ctl, c, conn, overrides);
    // What the server has said meanwhile was passed on, or told otherwise.
    c.view = conn.state.view.clone();
    if let Some(told) = c.led_back.take() {
        let mut view = (*c.view).clone();
        told.iter().for_each(|(name, value)| view.set(name, value));
        c.view = shared.params.intern(view);
    }
    let shown = session::shown(&conn.state.view, &c.overrides);
    tell(c, &shared.params.intern(shown), down);
}

/// A client leaves, and its connection is not asked: it is reset, or closed where nothing resets it. Whether it has
/// to be.
pub(super) fn left(c: &ClientProto, conn: &mut ServerConn, rules: &Rules) -> bool {
    let doubt = in_doubt(c, &conn.state, rules);
    if doubt {
        conn.state.mark("SET");
    }
    doubt
}

#[cfg(test)]
mod tests;
