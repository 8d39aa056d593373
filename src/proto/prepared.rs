//! Prepared statements shared by clients and servers: a text is interned once, and every server connection that
//! has it calls it by the same name.
//!
//! A client's own names map to interned statements; a server's bounded LRU says which of them it has. What a
//! name means is decided when a message is forwarded and undone when the server turns out to have skipped it.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use self::memory::{ClientCharge, TextCharge};
use self::names::Name;
use self::trust::Trust;
use super::sql::{self, TextEffects, fingerprint};

mod interner;
mod memory;
mod names;
mod server;
mod trust;
mod under;

pub use self::interner::{Interner, Known};
pub use self::memory::Memory;
pub use self::server::ServerStatements;
pub use self::trust::{Moment, Shape};
pub use self::under::Under;

/// How Howdah's names on the server begin. A client's name that begins so is renamed like any other.
pub const SERVER_PREFIX: &[u8] = b"__howdah_";

/// The name of a statement that no server ever has: messages made to fail refer to it.
pub const NO_SUCH_STATEMENT: &[u8] = b"__howdah_none";

/// The name of an empty statement that is prepared to be deallocated.
pub const STAND_IN: &[u8] = b"__howdah_gone";

/// A statement's text and parameter types, interned.
#[derive(Debug)]
pub struct Statement {
    pub id: u64,
    /// The name on servers, without a zero byte.
    pub server_name: Box<[u8]>,
    /// What follows the name in a Parse message: text cstring, number of types, types.
    pub body: Box<[u8]>,
    /// Where its text has this meaning; clients elsewhere do not share it.
    under: Box<[u8]>,
    /// Of its text and of where it has its meaning.
    hash: u64,
    /// Running it changes session state that nobody carries.
    pub marks_session: bool,
    /// What its text is apart from constants, see [`super::sql::fingerprint`].
    pub fingerprint: u64,
    /// The name that a `DEALLOCATE name` of its client gives up; its own text drops a stand-in.
    pub deallocates: Option<Box<[u8]>>,
    /// Running it may drop prepared statements.
    pub drops: bool,
    /// What routing made of its text.
    pub verdict: Kept,
    /// A server has accepted it.
    proven: AtomicBool,
    /// Whether it still is what a new Parse of its text would be.
    trust: Trust,
    /// Its share of the memory of all.
    charge: TextCharge,
}

/// A number that was worked out once from a text, and under which settings.
#[derive(Debug, Default)]
pub struct Kept(AtomicU64);

impl Kept {
    /// What was set under the same settings.
    pub fn get(&self, generation: u32) -> Option<u32> {
        let kept = self.0.load(Ordering::Relaxed);
        let bits = (kept & 0xffff_ffff) as u32;
        (kept >> 32 == u64::from(generation) && bits != 0).then_some(bits)
    }

    /// `bits` is not 0.
    pub fn set(&self, generation: u32, bits: u32) {
        self.0.store(u64::from(generation) << 32 | u64::from(bits), Ordering::Relaxed);
    }
}

impl PartialEq for Statement {
    fn eq(&self, other: &Self) -> bool {
        self.id == other.id
    }
}

impl Statement {
    pub fn prove(&self) {
        if !self.proven.load(Ordering::Relaxed) {
            self.proven.store(true, Ordering::Relaxed);
        }
    }

    pub fn text(&self) -> &[u8] {
        text_of(&self.body)
    }

    /// Bytes that it takes.
    pub fn bytes(&self) -> usize {
        self.charge.bytes()
    }

    /// How many parameters it has, as far as its text and its declared types tell.
    pub fn parameters(&self) -> u16 {
        let types = self.body.get(self.text().len() + 1..).and_then(|rest| rest.first_chunk::<2>());
        let declared = types.map_or(0, |n| u16::from_be_bytes(*n));
        declared.max(sql::highest_parameter(self.text()))
    }

