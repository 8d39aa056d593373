//! What a session holds besides its parameters, and what becomes of each kind between two transactions; no I/O.
//!
//! A look at texts and completion tags only *suspects*. What a session holds is asked of the server, in one statement
//! ([`question`]), and the answer ([`Holdings`]) is the whole truth for that connection.

use std::sync::Arc;
use std::time::Duration;

use super::params::ParamSet;
use super::session::{hex_of, unhex};
use super::sql;
use crate::session_state::{Kind, Way, Ways};

/// What a pool does about session state.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rules {
    /// A server is asked what a suspected transaction has left.
    pub asks: bool,
    /// It is asked after every transaction.
    pub always: bool,
    /// A session pool: the connection stays its client's own.
    pub own_connection: bool,
    pub ways: Ways,
    /// For the question.
    pub timeout: Duration,
}

impl Rules {
    /// Kinds that are held and keep the connection with their client. `shares`: channels move to the listener.
    pub fn to_pin(&self, held: &Holdings, shares: bool) -> Vec<Kind> {
        // A statement that could not be made again pins, too.
        let stays = |k: &Kind| {
            !(matches!(self.ways.of(*k), Way::Reset | Way::Reject) || shares && *k == Kind::Channel)
        };
        held.kinds().into_iter().filter(stays).collect()
    }

    /// Kinds that are held and are dropped.
    pub fn to_drop(&self, held: &Holdings) -> Vec<Kind> {
        held.kinds().into_iter().filter(|k| self.ways.of(*k) == Way::Reset).collect()
    }

    /// Kinds that are held although they are refused: a function has made them, say.
    pub fn to_reject(&self, held: &Holdings) -> Vec<Kind> {
        held.kinds().into_iter().filter(|k| self.ways.of(*k) == Way::Reject).collect()
    }

    /// The mark under which the connection is reset once its client gives it back. `was` is the mark of the commands
    /// that were seen; `unknown` says that something is, or may be, set of which nobody keeps account.
    pub fn mark(&self, held: &Holdings, was: Option<&'static str>, unknown: bool) -> Option<&'static str> {
        let dropped = self.to_drop(held).first().map(|k| match k {
            Kind::Statement => "PREPARE",
            Kind::Channel => "LISTEN",
            Kind::Temporary => "CREATE TEMP",
            Kind::Cursor => "DECLARE CURSOR",
            Kind::Lock => "ADVISORY LOCK",
        });
        let kept = was.filter(|m| match *m {
            "LOAD" => true,
            "SET" | "RESET" => self.ways.parameters == Way::Reset,
            _ => false,
        });
        dropped.or(kept).or(unknown.then_some("SET"))
    }
}

/// Things that one session holds, each by its kind and what tells it from others of its kind. Sorted.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Holdings(Vec<(Kind, Vec<u8>)>);

impl Holdings {
    pub fn add(&mut self, kind: Kind, what: Vec<u8>) {
        let one = (kind, what);
        if let Err(at) = self.0.binary_search(&one) {
            self.0.insert(at, one);
        }
    }

    /// The channels that it listens to, in the encoding of the database.
    pub fn channels(&self) -> Vec<Arc<[u8]>> {
        self.0.iter().filter(|(k, _)| *k == Kind::Channel).map(|(_, name)| name.as_slice().into()).collect()
    }

