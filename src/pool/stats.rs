//! Figures of databases over time: what `SHOW STATS` calls averages, and the line in the log.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::PoolTotals;

/// The figures that PgBouncer keeps, either totals or averages. Times are in microseconds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Figures {
    pub assignments: u64,
    pub transactions: u64,
    pub queries: u64,
    /// From clients.
    pub received: u64,
    /// To clients.
    pub sent: u64,
    pub transaction_us: u64,
    pub query_us: u64,
    pub wait_us: u64,
    pub client_parses: u64,
    pub server_parses: u64,
    pub binds: u64,
    pub logins: u64,
}

impl Figures {
    /// Logins are counted elsewhere: a login can end before it has a pool.
    pub fn of(t: &PoolTotals, logins: u64) -> Self {
        Self {
            assignments: t.wait.count().saturating_sub(t.unused),
            transactions: t.transactions,
            queries: t.queries,
            received: t.from_client,
            sent: t.to_client,
            transaction_us: t.transaction.sum_us,
            query_us: t.query_us,
            wait_us: t.wait.sum_us,
            client_parses: t.client_parses,
            server_parses: t.server_parses,
            binds: t.binds,
            logins,
        }
    }

    fn each(&self, other: &Self, f: impl Fn(u64, u64) -> u64) -> Self {
        Self {
            assignments: f(self.assignments, other.assignments),
            transactions: f(self.transactions, other.transactions),
            queries: f(self.queries, other.queries),
            received: f(self.received, other.received),
            sent: f(self.sent, other.sent),
            transaction_us: f(self.transaction_us, other.transaction_us),
            query_us: f(self.query_us, other.query_us),
            wait_us: f(self.wait_us, other.wait_us),
            client_parses: f(self.client_parses, other.client_parses),
            server_parses: f(self.server_parses, other.server_parses),
            binds: f(self.binds, other.binds),
            logins: f(self.logins, other.logins),
        }
    }

    #[must_use]
    pub fn plus(&self, other: &Self) -> Self {
        self.each(other, u64::saturating_add)
    }

    /// The growth since `before`.
    #[must_use]
    pub fn since(&self, before: &Self) -> Self {
        self.each(before, u64::saturating_sub)
    }

    /// Of a growth: counts and bytes per second, times per transaction, query and assignment.
    #[must_use]
    pub fn averaged(&self, over: Duration) -> Self {
        let ms = crate::number::millis(over).max(1);
        let rate = |n: u64| n.saturating_mul(1000) / ms;
        Self {
            transaction_us: self.transaction_us.checked_div(self.transactions).unwrap_or(0),
            query_us: self.query_us.checked_div(self.queries).unwrap_or(0),
            wait_us: self.wait_us.checked_div(self.assignments).unwrap_or(0),
            ..self.each(self, |n, _| rate(n))
        }
    }
}

/// What tells whether a pool's settings fit its work.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Work {
    pub waits: u64,
    pub wait_us: u64,
    pub wait_timeouts: u64,
    pub transaction_us: u64,
    pub client_parses: u64,
    pub server_parses: u64,
    pub binds: u64,
}

impl Work {
    pub fn of(t: &PoolTotals) -> Self {
        Self {
            waits: t.wait.count(),
            wait_us: t.wait.sum_us,
            wait_timeouts: t.wait_timeouts,
            transaction_us: t.transaction.sum_us,
            client_parses: t.client_parses,
            server_parses: t.server_parses,
            binds: t.binds,
        }
    }

    /// The growth since `before`.
    #[must_use]
    pub fn since(&self, before: &Self) -> Self {
        Self {
            waits: self.waits.saturating_sub(before.waits),
            wait_us: self.wait_us.saturating_sub(before.wait_us),
            wait_timeouts: self.wait_timeouts.saturating_sub(before.wait_timeouts),
            transaction_us: self.transaction_us.saturating_sub(before.transaction_us),
            client_parses: self.client_parses.saturating_sub(before.client_parses),
            server_parses: self.server_parses.saturating_sub(before.server_parses),
            binds: self.binds.saturating_sub(before.binds),
        }
    }
}

#[derive(Debug, Default)]
struct Marks {
    /// At the beginning of the last period and of the one before.
    marks: [Option<(Instant, HashMap<String, Figures>)>; 2],
}

/// Where the periods began.
#[derive(Debug, Default)]
pub struct Statistics {
    marks: Mutex<Marks>,
}

impl Statistics {
    /// A period ends and the next one begins; gives the growth over the one that ended.
    pub fn mark(&self, now: Instant, all: HashMap<String, Figures>) -> Option<(Duration, Figures)> {
        let mut m = self.marks.lock();
        let ended = m.marks[1].as_ref().map(|(at, before)| {
            let nothing = Figures::default();
            let grown = all
                .iter()
                .map(|(name, f)| f.since(before.get(name).unwrap_or(&nothing)))
                .fold(nothing, |sum, f| sum.plus(&f));
            (now.saturating_duration_since(*at), grown)
        });
        m.marks.rotate_left(1);
        m.marks[1] = Some((now, all));
        ended
    }

    /// What a database stood at when the last whole period began, and how long ago that was: averages are over one
    /// to two periods.
    pub fn before(&self, database: &str, now: Instant) -> (Figures, Duration) {
        let m = self.marks.lock();
        match m.marks.iter().flatten().next() {
            Some((at, all)) => {
                (all.get(database).copied().unwrap_or_default(), now.saturating_duration_since(*at))
            }
            None => (Figures::default(), Duration::ZERO),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn figures(n: u64) -> Figures {
        let f = Figures::default();
        Figures { assignments: n, transactions: n, queries: 2 * n, wait_us: 10 * n, ..f }
    }

    #[test]
    fn averages_are_over_one_to_two_periods() {
        let start = crate::clock::Clock::now();
        let at = |s: u64| start + Duration::from_secs(s);
        let all = |n| HashMap::from([("app".to_owned(), figures(n))]);
        let statistics = Statistics::default();
        assert_eq!(statistics.mark(at(0), all(0)), None);
        let (before, over) = statistics.before("app", at(10));
        let average = figures(100).since(&before).averaged(over);
        assert_eq!((average.transactions, average.queries, average.wait_us), (10, 20, 10));
        let (over, grown) = statistics.mark(at(60), all(600)).expect("a period has ended");
        assert_eq!((over.as_secs(), grown.transactions), (60, 600));
        // Over both, until the next period ends.
        assert_eq!(statistics.before("app", at(90)), (figures(0), Duration::from_secs(90)));
        statistics.mark(at(120), all(600));
        assert_eq!(statistics.before("app", at(130)), (figures(600), Duration::from_secs(70)));
        assert_eq!(statistics.before("other", at(130)).0, Figures::default());
    }

    #[test]
    fn a_figure_that_fell_does_not_wrap() {
        assert_eq!(figures(1).since(&figures(2)).transactions, 0);
        assert_eq!(figures(0).averaged(Duration::ZERO).wait_us, 0);
    }
}
