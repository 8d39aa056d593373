//! The parameters of a client's session, and those of the server connection that it has for a transaction: the model
//! that keeps the two in step, without I/O.
//!
//! A client's session is two sets: what the client *named* in its startup packet, to which RESET, RESET ALL and
//! DISCARD ALL return, and its *overrides*, which are in force: what it named, and what it has SET and committed
//! since. A server connection has what was *applied* to it. Nothing is ever concluded from what another client did:
//! `applied` follows from the statements that we sent ourselves ([`after`]), and from what the server says of that very
//! connection when one of its clients may have changed it ([`settled`]). What neither tells is *doubtful*, and is set
//! or reset before the next client's first message.

use super::holdings;
use super::params::{ParamSet, is_fixed};
use super::startup;

/// What is known of the parameters of one server connection.
#[derive(Debug, Clone, Copy)]
pub struct Standing<'a> {
    /// Set in this session by us or by a client, and in force.
    pub applied: &'a ParamSet,
    /// May have been set or reset by a client: what is in force is not known.
    pub doubtful: &'a [Box<str>],
    /// What the pool's `on_connect` has set in this session: what to go back to instead of a RESET.
    pub pool: &'a ParamSet,
    /// What the server reports while nothing is applied.
    pub defaults: &'a ParamSet,
    /// What the server reports now.
    pub view: &'a ParamSet,
}

impl Standing<'_> {
    fn doubts(&self, name: &str) -> bool {
        self.doubtful.iter().any(|n| n.eq_ignore_ascii_case(name))
    }

    /// The server tells when this one changes, and clients may change it.
    fn reports(&self, name: &str) -> bool {
        !is_fixed(name) && self.view.get(name).is_some()
    }

    /// Whether a client that has set it takes it along.
    fn follows(&self, name: &str, scope: Scope) -> bool {
        // A statement is among what is set only where statements follow.
        scope == Scope::Everything || holdings::is_prepared(name) || self.reports(name)
    }

    /// Whether something is set in the session that neither the pool nor `applied` accounts for.
    pub fn has_more(&self, session: &ParamSet, applied: &ParamSet) -> bool {
        session.iter().any(|(n, v)| applied.get(n).is_none() && self.pool.get(n) != Some(v))
    }

    /// It is in force, and known to be set in this session.
    fn has(&self, name: &str, value: &[u8]) -> bool {
        self.applied.get(name) == Some(value)
            && !self.doubts(name)
            // What is not ASCII is reported in the encoding of the client that was there.
            && self.view.get(name).is_none_or(|now| now == value || !now.is_ascii())
    }

    /// It is in force without being set, for as long as the connection lasts. Of a PostgreSQL server that is never known:
    /// what it reports may be its default, and a reload of its configuration changes that before the next statement of
    /// a client that has named the same value, and is told of it only behind that statement. A pooler's console has its
    /// values for good, has no others than those that it reports, and does not take the statement that sets one.
    fn has_for_good(&self, name: &str, value: &[u8]) -> bool {
        is_console(self.view) && self.view.get(name).is_none_or(|now| now.eq_ignore_ascii_case(value))
    }

    /// Reported values for which neither the defaults nor these overrides account.
    fn unexplained<'a>(&'a self, overrides: &'a ParamSet) -> impl Iterator<Item = (&'a str, &'a [u8])> {
        self.view.iter().filter(|(name, value)| {
            !is_fixed(name) && overrides.get(name).or_else(|| self.defaults.get(name)) != Some(*value)
        })
    }

    /// Whether a reported parameter is neither as the client has it nor as the server has it by default: the client
    /// has called `set_config()`, or the server's configuration was reloaded.
    pub fn is_unexplained(&self, overrides: &ParamSet) -> bool {
        self.unexplained(overrides).next().is_some()
    }
}

/// The other side is no PostgreSQL server but the console of a pooler, which says so in its version.
fn is_console(reported: &ParamSet) -> bool {
    reported.get("server_version").is_some_and(|v| v.ends_with(b"/bouncer"))
}

