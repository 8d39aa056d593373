//! What the text of a transaction's first statement says about it. Reads tokens, looks nothing up, and is wrong
//! on the safe side only: what it does not understand is [`Class::Other`], which belongs on the primary.

use super::functions::{KEYWORDS, is_harmless};
use crate::proto::sql::lexer::{Lexer, Token};

/// A text that is longer is not read.
pub const MAX_TEXT: usize = 64 * 1024;

/// What a text is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Class {
    /// BEGIN or START TRANSACTION … READ ONLY, and nothing behind it that leaves that block.
    ReadOnlyBlock,
    /// The same, but SERIALIZABLE, which a hot standby refuses.
    SerializableReadOnlyBlock,
    /// A block that says READ WRITE or SERIALIZABLE.
    WriteBlock,
    /// A block that says neither READ ONLY nor READ WRITE, alone.
    BareBlock,
    /// SET TRANSACTION … READ ONLY, alone; means something inside a block only.
    SetReadOnly,
    /// SET TRANSACTION … READ WRITE, alone.
    SetReadWrite,
    /// Any other SET TRANSACTION.
    SetOther,
    /// COMMIT, ROLLBACK and the like, alone.
    EndBlock,
    /// A query of which its text shows that it only reads.
    HarmlessSelect,
    Other,
}

/// What a comment at the front of a text asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hint {
    Primary,
    Replica,
}

impl Class {
    const ALL: [Self; 10] = [
        Self::ReadOnlyBlock,
        Self::SerializableReadOnlyBlock,
        Self::WriteBlock,
        Self::BareBlock,
        Self::SetReadOnly,
        Self::SetReadWrite,
        Self::SetOther,
        Self::EndBlock,
        Self::HarmlessSelect,
        Self::Other,
    ];
}

/// A text's class and hint, in a form that can be kept with an interned statement.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Verdict {
    pub class: Class,
    pub hint: Option<Hint>,
}

impl Verdict {
    pub const OTHER: Self = Self { class: Class::Other, hint: None };

    /// From 1, so that 0 is free for "not known".
    pub fn to_bits(self) -> u32 {
        let class =
            crate::number::count(Class::ALL.iter().position(|c| *c == self.class).unwrap_or_default()) + 1;
        let hint = match self.hint {
            None => 0,
            Some(Hint::Primary) => 1,
            Some(Hint::Replica) => 2,
        };
        class | hint << 4
    }

    pub fn from_bits(bits: u32) -> Option<Self> {
        let class = *Class::ALL.get(((bits & 15) as usize).checked_sub(1)?)?;
        let hint = match bits >> 4 & 3 {
            1 => Some(Hint::Primary),
            2 => Some(Hint::Replica),
            _ => None,
        };
        Some(Self { class, hint })
    }
}

/// How much is to be read of a text.
#[derive(Debug, Clone, Copy, Default)]
pub struct Reading<'a> {
    /// Whether a query may turn out as [`Class::HarmlessSelect`].
    pub selects: bool,
    pub hints: bool,
    /// Functions that are harmless beside the built-in ones; lower case, with their schema if they have one.
    pub functions: &'a [String],
}

/// Classifies a whole text, which may be several statements.
pub fn classify(text: &[u8], reading: Reading<'_>) -> Verdict {
    if text.len() > MAX_TEXT {
        return Verdict::OTHER;
    }
    let hint = if reading.hints { hint(text) } else { None };
    let mut lexer = Lexer::new(text);
    let mut first = lexer.next_token();
    while first == Some(Token::Semicolon) {
        first = lexer.next_token();
    }
    let class = match first {
        Some(t) if t.is_word(b"begin") => {
            if lexer.peek().is_word(b"work") || lexer.peek().is_word(b"transaction") {
                lexer.next_token();
            }
            block(lexer)
        }
        Some(t) if t.is_word(b"start") => match lexer.next_token() {
            Some(t) if t.is_word(b"transaction") => block(lexer),
            _ => Class::Other,
        },
        Some(t) if t.is_word(b"set") => match lexer.next_token() {
            Some(t) if t.is_word(b"transaction") => set_transaction(lexer),
            _ => Class::Other,
        },
        Some(t) if ends_block(t) => end(lexer),
        Some(t) if reading.selects && may_begin_query(t) && query(text, reading.functions) => {
            Class::HarmlessSelect
        }
        _ => Class::Other,
    };
    Verdict { class, hint }
}

