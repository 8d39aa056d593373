//! What a statement leaves behind that its completion tag alone does not tell: temporary tables, cursors that
//! outlive their transaction, parameters; and which statement a DEALLOCATE names.

use super::lexer::{self, Lexer, Token};
use crate::session_state::Kind;

/// See [`effects`]. Each is a suspicion: the server is asked what has come of it. A set of bits, for every idle client
/// has room for two of them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct TextEffects(u8);

impl TextEffects {
    pub const NONE: Self = Self(0);
    /// A SET or RESET of something that the server does not report.
    pub const SESSION_SET: Self = Self(1);
    /// A SET or RESET of what the server reports, or of everything.
    pub const REPORTED_SET: Self = Self(1 << 1);
    /// CREATE TEMP of anything.
    pub const TEMP: Self = Self(1 << 2);
    /// DECLARE … WITH HOLD.
    pub const HOLD: Self = Self(1 << 3);
    /// LISTEN.
    pub const LISTEN: Self = Self(1 << 4);
    /// An advisory lock of the session is taken.
    pub const LOCKS: Self = Self(1 << 5);
    /// A trace of what no completion tag tells: `set_config`, advisory locks, `pg_settings`, `pg_temp`, DO and CALL.
    pub const HIDDEN: Self = Self(1 << 6);
    /// Something may set a parameter of an application whose name the text does not give.
    pub const NAMELESS: Self = Self(1 << 7);
    /// A text that is too long to be looked at: what its tag tells counts, and the server is asked.
    pub const LONG: Self = Self(Self::SESSION_SET.0 | Self::REPORTED_SET.0 | Self::HIDDEN.0);

    const PINNING: Self = Self(Self::TEMP.0 | Self::HOLD.0 | Self::LISTEN.0 | Self::LOCKS.0);

    /// Takes in what another text does.
    #[inline]
    pub const fn add(&mut self, other: Self) {
        self.0 |= other.0;
    }

    /// The same, where that is so.
    pub const fn add_if(&mut self, does: bool, what: Self) {
        if does {
            self.add(what);
        }
    }

    /// Whether any of `other` is among it.
    #[inline]
    pub const fn has(self, other: Self) -> bool {
        self.0 & other.0 != 0
    }

    /// Whether the session may hold what the server does not report.
    #[inline]
    pub const fn may_hold(self) -> bool {
        self.0 & !Self::REPORTED_SET.0 != 0
    }

    /// Whether what it does, if it does it, keeps a connection with its client.
    pub const fn would_pin(self) -> bool {
        self.has(Self::PINNING)
    }

    /// The kinds of state for which it would.
    pub fn pinning(self) -> Vec<Kind> {
        let all = [
            (Self::LISTEN, Kind::Channel),
            (Self::TEMP, Kind::Temporary),
            (Self::HOLD, Kind::Cursor),
            (Self::LOCKS, Kind::Lock),
        ];
        all.into_iter().filter(|(does, _)| self.has(*does)).map(|(_, kind)| kind).collect()
    }
}

fn begins(text: &[u8], word: &[u8]) -> bool {
    text.get(..word.len()).is_some_and(|t| t.eq_ignore_ascii_case(word))
}

/// Whether [`effects`] or [`deallocate_name`] could find anything; looks at the first bytes, for a semicolon inside,
/// and for traces of what hides.
#[inline]
pub fn needs_look(sql: &[u8]) -> bool {
    let start = sql.iter().position(|b| !lexer::is_space(*b)).unwrap_or(sql.len());
    let text = sql.get(start..).unwrap_or_default();
    match text.first() {
        Some(b'c' | b'C') if begins(text, b"create") || begins(text, b"call") => true,
        Some(b'd' | b'D')
            if begins(text, b"declare") || begins(text, b"deallocate") || begins(text, b"do") =>
        {
            true
        }
        Some(b'e' | b'E') if begins(text, b"explain") || begins(text, b"execute") => true,
        Some(b'l' | b'L') if begins(text, b"listen") => true,
        Some(b'p' | b'P') if begins(text, b"prepare") => true,
        _ if has_trace(text) => true,
        _ => super::needs_classification(text),
    }
}

