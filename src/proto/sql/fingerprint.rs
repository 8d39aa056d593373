//! What a statement is apart from its constants: a number by which equal statements are known, and the text that
//! people are shown in place of the statement.
//!
//! Constants and parameters are one and the same (`?`), so that a statement is known whether it comes as text or
//! prepared. Lists (`IN (…)`, `ARRAY[…]`, the rows of `VALUES`) count each run of elements that differ in constants
//! only once. White space, comments, the case of key words and unquoted names, a final semicolon and the names of
//! savepoints do not count. The number is the same in every process.
//!
//! It is a lexer's work: names are not looked up, so `t` and `s.t` are two statements although they may be one table.

use self::written::{NoText, Out, Written};
use super::lexer::{Lexer, Token, is_space};

mod written;

/// The number of a text that is too long to be looked at.
pub const TOO_LONG: u64 = 1;

/// The number of a statement. Costs about five instructions for each byte, and allocates nothing.
pub fn fingerprint(sql: &[u8]) -> u64 {
    let mut walk = Walk::new(sql, NoText);
    walk.run();
    walk.finish()
}

/// What of a statement may be shown.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Normal {
    pub text: String,
    /// The first comment, without what stands in quotes and without numbers.
    pub comment: Option<String>,
}

/// The statement without its constants, at most about `limit` bytes of it. A statement with the key word PASSWORD
/// is not shown at all.
pub fn normal(sql: &[u8], limit: usize) -> Normal {
    let mut walk = Walk::new(sql, Written { text: Vec::new(), comment: None, limit });
    walk.run();
    walk.end();
    if walk.password {
        let what: String = String::from_utf8_lossy(sql.trim_ascii_start())
            .chars()
            .take_while(char::is_ascii_alphabetic)
            .take(20)
            .collect();
        return Normal {
            text: format!("{what} ... (a statement with PASSWORD is not shown)"),
            comment: None,
        };
    }
    let Written { mut text, comment, .. } = walk.out;
    if text.len() > limit {
        text.truncate(limit);
        text.extend_from_slice(b" ...");
    }
    Normal { text: String::from_utf8_lossy(text.trim_ascii_end()).into_owned(), comment }
}

#[inline]
const fn mix(h: u64, x: u64) -> u64 {
    (h.rotate_left(23) ^ x).wrapping_mul(0x9e37_79b9_7f4a_7c15)
}

/// ASCII letters in lower case, eight at a time; other bytes of a word that change with it stay distinct.
#[inline]
const fn fold(x: u64) -> u64 {
    x | ((!x & 0x8080_8080_8080_8080) >> 2)
}

/// The hash of an unquoted word, without regard to case.
#[inline]
const fn word(w: &[u8]) -> u64 {
    let mut h = w.len() as u64;
    let mut rest = w;
    while let Some((chunk, after)) = rest.split_first_chunk::<8>() {
        h = mix(h, fold(u64::from_le_bytes(*chunk)));
        rest = after;
    }
    let mut last = 0;
    if let Some((chunk, after)) = rest.split_first_chunk::<4>() {
        last = u32::from_le_bytes(*chunk) as u64;
        rest = after;
    }
    if let Some((chunk, after)) = rest.split_first_chunk::<2>() {
        last = last << 16 | u16::from_le_bytes(*chunk) as u64;
        rest = after;
    }
    if let Some((b, _)) = rest.split_first() {
        last = last << 8 | *b as u64;
    }
    mix(h, fold(last))
}

/// The hash of bytes as they are.
fn exact(bytes: &[u8]) -> u64 {
    let mut h = bytes.len() as u64;
    for chunk in bytes.chunks(8) {
        let mut x = [0; 8];
        for (to, from) in x.iter_mut().zip(chunk) {
            *to = *from;
        }
        h = mix(h, u64::from_le_bytes(x));
    }
    h
}

