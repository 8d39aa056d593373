//! All statements that some client or server has, each text once for each place where it has a meaning of its own.

use std::collections::HashMap;
use std::hash::{BuildHasher, Hash, Hasher};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Weak};

use parking_lot::Mutex;

use super::memory::{Memory, TextCharge};
use super::trust::{Moment, Shape, Trust, columns_of};
use super::{Kept, SERVER_PREFIX, STAND_IN, Statement, Under, deallocate_text, fingerprint, sql, text_of};

#[derive(Debug, Default)]
struct Shard {
    /// At most one living statement for each text and each place where it has a meaning of its own.
    by_hash: HashMap<u64, Vec<Weak<Statement>>>,
    /// Inserts since the dead were last swept out.
    since_sweep: usize,
}

impl Shard {
    /// What stands for a text at present.
    fn find(&self, hash: u64, body: &[u8], under: &Under<'_>) -> Option<Arc<Statement>> {
        self.all(hash).find(|s| *s.body == *body && under.is(&s.under))
    }

    /// What stands at present for the text of a statement.
    fn find_like(&self, other: &Statement) -> Option<Arc<Statement>> {
        self.all(other.hash).find(|s| s.body == other.body && s.under == other.under)
    }

    fn all(&self, hash: u64) -> impl Iterator<Item = Arc<Statement>> {
        self.by_hash.get(&hash).into_iter().flatten().filter_map(Weak::upgrade)
    }

    fn insert(&mut self, s: &Arc<Statement>) {
        self.by_hash.entry(s.hash).or_default().push(Arc::downgrade(s));
        self.since_sweep += 1;
        if self.since_sweep > 1024 && self.since_sweep > self.by_hash.len() / 2 {
            self.since_sweep = 0;
            self.by_hash.retain(|_, list| {
                list.retain(|w| w.strong_count() > 0);
                !list.is_empty()
            });
        }
    }

    fn remove(&mut self, s: &Statement) {
        if let Some(list) = self.by_hash.get_mut(&s.hash) {
            list.retain(|w| w.upgrade().is_some_and(|other| other.id != s.id));
        }
    }
}

/// What is known of a text that a client wants to have parsed.
#[derive(Debug)]
pub enum Known {
    /// A new Parse would give this statement.
    Same(Arc<Statement>),
    /// The text is new, and this is its statement from now on.
    New(Arc<Statement>),
    /// The text was parsed before, and may mean something else by now. The server is to parse this new statement, and
    /// [`Interner::settle`] is to compare the two.
    Again(Arc<Statement>),
}

/// All statements that some client or server still refers to.
pub struct Interner {
    hasher: std::collections::hash_map::RandomState,
    shard: Mutex<Shard>,
    /// From 1: 0 is no statement.
    next: AtomicU64,
    /// How many transactions with DDL have come through Howdah.
    changes: AtomicU64,
    memory: Arc<Memory>,
    /// Tells milliseconds since some fixed time.
    clock: Box<dyn Fn() -> u64 + Send + Sync>,
}

impl std::fmt::Debug for Interner {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Interner").field("memory", &self.memory).finish_non_exhaustive()
    }
}

impl Default for Interner {
    /// Time stands still.
    fn default() -> Self {
        Self::new(|| 0)
    }
}

impl Interner {
    /// `clock` tells milliseconds.
    pub fn new(clock: impl Fn() -> u64 + Send + Sync + 'static) -> Self {
        Self {
            hasher: std::collections::hash_map::RandomState::new(),
            shard: Mutex::default(),
            next: AtomicU64::new(1),
            changes: AtomicU64::new(0),
            memory: Arc::default(),
            clock: Box::new(clock),
        }
    }

    /// What all statements and names take.
    pub fn memory(&self) -> &Arc<Memory> {
        &self.memory
    }

    /// For what is sent now.
    pub fn now(&self) -> Moment {
        self.moment((self.clock)())
    }

    fn moment(&self, ms: u64) -> Moment {
        Moment { ms, changes: self.changes.load(Ordering::Acquire) }
    }

    /// A transaction with DDL is over: no text that was parsed before it is trusted any more.
    pub fn catalogue_changed(&self) {
        self.changes.fetch_add(1, Ordering::AcqRel);
    }

    fn hash(&self, body: &[u8], under: &Under<'_>) -> u64 {
        let mut h = self.hasher.build_hasher();
        body.hash(&mut h);
        under.hash(&mut h);
        h.finish()
    }

    /// Of a RowDescription, for [`Shape`]; never that of NoData.
    pub fn hash_of(&self, columns: &[u8]) -> u64 {
        let hash =
            columns_of(columns).map_or_else(|| self.hasher.hash_one(columns), |c| self.hasher.hash_one(c));
        hash.max(1)
    }

    /// The statement of this text, if a new Parse of it is not needed.
    pub fn trusted(&self, body: &[u8], under: &Under<'_>, now: Moment) -> Option<Arc<Statement>> {
        let hash = self.hash(body, under);
        let found = self.shard.lock().find(hash, body, under)?;
        found.is_trusted(now).then_some(found)
    }

