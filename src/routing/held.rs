//! `defer_begin`: a BEGIN, bare or READ ONLY, is answered at once and kept, so that the statement behind it can say where the
//! transaction belongs. What is answered in a server's place is made here; no I/O.

use super::classify::{Class, Reading, Verdict, begins_read_only, classify};
use crate::proto::encode;
use crate::proto::frame::{self, fe};
use crate::proto::pipeline::TxStatus;
use crate::proto::sql::lexer::{Lexer, Token};

/// A message that is longer is none of those that are answered here.
const MAX: usize = 4096;

/// The transaction of a client that no server knows of.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub enum Held {
    #[default]
    No,
    /// Its BEGIN, which the server gets when there is one.
    Begun(Box<[u8]>),
    /// No server could be had: everything but its end is refused, as PostgreSQL does behind an error.
    Failed,
}

impl Held {
    /// What the client's ReadyForQuery says.
    pub fn status(&self) -> TxStatus {
        match self {
            Self::No => TxStatus::Idle,
            Self::Begun(_) => TxStatus::InTransaction,
            Self::Failed => TxStatus::Failed,
        }
    }
}

/// What happens to the message at the front.
#[derive(Debug, PartialEq, Eq)]
pub enum Step {
    /// It is for a server, or for whoever answers such messages elsewhere.
    Pass,
    /// So many bytes of it must be there.
    NeedMore(usize),
    /// These bytes are answered by those, and the state is another one.
    Answer(Answer),
    /// It is refused: the transaction has failed.
    Refuse,
}

#[derive(Debug, PartialEq, Eq)]
pub struct Answer {
    pub total: usize,
    pub reply: Vec<u8>,
    pub then: Held,
    /// What the client's unnamed statement is now: the Parse without its name. `None`: there is none any more.
    pub unnamed: Option<Vec<u8>>,
}

/// Looks at the message at the front of what a client has sent, which is no Sync, and decides. Where nothing is
/// held, only what begins a transaction without saying where it belongs is answered.
pub fn step(held: &Held, bytes: &[u8], reading: Reading<'_>) -> Step {
    let Some(&tag) = bytes.first() else { return Step::NeedMore(frame::HEADER) };
    let failed = *held == Held::Failed;
    let other = if failed { Step::Refuse } else { Step::Pass };
    match tag {
        fe::QUERY => {
            let total = match whole(bytes) {
                Whole::Yes(total) => total,
                Whole::No(need) => return Step::NeedMore(need),
                Whole::TooLong => return other,
            };
            let body = bytes.get(frame::HEADER..total).unwrap_or_default();
            let text = body.strip_suffix(b"\0").unwrap_or(body);
            match answer(held, text, reading) {
                Some((tag, then)) => {
                    let mut reply = complete(tag);
                    reply.extend_from_slice(&encode::ready_for_query(then.status()));
                    Step::Answer(Answer { total, reply, then, unnamed: None })
                }
                None => other,
            }
        }
        fe::PARSE => match batch(bytes) {
            Batch::Whole { text, parse, total, mut reply } => match answer(held, text, reading) {
                Some((tag, then)) => {
                    reply.extend_from_slice(&complete(tag));
                    reply.extend_from_slice(&encode::ready_for_query(then.status()));
                    Step::Answer(Answer { total, reply, then, unnamed: Some(parse.to_vec()) })
                }
                None => other,
            },
            // Another text is not waited for.
            Batch::Begins { text, need } => {
                if text.is_none_or(|t| answer(held, t, reading).is_some()) {
                    Step::NeedMore(need)
                } else {
                    other
                }
            }
            Batch::Other => other,
        },
        fe::BIND | fe::DESCRIBE | fe::EXECUTE | fe::FUNCTION_CALL => other,
        _ => Step::Pass,
    }
}

/// The completion tag of a text that is answered here, and what is held then.
fn answer(held: &Held, text: &[u8], reading: Reading<'_>) -> Option<(&'static str, Held)> {
    // Whether it is a query that only reads is nothing to know here.
    let Verdict { class, hint } = classify(text, Reading { selects: false, ..reading });
    match (held, class) {
        (Held::No, Class::BareBlock | Class::ReadOnlyBlock)
            if hint.is_none() && (class == Class::BareBlock || begins_read_only(text)) =>
        {
            let tag = if first_word(text, b"start") { "START TRANSACTION" } else { "BEGIN" };
            Some((tag, Held::Begun(text.into())))
        }
        (Held::Begun(_), Class::EndBlock) => {
            let commits = first_word(text, b"commit") || first_word(text, b"end");
            Some((if commits { "COMMIT" } else { "ROLLBACK" }, Held::No))
        }
        (Held::Failed, Class::EndBlock) => Some(("ROLLBACK", Held::No)),
        _ => None,
    }
}

