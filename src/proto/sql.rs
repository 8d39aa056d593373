//! Tells from a statement's text whether it leaves a changed parameter behind in the server's session.
//!
//! A lexer of PostgreSQL's string, identifier and comment forms (documentation, 4.1 Lexical Structure), and no
//! parser: it looks at what begins each statement. It allocates nothing. Where the text can be read in two
//! ways (`standard_conforming_strings` off, client encodings with a backslash as second byte) it takes the
//! safe one: a statement that changes nothing may be marked, one that changes something is never missed. What
//! runs inside functions, `DO` and `set_config()` is beyond a text's reach and not seen here.

mod effects;
pub mod fingerprint;
pub mod lexer;

pub use effects::{
    TextEffects, application_parameters, deallocate_name, effects, executes, may_copy, names_statements,
    needs_look, prepare_of, prepares, statement_names,
};
use lexer::{Lexer, Token};

/// A name as a quoted identifier.
pub fn write_identifier(out: &mut Vec<u8>, name: &[u8]) {
    out.push(b'"');
    for b in name {
        if *b == b'"' {
            out.push(b'"');
        }
        out.push(*b);
    }
    out.push(b'"');
}

/// What the SETs and RESETs of a text are about, as far as they outlive its transaction.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Sets {
    /// A parameter that nobody reports, or the role, beyond its transaction: the server must be cleaned.
    pub marks: bool,
    /// A parameter that the server reports, or any: it follows the client.
    pub reported: bool,
}

impl Sets {
    const NOTHING: Self = Self { marks: false, reported: false };
    const ANYTHING: Self = Self { marks: true, reported: true };

    fn and(self, other: Self) -> Self {
        Self { marks: self.marks || other.marks, reported: self.reported || other.reported }
    }
}

/// Reads the whole text, which may be several statements. `is_reported` gets a parameter's name as written
/// (compare it without regard to case) and tells whether the server reports its changes.
pub fn sets(sql: &[u8], is_reported: &dyn Fn(&[u8]) -> bool) -> Sets {
    let mut lexer = Lexer::new(sql);
    let mut found = Sets::NOTHING;
    let mut at_start = true;
    while let Some(token) = lexer.next_token() {
        if at_start {
            if token.is_word(b"set") {
                found = found.and(after_set(&mut lexer, is_reported));
            } else if token.is_word(b"reset") {
                found = found.and(after_reset(&mut lexer, is_reported));
            }
            if found == Sets::ANYTHING {
                return found;
            }
        }
        at_start = token == Token::Semicolon;
    }
    // Read in the other way, a later literal may be a statement: any trace of one is enough.
    // It takes a semicolon to begin one.
    if lexer.ambiguous_from().is_some_and(|from| {
        let rest = sql.get(from..).unwrap_or_default();
        memchr::memchr(b';', rest).is_some_and(|at| mentions_set(rest.get(at..).unwrap_or_default()))
    }) {
        return Sets::ANYTHING;
    }
    found
}

/// Whether [`sets`] could find anything: `false` only for one statement that begins with neither SET nor
/// RESET. Looks at the first bytes and for a semicolon that is not the end.
pub fn needs_classification(sql: &[u8]) -> bool {
    let start = sql.iter().position(|b| !lexer::is_space(*b)).unwrap_or(sql.len());
    let text = sql.get(start..).unwrap_or_default();
    let begins = |word: &[u8]| text.get(..word.len()).is_some_and(|t| t.eq_ignore_ascii_case(word));
    let suspicious = match text.first() {
        None => return false,
        Some(b's' | b'S') => begins(b"set"),
        Some(b'r' | b'R') => begins(b"reset"),
        // A comment may stand before anything.
        Some(b'-' | b'/' | b';' | 0) => true,
        Some(_) => false,
    };
    suspicious
        || memchr::memchr(b';', text).is_some_and(|end| {
            text.get(end + 1..).unwrap_or_default().iter().any(|b| !lexer::is_space(*b) && *b != b';')
        })
}

/// `SET [SESSION | LOCAL] …` (documentation, SET, SET TRANSACTION, SET ROLE, SET SESSION AUTHORIZATION).
fn after_set(lexer: &mut Lexer<'_>, is_reported: &dyn Fn(&[u8]) -> bool) -> Sets {
    let mut first = lexer.peek();
    if first.is_word(b"local") || first.is_word(b"constraints") {
        return Sets::NOTHING;
    }
    if first.is_word(b"session") {
        lexer.next_token();
        first = lexer.peek();
        // SET SESSION AUTHORIZATION and SET SESSION CHARACTERISTICS; also SET SESSION = …, which is an error.
        if first.is_word(b"authorization") {
            return Sets { marks: true, reported: false };
        }
        if !matches!(first, Token::Word(_) | Token::Quoted(_))
            || first.is_word(b"characteristics")
            || first.is_word(b"session")
        {
            return Sets::ANYTHING;
        }
    }
    if first.is_word(b"transaction") {
        return Sets::NOTHING;
    }
    if first.is_word(b"role") {
        return Sets { marks: true, reported: false };
    }
    if first.is_word(b"names") {
        return carried(b"client_encoding", is_reported);
    }
    if first.is_word(b"schema") {
        return carried(b"search_path", is_reported);
    }
    parameter(lexer, is_reported)
}