/// What of a session follows its client to other connections.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    /// What the server reports; all else is reset or left behind.
    Reported,
    /// A session pool's: the connection stays its client's own, and what was named at the login is put back there.
    OwnConnection,
    /// Every parameter, the role, and what PREPARE has prepared.
    Everything,
}

/// One statement that brings a server connection nearer to what its next client wants.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ParamChange {
    pub name: String,
    /// `None` is a RESET.
    pub value: Option<Vec<u8>>,
    /// The value may be relative to what is in force (`DateStyle = ISO` keeps the order of day and month): what its
    /// login would have found has to be in force first, and that is this, or what RESET leads to. Of a statement of
    /// PREPARE it is the `search_path` under which it was prepared, where that is another.
    pub from: Option<Option<Vec<u8>>>,
    /// It undoes what another client wanted.
    pub undoes: bool,
}

/// Set after and reset before all others, because these decide who may set what.
fn is_identity(name: &str) -> bool {
    ["session_authorization", "role"].iter().any(|i| i.eq_ignore_ascii_case(name))
}

/// What must change on a server connection when a client gets it that wants `wanted`. The values of `raw` are as the
/// client's startup packet spells them, and mean what they mean to a login.
pub fn changes(on: &Standing<'_>, wanted: &ParamSet, raw: &ParamSet) -> Vec<ParamChange> {
    let pools = |name: &str| on.pool.get(name).map(<[u8]>::to_vec);
    let undo =
        |name: &str| ParamChange { name: name.to_owned(), value: pools(name), from: None, undoes: true };
    let set = |name: &str, value: &[u8]| ParamChange {
        name: name.to_owned(),
        value: Some(value.to_vec()),
        from: if holdings::is_prepared(name) {
            let path = holdings::prepared_under(value);
            (path != wanted.get("search_path")).then(|| path.map(<[u8]>::to_vec))
        } else {
            raw.get(name).map(|_| pools(name))
        },
        undoes: false,
    };
    let mut undone: Vec<ParamChange> = Vec::new();
    let left = on.applied.iter().map(|(n, _)| n).chain(on.doubtful.iter().map(|n| &**n));
    // One that is prepared otherwise has to go first.
    for (name, value) in wanted.iter().filter(|(n, _)| holdings::is_prepared(n)) {
        if on.applied.get(name).is_some_and(|now| now != value) {
            undone.push(undo(name));
        }
    }
    for name in left.chain(on.unexplained(on.applied).map(|(n, _)| n)) {
        if wanted.get(name).is_none() && !undone.iter().any(|c| c.name.eq_ignore_ascii_case(name)) {
            undone.push(undo(name));
        }
    }
    let missing =
        wanted.iter().filter(|(n, v)| (raw.get(n).is_some() || !on.has(n, v)) && !on.has_for_good(n, v));
    let mut made: Vec<ParamChange> = missing.map(|(n, v)| set(n, v)).collect();
    if undone.iter().chain(&made).any(|c| !is_identity(&c.name) && !holdings::is_prepared(&c.name)) {
        // A client's role has fewer rights than the login in whose name all of a startup packet is set.
        for (name, value) in wanted.iter().filter(|(n, v)| is_identity(n) && on.has(n, v)) {
            undone.push(undo(name));
            made.push(set(name, value));
        }
    }
    // `role` stands before `session_authorization` where it is undone, and behind it where it is set. What is prepared
    // means what it does under all of them.
    undone.sort_by_key(|c| (!is_identity(&c.name), c.name.to_ascii_lowercase()));
    made.sort_by_key(|c| {
        let identity = is_identity(&c.name);
        (holdings::is_prepared(&c.name), identity, identity && c.name.eq_ignore_ascii_case("role"))
    });
    undone.append(&mut made);
    undone
}

/// How a statement of ours ended: the value now in force, where it returned one, or nothing where it failed.
pub type Outcome = Option<Option<Vec<u8>>>;