    /// A statement that nobody else will share.
    pub fn private(&self, body: &[u8], marks_session: bool) -> Arc<Statement> {
        Arc::new(self.unshared(body, marks_session))
    }

    fn unshared(&self, body: &[u8], marks_session: bool) -> Statement {
        // It is looked up nowhere.
        self.new_statement(body, &Under::default(), 0, marks_session, self.moment(0))
    }

    fn new_statement(
        &self,
        body: &[u8],
        under: &Under<'_>,
        hash: u64,
        marks_session: bool,
        sent: Moment,
    ) -> Statement {
        let bytes = under.bytes();
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        let mut server_name = SERVER_PREFIX.to_vec();
        server_name.extend_from_slice(id.to_string().as_bytes());
        Statement {
            id,
            server_name: server_name.into(),
            body: body.into(),
            marks_session,
            fingerprint: fingerprint::fingerprint(text_of(body)),
            deallocates: None,
            drops: sql::drops_statements(text_of(body), sql::needs_look(text_of(body))),
            verdict: Kept::default(),
            proven: AtomicBool::new(false),
            trust: Trust::new(sent),
            charge: TextCharge::new(&self.memory, body.len() + bytes),
            under: under.kept(),
            hash,
        }
    }

    /// The statement that a client's Parse of a DEALLOCATE of this name comes to.
    pub fn deallocation(&self, name: &[u8]) -> Arc<Statement> {
        let body = [deallocate_text(STAND_IN).as_slice(), &[0, 0, 0]].concat();
        let deallocates = Some(name.into());
        Arc::new(Statement { deallocates, ..self.unshared(&body, false) })
    }

    /// What is known of this text; `body` is what follows the name in a Parse message. `answerable`: its Parse can be
    /// answered without a server.
    pub fn look(
        &self,
        body: &[u8],
        under: &Under<'_>,
        marks_session: bool,
        now: Moment,
        answerable: bool,
    ) -> Known {
        let hash = self.hash(body, under);
        let new = || Arc::new(self.new_statement(body, under, hash, marks_session, now));
        let mut shard = self.shard.lock();
        match shard.find(hash, body, under) {
            Some(s) if answerable && s.is_trusted(now) => Known::Same(s),
            Some(_) => Known::Again(new()),
            None => {
                let s = new();
                shard.insert(&s);
                Known::New(s)
            }
        }
    }

    /// A server has parsed `fresh`, which was sent at that moment, and describes it so. Returns the statement to share from
    /// now on: the older one if both have the same shape, else `fresh`.
    pub fn settle(&self, fresh: &Arc<Statement>, shape: Shape, sent: Moment) -> Arc<Statement> {
        let mut shard = self.shard.lock();
        if let Some(old) = shard.find_like(fresh) {
            let same = old.proven.load(Ordering::Relaxed) && old.trust.is_of(sent) && !old.is_stale();
            if old.id == fresh.id || same && old.trust.is_shaped(&shape) {
                old.trust.renew(sent);
                return old;
            }
            if old.trust.is_later(sent) {
                // DDL ran while its Parse was under way: only its own client uses it.
                fresh.trust.learn(shape);
                return fresh.clone();
            }
            if old.trust.has_other_columns(&shape) {
                old.trust.make_stale();
            }
            shard.remove(&old);
        }
        fresh.trust.learn(shape);
        shard.insert(fresh);
        fresh.clone()
    }

    /// A server has refused a statement as it is: returns another statement for the same text.
    pub fn renewed(&self, stale: &Statement, now: Moment) -> Arc<Statement> {
        let mut shard = self.shard.lock();
        if let Some(other) = shard.find_like(stale).filter(|s| s.id != stale.id) {
            return other;
        }
        shard.remove(stale);
        let nowhere = Under::default();
        let new = self.new_statement(&stale.body, &nowhere, stale.hash, stale.marks_session, now);
        let s = Arc::new(Statement { under: stale.under.clone(), ..new });
        shard.insert(&s);
        s
    }

    /// Forgets a statement whose plan a server has refused: the next Parse of its text is a new one everywhere.
    pub fn retire(&self, stale: &Statement) {
        self.shard.lock().remove(stale);
    }

    /// Entries, the dead ones that no sweep has met included.
    pub fn len(&self) -> usize {
        self.shard.lock().by_hash.len()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// A statement of this text that is shared from now on.
    #[cfg(test)]
    pub fn intern(&self, body: &[u8], under: &Under<'_>, marks_session: bool) -> Arc<Statement> {
        if let Some(found) = self.shard.lock().find(self.hash(body, under), body, under) {
            return found;
        }
        match self.look(body, under, marks_session, self.moment(0), false) {
            Known::New(s) | Known::Same(s) | Known::Again(s) => s,
        }
    }
}

impl Statement {
    pub fn is_trusted(&self, now: Moment) -> bool {
        self.proven.load(Ordering::Relaxed) && !self.is_stale() && self.trust.holds(now)
    }

    /// A server has refused to run it because its columns have changed.
    pub fn make_stale(&self) {
        self.trust.make_stale();
    }
}

#[cfg(test)]
mod tests {
    use super::super::names::Name;
    use super::*;

