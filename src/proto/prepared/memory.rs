//! What prepared statements take of the memory: texts, which clients and servers share, and the names of each client.
//!
//! Sums are kept by those that are counted: a statement and a client's names add themselves when they are made, and are
//! taken off when they are dropped, so that nobody has to remember to.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// What a statement costs beside its text.
const STATEMENT: usize = 256;
/// What a client's name costs beside its bytes: its place in the client's map.
const NAME: usize = 96;

/// The sums of one process.
#[derive(Debug, Default)]
pub struct Memory {
    statements: AtomicUsize,
    texts: AtomicUsize,
    names: AtomicUsize,
}

impl Memory {
    /// Statements that some client or server still refers to.
    pub fn statements(&self) -> usize {
        self.statements.load(Ordering::Relaxed)
    }

    /// Bytes of their texts, each counted once.
    pub fn texts(&self) -> usize {
        self.texts.load(Ordering::Relaxed)
    }

    /// Bytes that clients' names for them take, and long unnamed statements.
    pub fn names(&self) -> usize {
        self.names.load(Ordering::Relaxed)
    }

    /// Bytes of everything.
    pub fn total(&self) -> usize {
        self.texts() + self.names()
    }
}

/// A statement's share of the sums.
#[derive(Debug)]
pub(super) struct TextCharge {
    memory: Arc<Memory>,
    bytes: usize,
}

impl TextCharge {
    pub(super) fn new(memory: &Arc<Memory>, text: usize) -> Self {
        let bytes = text + STATEMENT;
        memory.statements.fetch_add(1, Ordering::Relaxed);
        memory.texts.fetch_add(bytes, Ordering::Relaxed);
        Self { memory: memory.clone(), bytes }
    }

    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }
}

impl Drop for TextCharge {
    fn drop(&mut self) {
        self.memory.statements.fetch_sub(1, Ordering::Relaxed);
        self.memory.texts.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

/// What one client holds, for its own limit and for the sums.
#[derive(Debug, Default)]
pub(super) struct ClientCharge {
    memory: Arc<Memory>,
    /// Names, the texts behind them, and a long unnamed statement.
    held: usize,
    /// The same of what was given up, and may come back if the server turns out to have skipped that.
    leaving: usize,
    /// Of `held`, what is in the sum of the names.
    names: usize,
}

impl ClientCharge {
    pub(super) fn new(memory: &Arc<Memory>) -> Self {
        Self { memory: memory.clone(), ..Self::default() }
    }

    /// Bytes that count against the client's limit.
    pub(super) fn bytes(&self) -> usize {
        self.held + self.leaving
    }

    pub(super) fn is_leaving(&self) -> bool {
        self.leaving > 0
    }

    pub(super) fn name_taken(&mut self, name: usize, text: usize) {
        self.own(name + NAME);
        self.held += text;
    }

    pub(super) fn name_given_up(&mut self, name: usize, text: usize) {
        let bytes = (name + NAME + text).min(self.held);
        self.disown(name + NAME);
        self.held = self.held.saturating_sub(text);
        self.leaving += bytes;
    }

    /// Nothing that is under way mentions any more what was given up.
    pub(super) fn settled(&mut self) {
        self.leaving = 0;
    }

    /// A long unnamed statement of so many bytes is kept.
    pub(super) fn own(&mut self, bytes: usize) {
        self.held += bytes;
        self.names += bytes;
        self.memory.names.fetch_add(bytes, Ordering::Relaxed);
    }

    /// It is not kept any more.
    pub(super) fn disown(&mut self, bytes: usize) {
        let bytes = bytes.min(self.names);
        self.held = self.held.saturating_sub(bytes);
        self.names -= bytes;
        self.memory.names.fetch_sub(bytes, Ordering::Relaxed);
    }
}

impl Drop for ClientCharge {
    fn drop(&mut self) {
        self.memory.names.fetch_sub(self.names, Ordering::Relaxed);
    }
}

/// What a name and a text would add to what a client holds.
pub(super) fn cost(name: usize, text: usize) -> usize {
    name + NAME + text + STATEMENT
}