/// Four letters of each word that [`effects`] looks for anywhere in a text: INTO, whose SELECT INTO TEMP says no more
/// than SELECT in its tag; `set_config`; `advisory`; `pg_settings`; `pg_temp`. One pass that does not end early, so
/// that the compiler makes it look at many bytes at once: this is asked of every query.
fn has_trace(text: &[u8]) -> bool {
    // No statement with such a word is shorter.
    if text.len() < 12 {
        return false;
    }
    let from = |n: usize| text.get(n..).unwrap_or_default();
    let four = |a: u8, b: u8, c: u8, d: u8, word: &[u8; 4]| {
        let [w, x, y, z] = *word;
        (a | 0x20 == w) & (b | 0x20 == x) & (c | 0x20 == y) & (d | 0x20 == z)
    };
    text.iter().zip(from(1)).zip(from(2)).zip(from(3)).fold(false, |found, (((a, b), c), d)| {
        found
            | four(*a, *b, *c, *d, b"into")
            | four(*a, *b, *c, *d, b"advi")
            // 0x7f is an underscore with the bit that makes letters small.
            | four(*a, *b, *c, *d, b"et\x7fc")
            | four(*a, *b, *c, *d, b"g\x7fse")
            | four(*a, *b, *c, *d, b"g\x7fte")
    })
}

fn contains(text: &[u8], word: &[u8]) -> bool {
    text.windows(word.len()).any(|w| w.eq_ignore_ascii_case(word))
}

/// Whether a text may run what PREPARE has prepared.
pub fn executes(sql: &[u8]) -> bool {
    contains(sql, b"execute")
}

/// Whether a text may name a prepared statement: a quick look before [`statement_names`].
pub fn names_statements(sql: &[u8]) -> bool {
    contains(sql, b"execute") || contains(sql, b"prepare")
}

/// Whether a text may have a COPY in it.
pub fn may_copy(sql: &[u8]) -> bool {
    contains(sql, b"copy")
}

/// The names that stand behind EXECUTE and PREPARE in a text, as the server reads them.
pub fn statement_names(sql: &[u8]) -> Vec<Vec<u8>> {
    let mut names = Vec::new();
    let mut lexer = Lexer::new(sql);
    while let Some(t) = lexer.next_token() {
        if !(t.is_word(b"execute") || t.is_word(b"prepare")) {
            continue;
        }
        match lexer.peek() {
            Token::Word(w) => names.push(w.to_ascii_lowercase()),
            Token::Quoted(q) => names.push(unquote(q)),
            _ => {}
        }
    }
    names.sort();
    names.dedup();
    names
}

/// Whether a text has a statement PREPARE, other than PREPARE TRANSACTION.
pub fn prepares(sql: &[u8]) -> bool {
    let mut lexer = Lexer::new(sql);
    let mut begins = true;
    while let Some(t) = lexer.next_token() {
        if begins && t.is_word(b"prepare") {
            let mut next = lexer;
            if next.next_token().is_some_and(|t| !t.is_word(b"transaction")) {
                return true;
            }
        }
        begins = t == Token::Semicolon;
    }
    false
}

/// Traces that may stand anywhere, in names, literals and bodies of functions.
fn hidden(sql: &[u8]) -> TextEffects {
    let calls = config_calls(sql);
    let locks = [b"pg_advisory_lock".as_slice(), b"pg_try_advisory_lock"].iter().any(|w| contains(sql, w));
    let traces = [b"pg_temp".as_slice(), b"advisory", b"pg_settings"];
    let mut e = TextEffects::NONE;
    e.add_if(locks, TextEffects::LOCKS);
    e.add_if(!calls.is_empty() || traces.iter().any(|w| contains(sql, w)), TextEffects::HIDDEN);
    e.add_if(calls.contains(&None), TextEffects::NAMELESS);
    e
}