    const BODY: &[u8] = b"select a from t where b = $1\0\0\0";

    fn at(i: &Interner, ms: u64) -> Moment {
        i.moment(ms)
    }

    fn new(i: &Interner, ms: u64) -> (Arc<Statement>, Name) {
        let Known::New(s) = i.look(BODY, &Under::default(), false, at(i, ms), true) else {
            panic!("it is known")
        };
        s.prove();
        (s.clone(), Name::new(s, false))
    }

    fn again(i: &Interner, ms: u64) -> Arc<Statement> {
        let Known::Again(s) = i.look(BODY, &Under::default(), false, at(i, ms), true) else {
            panic!("it is trusted, or not known")
        };
        s.prove();
        s
    }

    fn shape(types: u8, columns: u64) -> Shape {
        Shape::new(Box::new([0, types]), Some(columns))
    }

    #[test]
    fn equal_texts_are_one_statement() {
        let i = Interner::default();
        let a = i.intern(b"select 1\0\0\0", &Under::default(), false);
        let b = i.intern(b"select 1\0\0\0", &Under::default(), false);
        let c = i.intern(b"select 1\0\0\0", &Under { search_path: Some(b"x"), ..Under::default() }, false);
        assert!(Arc::ptr_eq(&a, &b));
        assert!(!Arc::ptr_eq(&a, &c));
        assert_ne!(a.server_name, c.server_name);
    }

    #[test]
    fn the_interner_forgets_what_nobody_holds() {
        let i = Interner::default();
        for n in 0..100_000 {
            i.intern(format!("select {n}").as_bytes(), &Under::default(), false);
        }
        assert!(i.len() < 3000, "{}", i.len());
    }

    #[test]
    fn what_comes_to_the_same_stays_shared() {
        let i = Interner::default();
        let (first, _held) = new(&i, 0);
        assert!(i.trusted(BODY, &Under::default(), at(&i, 999)).is_some_and(|s| s == first));
        assert!(i.trusted(BODY, &Under::default(), at(&i, 1000)).is_none());
        // Nothing is known of the columns of the first.
        let second = again(&i, 1000);
        assert_eq!(i.settle(&second, shape(1, 1), at(&i, 1000)), second);
        let _held = Name::new(second.clone(), false);
        let third = again(&i, 2000);
        assert_eq!(i.settle(&third, shape(1, 1), at(&i, 2000)), second);
        assert!(i.trusted(BODY, &Under::default(), at(&i, 2999)).is_some_and(|s| s == second));
        assert!(!second.is_stale() && !first.is_stale());
    }

    #[test]
    fn what_has_changed_is_another_statement_and_the_older_one_knows_it() {
        let i = Interner::default();
        let (_first, _held) = new(&i, 0);
        let second = again(&i, 1000);
        i.settle(&second, shape(1, 1), at(&i, 1000));
        let _second = Name::new(second.clone(), false);
        let third = again(&i, 2000);
        assert_eq!(i.settle(&third, shape(2, 1), at(&i, 2000)), third);
        assert!(!second.is_stale(), "it has other parameters, and runs as it did");
        let _third = Name::new(third.clone(), false);
        let fourth = again(&i, 3000);
        assert_eq!(i.settle(&fourth, shape(2, 2), at(&i, 3000)), fourth);
        assert!(third.is_stale());
        let mut parse = Vec::new();
        third.write_parse(&mut parse);
        assert!(parse.ends_with(&[0, 0, 2]), "its clients keep the types of its parameters");
    }

    #[test]
    fn a_change_through_here_ends_trust_at_once_whatever_it_comes_to() {
        let i = Interner::default();
        let (_first, _held) = new(&i, 0);
        let second = again(&i, 1000);
        i.settle(&second, shape(1, 1), at(&i, 1000));
        let _second = Name::new(second.clone(), false);
        let under_way = again(&i, 2500);
        let before = at(&i, 2500);
        i.catalogue_changed();
        assert!(i.trusted(BODY, &Under::default(), at(&i, 1001)).is_none());
        // A name may lead to a new table of the same columns.
        let third = again(&i, 2501);
        assert_eq!(i.settle(&third, shape(1, 1), at(&i, 2501)), third);
        let _third = Name::new(third.clone(), false);
        assert_eq!(i.settle(&under_way, shape(1, 1), before), under_way, "sent before the change");
        assert!(i.trusted(BODY, &Under::default(), at(&i, 2502)).is_some_and(|s| s == third));
    }

    #[test]
    fn a_text_that_no_client_has_is_parsed_anew() {
        let i = Interner::default();
        let (_on_a_server, held) = new(&i, 0);
        assert!(i.trusted(BODY, &Under::default(), at(&i, 1)).is_some());
        drop(held);
        assert!(i.trusted(BODY, &Under::default(), at(&i, 1)).is_none());
    }

    #[test]
    fn a_refused_plan_has_one_successor() {
        let i = Interner::default();
        let (first, _held) = new(&i, 0);
        let next = i.renewed(&first, at(&i, 10));
        assert_ne!(next, first);
        assert_eq!(i.renewed(&first, at(&i, 11)), next);
    }
}