    /// Whether a transaction that has failed takes it: it ends the transaction, or goes back to a savepoint.
    pub fn ends_failed(&self) -> bool {
        self.parameters() == 0 && sql::ends_failed(self.text())
    }

    /// The types of its parameters, as in a Parse message, where they are told of a statement that returns no rows: as far
    /// as its text tells, and where its client has declared every one of them.
    pub fn described_without_rows(&self) -> Option<&[u8]> {
        let types = self.body.get(self.text().len() + 1..)?;
        let (n, oids) = types.split_first_chunk::<2>()?;
        let all = u16::from_be_bytes(*n) == self.parameters() && oids.chunks(4).all(|oid| oid != [0; 4]);
        (all && sql::returns_no_rows(self.text())).then_some(types)
    }

    /// The Parse message that prepares it on a server. Where its parameters' types are known they are declared: whoever
    /// has prepared it keeps them, as on a connection of one's own, whatever has become of its tables.
    pub fn write_parse(&self, out: &mut Vec<u8>) {
        match self.trust.shape() {
            None => write_parse(out, &self.server_name, &self.body),
            Some(shape) => {
                write_parse(out, &self.server_name, &[self.text(), &[0], shape.types()].concat());
            }
        }
    }

    /// A server has described it to a client of its own, for the first time.
    pub fn learn(&self, shape: Shape) {
        self.trust.learn(shape);
    }

    /// Whether it is known how it was described when a client first asked.
    pub fn is_described(&self) -> bool {
        self.trust.shape().is_some()
    }

    /// Whether its columns are known to have been others than these.
    pub fn had_other_columns(&self, columns: Option<u64>) -> bool {
        self.trust.is_known_to_differ(columns)
    }

    /// Its columns have changed since its clients described it, so PostgreSQL refuses to run it.
    pub fn is_stale(&self) -> bool {
        self.trust.is_stale()
    }
}

fn text_of(body: &[u8]) -> &[u8] {
    body.split(|b| *b == 0).next().unwrap_or_default()
}

fn push_length(out: &mut Vec<u8>, body: usize) {
    out.extend_from_slice(&super::frame::length(body));
}

/// A Parse message from a name and what follows it.
pub fn write_parse(out: &mut Vec<u8>, name: &[u8], body: &[u8]) {
    out.push(b'P');
    push_length(out, name.len() + 1 + body.len());
    out.extend_from_slice(name);
    out.push(0);
    out.extend_from_slice(body);
}

/// A Close message for a statement.
pub fn write_close(out: &mut Vec<u8>, name: &[u8]) {
    out.push(b'C');
    push_length(out, name.len() + 2);
    out.push(b'S');
    out.extend_from_slice(name);
    out.push(0);
}

/// A Describe of a statement under its server name.
pub fn write_describe(out: &mut Vec<u8>, name: &[u8]) {
    out.push(b'D');
    push_length(out, name.len() + 2);
    out.push(b'S');
    out.extend_from_slice(name);
    out.push(0);
}

/// The text that deallocates a statement by its name on the server. Our own names need no doubled quotes.
pub fn deallocate_text(name: &[u8]) -> Vec<u8> {
    [b"DEALLOCATE \"", name, b"\""].concat()
}

/// A simple Query that deallocates a statement by its name on the server.
pub fn write_deallocate(out: &mut Vec<u8>, name: &[u8]) {
    let text = deallocate_text(name);
    out.push(b'Q');
    push_length(out, text.len() + 1);
    out.extend_from_slice(&text);
    out.push(0);
}

/// Messages that end a batch without a Sync so that nothing of it is committed: a Sync alone would commit it.
pub fn write_rollback_sync(out: &mut Vec<u8>) {
    write_provoking_bind(out);
    out.extend_from_slice(b"S\0\0\0\x04");
}