/// `/* howdah: replica */` or `/* howdah: primary */`, before anything but white space.
fn hint(text: &[u8]) -> Option<Hint> {
    let rest = text.trim_ascii_start().strip_prefix(b"/*")?.trim_ascii_start();
    let rest = rest.strip_prefix(b"howdah:")?.trim_ascii_start();
    let end = memchr::memmem::find(rest, b"*/")?;
    match rest.get(..end)?.trim_ascii() {
        b"replica" => Some(Hint::Replica),
        b"primary" => Some(Hint::Primary),
        _ => None,
    }
}

/// What a list of transaction modes says.
#[derive(Default)]
struct Modes {
    read_only: bool,
    read_write: bool,
    serializable: bool,
}

/// Reads modes up to the end of the statement; `None` for anything that is no list of modes.
fn modes(lexer: &mut Lexer<'_>) -> Option<Modes> {
    let mut m = Modes::default();
    let mut any = false;
    loop {
        match lexer.peek() {
            Token::End | Token::Semicolon => return Some(m),
            Token::Other(b',') if any => {
                lexer.next_token();
            }
            _ => {}
        }
        let t = lexer.next_token()?;
        any = true;
        if t.is_word(b"read") {
            match lexer.next_token()? {
                t if t.is_word(b"only") => m.read_only = true,
                t if t.is_word(b"write") => m.read_write = true,
                _ => return None,
            }
        } else if t.is_word(b"isolation") {
            if !lexer.next_token()?.is_word(b"level") {
                return None;
            }
            let level = lexer.next_token()?;
            if level.is_word(b"serializable") {
                m.serializable = true;
            } else if level.is_word(b"repeatable") {
                if !lexer.next_token()?.is_word(b"read") {
                    return None;
                }
            } else if level.is_word(b"read") {
                let t = lexer.next_token()?;
                if !t.is_word(b"committed") && !t.is_word(b"uncommitted") {
                    return None;
                }
            } else {
                return None;
            }
        } else if t.is_word(b"not") {
            if !lexer.next_token()?.is_word(b"deferrable") {
                return None;
            }
        } else if !t.is_word(b"deferrable") {
            return None;
        }
    }
}

/// Behind BEGIN [WORK | TRANSACTION] or START TRANSACTION.
fn block(mut lexer: Lexer<'_>) -> Class {
    let Some(m) = modes(&mut lexer) else { return Class::Other };
    let more = more_statements(&mut lexer);
    match m {
        Modes { read_write: true, .. } => Class::WriteBlock,
        _ if more == More::Escapes => Class::Other,
        Modes { serializable: true, read_only: true, .. } => Class::SerializableReadOnlyBlock,
        Modes { serializable: true, .. } => Class::WriteBlock,
        Modes { read_only: true, .. } => Class::ReadOnlyBlock,
        _ if more == More::None => Class::BareBlock,
        _ => Class::Other,
    }
}

/// What follows a block's first statement in the same text.
#[derive(PartialEq, Eq)]
enum More {
    None,
    /// Statements that stay in the block, and perhaps its end.
    Inside,
    /// Something that may run outside of the block, or change what it is.
    Escapes,
}

/// From the semicolon that ends a statement on.
fn more_statements(lexer: &mut Lexer<'_>) -> More {
    const INSIDE: [&[u8]; 8] =
        [b"select", b"values", b"table", b"with", b"show", b"explain", b"fetch", b"declare"];
    let (mut at_start, mut any, mut ended) = (false, false, false);
    while let Some(t) = lexer.next_token() {
        if t == Token::Semicolon {
            at_start = true;
        } else if at_start {
            at_start = false;
            any = true;
            if ended {
                return More::Escapes;
            }
            if ends_block(t) {
                // Only alone: AND CHAIN begins another block, TO SAVEPOINT does not end it.
                ended = matches!(lexer.peek(), Token::Semicolon | Token::End);
                if !ended {
                    return More::Escapes;
                }
            } else if !INSIDE.iter().any(|w| t.is_word(w)) {
                return More::Escapes;
            }
        }
    }
    // Read in another way, a literal may end earlier.
    if lexer.ambiguous_from().is_some() {
        return More::Escapes;
    }
    if any { More::Inside } else { More::None }
}

fn set_transaction(mut lexer: Lexer<'_>) -> Class {
    if lexer.peek().is_word(b"snapshot") {
        return Class::SetOther;
    }
    match modes(&mut lexer) {
        Some(m) if m.read_only && !m.read_write && !m.serializable => match more_statements(&mut lexer) {
            More::None => Class::SetReadOnly,
            _ => Class::Other,
        },
        Some(m) if m.read_write && !m.read_only => match more_statements(&mut lexer) {
            More::None => Class::SetReadWrite,
            _ => Class::Other,
        },
        Some(_) => Class::SetOther,
        None => Class::Other,
    }
}

