//! Which of a pool's hosts has its turn, and which have failed since one has worked.

use std::sync::atomic::{AtomicUsize, Ordering};

use parking_lot::Mutex;

use crate::config::resolved::HostAddr;
use crate::error::OpenFailure;

/// Hosts are known by their places in the pool's list.
#[derive(Debug, Default)]
pub(super) struct HostTurns {
    next: AtomicUsize,
    failed: Mutex<Vec<usize>>,
}

impl HostTurns {
    /// The host whose turn it is, of so many.
    pub(super) fn turn(&self, of: usize) -> usize {
        self.next.load(Ordering::Relaxed) % of.max(1)
    }

    /// The first that fits, from the one whose turn it is.
    pub(super) fn first(&self, hosts: &[HostAddr], fits: impl Fn(&HostAddr) -> bool) -> Option<usize> {
        let first = self.next.load(Ordering::Relaxed);
        let n = hosts.len().max(1);
        (first..first + n).map(|i| i % n).find(|i| hosts.get(*i).is_some_and(&fits))
    }

    /// The next host has its turn.
    pub(super) fn advance(&self) {
        self.next.fetch_add(1, Ordering::Relaxed);
    }

    /// A host was reached.
    pub(super) fn reached(&self) {
        self.failed.lock().clear();
    }

    /// One of `n` hosts has failed: the next one is tried, and waiters hear of it only when every host has failed
    /// since one has worked.
    pub(super) fn failed(&self, index: usize, f: OpenFailure, n: usize) -> OpenFailure {
        let tried = self.next.load(Ordering::Relaxed);
        if tried % n == index {
            // Attempts run in parallel: only the first of those that failed moves on.
            let _ = self.next.compare_exchange(tried, tried + 1, Ordering::Relaxed, Ordering::Relaxed);
        }
        let mut failed = self.failed.lock();
        if !failed.contains(&index) {
            failed.push(index);
        }
        match f {
            OpenFailure::Unreachable(e) | OpenFailure::Fatal(e) if failed.len() < n => OpenFailure::Local(e),
            f => f,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Error;

    fn unreachable() -> OpenFailure {
        OpenFailure::Unreachable(Error::ServerUnreachable {
            host: "db".to_owned(),
            reason: "refused".to_owned(),
        })
    }

    #[test]
    fn waiters_hear_of_a_failure_when_every_host_has_failed() {
        let turns = HostTurns::default();
        assert!(matches!(turns.failed(0, unreachable(), 2), OpenFailure::Local(_)));
        assert_eq!(turns.turn(2), 1);
        assert!(matches!(turns.failed(0, unreachable(), 2), OpenFailure::Local(_)), "the first one again");
        assert_eq!(turns.turn(2), 1, "it moves on once");
        assert!(matches!(turns.failed(1, unreachable(), 2), OpenFailure::Unreachable(_)));
        turns.reached();
        assert!(matches!(turns.failed(1, unreachable(), 2), OpenFailure::Local(_)));
    }
}