/// A Bind that fails, because nothing has this name.
pub fn write_provoking_bind(out: &mut Vec<u8>) {
    out.push(b'B');
    push_length(out, 1 + NO_SUCH_STATEMENT.len() + 1 + 6);
    out.push(0);
    out.extend_from_slice(NO_SUCH_STATEMENT);
    out.push(0);
    out.extend_from_slice(&[0; 6]);
}

/// Bytes of a name that count: PostgreSQL keeps statements by NAMEDATALEN - 1 bytes of it.
const NAME: usize = 63;

fn significant(name: &[u8]) -> &[u8] {
    name.get(..NAME).unwrap_or(name)
}

/// Bytes of unnamed statements that are kept while they are under way; the newest one is kept whatever its size.
const MOST_PENDING: usize = 1024 * 1024;

/// A queue whose first entry needs no allocation, because there is seldom a second.
#[derive(Debug, Default)]
struct Pending {
    front: Option<Option<Vec<u8>>>,
    rest: std::collections::VecDeque<Option<Vec<u8>>>,
    bytes: usize,
}

impl Pending {
    fn push_back(&mut self, e: Option<Vec<u8>>) {
        let size = e.as_ref().map_or(0, Vec::len);
        if self.bytes + size > MOST_PENDING {
            // An older text counts only if the newer ones turn out to have been skipped: then it cannot be repeated.
            for old in self.front.iter_mut().chain(&mut self.rest).flatten() {
                *old = Vec::new();
            }
            self.bytes = 0;
        }
        self.bytes += size;
        match self.front {
            None => self.front = Some(e),
            Some(_) => self.rest.push_back(e),
        }
    }

    fn pop_front(&mut self) -> Option<Option<Vec<u8>>> {
        let next = self.rest.pop_front();
        let popped = std::mem::replace(&mut self.front, next);
        self.bytes -= popped.as_ref().and_then(Option::as_ref).map_or(0, Vec::len);
        popped
    }

    fn is_empty(&self) -> bool {
        self.front.is_none()
    }

    /// Gives back what a long queue took.
    fn settle(&mut self) {
        if self.rest.is_empty() && self.rest.capacity() > 0 {
            self.rest = std::collections::VecDeque::new();
        }
    }
}

/// Names that were given up and may still be mentioned: so many of the newest are kept, and half as many where there
/// are more.
const MOST_GONE: usize = 1024;

/// An unnamed statement of more bytes counts against the limits.
const LONG_UNNAMED: usize = 4096;

/// What one client's names mean, and its unnamed statement.
#[derive(Debug, Default)]
pub struct ClientStatements {
    charge: ClientCharge,
    named: HashMap<Box<[u8]>, Name>,
    /// How many of them are unseen.
    unseen: u32,
    /// Names given up in this transaction, for answers that still mention them.
    gone: Vec<(Box<[u8]>, u64)>,
    /// The body of the last unnamed Parse that succeeded; empty when there is none.
    unnamed: Vec<u8>,
    unnamed_valid: bool,
    /// What the newest unnamed text leaves behind, for the Bind that runs it.
    pub unnamed_effects: TextEffects,
    /// Its number in the statistics.
    pub unnamed_id: u64,
    /// The name that the newest unnamed text deallocates, likewise.
    pub unnamed_deallocates: Option<Box<[u8]>>,
    /// Whether it may drop prepared statements.
    pub unnamed_drops: bool,
    /// What was sent that concerns the unnamed statement and is not answered yet: the text of a Parse, or
    /// `None` for what drops it, a Query or a Close.
    pending: Pending,
    /// A buffer for the next one, so that repeated Parses allocate nothing.
    spare: Vec<u8>,
    /// Counts the unnamed Parses that were sent, so that a server knows whose it has.
    pub generation: u64,
}

impl ClientStatements {
    pub fn get(&self, name: &[u8]) -> Option<&Arc<Statement>> {
        self.named.get(significant(name)).map(Name::statement)
    }

    /// Those of a client, which count among those of all.
    pub fn new(memory: &Arc<Memory>) -> Self {
        Self { charge: ClientCharge::new(memory), ..Self::default() }
    }

