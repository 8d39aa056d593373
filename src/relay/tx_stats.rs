//! Figures of one transaction.

/// Counted while a lease lasts, booked when it ends. Every idle client has room for it, so what is counted by messages
/// of one transaction is small.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct TxStats {
    pub queries: u32,
    pub errors: u32,
    pub from_client: u64,
    pub to_client: u64,
    pub client_parses: u32,
    pub server_parses: u32,
    pub binds: u32,
    /// Named statements that the server had when they were needed, and those that it had to give up for others.
    pub statement_hits: u32,
    pub statement_evictions: u32,
    /// In a transaction, its client had the turn for so long; and it took nothing of its results for so long.
    pub client_us: u64,
    pub stall_us: u64,
    /// Its client waited so long for a server, in whatever queues.
    pub queued_us: u64,
    /// Writes that a read-only transaction refused (25006).
    pub refused_writes: u32,
    /// Serialization failures, which recovery conflicts are (40001).
    pub conflicts: u32,
    /// What was taken for a read has done more: see [`TxStats::see`].
    pub wrote: bool,
    ended: bool,
}

impl TxStats {
    /// Takes what is booked; what routing reads at the end of a lease stays.
    pub fn take_figures(&mut self) -> Self {
        let (wrote, ended, refused_writes, conflicts) =
            (self.wrote, self.ended, self.refused_writes, self.conflicts);
        let kept = Self { wrote, ended, refused_writes, conflicts, ..Self::default() };
        std::mem::replace(self, kept)
    }

    /// A completion tag in what was taken for one transaction that only reads, and runs where it could write. A
    /// text can go on behind its COMMIT, and SET can make a block one that writes.
    pub fn see(&mut self, tag: &[u8]) {
        const READS: [&[u8]; 11] = [
            b"BEGIN",
            b"START",
            b"SELECT",
            b"SHOW",
            b"FETCH",
            b"MOVE",
            b"DECLARE",
            b"CLOSE",
            b"EXPLAIN",
            b"SAVEPOINT",
            b"RELEASE",
        ];
        let word = tag.split(|b| matches!(b, b' ' | 0)).next().unwrap_or_default();
        if matches!(word, b"COMMIT" | b"ROLLBACK") {
            self.ended = true;
        } else {
            self.wrote |= self.ended || !READS.contains(&word);
        }
    }
}