const SEED: u64 = 0x686f_7764_6168_0001;
const ELEMENT: u64 = 0x686f_7764_6168_0002;
const CONSTANT: u64 = 0x686f_7764_6168_0003;
const QUOTED: u64 = 0x686f_7764_6168_0004;
const OPERATOR: u64 = 0x686f_7764_6168_0100;

const ALTER: u64 = word(b"alter");
const CREATE: u64 = word(b"create");
const DEFAULT: u64 = word(b"default");
const IN: u64 = word(b"in");
const TO: u64 = word(b"to");
const IS: u64 = word(b"is");
const NOT: u64 = word(b"not");
const SET: u64 = word(b"set");
const NULL: u64 = word(b"null");
const TRUE: u64 = word(b"true");
const FALSE: u64 = word(b"false");
const VALUES: u64 = word(b"values");
const RELEASE: u64 = word(b"release");
const ROLLBACK: u64 = word(b"rollback");
const PASSWORD: u64 = word(b"password");
const SAVEPOINT: u64 = word(b"savepoint");

/// Words behind which a sign belongs to the number that follows, and is no operator between two values.
const BEFORE_A_VALUE: &[u64] = &[
    word(b"select"),
    word(b"where"),
    word(b"and"),
    word(b"or"),
    NOT,
    IN,
    word(b"limit"),
    word(b"offset"),
    VALUES,
    word(b"then"),
    word(b"else"),
    word(b"when"),
    word(b"return"),
    word(b"returning"),
    word(b"between"),
    word(b"like"),
    word(b"ilike"),
    word(b"case"),
    word(b"by"),
    word(b"on"),
    SET,
    TO,
    word(b"distinct"),
    word(b"from"),
    word(b"all"),
    word(b"having"),
    word(b"using"),
];

/// What came last.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Last {
    Nothing,
    /// This one.
    Word(u64),
    Constant,
    /// A value's end: a quoted name, a closing bracket.
    Value,
    /// An operator, an opening bracket, a comma.
    Operator,
}

/// Where a SET stands, of its own, of an ALTER, or of a function that is created. What it sets is a constant, however it
/// is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Setting {
    No,
    Name,
    Value,
}

/// A list whose elements are compared with each other.
#[derive(Debug, Clone, Copy)]
struct List {
    /// Of brackets around its elements.
    depth: u32,
    /// The rows of VALUES, which no bracket encloses.
    values: bool,
    /// Of all before the present element.
    hash: u64,
    last: u64,
    /// Where the present element's text begins.
    mark: usize,
}

/// Lists within lists; more are taken as they stand.
const LISTS: usize = 4;

struct Walk<'a, O> {
    lexer: Lexer<'a>,
    out: O,
    hash: u64,
    last: Last,
    /// The first word of the statement.
    first: u64,
    depth: u32,
    lists: [List; LISTS],
    in_lists: usize,
    setting: Setting,
    /// A sign that may belong to a number.
    sign: Option<u8>,
    /// A semicolon that ends nothing as long as nothing follows.
    semicolon: bool,
    password: bool,
}

impl<'a, O: Out> Walk<'a, O> {
    #[inline]
    fn new(sql: &'a [u8], out: O) -> Self {
        Self {
            lexer: Lexer::new(sql),
            out,
            hash: SEED,
            last: Last::Nothing,
            first: 0,
            depth: 0,
            lists: [List { depth: 0, values: false, hash: 0, last: 0, mark: 0 }; LISTS],
            in_lists: 0,
            setting: Setting::No,
            sign: None,
            semicolon: false,
            password: false,
        }
    }

    #[inline]
    fn end(&mut self) {
        self.flush_sign();
        while self.in_lists > 0 {
            self.end_list();
        }
    }

    #[inline]
    fn finish(mut self) -> u64 {
        self.end();
        let h = self.hash;
        let h = (h ^ (h >> 32)).wrapping_mul(0xd6e8_feb8_6659_fd93);
        // The smallest numbers have a meaning of their own.
        (h ^ (h >> 29)) | 0x100
    }