/// Whether a text is BEGIN or START TRANSACTION … READ ONLY, alone, and not SERIALIZABLE.
pub fn begins_read_only(text: &[u8]) -> bool {
    let mut lexer = Lexer::new(text);
    let mut first = lexer.next_token();
    while first == Some(Token::Semicolon) {
        first = lexer.next_token();
    }
    let starts = first.is_some_and(|t| t.is_word(b"start"));
    if !starts && !first.is_some_and(|t| t.is_word(b"begin")) {
        return false;
    }
    if lexer.peek().is_word(b"work") || lexer.peek().is_word(b"transaction") {
        lexer.next_token();
    }
    let modes = modes(&mut lexer);
    modes.is_some_and(|m| m.read_only && !m.read_write && !m.serializable)
        && more_statements(&mut lexer) == More::None
}

fn ends_block(t: Token<'_>) -> bool {
    [&b"commit"[..], b"end", b"rollback", b"abort"].iter().any(|w| t.is_word(w))
}

/// Behind COMMIT and the like.
fn end(mut lexer: Lexer<'_>) -> Class {
    if lexer.peek().is_word(b"work") || lexer.peek().is_word(b"transaction") {
        lexer.next_token();
    }
    loop {
        match lexer.next_token() {
            None => return Class::EndBlock,
            Some(Token::Semicolon) => {}
            Some(_) => return Class::Other,
        }
    }
}

fn may_begin_query(t: Token<'_>) -> bool {
    t == Token::Other(b'(') || [&b"select"[..], b"with", b"values", b"table"].iter().any(|w| t.is_word(w))
}

/// Whether the text is one query that only reads, as far as its own words tell.
fn query(text: &[u8], functions: &[String]) -> bool {
    let mut lexer = Lexer::new(text);
    // The last three tokens: schema, dot, name.
    let mut before = [Token::End; 3];
    let (mut over, mut begun) = (false, false);
    while let Some(t) = lexer.next_token() {
        if t == Token::Semicolon {
            over = begun;
            continue;
        }
        if over {
            return false;
        }
        begun = true;
        if t == Token::Other(b'(') && !may_precede_bracket(before, functions) {
            return false;
        }
        let suspicious = match t {
            Token::Word(w) => forbidden(w, lexer.peek()),
            // Catalogs tell of the server that is asked.
            Token::Quoted(q) => q.starts_with(b"pg_") || q.contains(&b'"'),
            _ => false,
        };
        if suspicious {
            return false;
        }
        before = [before[1], before[2], t];
    }
    begun && lexer.ambiguous_from().is_none()
}

/// Words that a harmless query does not have; `next` is what follows.
fn forbidden(word: &[u8], next: Token<'_>) -> bool {
    const WORDS: [&[u8]; 9] =
        [b"insert", b"update", b"delete", b"merge", b"into", b"share", b"nextval", b"setval", b"operator"];
    let is = |w: &[u8]| word.eq_ignore_ascii_case(w);
    if WORDS.iter().any(|w| is(w)) {
        return true;
    }
    // FOR UPDATE, FOR NO KEY UPDATE, FOR SHARE, FOR KEY SHARE; FOR alone is a part of substring().
    if is(b"for") {
        return [&b"update"[..], b"no", b"share", b"key"].iter().any(|w| next.is_word(w));
    }
    // Columns of a sequence: a replica's are ahead, because the WAL has them in advance. last_value() is a window function.
    if is(b"last_value") && next != Token::Other(b'(') || is(b"log_cnt") || is(b"is_called") {
        return true;
    }
    let catalog = word.get(..3).is_some_and(|p| p.eq_ignore_ascii_case(b"pg_"));
    catalog && !(is(b"pg_catalog") && next == Token::Other(b'.'))
}

/// Whether what stands before an opening bracket is no call, or one of a function that is known.
fn may_precede_bracket(before: [Token<'_>; 3], functions: &[String]) -> bool {
    let [schema, dot, name] = before;
    let Token::Word(name) = name else {
        // "name"(…) is a call; an operator, a comma or a bracket before it is none. Behind ? of no dialect,
        // a literal or a number it is an error anyway.
        return !matches!(name, Token::Quoted(_));
    };
    let name = String::from_utf8_lossy(name).to_ascii_lowercase();
    if dot == Token::Other(b'.') {
        let (Token::Word(schema) | Token::Quoted(schema)) = schema else { return false };
        let schema = String::from_utf8_lossy(schema).to_ascii_lowercase();
        let full = format!("{schema}.{name}");
        return (schema == "pg_catalog" && is_harmless(&name)) || functions.contains(&full);
    }
    KEYWORDS.contains(&name.as_str()) || is_harmless(&name) || functions.contains(&name)
}

#[cfg(test)]
mod tests;
