//! A lower bound of the wait that a request faces, for `shed_load`.

use std::time::{Duration, Instant};

/// How long a transaction counts as one that may come again.
const WINDOW: Duration = Duration::from_secs(10);

/// The shortest transaction of the last 10 to 20 seconds.
#[derive(Debug, Default)]
pub struct Shortest {
    current: Option<Duration>,
    before: Option<Duration>,
    since: Option<Instant>,
}

impl Shortest {
    pub fn add(&mut self, now: Instant, took: Duration) {
        self.turn(now);
        self.current = Some(self.current.map_or(took, |s| s.min(took)));
    }

    /// Nothing where nothing is known.
    pub fn get(&mut self, now: Instant) -> Option<Duration> {
        self.turn(now);
        [self.current, self.before].into_iter().flatten().min()
    }

    fn turn(&mut self, now: Instant) {
        let since = *self.since.get_or_insert(now);
        let age = now.saturating_duration_since(since);
        if age >= WINDOW {
            self.before = if age < WINDOW * 2 { self.current } else { None };
            self.current = None;
            self.since = Some(now);
        }
    }
}

/// What a request waits at least that finds `ahead` others before it and `size` connections busy: the first `size`
/// of them may be served at once, every further round takes a transaction.
pub fn lower_bound(ahead: usize, size: usize, shortest: Duration) -> Duration {
    let rounds = ahead.checked_div(size).unwrap_or(0);
    shortest.saturating_mul(u32::try_from(rounds).unwrap_or(u32::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Clock;

    #[test]
    fn the_bound_counts_whole_rounds() {
        let ms = Duration::from_millis;
        for (ahead, size, bound) in [(0, 2, 0), (1, 2, 0), (2, 2, 10), (3, 2, 10), (4, 2, 20), (9, 0, 0)] {
            assert_eq!(lower_bound(ahead, size, ms(10)), ms(bound), "{ahead} before, {size}");
        }
    }

    #[test]
    fn what_was_short_long_ago_does_not_count() {
        let (mut s, now) = (Shortest::default(), Clock::now());
        assert_eq!(s.get(now), None);
        s.add(now, Duration::from_millis(1));
        s.add(now + WINDOW, Duration::from_millis(5));
        assert_eq!(s.get(now + WINDOW), Some(Duration::from_millis(1)));
        assert_eq!(s.get(now + WINDOW * 2), Some(Duration::from_millis(5)));
        assert_eq!(s.get(now + WINDOW * 5), None);
    }
}