    /// Bytes that count against the client's limit: of names, of the texts that they stand for, and of a long unnamed
    /// statement. What was given up counts until nothing under way can bring it back.
    pub fn bytes(&self) -> usize {
        self.charge.bytes()
    }

    /// What a statement of this name, with this Parse message or its body, would add to them.
    pub fn cost(name: &[u8], body: usize) -> usize {
        memory::cost(significant(name).len(), body)
    }

    pub fn insert(&mut self, name: &[u8], s: Arc<Statement>) {
        self.put(name, Name::new(s, false));
    }

    /// The same, where no server was asked.
    pub fn insert_unseen(&mut self, name: &[u8], s: Arc<Statement>) {
        self.put(name, Name::new(s, true));
    }

    fn put(&mut self, name: &[u8], s: Name) {
        let name = significant(name);
        self.charge.name_taken(name.len(), s.bytes());
        self.unseen += u32::from(s.unseen);
        if let Some(old) = self.named.insert(name.into(), s) {
            self.given_up(name.len(), &old);
        }
    }

    fn given_up(&mut self, name: usize, old: &Name) {
        self.charge.name_given_up(name, old.bytes());
        self.unseen -= u32::from(old.unseen);
    }

    /// The name means another statement from now on; answers may still mention the one that it meant.
    pub fn rename(&mut self, name: &[u8], from: &Statement, to: Arc<Statement>) {
        if self.get(name).is_some_and(|s| s.id == from.id) {
            self.note_gone(significant(name).into(), from.id);
            self.insert(name, to);
        }
    }

    /// A statement of this client whose Parse Howdah has answered itself, and which no server has confirmed yet.
    pub fn unseen(&self, id: u64) -> Option<&Arc<Statement>> {
        if !self.any_unseen() {
            return None;
        }
        self.named.values().find(|s| s.unseen && s.id == id).map(Name::statement)
    }

    #[inline]
    pub fn any_unseen(&self) -> bool {
        self.unseen > 0
    }

    /// A server has taken it.
    pub fn seen(&mut self, id: u64) {
        for s in self.named.values_mut().filter(|s| s.unseen && s.id == id) {
            s.unseen = false;
            self.unseen -= 1;
        }
    }

    /// All names of an unseen statement mean the other one.
    pub fn renew(&mut self, from: &Statement, to: &Arc<Statement>) {
        let is = |s: &Name| s.unseen && s.id == from.id;
        let names: Vec<Box<[u8]>> =
            self.named.iter().filter(|(_, s)| is(s)).map(|(n, _)| n.clone()).collect();
        for name in names {
            self.note_gone(name.clone(), from.id);
            self.insert(&name, to.clone());
        }
    }

    pub fn remove(&mut self, name: &[u8]) -> Option<(Box<[u8]>, Arc<Statement>)> {
        let (name, s) = self.named.remove_entry(significant(name))?;
        self.given_up(name.len(), &s);
        self.note_gone(name.clone(), s.id);
        Some((name, s.statement().clone()))
    }

    fn note_gone(&mut self, name: Box<[u8]>, id: u64) {
        if self.gone.len() >= MOST_GONE {
            self.gone.drain(..MOST_GONE / 2);
        }
        self.gone.push((name, id));
    }

    pub fn len(&self) -> usize {
        self.named.len()
    }

    pub fn is_empty(&self) -> bool {
        self.named.is_empty()
    }

    /// The client's own name of a statement, for messages that mention it.
    pub fn name_of(&self, id: u64) -> Option<&[u8]> {
        let live = self.named.iter().find(|(_, s)| s.id == id).map(|(n, _)| &**n);
        live.or_else(|| self.gone.iter().rev().find(|(_, i)| *i == id).map(|(n, _)| &**n))
    }

