//! The statements that are under way on one server connection.
//!
//! A call begins when its Query or Execute is sent, in the order of the answers, and ends with its last answer. Its
//! time is known when a ReadyForQuery ends the round trip: the calls of a pipeline share it evenly.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Instant;

use super::template::Template;
use super::{Call, Entry, Scope};
use crate::proto::prepared::Statement;
use crate::proto::sql::fingerprint::fingerprint as number_of;
use crate::proto::sql::needs_look;

/// Statements that a connection remembers.
const REMEMBERED: usize = 16;
/// Portals and (in session mode) statement names that are kept; more are counted for the statement bound last.
const NAMES: usize = 256;

/// Answered calls of one batch that are kept for its end; more are booked with no time, which goes to the last of it.
const MANY: usize = 4096;

/// See the module.
#[derive(Debug, Default)]
pub struct Calls {
    /// Answered ones first.
    calls: Vec<(Arc<Entry>, Call)>,
    answered: usize,
    /// By their numbers; made with the first.
    remembered: Vec<Option<Arc<Entry>>>,
    /// Texts that came last, by how they begin.
    templates: Vec<Option<Template>>,
    /// What an Execute of the unnamed portal runs.
    bound: Option<Arc<Entry>>,
    portals: Vec<(Box<[u8]>, Arc<Entry>)>,
    /// Of a session pool's client, whose names are its own.
    names: HashMap<Box<[u8]>, u64>,
    /// Bytes of messages that belong to the next call.
    received: u64,
    /// What was unscanned of the answers when bytes were counted last.
    mark: usize,
    /// The statement that was sent last.
    pub last: u64,
    /// How long its client waited for this connection, as long as no call has it.
    pub queue_us: u64,
    /// When the batch under way was sent.
    pub began: Option<Instant>,
}

/// A statement that is known by its text.
#[derive(Debug)]
pub struct Found {
    entry: Arc<Entry>,
    /// See [`needs_look`].
    pub needs_look: bool,
}