/// `RESET name`, `RESET ALL`, `RESET SESSION AUTHORIZATION`, `RESET TRANSACTION ISOLATION LEVEL`.
fn after_reset(lexer: &mut Lexer<'_>, is_reported: &dyn Fn(&[u8]) -> bool) -> Sets {
    let first = lexer.peek();
    if first.is_word(b"session") {
        return Sets { marks: true, reported: false };
    }
    if first.is_word(b"all") {
        return Sets::ANYTHING;
    }
    if first.is_word(b"transaction") {
        return Sets::NOTHING;
    }
    parameter(lexer, is_reported)
}

/// The name of a parameter, whole: `a`, `"a"`, `a.b`, or `TIME ZONE`.
fn parameter(lexer: &mut Lexer<'_>, is_reported: &dyn Fn(&[u8]) -> bool) -> Sets {
    let Some(Token::Word(name) | Token::Quoted(name)) = lexer.next_token() else {
        return Sets::ANYTHING;
    };
    let next = lexer.peek();
    if next.is_word(b"zone") && name.eq_ignore_ascii_case(b"time") {
        return carried(b"TimeZone", is_reported);
    }
    // Nobody reports a parameter of an extension. After any other word than TO the text is not what we think.
    let plain = match next {
        Token::Other(b'=') | Token::Semicolon | Token::End => true,
        Token::Word(_) => next.is_word(b"to") || next.is_word(b"from"),
        _ => false,
    };
    match next {
        _ if plain => carried(name, is_reported),
        Token::Other(b'.') => Sets { marks: true, reported: false },
        _ => Sets::ANYTHING,
    }
}

fn carried(name: &[u8], is_reported: &dyn Fn(&[u8]) -> bool) -> Sets {
    // The identity is never carried, although the server reports session_authorization.
    let identity = name.eq_ignore_ascii_case(b"role") || name.eq_ignore_ascii_case(b"session_authorization");
    let reported = !identity && is_reported(name);
    Sets { marks: !reported, reported }
}

fn mentions_set(text: &[u8]) -> bool {
    text.windows(3).any(|w| w.eq_ignore_ascii_case(b"set"))
}

/// Whether a text may be a DEALLOCATE or DISCARD. What names mean behind it is known when it has been answered.
/// `look` is what [`needs_look`] says of it.
pub fn drops_statements(text: &[u8], look: bool) -> bool {
    const WORDS: [&[u8]; 2] = [b"deallocate", b"discard"];
    let text = text.trim_ascii_start();
    let begins = |t: &[u8]| {
        matches!(t.first(), Some(b'd' | b'D'))
            && WORDS.iter().any(|w| t.get(..w.len()).is_some_and(|t| t.eq_ignore_ascii_case(w)))
    };
    // The usual texts are known by their first letter; with comments or several statements, any trace counts.
    begins(text) || (look && (0..text.len()).any(|i| text.get(i..).is_some_and(begins)))
}

/// The highest `$n` in a text; one in a literal or a comment does no harm to those who ask.
pub fn highest_parameter(text: &[u8]) -> u16 {
    let mut highest = 0;
    for at in memchr::memchr_iter(b'$', text) {
        let digits = text.get(at + 1..).unwrap_or_default();
        let n = digits.iter().take_while(|b| b.is_ascii_digit()).count();
        let number = std::str::from_utf8(digits.get(..n).unwrap_or_default()).unwrap_or_default();
        highest = highest.max(number.parse().unwrap_or(0));
    }
    highest
}

/// Whether a text begins a transaction block.
pub fn begins_block(text: &[u8]) -> bool {
    let first = Lexer::new(text).next_token();
    first.is_some_and(|t| t.is_word(b"begin") || t.is_word(b"start"))
}

/// Whether a text is one of the statements that PostgreSQL runs in a transaction that has failed.
pub fn ends_failed(text: &[u8]) -> bool {
    const WORDS: [&[u8]; 5] = [b"commit", b"end", b"rollback", b"abort", b"prepare"];
    let first = Lexer::new(text).next_token();
    first.is_some_and(|t| WORDS.iter().any(|w| t.is_word(w)))
}

/// Whether a text is for certain one of those that return no rows. Of such a statement PostgreSQL tells what it is even
/// in a transaction that has failed.
pub fn returns_no_rows(text: &[u8]) -> bool {
    const NEVER: &str = "begin start savepoint release set reset discard deallocate prepare create alter drop \
                         comment grant revoke truncate lock analyze vacuum reindex cluster refresh listen unlisten \
                         notify declare close do copy";
    const UNLESS_RETURNING: [&[u8]; 3] = [b"insert", b"update", b"delete"];
    let mut lexer = Lexer::new(text);
    let Some(first) = lexer.next_token() else { return false };
    if NEVER.split(' ').any(|w| first.is_word(w.as_bytes())) {
        return true;
    }
    if !UNLESS_RETURNING.iter().any(|w| first.is_word(w)) {
        return false;
    }
    while let Some(token) = lexer.next_token() {
        if token.is_word(b"returning") {
            return false;
        }
    }
    true
}

#[cfg(test)]
mod tests;