/// Reads the whole text, which may be several statements.
pub fn effects(sql: &[u8], is_reported: &dyn Fn(&[u8]) -> bool) -> TextEffects {
    let sets = super::sets(sql, is_reported);
    let mut e = hidden(sql);
    e.add_if(sets.marks, TextEffects::SESSION_SET);
    e.add_if(sets.reported, TextEffects::REPORTED_SET);
    let mut lexer = Lexer::new(sql);
    let (mut at_start, mut creating, mut declaring) = (true, false, false);
    let mut words = 0;
    let (mut into, mut drops) = (false, false);
    while let Some(t) = lexer.next_token() {
        if at_start {
            creating = t.is_word(b"create");
            declaring = t.is_word(b"declare");
            e.add_if(t.is_word(b"listen"), TextEffects::LISTEN);
            let runs = t.is_word(b"do") || t.is_word(b"call");
            e.add_if(runs || t.is_word(b"explain"), TextEffects::HIDDEN);
            e.add_if(runs && contains(sql, b"set"), TextEffects::NAMELESS);
            words = 0;
        }
        words += 1;
        drops |= t.is_word(b"drop");
        // CREATE [OR REPLACE] [GLOBAL | LOCAL] TEMP, CREATE TABLE IF NOT EXISTS pg_temp.t: in the first six words.
        let temp = t.is_word(b"temp") || t.is_word(b"temporary") || t.is_word(b"pg_temp");
        e.add_if(creating && words <= 6 && temp, TextEffects::TEMP);
        e.add_if(temp && into, TextEffects::TEMP);
        // INTO [LOCAL | GLOBAL] TEMP.
        into = t.is_word(b"into") || (into && (t.is_word(b"local") || t.is_word(b"global")));
        e.add_if(declaring && t.is_word(b"hold"), TextEffects::HOLD);
        at_start = t == Token::Semicolon;
    }
    if drops && e.has(TextEffects::TEMP) {
        // ON COMMIT DROP, or a DROP behind it: whether anything is left is asked.
        e.0 &= !TextEffects::TEMP.0;
        e.add(TextEffects::HIDDEN);
    }
    e
}

/// What a text sets with `set_config` beyond its transaction: the name of each, or `None` where it is no constant.
fn config_calls(sql: &[u8]) -> Vec<Option<String>> {
    const WORD: &[u8] = b"set_config";
    let mut calls = Vec::new();
    let mut rest = sql;
    while let Some(at) = rest.windows(WORD.len()).position(|w| w.eq_ignore_ascii_case(WORD)) {
        rest = rest.get(at + WORD.len()..).unwrap_or_default();
        match config_call(rest) {
            Some((_, true)) => {}
            Some((name, false)) => calls.push(Some(name)),
            None => calls.push(None),
        }
    }
    calls
}

/// Name of the parameter, and whether it is set for the transaction alone; `None` if that cannot be read.
fn config_call(after: &[u8]) -> Option<(String, bool)> {
    let after = after.strip_prefix(b"\"").unwrap_or(after).trim_ascii_start();
    let quoted = after.strip_prefix(b"(")?.trim_ascii_start().strip_prefix(b"'")?;
    let (name, behind) = quoted.split_at(quoted.iter().position(|b| *b == b'\'')?);
    let name = String::from_utf8(name.to_vec()).ok()?;
    // Nothing else is put together with it.
    let mut lexer = Lexer::new(behind.get(1..)?);
    if lexer.next_token()? != Token::Other(b',') {
        return None;
    }
    let mut depth = 0;
    loop {
        match lexer.next_token()? {
            Token::Other(b'(' | b'[') => depth += 1,
            Token::Other(b')' | b']') => depth -= 1,
            Token::Other(b',') if depth == 0 => break,
            _ if depth < 0 => return None,
            _ => {}
        }
    }
    let local = lexer.next_token()?.is_word(b"true");
    Some((name, local && lexer.next_token() == Some(Token::Other(b')'))))
}

