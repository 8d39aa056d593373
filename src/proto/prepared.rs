//! Prepared statements shared by clients and servers: a text is interned once, and every server connection that
//! has it calls it by the same name.
//!
//! A client's own names map to interned statements; a server's bounded LRU says which of them it has. What a
//! name means is decided when a message is forwarded and undone when the server turns out to have skipped it.

use std::collections::HashMap;
use std::hash::{BuildHasher, Hash, Hasher};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Weak};

use parking_lot::Mutex;
use rustc_hash::FxHashMap;

use super::sql::{TextEffects, fingerprint};

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
    /// `search_path` where it is known; two clients with different paths do not share.
    search_path: Option<Box<[u8]>>,
    /// Running it changes session state that nobody carries.
    pub marks_session: bool,
    /// What its text is apart from constants, see [`super::sql::fingerprint`].
    pub fingerprint: u64,
    /// The name that a `DEALLOCATE name` of its client gives up; its own text drops a stand-in.
    pub deallocates: Option<Box<[u8]>>,
    /// What routing made of its text.
    pub verdict: Kept,
    /// A server has accepted it, so that a client's Parse of it needs no server.
    proven: AtomicBool,
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

    /// The Parse message that prepares it on a server.
    pub fn write_parse(&self, out: &mut Vec<u8>) {
        write_parse(out, &self.server_name, &self.body);
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

#[derive(Debug, Default)]
struct Shard {
    by_hash: HashMap<u64, Vec<Weak<Statement>>>,
    /// Inserts since the dead were last swept out.
    since_sweep: usize,
}

impl Shard {
    fn find(&self, hash: u64, body: &[u8], search_path: Option<&[u8]>) -> Option<Arc<Statement>> {
        self.by_hash
            .get(&hash)?
            .iter()
            .filter_map(Weak::upgrade)
            .find(|s| *s.body == *body && s.search_path.as_deref() == search_path)
    }
}

/// All statements that some client or server still refers to.
#[derive(Debug)]
pub struct Interner {
    hasher: std::collections::hash_map::RandomState,
    shard: Mutex<Shard>,
    /// From 1: 0 is no statement.
    next: AtomicU64,
}

impl Default for Interner {
    fn default() -> Self {
        Self {
            hasher: std::collections::hash_map::RandomState::new(),
            shard: Mutex::default(),
            next: AtomicU64::new(1),
        }
    }
}

impl Interner {
    fn hash(&self, body: &[u8], search_path: Option<&[u8]>) -> u64 {
        let mut h = self.hasher.build_hasher();
        body.hash(&mut h);
        search_path.hash(&mut h);
        h.finish()
    }

    /// The statement of this text, if a server has accepted it before.
    pub fn proven(&self, body: &[u8], search_path: Option<&[u8]>) -> Option<Arc<Statement>> {
        let hash = self.hash(body, search_path);
        let found = self.shard.lock().find(hash, body, search_path)?;
        found.proven.load(Ordering::Relaxed).then_some(found)
    }

    /// A statement that nobody else will share.
    pub fn private(&self, body: &[u8], marks_session: bool) -> Arc<Statement> {
        Arc::new(self.new_statement(body, None, marks_session))
    }

    fn new_statement(&self, body: &[u8], search_path: Option<&[u8]>, marks_session: bool) -> Statement {
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        let mut server_name = SERVER_PREFIX.to_vec();
        server_name.extend_from_slice(id.to_string().as_bytes());
        Statement {
            id,
            server_name: server_name.into(),
            body: body.into(),
            search_path: search_path.map(Into::into),
            marks_session,
            fingerprint: fingerprint::fingerprint(text_of(body)),
            deallocates: None,
            verdict: Kept::default(),
            proven: AtomicBool::new(false),
        }
    }

    /// The statement that a client's Parse of a DEALLOCATE comes to: of a name of its own, or of none.
    pub fn deallocation(&self, name: Option<&[u8]>) -> Arc<Statement> {
        let drops = if name.is_some() { STAND_IN } else { NO_SUCH_STATEMENT };
        let body = [deallocate_text(drops).as_slice(), &[0, 0, 0]].concat();
        let deallocates = name.map(Into::into);
        Arc::new(Statement { deallocates, ..self.new_statement(&body, None, false) })
    }

    /// The statement of this text; `body` is what follows the name in a Parse message.
    pub fn intern(&self, body: &[u8], search_path: Option<&[u8]>, marks_session: bool) -> Arc<Statement> {
        let hash = self.hash(body, search_path);
        let mut shard = self.shard.lock();
        if let Some(found) = shard.find(hash, body, search_path) {
            return found;
        }
        let s = Arc::new(self.new_statement(body, search_path, marks_session));
        shard.by_hash.entry(hash).or_default().push(Arc::downgrade(&s));
        shard.since_sweep += 1;
        if shard.since_sweep > 1024 && shard.since_sweep > shard.by_hash.len() / 2 {
            shard.since_sweep = 0;
            shard.by_hash.retain(|_, list| {
                list.retain(|w| w.strong_count() > 0);
                !list.is_empty()
            });
        }
        s
    }

    /// Forgets a statement whose plans went stale: the next Parse of its text is a new one everywhere.
    pub fn retire(&self, id: u64) {
        for list in self.shard.lock().by_hash.values_mut() {
            list.retain(|w| w.upgrade().is_some_and(|s| s.id != id));
        }
    }

    /// Entries, the dead ones that no sweep has met included.
    pub fn len(&self) -> usize {
        self.shard.lock().by_hash.len()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// The statements that one server connection has, least recently used first out.
#[derive(Debug, Default)]
pub struct ServerStatements {
    /// The ids are counted here, so that nobody can choose them to collide.
    have: FxHashMap<u64, (Arc<Statement>, u64)>,
    clock: u64,
}

impl ServerStatements {
    /// Whether the server has it; counts as a use.
    #[inline]
    pub fn touch(&mut self, s: &Statement) -> bool {
        self.clock += 1;
        match self.have.get_mut(&s.id) {
            Some((_, used)) => {
                *used = self.clock;
                true
            }
            None => false,
        }
    }

    /// Adds one; the caller then closes what is too much.
    pub fn insert(&mut self, s: Arc<Statement>) {
        self.clock += 1;
        self.have.insert(s.id, (s, self.clock));
    }

    /// Takes out what must be closed to stay within `limit`, the least recently used first; `None` when enough was.
    pub fn excess(&mut self, limit: usize) -> Option<Arc<Statement>> {
        if self.have.len() <= limit.max(1) {
            return None;
        }
        let oldest = self.have.iter().min_by_key(|(_, (_, used))| *used).map(|(id, _)| *id)?;
        self.have.remove(&oldest).map(|(s, _)| s)
    }

    /// Puts back what was to be closed but was not.
    pub fn restore(&mut self, s: Arc<Statement>) {
        self.have.insert(s.id, (s, 0));
    }

    pub fn remove(&mut self, id: u64) -> Option<Arc<Statement>> {
        self.have.remove(&id).map(|(s, _)| s)
    }

    pub fn clear(&mut self) {
        self.have.clear();
    }

    pub fn len(&self) -> usize {
        self.have.len()
    }

    pub fn is_empty(&self) -> bool {
        self.have.is_empty()
    }
}

/// Bytes of a name that count: PostgreSQL keeps statements by NAMEDATALEN - 1 bytes of it.
const NAME: usize = 63;

fn significant(name: &[u8]) -> &[u8] {
    name.get(..NAME).unwrap_or(name)
}

/// A queue whose first entry needs no allocation, because there is seldom a second.
#[derive(Debug, Default)]
struct Pending {
    front: Option<Option<Vec<u8>>>,
    rest: std::collections::VecDeque<Option<Vec<u8>>>,
}

impl Pending {
    fn push_back(&mut self, e: Option<Vec<u8>>) {
        match self.front {
            None => self.front = Some(e),
            Some(_) => self.rest.push_back(e),
        }
    }

    fn pop_front(&mut self) -> Option<Option<Vec<u8>>> {
        let next = self.rest.pop_front();
        std::mem::replace(&mut self.front, next)
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

/// What one client's names mean, and its unnamed statement.
#[derive(Debug, Default)]
pub struct ClientStatements {
    named: HashMap<Box<[u8]>, Arc<Statement>>,
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
        self.named.get(significant(name))
    }

    pub fn insert(&mut self, name: &[u8], s: Arc<Statement>) {
        self.named.insert(significant(name).into(), s);
    }

    pub fn remove(&mut self, name: &[u8]) -> Option<(Box<[u8]>, Arc<Statement>)> {
        let (name, s) = self.named.remove_entry(significant(name))?;
        self.gone.push((name.clone(), s.id));
        Some((name, s))
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
        self.gone.extend(std::mem::take(&mut self.named).into_iter().map(|(n, s)| (n, s.id)));
    }

    /// The transaction is over: nothing to come mentions what was given up in it.
    #[inline]
    pub fn settle(&mut self) {
        if !self.gone.is_empty() {
            self.gone = Vec::new();
        }
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
            let old = std::mem::replace(&mut self.unnamed, v);
            self.unnamed_valid = true;
            self.keep_spare(old);
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
        if self.unnamed.capacity() > 4096 {
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
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_texts_are_one_statement() {
        let i = Interner::default();
        let a = i.intern(b"select 1\0\0\0", None, false);
        let b = i.intern(b"select 1\0\0\0", None, false);
        let c = i.intern(b"select 1\0\0\0", Some(b"x"), false);
        assert!(Arc::ptr_eq(&a, &b));
        assert!(!Arc::ptr_eq(&a, &c));
        assert_ne!(a.server_name, c.server_name);
    }

    #[test]
    fn the_interner_forgets_what_nobody_holds() {
        let i = Interner::default();
        for n in 0..100_000 {
            i.intern(format!("select {n}").as_bytes(), None, false);
        }
        assert!(i.len() < 3000, "{}", i.len());
    }

    #[test]
    fn the_least_recently_used_goes_first() {
        let i = Interner::default();
        let s: Vec<_> = (0..3).map(|n| i.intern(format!("{n}").as_bytes(), None, false)).collect();
        let mut l = ServerStatements::default();
        l.insert(s[0].clone());
        l.insert(s[1].clone());
        assert!(l.excess(2).is_none() && l.touch(&s[0]));
        l.insert(s[2].clone());
        assert_eq!(l.excess(2).map(|s| s.id), Some(s[1].id));
        assert!(l.excess(2).is_none());
        assert_eq!(l.excess(1).map(|s| s.id), Some(s[0].id), "the limit was lowered");
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
