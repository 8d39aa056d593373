//! The one source of time; cores get `now` as an argument. Monotonic: a wall clock that jumps moves no timeout.

use std::time::{Duration, Instant};

/// Milliseconds since the process began, for deadlines that the janitor looks at.
#[derive(Debug, Clone, Copy)]
pub struct Clock {
    start: Instant,
}

impl Default for Clock {
    fn default() -> Self {
        Self { start: Self::now() }
    }
}

impl Clock {
    #[inline]
    pub fn now() -> Instant {
        #[expect(clippy::disallowed_methods, reason = "this is the clock")]
        Instant::now()
    }

    /// The time of day, for people to read; nothing may be decided by it.
    pub fn wall() -> std::time::SystemTime {
        #[expect(clippy::disallowed_methods, reason = "only shown")]
        std::time::SystemTime::now()
    }

    /// Microseconds between the two.
    #[inline]
    pub fn us(from: Instant, to: Instant) -> u64 {
        crate::number::micros(to.saturating_duration_since(from))
    }

    pub fn now_ms(&self) -> u64 {
        self.ms(Self::now())
    }

    /// Never 0, which stands for "no deadline".
    #[inline]
    pub fn ms(&self, t: Instant) -> u64 {
        crate::number::millis(t.saturating_duration_since(self.start)) + 1
    }

    /// The deadline `after` from `t`, rounded up.
    #[inline]
    pub fn deadline(&self, t: Instant, after: Duration) -> u64 {
        self.ms(t + after) + 1
    }
}