/// Parameters of applications (`app.tenant`) that a text names where it may set or reset them. The server lists none of
/// them.
pub fn application_parameters(sql: &[u8]) -> Vec<String> {
    let mut names: Vec<String> = config_calls(sql).into_iter().flatten().collect();
    let mut lexer = Lexer::new(sql);
    let mut at_start = true;
    // SET a.b, SET SESSION a.b.c, RESET "a.b"; a name that is too much is asked for in vain.
    let mut name = String::new();
    let mut joined = false;
    while let Some(t) = lexer.next_token() {
        if at_start && t.is_word(b"do") {
            // Its statements stand in a literal.
            names.extend(dotted(sql));
        }
        at_start = t == Token::Semicolon;
        match identifier(t) {
            Some(part) if joined => {
                name = format!("{name}.{part}");
                joined = false;
            }
            Some(part) => names.push(std::mem::replace(&mut name, part)),
            None if t == Token::Other(b'.') && !name.is_empty() => joined = true,
            None => {
                names.push(std::mem::take(&mut name));
                joined = false;
            }
        }
    }
    names.push(name);
    names.retain(|n| n.contains('.'));
    names
}

/// All that could be such a name, wherever it stands.
fn dotted(sql: &[u8]) -> Vec<String> {
    let part = |b: &u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'$') || *b >= 128;
    let words = sql.split(|b| !part(b)).filter(|w| w.contains(&b'.'));
    words.filter_map(|w| String::from_utf8(w.to_ascii_lowercase()).ok()).collect()
}

fn identifier(t: Token<'_>) -> Option<String> {
    match t {
        Token::Word(w) => String::from_utf8(w.to_ascii_lowercase()).ok(),
        Token::Quoted(q) => String::from_utf8(unquote(q)).ok(),
        _ => None,
    }
}

/// Whether no further statement follows.
fn only_semicolons(mut lexer: Lexer<'_>) -> bool {
    loop {
        match lexer.next_token() {
            None => return true,
            Some(Token::Semicolon) => {}
            Some(_) => return false,
        }
    }
}

/// The one statement of `sql` that prepares `name`. The server keeps, and shows, the whole text in which a PREPARE stood:
/// where that is the last statement, all that stands behind it is kept.
pub fn prepare_of(sql: &[u8], name: &[u8]) -> Option<Vec<u8>> {
    let mut found = None;
    let mut lexer = Lexer::new(sql);
    let mut start = lexer.rest();
    let mut count = 0;
    loop {
        let mut copy = lexer;
        let prepares = copy.next_token().is_some_and(|t| t.is_word(b"prepare"));
        let named = copy.next_token().and_then(identifier).is_some_and(|n| n.as_bytes() == name);
        let mut behind = lexer.rest();
        let mut more = false;
        while let Some(t) = lexer.next_token() {
            if t == Token::Semicolon {
                more = true;
                break;
            }
            behind = lexer.rest();
        }
        let last = !more || only_semicolons(lexer);
        if prepares && named {
            count += 1;
            let end = if last { start.len() } else { start.len() - behind.len() };
            found = found.or_else(|| start.get(..end).map(<[u8]>::to_vec));
        }
        if last {
            break;
        }
        start = lexer.rest();
    }
    // Of two the second one fails, unless the first is dropped between them. Which it was is not known then, nor where a
    // literal can be read in two ways.
    let dropped = contains(sql, b"deallocate") || contains(sql, b"discard");
    found.filter(|_| (count == 1 || !dropped) && lexer.ambiguous_from().is_none())
}