fn first_word(text: &[u8], word: &[u8]) -> bool {
    let mut lexer = Lexer::new(text);
    let mut t = lexer.next_token();
    while t == Some(Token::Semicolon) {
        t = lexer.next_token();
    }
    t.is_some_and(|t| t.is_word(word))
}

/// CommandComplete.
fn complete(tag: &str) -> Vec<u8> {
    let mut m = vec![b'C'];
    m.extend_from_slice(&frame::length(tag.len() + 1));
    m.extend_from_slice(tag.as_bytes());
    m.push(0);
    m
}

enum Whole {
    Yes(usize),
    No(usize),
    TooLong,
}

fn whole(bytes: &[u8]) -> Whole {
    match frame::header(bytes, u32::MAX / 2).ok().flatten() {
        None if bytes.len() < frame::HEADER => Whole::No(frame::HEADER),
        None => Whole::TooLong,
        Some(h) if h.total > MAX => Whole::TooLong,
        Some(h) if bytes.len() < h.total => Whole::No(h.total),
        Some(h) => Whole::Yes(h.total),
    }
}

enum Batch<'a> {
    /// One unnamed statement without parameters, run once, and its Sync.
    Whole {
        text: &'a [u8],
        parse: &'a [u8],
        total: usize,
        reply: Vec<u8>,
    },
    /// It may become one when so many bytes are there; the text, if that is there.
    Begins {
        text: Option<&'a [u8]>,
        need: usize,
    },
    Other,
}

fn batch(bytes: &[u8]) -> Batch<'_> {
    let mut at = 0;
    let mut reply = Vec::new();
    let mut statement: Option<(&[u8], &[u8])> = None;
    let (mut bound, mut executed) = (false, false);
    loop {
        let rest = bytes.get(at..).unwrap_or_default();
        let total = match whole(rest) {
            Whole::Yes(total) => total,
            Whole::No(need) => return Batch::Begins { text: statement.map(|(t, _)| t), need: at + need },
            Whole::TooLong => return Batch::Other,
        };
        let body = rest.get(frame::HEADER..total).unwrap_or_default();
        match (rest.first(), statement) {
            (Some(&fe::PARSE), None) => {
                let Some((text, parse)) = unnamed_parse(body) else { return Batch::Other };
                statement = Some((text, parse));
                reply.extend_from_slice(encode::PARSE_COMPLETE);
            }
            (Some(&fe::DESCRIBE), Some(_)) if body == b"S\0" && !executed => {
                reply.extend_from_slice(b"t\0\0\0\x06\0\0n\0\0\0\x04");
            }
            (Some(&fe::BIND), Some(_)) if !bound && binds_nothing(body) => {
                bound = true;
                reply.extend_from_slice(b"2\0\0\0\x04");
            }
            (Some(&fe::DESCRIBE), Some(_)) if body == b"P\0" && bound && !executed => {
                reply.extend_from_slice(b"n\0\0\0\x04");
            }
            (Some(&fe::EXECUTE), Some(_)) if bound && !executed && body.first() == Some(&0) => {
                executed = true
            }
            (Some(&fe::SYNC), Some((text, parse))) if executed => {
                return Batch::Whole { text, parse, total: at + total, reply };
            }
            _ => return Batch::Other,
        }
        at += total;
    }
}

/// Its text, and the message without its empty name; without types of parameters, of which there are none.
fn unnamed_parse(body: &[u8]) -> Option<(&[u8], &[u8])> {
    let parse = body.strip_prefix(b"\0")?;
    let (text, types) = frame::cstr(parse)?;
    (types == [0, 0]).then_some((text, parse))
}

/// The unnamed portal of the unnamed statement, without values.
fn binds_nothing(body: &[u8]) -> bool {
    let Some(rest) = body.strip_prefix(b"\0\0") else { return false };
    let Some((formats, rest)) = rest.split_first_chunk::<2>() else { return false };
    let formats = usize::from(u16::from_be_bytes(*formats));
    formats <= 1 && rest.get(formats * 2..).is_some_and(|r| r.starts_with(&[0, 0]))
}

#[cfg(test)]
mod tests;