/// Where a text is looked for: by its first bytes, among which there is seldom a constant.
#[inline]
fn slot(sql: &[u8]) -> usize {
    let word = |chunk: Option<&[u8; 8]>| chunk.map_or(0, |c| u64::from_le_bytes(*c));
    let (first, rest) = sql.split_at_checked(16).unwrap_or((sql, &[]));
    let h = word(first.first_chunk()) ^ word(first.last_chunk()).rotate_left(21);
    let h = (h ^ word(rest.first_chunk()).rotate_left(42)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    (h >> 60) as usize
}

impl Calls {
    // ---- what is sent

    #[inline]
    fn known(&mut self, id: u64) -> Option<Arc<Entry>> {
        let slot = self.remembered.get((id >> 32) as usize % REMEMBERED)?;
        slot.as_ref().filter(|e| e.id == id).cloned()
    }

    fn remember(&mut self, entry: &Arc<Entry>) {
        if self.remembered.is_empty() {
            self.remembered = vec![None; REMEMBERED];
        }
        if let Some(slot) = self.remembered.get_mut((entry.id >> 32) as usize % REMEMBERED) {
            *slot = Some(entry.clone());
        }
    }

    #[inline]
    fn entry<'s>(&mut self, q: &Scope, fingerprint: u64, sql: impl FnOnce() -> &'s [u8]) -> Arc<Entry> {
        let id = q.id(fingerprint);
        if let Some(e) = self.known(id) {
            return e;
        }
        let e = q.entry(id, sql);
        self.remember(&e);
        e
    }

    #[inline(always)]
    fn begin(&mut self, entry: Arc<Entry>, bytes: usize) {
        self.last = entry.id;
        let received = std::mem::take(&mut self.received) + bytes as u64;
        self.calls.push((entry, Call { received, ..Call::default() }));
    }

    /// What a text is, found before anything is sent; [`Self::query`] or [`Self::parse`] takes it.
    #[inline]
    pub fn find(&mut self, q: &Scope, sql: &[u8]) -> Found {
        let slot = slot(sql);
        match self.templates.get(slot) {
            Some(Some(t)) if t.fits(sql) => Found { entry: t.entry.clone(), needs_look: t.needs_look },
            _ => self.read(q, sql, slot),
        }
    }

    #[cold]
    fn read(&mut self, q: &Scope, sql: &[u8], slot: usize) -> Found {
        let entry = self.entry(q, number_of(sql), || sql);
        if self.templates.is_empty() {
            self.templates.resize_with(REMEMBERED, || None);
        }
        if let Some(t) = self.templates.get_mut(slot) {
            *t = Template::new(sql, &entry);
        }
        Found { entry, needs_look: needs_look(sql) }
    }

    /// A simple Query.
    #[inline]
    pub fn query(&mut self, found: Found, bytes: usize) {
        self.begin(found.entry, bytes);
    }

    /// A Query of which only the beginning was looked at.
    pub fn long_query(&mut self, q: &Scope, bytes: usize) {
        self.begin(q.too_long(), bytes);
    }

    /// A Parse of a statement that is the client's alone; returns its number.
    #[inline]
    pub fn parse(&mut self, found: &Found, bytes: usize) -> u64 {
        self.received += bytes as u64;
        found.entry.id
    }

    /// The same of one that is too long.
    pub fn long_parse(&mut self, q: &Scope, bytes: usize) -> u64 {
        self.received += bytes as u64;
        q.too_long().id
    }

    /// A name of a session pool's client means this number from now on.
    pub fn name(&mut self, name: &[u8], id: u64) {
        if self.names.len() < NAMES || self.names.contains_key(name) {
            self.names.insert(name.into(), id);
        }
    }

    /// The number of the unnamed statement is `id`, unless `name` has one of its own.
    pub fn bind_own(&mut self, q: &Scope, portal: &[u8], name: &[u8], id: u64, bytes: usize) {
        let id = if name.is_empty() { id } else { self.names.get(name).copied().unwrap_or(id) };
        let entry = match self.known(id) {
            Some(e) => e,
            // Its text went by with its Parse; it comes again only if the statement was dropped meanwhile.
            None => match q.store.find(id) {
                Some(e) => e,
                None => q.entry(id, || b"(a statement that was prepared long ago)"),
            },
        };
        self.bind_entry(portal, entry, bytes);
    }

    /// A Bind of an interned statement.
    #[inline]
    pub fn bind(&mut self, q: &Scope, portal: &[u8], stmt: &Statement, bytes: usize) {
        let entry = self.entry(q, stmt.fingerprint, || stmt.text());
        self.bind_entry(portal, entry, bytes);
    }

    #[inline]
    fn bind_entry(&mut self, portal: &[u8], entry: Arc<Entry>, bytes: usize) {
        self.received += bytes as u64;
        if !portal.is_empty() {
            self.portals.retain(|(p, _)| **p != *portal);
            if self.portals.len() < NAMES {
                self.portals.push((portal.into(), entry.clone()));
            }
        }
        self.bound = Some(entry);
    }

    /// Whether [`Self::execute`] needs the portal's name.
    #[inline]
    pub fn has_portals(&self) -> bool {
        !self.portals.is_empty()
    }

    #[inline]
    pub fn execute(&mut self, portal: &[u8], bytes: usize) {
        let named = self.portals.iter().find(|(p, _)| !portal.is_empty() && **p == *portal);
        if let Some(entry) = named.map(|(_, e)| e).or(self.bound.as_ref()).cloned() {
            self.begin(entry, bytes);
        } else {
            // Nothing was bound here: the server will refuse it, and the order of the answers needs a place.
            self.calls.push((Arc::new(Entry::nothing()), Call::default()));
        }
    }

    // ---- what is answered

    #[inline]
    fn front(&mut self) -> Option<&mut Call> {
        self.calls.get_mut(self.answered).map(|(_, c)| c)
    }

    /// A scan of answers begins with so many bytes.
    #[inline]
    pub fn begin_scan(&mut self, unscanned: usize) {
        self.mark = unscanned;
    }

    /// The bytes that were scanned since belong to the call whose turn it is.
    #[inline]
    pub fn end_scan(&mut self, unscanned: usize) {
        let bytes = self.mark.saturating_sub(unscanned) as u64;
        self.mark = unscanned;
        if let Some(c) = self.front() {
            c.sent += bytes;
        }
    }

    /// A completion tag: `SELECT 5`, `INSERT 0 5`, `COMMIT`.
    #[inline]
    pub fn tag(&mut self, tag: &[u8]) {
        if let Some(c) = self.front() {
            c.rows += rows(tag);
        }
    }

    /// The call whose turn it was has its last answer.
    #[inline]
    pub fn complete(&mut self, unscanned: usize) {
        self.end_scan(unscanned);
        if self.answered < self.calls.len() {
            self.answered += 1;
        }
    }

    /// A simple Query has failed; its ReadyForQuery is still to come.
    pub fn query_failed(&mut self) {
        if let Some(c) = self.front() {
            c.failed = true;
        }
    }

    /// An error in a batch: `executes` of it will not be answered, and the first of them is what failed.
    pub fn batch_failed(&mut self, executes: usize, unscanned: usize) {
        if executes == 0 {
            return;
        }
        if let Some(c) = self.front() {
            c.failed = true;
        }
        self.complete(unscanned);
        self.forget(executes - 1);
    }

    /// Calls that the server will not run.
    pub fn forget(&mut self, executes: usize) {
        let end = (self.answered + executes).min(self.calls.len());
        self.calls.drain(self.answered..end);
    }

    /// So many calls of one batch are answered that they are booked before its end: a batch can be endless.
    #[inline]
    pub fn many_answered(&self) -> bool {
        self.answered > MANY
    }

    /// Whether anything is to be booked.
    #[inline]
    pub fn any_answered(&self) -> bool {
        self.answered > 0
    }

    /// The answered calls took so long together. `slow` gets those that are to be logged.
    #[inline(always)]
    pub fn book(
        &mut self,
        q: &Scope,
        server_us: u64,
        application: &Arc<str>,
        mut slow: impl FnMut(&Entry, &Call),
    ) {
        // Nearly always.
        if self.answered == 1
            && let [(entry, call)] = &mut *self.calls
        {
            (call.server_us, call.queue_us) = (server_us, std::mem::take(&mut self.queue_us));
            self.answered = 0;
            if q.book(entry, call, application) {
                slow(entry, call);
            }
            self.calls.clear();
        } else {
            self.book_each(q, server_us, application, &mut slow);
        }
    }

    fn book_each(
        &mut self,
        q: &Scope,
        server_us: u64,
        application: &Arc<str>,
        slow: &mut dyn FnMut(&Entry, &Call),
    ) {
        let Some(each) = server_us.checked_div(self.answered as u64) else { return };
        let mut queue_us = std::mem::take(&mut self.queue_us);
        for (entry, mut call) in self.calls.drain(..self.answered) {
            (call.server_us, call.queue_us) = (each, std::mem::take(&mut queue_us));
            if q.book(&entry, &call, application) {
                slow(&entry, &call);
            }
        }
        self.answered = 0;
    }

    /// The transaction is over: no portal is left, and nothing is under way.
    #[inline(always)]
    pub fn end(&mut self) {
        self.received = 0;
        self.queue_us = 0;
        self.began = None;
        self.bound = None;
        // What has been booked is gone already.
        if !self.calls.is_empty() || self.calls.capacity() > 64 || !self.portals.is_empty() {
            self.end_of_many();
        }
    }

    /// A burst must not stay for the life of the connection.
    #[cold]
    fn end_of_many(&mut self) {
        self.calls = Vec::new();
        self.answered = 0;
        self.portals.clear();
    }

    /// The session is over, in which names were its client's own.
    pub fn end_session(&mut self) {
        self.end();
        self.names = HashMap::new();
    }
}

impl Entry {
    /// What is counted nowhere.
    fn nothing() -> Self {
        Self {
            id: 0,
            database: "".into(),
            text: "".into(),
            comment: None,
            figures: parking_lot::Mutex::default(),
        }
    }
}

/// The number at the end of a completion tag.
#[inline]
fn rows(tag: &[u8]) -> u64 {
    let mut n: u64 = 0;
    let mut place: u64 = 1;
    for b in tag.iter().rev() {
        if !b.is_ascii_digit() {
            return n;
        }
        n = n.wrapping_add(u64::from(b - b'0').wrapping_mul(place));
        place = place.wrapping_mul(10);
    }
    n
}
