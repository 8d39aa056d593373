//! Statistics of statements, by what they are apart from their constants.
//!
//! [`Store`] keeps a bounded number of them for all databases: when it is full, those that took the least time make
//! room, and what they had is added to one sum, so that nothing is lost from the totals. [`calls::Calls`] follows the
//! statements on one server connection from their text to their last answer; it belongs to the connection, so that an
//! idle client costs nothing, and remembers the statements that it saw last, so that a known one costs a lookup there.
//! No I/O and no clock: durations are handed in.

pub mod calls;
mod histogram;
mod template;

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use parking_lot::Mutex;

use self::histogram::LogHistogram;
use crate::proto::sql::fingerprint::{self, Normal};

/// Bytes of a normalised text that are kept.
const TEXT: usize = 2000;
/// Applications that are kept apart for one statement.
const APPLICATIONS: usize = 8;

/// What is known of one statement of one database.
#[derive(Debug)]
pub struct Entry {
    /// Of the statement and the database; the same in every process.
    pub id: u64,
    pub database: Arc<str>,
    pub text: Box<str>,
    pub comment: Option<Box<str>>,
    figures: Mutex<Figures>,
}

/// Sums of the calls of one statement.
#[derive(Debug, Clone, Default)]
pub struct Figures {
    pub calls: u64,
    pub errors: u64,
    pub rows: u64,
    pub server_us: u64,
    pub queue_us: u64,
    pub longest_us: u64,
    /// From clients, and to them.
    pub received: u64,
    pub sent: u64,
    server: LogHistogram,
    queue: LogHistogram,
    /// Who sends it, and how often.
    applications: Vec<(Arc<str>, u64)>,
    other_applications: u64,
    /// The statement made room for others.
    dropped: bool,
}

/// One call, whose last answer has come.
#[derive(Debug, Clone, Copy, Default)]
pub struct Call {
    pub rows: u64,
    pub failed: bool,
    pub received: u64,
    pub sent: u64,
    pub server_us: u64,
    pub queue_us: u64,
}

/// The names of two clients.
#[inline(always)]
fn is_same(a: &Arc<str>, b: &Arc<str>) -> bool {
    Arc::ptr_eq(a, b) || a.len() == b.len() && template::same(a.as_bytes(), b.as_bytes())
}

impl Figures {
    #[inline(always)]
    fn add(&mut self, c: &Call, application: &Arc<str>) {
        // No sum of these ends a process: a check of each would cost more than the addition.
        let add = |sum: &mut u64, n: u64| *sum = sum.wrapping_add(n);
        add(&mut self.calls, 1);
        add(&mut self.errors, u64::from(c.failed));
        add(&mut self.rows, c.rows);
        add(&mut self.server_us, c.server_us);
        add(&mut self.received, c.received);
        add(&mut self.sent, c.sent);
        self.server.add(c.server_us);
        if c.queue_us > 0 {
            add(&mut self.queue_us, c.queue_us);
            self.queue.add(c.queue_us);
        }
        self.longest_us = self.longest_us.max(c.server_us.wrapping_add(c.queue_us));
        // Nearly always the first.
        match self.applications.first_mut() {
            Some((first, n)) if is_same(first, application) => add(n, 1),
            _ => self.add_application(application),
        }
    }

    fn add_application(&mut self, application: &Arc<str>) {
        if let Some((_, n)) = self.applications.iter_mut().find(|(a, _)| a == application) {
            *n += 1;
        } else if self.applications.len() < APPLICATIONS {
            self.applications.push((application.clone(), 1));
        } else {
            self.other_applications += 1;
        }
    }

    pub fn total_us(&self) -> u64 {
        self.server_us + self.queue_us
    }

    /// Of the time on the server.
    pub fn server_percentile(&self, percent: u64) -> u64 {
        self.server.percentile(percent, self.calls).min(self.longest_us)
    }

    /// Of the time in the queue.
    pub fn queue_percentile(&self, percent: u64) -> u64 {
        self.queue.percentile(percent, self.calls).min(self.longest_us)
    }

    /// The most frequent first; what is beyond the bound is counted as `(other)`.
    pub fn applications(&self) -> Vec<(String, u64)> {
        let mut all: Vec<_> = self.applications.iter().map(|(a, n)| (a.to_string(), *n)).collect();
        all.sort_by(|a, b| b.1.cmp(&a.1).then(a.0.cmp(&b.0)));
        if self.other_applications > 0 {
            all.push(("(other)".to_owned(), self.other_applications));
        }
        all
    }