    #[inline]
    fn run(&mut self) {
        loop {
            if O::TEXT {
                if self.out.full() {
                    return;
                }
                // From here on a literal may be read as something else, and something else as a literal.
                if self.lexer.ambiguous_from().is_some() {
                    self.out.push(b" ...");
                    let rest = String::from_utf8_lossy(self.lexer.rest()).to_ascii_lowercase();
                    self.password |= rest.contains("password");
                    return;
                }
                let blank = self.lexer.take_blank();
                if self.semicolon && self.lexer.rest().iter().any(|b| *b != b';' && !is_space(*b)) {
                    self.out.push(b";");
                }
                self.out.blank(blank);
            }
            let Some(token) = self.lexer.next_token() else { return };
            if self.semicolon && token != Token::Semicolon {
                self.semicolon = false;
                self.setting = Setting::No;
                self.hash = mix(self.hash, OPERATOR | u64::from(b';'));
                self.last = Last::Nothing;
            }
            self.leave_values(token);
            match token {
                Token::Word(w) => self.word(w),
                Token::Literal => self.constant(),
                Token::Quoted(_) if self.setting == Setting::Value => self.constant(),
                Token::Other(b'0'..=b'9' | b'$') => self.constant(),
                // Numbers such as .5
                Token::Other(b'.') if self.fraction() => self.constant(),
                Token::Quoted(name) => {
                    self.flush_sign();
                    self.put(mix(QUOTED, exact(name)), Last::Value);
                    if O::TEXT {
                        self.out.push(b"\"");
                        self.out.push(name);
                        self.out.push(b"\"");
                    }
                }
                Token::Other(b) => self.operator(b),
                Token::Semicolon => {
                    self.flush_sign();
                    // The first ones end nothing.
                    self.semicolon = self.last != Last::Nothing;
                }
                Token::End => return,
            }
        }
    }

    #[inline]
    fn put(&mut self, x: u64, last: Last) {
        self.hash = mix(self.hash, x);
        self.last = last;
    }

    #[inline]
    fn word(&mut self, w: &[u8]) {
        if w.len() == 1 && self.prefix_of_literal(w) {
            return;
        }
        let h = word(w);
        // By their lengths, since most words are none of these.
        let constant = match w.len() {
            4 => h == NULL || h == TRUE,
            5 => h == FALSE,
            _ => false,
        };
        let before = match self.last {
            Last::Word(before) => before,
            Last::Nothing => {
                self.first = h;
                0
            }
            _ => 0,
        };
        if self.setting == Setting::Value {
            self.constant();
            return;
        }
        if h == SET && matches!(self.first, SET | ALTER | CREATE) {
            self.setting = Setting::Name;
        } else if self.setting == Setting::Name {
            match h {
                TO => self.setting = Setting::Value,
                // Of a column.
                NULL | DEFAULT if before == SET => self.setting = Setting::No,
                _ => {}
            }
        }
        let savepoint = (before == SAVEPOINT)
            || (before == RELEASE && h != SAVEPOINT)
            || (before == TO && self.first == ROLLBACK && h != SAVEPOINT);
        if (constant && ![IS, NOT, SET].contains(&before)) || savepoint {
            self.constant();
            return;
        }
        self.flush_sign();
        self.put(h, Last::Word(h));
        if O::TEXT {
            self.out.push(w);
            self.password |= h == PASSWORD;
        }
        if h == VALUES && w.len() == 6 {
            self.begin_list(self.depth, true);
        }
    }

    /// `B'…'`, `X'…'`, `N'…'` and `U&'…'`: the prefix is a part of the constant.
    fn prefix_of_literal(&mut self, w: &[u8]) -> bool {
        let rest = self.lexer.rest();
        match w.first() {
            Some(b'b' | b'B' | b'x' | b'X' | b'n' | b'N') => rest.first() == Some(&b'\''),
            Some(b'u' | b'U') if rest.starts_with(b"&'") || rest.starts_with(b"&\"") => {
                self.lexer.skip(1);
                true
            }
            _ => false,
        }
    }