    /// DEALLOCATE ALL or DISCARD ALL; both leave the unnamed statement alone.
    pub fn clear(&mut self) {
        for (name, s) in std::mem::take(&mut self.named) {
            self.given_up(name.len(), &s);
            self.note_gone(name, s.id);
        }
    }

    /// Everything that was sent is answered: nothing to come mentions what was given up, or brings it back.
    #[inline]
    pub fn answered(&mut self) {
        if self.charge.is_leaving() {
            self.charge.settled();
            self.gone = Vec::new();
        }
    }

    /// The transaction is over: nothing to come mentions what was given up in it.
    #[inline]
    pub fn settle(&mut self) {
        self.answered();
        self.pending.settle();
    }

    /// An unnamed Parse was sent. `None` is one too large to be kept: it cannot be repeated.
    pub fn unnamed_sent(&mut self, body: Option<&[u8]>) {
        let mut v = std::mem::take(&mut self.spare);
        v.extend_from_slice(body.unwrap_or_default());
        self.pending.push_back(Some(v));
        self.generation += 1;
    }

    /// The oldest unanswered one succeeded.
    pub fn unnamed_done(&mut self) {
        if let Some(Some(v)) = self.pending.pop_front() {
            self.uncount_unnamed();
            let old = std::mem::replace(&mut self.unnamed, v);
            if self.unnamed.len() > LONG_UNNAMED {
                self.charge.own(self.unnamed.len());
            }
            self.unnamed_valid = true;
            self.keep_spare(old);
        }
    }

    fn uncount_unnamed(&mut self) {
        if self.unnamed.len() > LONG_UNNAMED {
            self.charge.disown(self.unnamed.len());
        }
    }

    fn keep_spare(&mut self, mut v: Vec<u8>) {
        if v.capacity() <= 4096 {
            v.clear();
            self.spare = v;
        }
    }

    /// The oldest unanswered one failed: the server has none now.
    pub fn unnamed_failed(&mut self) {
        if let Some(Some(v)) = self.pending.pop_front() {
            self.keep_spare(v);
        }
        self.drop_unnamed();
    }

    /// The oldest unanswered one was skipped: the server keeps what it had. Newer ones belong to later batches.
    pub fn unnamed_skipped(&mut self) {
        // What was noted is of the one that was skipped.
        self.unnamed_effects = TextEffects::LONG;
        self.pending.pop_front();
    }

    /// A Query or a Close was sent, which drops the unnamed statement unless the server skips it.
    pub fn drop_sent(&mut self) {
        self.pending.push_back(None);
    }

    /// It was answered.
    pub fn drop_done(&mut self) {
        self.pending.pop_front();
        self.drop_unnamed();
    }

    fn drop_unnamed(&mut self) {
        self.unnamed_valid = false;
        if self.unnamed.capacity() > LONG_UNNAMED {
            self.uncount_unnamed();
            self.unnamed = Vec::new();
        }
    }

    /// A Parse, Query or Close is under way: the next Bind finds on the server what they leave there.
    pub fn unnamed_pending(&self) -> bool {
        !self.pending.is_empty()
    }

    /// The body to repeat; `None` when there is no unnamed statement, empty when it was too large to keep.
    pub fn unnamed(&self) -> Option<&[u8]> {
        self.unnamed_valid.then_some(self.unnamed.as_slice())
    }