    /// What is kept of a statement that made room.
    fn fold_into(&self, sum: &mut Fallen) {
        sum.statements += 1;
        sum.calls += self.calls;
        sum.errors += self.errors;
        sum.rows += self.rows;
        sum.total_us += self.total_us();
    }
}

impl Entry {
    pub fn figures(&self) -> Figures {
        self.figures.lock().clone()
    }

    /// How it is written.
    pub fn name(&self) -> String {
        format!("{:016x}", self.id)
    }
}

/// What statements had that are not kept any more.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Fallen {
    pub statements: u64,
    pub calls: u64,
    pub errors: u64,
    pub rows: u64,
    pub total_us: u64,
}

/// The ids are hashes already.
#[derive(Debug, Default)]
struct Identity(u64);

impl Hasher for Identity {
    fn write(&mut self, bytes: &[u8]) {
        for b in bytes {
            self.0 = self.0.rotate_left(8) ^ u64::from(*b);
        }
    }

    fn write_u64(&mut self, n: u64) {
        self.0 = n;
    }

    fn finish(&self) -> u64 {
        self.0
    }
}

#[derive(Debug, Default)]
struct Kept {
    entries: HashMap<u64, Arc<Entry>, BuildHasherDefault<Identity>>,
    fallen: Fallen,
}

/// See the module.
#[derive(Debug, Default)]
pub struct Store {
    kept: Mutex<Kept>,
    /// How many statements are kept; 0 is none, and nothing is followed.
    limit: AtomicUsize,
}

impl Store {
    pub fn new(limit: usize) -> Self {
        Self { kept: Mutex::default(), limit: AtomicUsize::new(limit) }
    }

    /// A smaller limit takes effect with the next new statement.
    pub fn set_limit(&self, limit: usize) {
        self.limit.store(limit, Ordering::Relaxed);
    }

    pub fn enabled(&self) -> bool {
        self.limit.load(Ordering::Relaxed) > 0
    }

    fn find(&self, id: u64) -> Option<Arc<Entry>> {
        self.kept.lock().entries.get(&id).cloned()
    }

    /// The statement's text is asked for only where it is new.
    fn obtain(&self, id: u64, database: &Arc<str>, text: impl FnOnce() -> Normal) -> Arc<Entry> {
        if let Some(found) = self.find(id) {
            return found;
        }
        let Normal { text, comment } = text();
        let entry = Arc::new(Entry {
            id,
            database: database.clone(),
            text: text.into(),
            comment: comment.map(Into::into),
            figures: Mutex::default(),
        });
        self.keep(entry)
    }

    /// Puts it in, unless somebody else was faster.
    fn keep(&self, entry: Arc<Entry>) -> Arc<Entry> {
        let limit = self.limit.load(Ordering::Relaxed).max(1);
        let mut kept = self.kept.lock();
        if let Some(found) = kept.entries.get(&entry.id) {
            return found.clone();
        }
        if kept.entries.len() >= limit {
            kept.make_room(limit);
        }
        entry.figures.lock().dropped = false;
        kept.entries.insert(entry.id, entry.clone());
        entry
    }

    /// Adds a call.
    #[inline(always)]
    fn add(&self, entry: &Arc<Entry>, call: &Call, application: &Arc<str>) {
        let mut figures = entry.figures.lock();
        if figures.dropped {
            drop(figures);
            self.add_again(entry, call, application);
        } else {
            figures.add(call, application);
        }
    }

    /// Of a statement that had made room.
    #[cold]
    fn add_again(&self, entry: &Arc<Entry>, call: &Call, application: &Arc<str>) {
        let kept = self.keep(entry.clone());
        kept.figures.lock().add(call, application);
    }

    /// A statement's normalised text.
    pub fn text(&self, id: u64) -> Option<String> {
        self.find(id).map(|e| e.text.to_string())
    }

    /// All that are kept, those that took the most time first.
    pub fn all(&self) -> Vec<(Arc<Entry>, Figures)> {
        let entries: Vec<Arc<Entry>> = self.kept.lock().entries.values().cloned().collect();
        let mut all: Vec<_> = entries.into_iter().map(|e| (e.figures(), e)).map(|(f, e)| (e, f)).collect();
        all.retain(|(_, f)| f.calls > 0);
        all.sort_by_key(|(e, f)| (std::cmp::Reverse(f.total_us()), e.id));
        all
    }

