//! What a statement leaves behind that its completion tag alone does not tell: temporary tables, cursors that
//! outlive their transaction, parameters; and which statement a DEALLOCATE names.

use super::lexer::{self, Lexer, Token};

/// See [`effects`].
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct TextEffects {
    /// A SET or RESET of something that nobody carries.
    pub session_set: bool,
    /// A SET or RESET of what the server reports, or of everything.
    pub reported_set: bool,
    /// CREATE TEMP of anything.
    pub temp: bool,
    /// DECLARE … WITH HOLD.
    pub hold: bool,
}

impl TextEffects {
    /// A text that could not be looked at.
    pub const ANY: Self = Self { session_set: true, reported_set: true, temp: true, hold: true };

    /// Takes in what another text does.
    pub fn add(&mut self, other: Self) {
        self.session_set |= other.session_set;
        self.reported_set |= other.reported_set;
        self.temp |= other.temp;
        self.hold |= other.hold;
    }
}

fn begins(text: &[u8], word: &[u8]) -> bool {
    text.get(..word.len()).is_some_and(|t| t.eq_ignore_ascii_case(word))
}

/// Whether [`effects`] or [`deallocate_name`] could find anything; looks at the first bytes only, and for a
/// semicolon or an INTO inside.
#[inline]
pub fn needs_look(sql: &[u8]) -> bool {
    let start = sql.iter().position(|b| !lexer::is_space(*b)).unwrap_or(sql.len());
    let text = sql.get(start..).unwrap_or_default();
    match text.first() {
        Some(b'c' | b'C') if begins(text, b"create") => true,
        Some(b'd' | b'D') if begins(text, b"declare") || begins(text, b"deallocate") => true,
        Some(b's' | b'S' | b'w' | b'W' | b'(') if has_into(text) => true,
        _ => super::needs_classification(text),
    }
}

/// SELECT … INTO TEMP says no more than SELECT in its tag. One pass that does not end early, so that the compiler
/// makes it look at many bytes at once: this is asked of every query.
fn has_into(text: &[u8]) -> bool {
    let from = |n: usize| text.get(n..).unwrap_or_default();
    let is = |byte: &u8, letter: u8| byte | 0x20 == letter;
    text.iter().zip(from(1)).zip(from(2)).zip(from(3)).fold(false, |found, (((i, n), t), o)| {
        found | (is(i, b'i') & is(n, b'n') & is(t, b't') & is(o, b'o'))
    })
}

/// Reads the whole text, which may be several statements.
pub fn effects(sql: &[u8], is_reported: &dyn Fn(&[u8]) -> bool) -> TextEffects {
    let sets = super::sets(sql, is_reported);
    let mut e =
        TextEffects { session_set: sets.marks, reported_set: sets.reported, ..TextEffects::default() };
    let mut lexer = Lexer::new(sql);
    let (mut at_start, mut creating, mut declaring) = (true, false, false);
    let mut words = 0;
    let mut into = false;
    while let Some(t) = lexer.next_token() {
        if at_start {
            creating = t.is_word(b"create");
            declaring = t.is_word(b"declare");
            words = 0;
        }
        words += 1;
        // CREATE [OR REPLACE] [GLOBAL | LOCAL] TEMP, CREATE TABLE IF NOT EXISTS pg_temp.t: in the first six words.
        let temp = t.is_word(b"temp") || t.is_word(b"temporary") || t.is_word(b"pg_temp");
        e.temp |= creating && words <= 6 && temp;
        e.temp |= temp && into;
        // INTO [LOCAL | GLOBAL] TEMP.
        into = t.is_word(b"into") || (into && (t.is_word(b"local") || t.is_word(b"global")));
        e.hold |= declaring && t.is_word(b"hold");
        at_start = t == Token::Semicolon;
    }
    e
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
    loop {
        match lexer.next_token() {
            None => return Some(name),
            Some(Token::Semicolon) => {}
            Some(_) => return None,
        }
    }
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
            ("select into t from u", false, false),
        ] {
            let e = effects(sql.as_bytes(), &none);
            assert_eq!((e.temp, e.hold), (temp, hold), "{sql}");
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
}