    /// There is an unnamed statement, and its text was not kept: only the server that has it can run it.
    pub fn unnamed_not_kept(&self) -> bool {
        self.unnamed_valid && self.unnamed.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_least_recently_used_goes_first() {
        let i = Interner::default();
        let s: Vec<_> =
            (0..3).map(|n| i.intern(format!("{n}").as_bytes(), &Under::default(), false)).collect();
        let mut l = ServerStatements::default();
        l.insert(s[0].clone());
        l.insert(s[1].clone());
        assert!(l.excess(2, usize::MAX).is_none() && l.touch(&s[0]));
        l.insert(s[2].clone());
        assert_eq!(l.excess(2, usize::MAX).map(|s| s.id), Some(s[1].id));
        assert!(l.excess(2, usize::MAX).is_none());
        assert_eq!(l.excess(1, usize::MAX).map(|s| s.id), Some(s[0].id), "the limit was lowered");
    }

    #[test]
    fn a_server_keeps_so_many_bytes_of_texts() {
        let i = Interner::default();
        let mut l = ServerStatements::default();
        for n in 0..10 {
            l.insert(i.intern(format!("{n:0>1000}").as_bytes(), &Under::default(), false));
            while l.excess(100, 5000).is_some() {}
        }
        assert_eq!((l.len(), l.bytes), (3, 3 * (1000 + 256)));
        l.insert(i.intern(&[b'x'; 9000], &Under::default(), false));
        while l.excess(100, 5000).is_some() {}
        assert_eq!(l.len(), 1, "one is had, however large it is");
        assert_eq!((i.memory().statements(), i.memory().texts()), (1, 9256), "nobody holds the others");
        l.clear();
        assert_eq!((l.bytes, i.memory().total()), (0, 0));
    }

    #[test]
    fn what_a_client_holds_is_added_up_over_its_life() {
        let i = Interner::default();
        let (mut a, mut b) = (ClientStatements::new(i.memory()), ClientStatements::new(i.memory()));
        let s = i.intern(&[b'x'; 1000], &Under::default(), false);
        a.insert(b"one", s.clone());
        b.insert(b"one", s.clone());
        assert_eq!((a.bytes(), b.bytes()), (99 + 1256, 99 + 1256));
        assert_eq!(ClientStatements::cost(b"one", 1000), a.bytes());
        assert_eq!((i.memory().texts(), i.memory().names()), (1256, 198), "the text is shared");
        for n in 0..50_000 {
            // What is closed may come back until everything is answered.
            let before = a.bytes();
            a.remove(b"one");
            assert!(a.bytes() >= before && a.gone.len() <= MOST_GONE);
            a.insert(b"one", s.clone());
            if n % 100 == 0 {
                a.answered();
            }
        }
        a.answered();
        assert_eq!((a.bytes(), a.gone.len(), i.memory().names()), (99 + 1256, 0, 198));
        a.clear();
        drop((b, s));
        assert_eq!((a.charge.is_leaving(), i.memory().total()), (true, 0));
        a.settle();
        assert_eq!(a.bytes(), 0);
    }

    #[test]
    fn unnamed_texts_under_way_are_bounded_and_a_long_one_counts() {
        let i = Interner::default();
        let mut c = ClientStatements::new(i.memory());
        let long = vec![b'x'; MOST_PENDING / 4];
        for _ in 0..1000 {
            c.unnamed_sent(Some(&long));
            assert!(c.pending.bytes <= MOST_PENDING);
        }
        for _ in 0..998 {
            c.unnamed_done();
        }
        assert_eq!((c.unnamed().map(<[u8]>::len), c.bytes()), (Some(long.len()), long.len()));
        c.unnamed_done();
        c.unnamed_failed();
        assert_eq!((c.unnamed(), c.bytes(), i.memory().names()), (None, 0, 0));
        c.unnamed_sent(Some(&long));
        c.unnamed_done();
        drop(c);
        assert_eq!(i.memory().names(), 0);
    }

    #[test]
    fn unnamed_statements_follow_their_answers() {
        let mut c = ClientStatements::default();
        c.unnamed_sent(Some(b"a"));
        assert!(c.unnamed().is_none());
        c.unnamed_done();
        assert_eq!(c.unnamed(), Some(&b"a"[..]));
        c.unnamed_sent(Some(b"b"));
        c.unnamed_skipped();
        assert_eq!(c.unnamed(), Some(&b"a"[..]));
        c.unnamed_sent(Some(b"c"));
        c.unnamed_failed();
        assert_eq!(c.unnamed(), None);
    }
}