    /// What follows a full stop is a number: then it is read, too.
    fn fraction(&mut self) -> bool {
        let number = self.lexer.rest().first().is_some_and(u8::is_ascii_digit)
            && !matches!(self.last, Last::Word(_) | Last::Value);
        if number {
            self.lexer.next_token();
        }
        number
    }

    #[inline]
    fn constant(&mut self) {
        self.sign = None;
        // Two literals with a line end between them are one.
        if self.last == Last::Constant {
            return;
        }
        self.put(CONSTANT, Last::Constant);
        self.out.push(b"?");
    }

    /// The sign was an operator after all.
    #[inline]
    fn flush_sign(&mut self) {
        if let Some(b) = self.sign.take() {
            self.put(OPERATOR | u64::from(b), Last::Operator);
            self.out.push(&[b]);
        }
    }

    fn operator(&mut self, b: u8) {
        self.flush_sign();
        match (self.setting, b) {
            (Setting::Name, b'=') => self.setting = Setting::Value,
            (Setting::Name, b'(') => self.setting = Setting::No,
            _ => {}
        }
        match b {
            b'-' | b'+' => {
                let unary = match self.last {
                    Last::Nothing | Last::Operator => true,
                    Last::Word(w) => BEFORE_A_VALUE.contains(&w),
                    Last::Constant | Last::Value => false,
                };
                if unary {
                    self.sign = Some(b);
                    return;
                }
            }
            b'(' | b'[' => {
                let list = b == b'[' || self.last == Last::Word(IN);
                self.put(OPERATOR | u64::from(b), Last::Operator);
                self.out.push(&[b]);
                self.depth += 1;
                if list {
                    self.begin_list(self.depth, false);
                }
                return;
            }
            b')' | b']' => {
                if self.list().is_some_and(|l| !l.values && l.depth == self.depth) {
                    self.end_list();
                }
                self.depth = self.depth.saturating_sub(1);
                self.put(OPERATOR | u64::from(b), Last::Value);
                self.out.push(&[b]);
                return;
            }
            b',' if self.list().is_some_and(|l| l.depth == self.depth) => {
                self.end_element();
                let mark = self.out.len();
                if let Some(l) = self.list_mut() {
                    l.mark = mark;
                }
                self.hash = ELEMENT;
                self.last = Last::Operator;
                self.out.push(b",");
                return;
            }
            _ => {}
        }
        self.put(OPERATOR | u64::from(b), Last::Operator);
        self.out.push(&[b]);
    }

    // ---- lists

    #[inline]
    fn list(&self) -> Option<&List> {
        self.lists.get(self.in_lists.checked_sub(1)?)
    }

    fn list_mut(&mut self) -> Option<&mut List> {
        self.lists.get_mut(self.in_lists.checked_sub(1)?)
    }

    fn begin_list(&mut self, depth: u32, values: bool) {
        if let Some(slot) = self.lists.get_mut(self.in_lists) {
            *slot = List { depth, values, hash: self.hash, last: 0, mark: self.out.len() };
            self.in_lists += 1;
            self.hash = ELEMENT;
        }
    }

    /// An element that is the last one again is left out.
    fn end_element(&mut self) {
        let element = self.hash;
        let Some(l) = self.list_mut() else { return };
        if l.last == element {
            let mark = l.mark;
            self.out.truncate(mark);
        } else {
            l.last = element;
            l.hash = mix(l.hash, element);
        }
    }

    fn end_list(&mut self) {
        self.end_element();
        if let Some(l) = self.list() {
            self.hash = l.hash;
        }
        self.in_lists = self.in_lists.saturating_sub(1);
    }

    /// What is neither a row nor a comma ends the rows of VALUES.
    #[inline]
    fn leave_values(&mut self, token: Token<'_>) {
        while self.list().is_some_and(|l| l.values && l.depth == self.depth)
            && !matches!(token, Token::Other(b'(' | b','))
        {
            self.end_list();
        }
    }
}

#[cfg(test)]
mod tests;
