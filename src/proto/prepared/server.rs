//! Which statements one server connection has.

use std::sync::Arc;

use rustc_hash::FxHashMap;

use super::Statement;

/// The statements that one server connection has, least recently used first out.
#[derive(Debug, Default)]
pub struct ServerStatements {
    /// The ids are counted here, so that nobody can choose them to collide.
    have: FxHashMap<u64, (Arc<Statement>, u64)>,
    clock: u64,
    /// Bytes of their texts.
    pub(super) bytes: usize,
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

    /// Whether the server has it.
    pub fn has(&self, id: u64) -> bool {
        self.have.contains_key(&id)
    }

    pub fn get(&self, id: u64) -> Option<&Arc<Statement>> {
        self.have.get(&id).map(|(s, _)| s)
    }

    /// Adds one; the caller then closes what is too much.
    pub fn insert(&mut self, s: Arc<Statement>) {
        self.clock += 1;
        self.put(s, self.clock);
    }

    fn put(&mut self, s: Arc<Statement>, used: u64) {
        self.bytes += s.bytes();
        if let Some((old, _)) = self.have.insert(s.id, (s, used)) {
            self.bytes -= old.bytes();
        }
    }

    /// Takes out what must be closed to stay within `limit` statements and `memory` bytes of text, the least recently
    /// used first; `None` when enough was. One stays, however large it is.
    pub fn excess(&mut self, limit: usize, memory: usize) -> Option<Arc<Statement>> {
        if self.have.len() <= 1 || (self.have.len() <= limit && self.bytes <= memory) {
            return None;
        }
        let oldest = self.have.iter().min_by_key(|(_, (_, used))| *used).map(|(id, _)| *id)?;
        self.remove(oldest)
    }

    /// Puts back what was to be closed but was not.
    pub fn restore(&mut self, s: Arc<Statement>) {
        self.put(s, 0);
    }

    pub fn remove(&mut self, id: u64) -> Option<Arc<Statement>> {
        let (s, _) = self.have.remove(&id)?;
        self.bytes -= s.bytes();
        Some(s)
    }

    pub fn clear(&mut self) {
        self.have.clear();
        self.bytes = 0;
    }

    pub fn len(&self) -> usize {
        self.have.len()
    }

    pub fn is_empty(&self) -> bool {
        self.have.is_empty()
    }
}
