//! Tokens of SQL as far as statement boundaries need them.

/// One token; literals and comments have no content here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Token<'a> {
    /// An unquoted identifier or key word.
    Word(&'a [u8]),
    /// What stands between the double quotes.
    Quoted(&'a [u8]),
    Semicolon,
    /// A string literal of any form.
    Literal,
    /// A number, or one byte of an operator or bracket.
    Other(u8),
    /// Nothing follows; only from [`Lexer::peek`].
    End,
}

impl Token<'_> {
    pub fn is_word(self, word: &[u8]) -> bool {
        matches!(self, Self::Word(w) if w.eq_ignore_ascii_case(word))
    }
}

const SPACE: u8 = 1;
const STARTS: u8 = 2;
const CONTINUES: u8 = 4;

/// What a byte can be; one load where there would be six comparisons.
#[expect(
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    reason = "worked out by the compiler, up to 255"
)]
const CLASS: [u8; 256] = {
    let mut table = [0; 256];
    let mut i = 0;
    while i < 256 {
        let b = i as u8;
        let starts = b.is_ascii_alphabetic() || b == b'_' || b >= 128;
        if matches!(b, b' ' | b'\t' | b'\n' | b'\r' | 0x0b | 0x0c) {
            table[i] |= SPACE;
        }
        if starts {
            table[i] |= STARTS;
        }
        if starts || b.is_ascii_digit() || b == b'$' {
            table[i] |= CONTINUES;
        }
        i += 1;
    }
    table
};

#[inline]
const fn class(b: u8) -> u8 {
    #[expect(clippy::indexing_slicing, reason = "the table has a place for every byte")]
    let class = CLASS[b as usize];
    class
}

/// White space of PostgreSQL's lexer, with the vertical tab of version 16.
#[inline]
pub(super) const fn is_space(b: u8) -> bool {
    class(b) & SPACE != 0
}

#[inline]
const fn starts_word(b: u8) -> bool {
    class(b) & STARTS != 0
}

#[inline]
const fn continues_word(b: u8) -> bool {
    class(b) & CONTINUES != 0
}

#[derive(Debug, Clone, Copy)]
pub struct Lexer<'a> {
    text: &'a [u8],
    pos: usize,
    ambiguous: Option<usize>,
}

impl<'a> Lexer<'a> {
    pub const fn new(text: &'a [u8]) -> Self {
        Self { text, pos: 0, ambiguous: None }
    }

    /// Where the first literal ends that has a second reading.
    pub const fn ambiguous_from(&self) -> Option<usize> {
        self.ambiguous
    }