    /// How many of the kept statements were called, and how often in all.
    pub fn called(&self) -> (usize, u64) {
        let calls = |e: &Arc<Entry>| e.figures.lock().calls;
        let entries = self.kept.lock();
        let called = entries.entries.values().map(calls).filter(|n| *n > 0);
        called.fold((0, 0), |(kept, all), n| (kept + 1, all + n))
    }

    pub fn fallen(&self) -> Fallen {
        self.kept.lock().fallen
    }

    pub fn len(&self) -> usize {
        self.kept.lock().entries.len()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl Kept {
    /// Drops the tenth that took the least time, and as many more as a new limit asks for.
    fn make_room(&mut self, limit: usize) {
        let mut by_time: Vec<(u64, u64)> =
            self.entries.values().map(|e| (e.figures.lock().total_us(), e.id)).collect();
        by_time.sort_unstable();
        let excess = self.entries.len() - limit;
        for (_, id) in by_time.iter().take(excess + (limit / 10).max(1)) {
            if let Some(e) = self.entries.remove(id) {
                let none = Figures { dropped: true, ..Figures::default() };
                std::mem::replace(&mut *e.figures.lock(), none).fold_into(&mut self.fallen);
            }
        }
    }
}

/// Statements of one database, as a pool's connections see them, and which of them are slow.
#[derive(Debug)]
pub struct Scope {
    store: Arc<Store>,
    database: Arc<str>,
    seed: u64,
    /// In microseconds; never reached where there is no threshold.
    slow_us: AtomicU64,
    /// Of a hundred slow calls so many are logged.
    sample: AtomicU64,
    slow_seen: AtomicU64,
}

impl Scope {
    pub fn new(store: Arc<Store>, database: Arc<str>) -> Self {
        // Nothing else that is hashed is followed by a zero byte.
        let seed = fingerprint::fingerprint(format!("database \"{database}\"\0").as_bytes());
        let never = AtomicU64::new(u64::MAX);
        let sample = AtomicU64::new(100);
        Self { store, database, seed, slow_us: never, sample, slow_seen: AtomicU64::new(0) }
    }

    /// Which calls are slow, and how many of a hundred slow ones are logged.
    pub fn set_slow(&self, threshold: Option<Duration>, sample: u32) {
        let us = threshold.map_or(u64::MAX, |t| u64::try_from(t.as_micros()).unwrap_or(u64::MAX));
        self.slow_us.store(us, Ordering::Relaxed);
        self.sample.store(u64::from(sample), Ordering::Relaxed);
    }

    /// This scope, where statements are counted.
    #[inline]
    pub fn if_enabled(&self) -> Option<&Self> {
        self.store.enabled().then_some(self)
    }

    /// Whether a call that took so long is to be logged; spreads the sample evenly.
    #[inline]
    fn logs(&self, us: u64) -> bool {
        us >= self.slow_us.load(Ordering::Relaxed) && self.is_of_sample()
    }

    #[cold]
    fn is_of_sample(&self) -> bool {
        let (n, sample) =
            (self.slow_seen.fetch_add(1, Ordering::Relaxed), self.sample.load(Ordering::Relaxed));
        (n + 1) * sample / 100 != n * sample / 100
    }

    /// Adds a call; whether it is to be logged.
    #[inline(always)]
    fn book(&self, entry: &Arc<Entry>, call: &Call, application: &Arc<str>) -> bool {
        if entry.id == 0 {
            return false;
        }
        self.store.add(entry, call, application);
        self.logs(call.server_us + call.queue_us)
    }

    /// The number of a statement in this database.
    #[inline]
    fn id(&self, fingerprint: u64) -> u64 {
        fingerprint ^ self.seed.rotate_left(7)
    }

    fn entry<'s>(&self, id: u64, sql: impl FnOnce() -> &'s [u8]) -> Arc<Entry> {
        self.store.obtain(id, &self.database, || fingerprint::normal(sql(), TEXT))
    }

    fn too_long(&self) -> Arc<Entry> {
        let text =
            || Normal { text: "(a statement that is too long to be looked at)".to_owned(), comment: None };
        self.store.obtain(self.id(fingerprint::TOO_LONG), &self.database, text)
    }
}

#[cfg(test)]
mod tests;