    /// Its kinds, each once.
    pub fn kinds(&self) -> Vec<Kind> {
        let mut kinds: Vec<Kind> = self.0.iter().map(|(k, _)| *k).collect();
        kinds.dedup();
        kinds
    }
}

/// Rows of one kind that are asked for: what is more tells nothing more, except of channels.
const MOST: usize = 1000;

/// Asks what the session holds. Three columns: a letter for the kind, what it is, and the text of a statement, both for
/// [`unhex`]. All names and operators are qualified: it runs under whatever search_path its client left.
pub fn question() -> String {
    let name = hex_of("name::pg_catalog.text");
    let temporary = "pg_catalog.pg_depend WHERE refclassid OPERATOR(pg_catalog.=) \
                     'pg_catalog.pg_namespace'::pg_catalog.regclass::pg_catalog.oid AND refobjid \
                     OPERATOR(pg_catalog.=) pg_catalog.pg_my_temp_schema() AND refobjid OPERATOR(pg_catalog.<>) \
                     0::pg_catalog.oid";
    let lock = "pg_catalog.concat_ws(' ', classid, objid, objsubid, mode)";
    format!(
        "(SELECT 's', {name}, {} FROM pg_catalog.pg_prepared_statements WHERE from_sql LIMIT {MOST}) \
         UNION ALL (SELECT 'c', {name}, '' FROM pg_catalog.pg_cursors WHERE is_holdable LIMIT {MOST}) \
         UNION ALL (SELECT 'n', {}, '' FROM pg_catalog.pg_listening_channels() AS c(channel)) \
         UNION ALL (SELECT 't', {}, '' FROM {temporary} LIMIT {MOST}) \
         UNION ALL (SELECT 'l', {}, '' FROM pg_catalog.pg_locks WHERE locktype OPERATOR(pg_catalog.=) 'advisory' \
         AND granted AND pid OPERATOR(pg_catalog.=) pg_catalog.pg_backend_pid() LIMIT {MOST})",
        hex_of("statement"),
        hex_of("channel"),
        hex_of("pg_catalog.concat_ws(' ', classid, objid)"),
        hex_of(lock),
    )
}

/// The answer to [`question`]. Statements that `follow` are added to `session`, under a name that no parameter has.
/// The second value is whether all that is the pool's own since its `on_connect` is still there. `None`: that is no
/// answer.
pub fn read(
    rows: Vec<Vec<Option<Vec<u8>>>>,
    follow: bool,
    session: &mut ParamSet,
    pools: &Holdings,
) -> Option<(Holdings, bool)> {
    let mut held = Holdings::default();
    let mut of_the_pool = 0;
    for row in rows {
        let mut columns = row.into_iter().map(Option::unwrap_or_default);
        let (kind, what, text) = (columns.next()?, unhex(&columns.next()?)?, unhex(&columns.next()?)?);
        let kind = match kind.as_slice() {
            b"s" => Kind::Statement,
            b"c" => Kind::Cursor,
            b"n" => Kind::Channel,
            b"t" => Kind::Temporary,
            b"l" => Kind::Lock,
            _ => return None,
        };
        let one = (kind, what);
        if pools.0.binary_search(&one).is_ok() {
            of_the_pool += 1;
            continue;
        }
        if kind == Kind::Statement
            && follow
            // Which bytes another encoding would take is not known.
            && text.is_ascii()
            && let Some(text) = sql::prepare_of(&text, &one.1)
        {
            session.set(&prepared_key(&one.1), &text);
            continue;
        }
        held.add(one.0, one.1);
    }
    Some((held, of_the_pool == pools.0.len()))
}

const PREPARED: &str = "PREPARE ";

/// Under this name a statement of PREPARE stands among a session's parameters. No parameter's name has a space, and the
/// names of statements tell large letters from small ones, so it is in hexadecimal digits.
pub fn prepared_key(name: &[u8]) -> String {
    let digits: String = name.iter().map(|b| format!("{b:02x}")).collect();
    format!("{PREPARED}{digits}")
}

/// The statement's name, where that is one.
pub fn prepared_name(key: &str) -> Option<Vec<u8>> {
    unhex(key.strip_prefix(PREPARED)?.as_bytes())
}

/// What is kept of a statement of PREPARE: its text, and the `search_path` under which it was prepared. The server reads
/// it again where it runs under another, and then may not find its names; but it could not be prepared there. `None`:
/// that was the default.
pub fn prepared_value(text: &[u8], path: Option<&[u8]>) -> Vec<u8> {
    path.map_or_else(|| text.to_vec(), |path| [path, b"\0", text].concat())
}

pub fn prepared_text(kept: &[u8]) -> &[u8] {
    kept.split(|b| *b == 0).next_back().unwrap_or_default()
}

/// That `search_path`.
pub fn prepared_under(kept: &[u8]) -> Option<&[u8]> {
    kept.iter().position(|b| *b == 0).and_then(|at| kept.get(..at))
}

/// Of what the server says is prepared: each with the path that it was prepared under, which for what is new is that
/// of the session.
pub fn with_paths(session: &mut ParamSet, carried: &ParamSet) {
    let path = session.get("search_path").map(<[u8]>::to_vec);
    let found: Vec<(String, Vec<u8>)> = session
        .iter()
        .filter(|(n, _)| is_prepared(n))
        .map(|(n, text)| (n.to_owned(), text.to_vec()))
        .collect();
    for (name, text) in found {
        let kept = carried.get(&name).filter(|kept| prepared_text(kept) == text).map(<[u8]>::to_vec);
        session.set(&name, &kept.unwrap_or_else(|| prepared_value(&text, path.as_deref())));
    }
}

pub fn is_prepared(key: &str) -> bool {
    key.starts_with(PREPARED)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(kind: &str, what: &str, text: &str) -> Vec<Option<Vec<u8>>> {
        let hex = |t: &str| t.bytes().map(|b| format!("{b:02x}")).collect::<String>().into_bytes();
        vec![Some(kind.into()), Some(hex(what)), Some(hex(text))]
    }

    #[test]
    fn an_answer_tells_what_is_held_and_what_follows() {
        let mut pools = Holdings::default();
        pools.add(Kind::Temporary, b"1259 7".to_vec());
        let rows = vec![
            row("s", "a", "prepare a as select 1"),
            row("s", "b", "prepare c as select 1"),
            row("s", "\u{e9}", "prepare \u{e9} as select 1"),
            row("t", "1259 7", ""),
            row("l", "0 1 1 ExclusiveLock", ""),
        ];
        let mut session = ParamSet::default();
        let (held, complete) = read(rows.clone(), true, &mut session, &pools).expect("an answer");
        assert!(complete);
        assert_eq!(held.kinds(), [Kind::Statement, Kind::Lock], "what cannot be made again pins");
        let known: Vec<_> = session.iter().collect();
        assert_eq!(known, [(prepared_key(b"a").as_str(), b"prepare a as select 1".as_slice())]);
        assert_eq!(prepared_name(&prepared_key(b"A b")), Some(b"A b".to_vec()));

        let mut none = ParamSet::default();
        let (held, _) = read(rows, false, &mut none, &Holdings::default()).expect("an answer");
        assert_eq!(held.kinds(), [Kind::Statement, Kind::Temporary, Kind::Lock]);
        assert!(none.is_empty());
        assert_eq!(read(vec![row("x", "", "")], true, &mut none, &pools), None);
    }
}