    /// What has not been read.
    #[inline]
    pub fn rest(&self) -> &'a [u8] {
        self.text.get(self.pos..).unwrap_or_default()
    }

    /// Leaves out bytes that the caller has understood.
    pub(super) fn skip(&mut self, bytes: usize) {
        self.pos = (self.pos + bytes).min(self.text.len());
    }

    /// Leaves out white space and comments, and returns them.
    pub fn take_blank(&mut self) -> &'a [u8] {
        let from = self.pos;
        self.skip_blank();
        self.text.get(from..self.pos).unwrap_or_default()
    }

    /// The next token, not consumed.
    pub fn peek(&self) -> Token<'a> {
        let mut copy = *self;
        copy.next_token().unwrap_or(Token::End)
    }

    pub fn next_token(&mut self) -> Option<Token<'a>> {
        self.skip_blank();
        let b = self.byte(0)?;
        Some(match b {
            b';' => {
                self.pos += 1;
                Token::Semicolon
            }
            b'\'' => self.string(false),
            b'"' => self.quoted(),
            b'$' => self.dollar(),
            b'0'..=b'9' => {
                // With its letters, so that the e of 1e5 does not become a word that swallows a dollar quote.
                let number = self.run(|b| b.is_ascii_digit() || starts_word(b) || b == b'.');
                if matches!(number.last(), Some(b'e' | b'E'))
                    && matches!(self.byte(0), Some(b'+' | b'-'))
                    && self.byte(1).is_some_and(|b| b.is_ascii_digit())
                {
                    self.pos += 1;
                    self.run(|b| b.is_ascii_digit());
                }
                Token::Other(b)
            }
            _ if starts_word(b) => {
                let word = self.run(continues_word);
                if word.eq_ignore_ascii_case(b"e") && self.byte(0) == Some(b'\'') {
                    return Some(self.string(true));
                }
                Token::Word(word)
            }
            _ => {
                self.pos += 1;
                Token::Other(b)
            }
        })
    }

    fn byte(&self, ahead: usize) -> Option<u8> {
        self.text.get(self.pos + ahead).copied()
    }

    /// Consumes while `accept` holds.
    fn run(&mut self, accept: impl Fn(u8) -> bool) -> &'a [u8] {
        let rest = self.text.get(self.pos..).unwrap_or_default();
        let len = rest.iter().position(|b| !accept(*b)).unwrap_or(rest.len());
        self.pos += len;
        rest.get(..len).unwrap_or_default()
    }

    /// White space and comments; those with `/*` nest.
    fn skip_blank(&mut self) {
        loop {
            self.run(is_space);
            match (self.byte(0), self.byte(1)) {
                (Some(b'-'), Some(b'-')) => {
                    self.run(|b| b != b'\n' && b != b'\r');
                }
                (Some(b'/'), Some(b'*')) => self.block_comment(),
                _ => return,
            }
        }
    }

    fn block_comment(&mut self) {
        let mut depth = 0_usize;
        loop {
            match (self.byte(0), self.byte(1)) {
                (Some(b'/'), Some(b'*')) => {
                    depth += 1;
                    self.pos += 2;
                }
                (Some(b'*'), Some(b'/')) => {
                    self.pos += 2;
                    depth -= 1;
                    if depth == 0 {
                        return;
                    }
                }
                (Some(_), _) => self.pos += 1,
                (None, _) => return,
            }
        }
    }

    /// `'…'`, from its quote on. A doubled quote is two literals side by side, which ends at the same place.
    fn string(&mut self, escapes: bool) -> Token<'a> {
        self.pos += 1;
        let mut before = 0;
        while let Some(b) = self.byte(0) {
            self.pos += 1;
            match b {
                b'\'' if self.byte(0) == Some(b'\'') => {
                    self.doubt(!escapes && before == b'\\');
                    self.pos += 1;
                    before = 0;
                }
                b'\'' => {
                    self.doubt(!escapes && before == b'\\');
                    return Token::Literal;
                }
                b'\\' if escapes => {
                    // It may be the second half of a character.
                    self.doubt(before >= 128);
                    self.pos += 1;
                    before = 0;
                }
                _ => before = b,
            }
        }
        Token::Literal
    }

    /// Notes that from here on the text has a second reading.
    fn doubt(&mut self, doubtful: bool) {
        if doubtful && self.ambiguous.is_none() {
            self.ambiguous = Some(self.pos.min(self.text.len()));
        }
    }

    /// `"…"`; with a doubled quote inside it is no name that anybody reports, so its content may stay raw.
    fn quoted(&mut self) -> Token<'a> {
        self.pos += 1;
        let start = self.pos;
        loop {
            self.run(|b| b != b'"');
            let end = self.pos;
            self.pos = (end + 1).min(self.text.len());
            if self.byte(0) == Some(b'"') {
                self.pos += 1;
            } else {
                return Token::Quoted(self.text.get(start..end).unwrap_or_default());
            }
        }
    }

    /// `$tag$…$tag$`, or a parameter such as `$1`, or a lone dollar sign.
    fn dollar(&mut self) -> Token<'a> {
        let start = self.pos;
        self.pos += 1;
        if self.byte(0).is_some_and(starts_word) {
            self.run(|b| continues_word(b) && b != b'$');
        }
        if self.byte(0) != Some(b'$') {
            self.pos = start + 1;
            self.run(|b| b.is_ascii_digit());
            return Token::Other(b'$');
        }
        self.pos += 1;
        let tag = self.text.get(start..self.pos).unwrap_or_default();
        let body = self.text.get(self.pos..).unwrap_or_default();
        self.pos = memchr::memmem::find(body, tag).map_or(self.text.len(), |at| self.pos + at + tag.len());
        Token::Literal
    }
}