/// What is applied, and what is doubtful, when these changes were asked for and ended so.
pub fn after(on: &Standing<'_>, list: &[ParamChange], ended: &[Outcome]) -> (ParamSet, Vec<Box<str>>) {
    let mut applied = on.applied.clone();
    let mut doubtful = on.doubtful.to_vec();
    for (change, now) in list.iter().zip(ended).filter_map(|(c, e)| Some((c, e.as_ref()?))) {
        match (&change.value, change.undoes) {
            (Some(asked), false) => applied.set(&change.name, now.as_ref().unwrap_or(asked)),
            _ => applied.remove(&change.name),
        }
        doubtful.retain(|n| !n.eq_ignore_ascii_case(&change.name));
    }
    (applied, doubtful)
}

/// What a transaction has left, when the server has told what is set in the session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settled {
    /// The client's, from now on.
    pub overrides: ParamSet,
    pub applied: ParamSet,
    pub defaults: ParamSet,
    /// A client has undone what the pool's `on_connect` had set.
    pub pool_lost: bool,
}

/// `named` and `carried` are what the client named at its login and what it had before; `session` is what the server
/// says was set in the session, with its value. A parameter that nobody has set there any more returns to what the
/// client named, or to the default.
pub fn settled(
    named: &ParamSet,
    carried: &ParamSet,
    on: &Standing<'_>,
    session: &ParamSet,
    scope: Scope,
) -> Settled {
    let mut overrides = named.clone();
    for (name, value) in session.iter().filter(|(n, v)| {
        // One of an application that was reset is empty.
        let keeps = scope == Scope::OwnConnection;
        keeps && named.get(n).is_some() && !on.reports(n) && !(n.contains('.') && v.is_empty())
    }) {
        overrides.set(name, value);
    }
    for (name, value) in carried.iter() {
        // Another server may report it.
        if scope != Scope::Everything && named.get(name).is_none() && on.view.get(name).is_none() {
            overrides.set(name, value);
        }
    }
    for (name, value) in session.iter().filter(|(n, v)| {
        // One of an application that was reset is empty, and then what was named is meant; where nothing was, it is
        // empty on a connection of its own, too.
        on.follows(n, scope) && !(n.contains('.') && v.is_empty() && named.get(n).is_some())
    }) {
        let of_the_pool = on.pool.get(name) == Some(value) && carried.get(name).is_none();
        if named.get(name).is_some() || !of_the_pool {
            overrides.set(name, value);
        }
    }
    let mut applied = ParamSet::default();
    for (name, value) in session.iter() {
        // What nobody follows is not ours to undo: it is reset, or stays where the configuration says so.
        let ours = overrides.get(name).is_some() || on.applied.get(name).is_some() || on.doubts(name);
        let of_the_pool = on.pool.get(name) == Some(value) && overrides.get(name).is_none();
        if ours && !of_the_pool {
            applied.set(name, value);
        }
    }
    let mut defaults = on.defaults.clone();
    for (name, value) in on.view.iter() {
        if on.reports(name) && session.get(name).is_none() && on.pool.get(name).is_none() {
            defaults.set(name, value);
        }
    }
    let pool_lost = on.pool.iter().any(|(name, _)| session.get(name).is_none());
    Settled { overrides, applied, defaults, pool_lost }
}

/// The client's overrides where the server could not be asked any more: what it reports and nothing accounts for is
/// taken for the client's, so that a SET that was answered is not lost.
pub fn guessed(carried: &ParamSet, on: &Standing<'_>) -> ParamSet {
    let mut overrides = carried.clone();
    for (name, value) in on.unexplained(carried) {
        overrides.set(name, value);
    }
    overrides
}

/// What the client is to see reported: its own values, whatever is in force on the connection until it is needed next.
pub fn shown(view: &ParamSet, overrides: &ParamSet) -> ParamSet {
    let mut shown = view.clone();
    for (name, value) in overrides.iter() {
        if !is_fixed(name) && view.get(name).is_some() && value.is_ascii() {
            shown.set(name, value);
        }
    }
    shown
}