/// The statement that a lone `DEALLOCATE [PREPARE] name` names, as PostgreSQL reads the name; `None` for ALL
/// and for anything else.
pub fn deallocate_name(sql: &[u8]) -> Option<Vec<u8>> {
    let mut lexer = Lexer::new(sql);
    if !lexer.next_token()?.is_word(b"deallocate") {
        return None;
    }
    let mut t = lexer.next_token()?;
    if t.is_word(b"prepare") && matches!(lexer.peek(), Token::Word(_) | Token::Quoted(_)) {
        t = lexer.next_token()?;
    }
    let name = match t {
        Token::Word(w) if w.eq_ignore_ascii_case(b"all") => return None,
        Token::Word(w) => w.to_ascii_lowercase(),
        Token::Quoted(q) => unquote(q),
        _ => return None,
    };
    only_semicolons(lexer).then_some(name)
}

fn unquote(q: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(q.len());
    let mut rest = q.iter();
    while let Some(b) = rest.next() {
        out.push(*b);
        if *b == b'"' {
            rest.next();
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_names_the_statements_that_it_runs_or_prepares() {
        let names = |sql: &str| {
            assert!(names_statements(sql.as_bytes()), "{sql}");
            statement_names(sql.as_bytes())
                .into_iter()
                .map(|n| String::from_utf8(n).unwrap())
                .collect::<Vec<_>>()
        };
        assert_eq!(names("EXECUTE Up(1); explain execute \"Up\""), ["Up", "up"]);
        assert_eq!(names("/* execute a */ create table t as execute \"a\"\"b\""), ["a\"b"]);
        assert_eq!(names("prepare a(int) as select 1; execute a"), ["a"]);
        assert_eq!(names("select 'execute a'"), [""; 0]);
        assert!(!names_statements(b"select 1"));
    }

    #[test]
    fn temporary_tables_and_held_cursors_show() {
        let none = |_: &[u8]| false;
        for (sql, temp, hold) in [
            ("create temp table t (a int)", true, false),
            ("CREATE LOCAL TEMPORARY TABLE t AS SELECT 1", true, false),
            ("create or replace temp view v as select 1", true, false),
            ("create table t (temp int)", true, false),
            ("create table pg_temp.t (a int)", true, false),
            ("create table if not exists pg_temp.t (a int)", true, false),
            ("create table t (a int, b int, temp int)", false, false),
            ("begin; create temp table t (a int); commit", true, false),
            ("declare c cursor for select 1", false, false),
            ("DECLARE c CURSOR WITH HOLD FOR SELECT 1", false, true),
            ("select 'create temp table'", false, false),
            ("select 1 into temp t", true, false),
            ("SELECT 1 AS a INTO LOCAL TEMPORARY t", true, false),
            ("with a as (select 1) select * Into pg_temp.t from a", true, false),
            ("select 1 inTO temp t", true, false),
            ("select 1 as a, 'a text that is longer than a vector register' iNTo temp t", true, false),
            ("create temp table t (a int) on commit drop", false, false),
            ("select into t from u", false, false),
        ] {
            let e = effects(sql.as_bytes(), &none);
            assert_eq!((e.has(TextEffects::TEMP), e.has(TextEffects::HOLD)), (temp, hold), "{sql}");
            assert!(needs_look(sql.as_bytes()) || !(temp || hold), "{sql}");
        }
    }

    #[test]
    fn deallocate_names_one_statement() {
        assert_eq!(deallocate_name(b"DEALLOCATE Foo"), Some(b"foo".to_vec()));
        assert_eq!(deallocate_name(b" deallocate prepare \"A\"\"b\" ;"), Some(b"A\"b".to_vec()));
        assert_eq!(deallocate_name(b"deallocate all"), None);
        assert_eq!(deallocate_name(b"deallocate a; select 1"), None);
        assert_eq!(deallocate_name(b"select 1"), None);
    }

    #[test]
    fn what_hides_leaves_a_trace() {
        let none = |_: &[u8]| false;
        for (sql, hidden, locks, nameless) in [
            ("select set_config('work_mem','1MB',false)", true, false, false),
            ("SELECT pg_catalog.\"set_config\"('a.b','1',false)", true, false, false),
            ("select SET_CONFIG('a.'||'b','1',false)", true, false, true),
            ("select set_config($1, $2, false)", true, false, true),
            ("select set_config('app.tenant', $1, true)", false, false, false),
            ("select set_config('a.b', f(1, 2), true), set_config('a.c', $1, $2)", true, false, false),
            ("update pg_settings set setting = '1' where name = 'work_mem'", true, false, false),
            ("select pg_advisory_lock(1)", true, true, false),
            ("select pg_try_advisory_lock_shared(1)", true, true, false),
            ("select pg_advisory_xact_lock(1)", true, false, false),
            ("select pg_advisory_unlock_all()", true, false, false),
            ("explain analyze select set_config('work_mem','1MB',false)", true, false, false),
            ("do $$ begin perform f(); end $$", true, false, false),
            ("do $$ begin set work_mem = 1; end $$", true, false, true),
            ("call p()", true, false, false),
            ("explain analyze create temp table t as select 1", true, false, false),
            ("insert into t select f()", false, false, false),
            ("select advice from t", false, false, false),
        ] {
            let e = effects(sql.as_bytes(), &none);
            let found =
                [TextEffects::HIDDEN, TextEffects::LOCKS, TextEffects::NAMELESS].map(|what| e.has(what));
            assert_eq!(found, [hidden, locks, nameless], "{sql}");
            assert!(needs_look(sql.as_bytes()) || !hidden, "{sql}");
        }
        assert!(!needs_look(b"select a, b from c where d = $1"));
    }

    #[test]
    fn parameters_of_applications_are_read_from_the_text() {
        for (sql, names) in [
            ("set app.tenant = 'x'", vec!["app.tenant"]),
            ("SET SESSION \"App\".Tenant TO x", vec!["App.tenant"]),
            ("select set_config('app.a', '1', false), set_config('work_mem', '1', false)", vec!["app.a"]),
            ("reset app.tenant; set work_mem = 1", vec!["app.tenant"]),
            ("set work_mem = '1.5MB'", vec![]),
            ("SET \"app.Y\" = '1'", vec!["app.Y"]),
            ("set a.b.c = 1", vec!["a.b.c"]),
            ("do $$ begin set App.x = 1; end $$", vec!["app.x"]),
            ("begin; do $$ begin set app.x = 1; end $$", vec!["app.x"]),
        ] {
            assert_eq!(application_parameters(sql.as_bytes()), names, "{sql}");
        }
    }

    #[test]
    fn a_prepare_is_found_among_statements() {
        for (sql, prepares_one) in [
            ("prepare a as select 1", true),
            ("/* x */ select 1; PREPARE a(int) AS select $1", true),
            ("prepare transaction 'x'", false),
            ("select 'prepare'; deallocate prepare a", false),
        ] {
            assert_eq!(prepares(sql.as_bytes()), prepares_one, "{sql}");
        }
    }

    #[test]
    fn a_prepare_is_cut_out_of_its_text() {
        let of = |sql: &str, name: &str| {
            prepare_of(sql.as_bytes(), name.as_bytes()).map(|t| String::from_utf8_lossy(&t).into_owned())
        };
        for one in ["PREPARE a AS SELECT 1", "/* x */ prepare a as select 1 ; ; "] {
            assert_eq!(of(one, "a").as_deref(), Some(one));
            assert_eq!(of(&format!("SELECT 2;{one}"), "a").as_deref(), Some(one));
        }
        assert_eq!(of("prepare a as select 1; select 2", "a").as_deref(), Some("prepare a as select 1"));
        let two = "delete from t; prepare A(int) as select ';'; prepare b as select 2";
        assert_eq!(of(two, "a").as_deref().map(str::trim), Some("prepare A(int) as select ';'"));
        assert_eq!(of(two, "b").as_deref().map(str::trim), Some("prepare b as select 2"));
        assert_eq!(of(two, "c"), None);
        let twice = "prepare a as select 1; prepare a as select 2";
        assert_eq!(of(twice, "a").as_deref(), Some("prepare a as select 1"));
        assert_eq!(of("prepare a as select 1; deallocate a; prepare a as select 2", "a"), None);
    }
}