/// The text of a change. `set_config` takes a value whole, where SET would take a list's commas for parts of one
/// name. Its last row is the value as the server spells it, for [`unhex`].
pub fn statement(change: &ParamChange) -> String {
    if let Some(name) = holdings::prepared_name(&change.name) {
        return match &change.value {
            Some(kept) => {
                // It was asked for in the database's encoding, as all of an answer.
                let text = String::from_utf8_lossy(holdings::prepared_text(kept)).into_owned();
                match &change.from {
                    None => text,
                    // For as long as this message's implicit transaction. No row: that would be a value.
                    Some(None) => format!("SET LOCAL search_path TO DEFAULT;{text}"),
                    Some(Some(path)) => {
                        let set = format!("pg_catalog.set_config('search_path', {}, true)", literal(path));
                        format!("SELECT WHERE {set} IS NULL;{text}")
                    }
                }
            }
            None => format!("DEALLOCATE {}", quote_one(&String::from_utf8_lossy(&name))),
        };
    }
    let name = startup::quote_literal(&change.name);
    let back = || format!("RESET {}", quote_name(&change.name));
    let set = |value: &[u8]| {
        let call = format!("pg_catalog.set_config({name}, {}, false)", literal(value));
        format!("SELECT {}", hex_of(&call))
    };
    match (&change.value, &change.from) {
        (None, _) => back(),
        (Some(value), None) => set(value),
        (Some(value), Some(None)) => format!("{}; {}", back(), set(value)),
        (Some(value), Some(Some(base))) => format!("{}; {}", set(base), set(value)),
    }
}

/// What was set in the session, each with its value for [`unhex`]. Parameters of applications and the identity are in
/// no list of the server's; those that were applied are named.
pub fn question(on: &Standing<'_>) -> String {
    let names = on.applied.iter().map(|(n, _)| n).chain(on.doubtful.iter().map(|n| &**n));
    let unlisted: Vec<String> = names
        .filter(|n| n.contains('.') || is_identity(n))
        .chain(["role", "session_authorization"].into_iter().filter(|n| on.applied.get(n).is_none()))
        .map(|n| {
            let name = startup::quote_literal(n);
            let value = format!("pg_catalog.current_setting({name}, true)");
            format!(" UNION ALL SELECT {name}, {}", hex_of(&value))
        })
        .collect();
    // Those of a transaction are no session's.
    format!(
        "SELECT name, {} FROM pg_catalog.pg_settings WHERE source OPERATOR(pg_catalog.=) 'session' \
         AND name OPERATOR(pg_catalog.<>) ALL ('{{transaction_isolation,transaction_read_only,\
         transaction_deferrable}}'){}",
        hex_of("pg_catalog.current_setting(name)"),
        unlisted.concat()
    )
}

/// The bytes of a value in ASCII, so that they are the same under every `client_encoding`.
pub(super) fn hex_of(expression: &str) -> String {
    let bytes = format!("pg_catalog.convert_to({expression}, pg_catalog.getdatabaseencoding())");
    format!("pg_catalog.encode({bytes}, 'hex')")
}

/// A value as an expression of ASCII. The server keeps the bytes of a startup packet as they are: they are in the
/// database's encoding, whatever the encoding of the client that has the connection.
fn literal(value: &[u8]) -> String {
    match std::str::from_utf8(value) {
        Ok(text) if text.is_ascii() => startup::quote_literal(text),
        _ => {
            let hex: String = value.iter().map(|b| format!("{b:02x}")).collect();
            let bytes = format!("pg_catalog.decode('{hex}', 'hex')");
            format!("pg_catalog.convert_from({bytes}, pg_catalog.getdatabaseencoding())")
        }
    }
}

/// A value of an answer.
pub fn unhex(text: &[u8]) -> Option<Vec<u8>> {
    let digit = |b: &u8| char::from(*b).to_digit(16);
    let byte = |pair: &[u8]| match pair {
        [high, low] => u8::try_from(digit(high)? * 16 + digit(low)?).ok(),
        _ => None,
    };
    text.chunks(2).map(byte).collect()
}

fn quote_one(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

fn quote_name(name: &str) -> String {
    name.split('.').map(quote_one).collect::<Vec<_>>().join(".")
}

#[cfg(test)]
mod tests;
