//! `size = "auto"`: moves a pool's size between its bounds by what it measures, without I/O.
//!
//! A step is a trial: another size is put in force, and what the server got done with it is held against what it got
//! done before. More connections are kept if the throughput grows by `WORTH` of what was added; fewer if it does
//! not fall. By Little's law (in use = throughput x latency) that is the gradient of the server's latency against its
//! concurrency, and it needs no latency "without load", which a server whose capacity changes does not have.
//! Only a pool whose size is what its clients wait for is moved: anything else says nothing about the size.

use std::time::{Duration, Instant};

/// A window is at least so long, and has so many transactions, or it is [`PATIENCE`] long and has a few.
const WINDOW: Duration = Duration::from_secs(1);
const ENOUGH: u64 = 300;
const PATIENCE: Duration = Duration::from_secs(10);
const A_FEW: u64 = 30;
/// How long a size may take to be there: connections open, or end with their transactions.
const SETTLE: Duration = Duration::from_secs(5);
/// The part of the added connections that must show in the throughput.
const WORTH: f64 = 0.4;
/// The part of the connections taken away that the throughput may lose.
const FREE: f64 = 0.15;
/// A throughput that has fallen below this part of what it was is another server.
const SLOWER: f64 = 0.75;
/// The first steps double; one that failed makes the next one smaller, one that was worth it makes it larger.
const STRIDE: f64 = 0.25;
const LEAST_STRIDE: f64 = 0.1;
/// A small step shows little, and needs windows that are so much longer.
const CARE: u32 = 3;
/// Windows between trials, from the first failure to many.
const PAUSES: (u32, u32) = (2, 4);

/// Sums that the pool keeps anyway, and what it is like now.
#[derive(Debug, Clone, Copy, Default)]
pub struct Sample {
    pub transactions: u64,
    /// Time that servers have worked for transactions.
    pub server_us: u64,
    pub waiting: usize,
    /// Connections that serve.
    pub open: usize,
}

/// Why the size was moved, or moved back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reason {
    /// A trial with more, or with fewer.
    TryMore,
    TryFewer,
    /// The server got less done with the same: a trial with what it can use now.
    Slower,
    /// What became of a trial: more was done, or nobody waits any more; the additional ones were of no use; fewer do
    /// as much; they do less.
    Faster,
    NoFaster,
    NoSlower,
    Needed,
    /// It could not be measured: nobody waited, the connections did not open, or too little was done.
    Unclear,
}

impl Reason {
    /// In the metrics.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::TryMore => "try_more",
            Self::TryFewer => "try_fewer",
            Self::Slower => "slower",
            Self::Faster => "faster",
            Self::NoFaster => "no_faster",
            Self::NoSlower => "no_slower",
            Self::Needed => "needed",
            Self::Unclear => "unclear",
        }
    }
}

/// What a window came to.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Measured {
    /// Transactions a second.
    pub rate: f64,
    /// The server's time for one of them.
    pub latency: Duration,
    /// Clients waited for the size, and for nothing else.
    bound: bool,
}

/// One decision, with its figures.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Decision {
    pub from: usize,
    pub to: usize,
    pub reason: Reason,
    pub before: Option<Measured>,
    pub after: Option<Measured>,
}

impl std::fmt::Display for Decision {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let figures = |m: &Measured| format!("{:.1}/s at {:.2} ms", m.rate, m.latency.as_secs_f64() * 1e3);
        write!(f, "size {} -> {}: {}", self.from, self.to, self.reason.as_str())?;
        match (&self.before, &self.after) {
            (Some(b), Some(a)) => write!(f, " ({}, then {})", figures(b), figures(a)),
            (Some(m), None) | (None, Some(m)) => write!(f, " ({})", figures(m)),
            (None, None) => Ok(()),
        }
    }
}

#[derive(Debug, Clone, Copy)]
enum Phase {
    Watch,
    /// Another size than `from` is in force; `base` was measured with `from`.
    Trial {
        from: usize,
        base: Measured,
    },
}

#[derive(Debug, Clone, Copy)]
struct Window {
    since: Instant,
    first: Sample,
    /// Samples, and those in which the size was what clients waited for.
    samples: u32,
    bound: u32,
}

/// See the module.
#[derive(Debug)]
pub struct Limiter {
    lower: usize,
    upper: usize,
    limit: usize,
    phase: Phase,
    /// Since when the size has been in force, until it is there.
    settling: Option<Instant>,
    window: Option<Window>,
    /// What the last window without a trial came to.
    settled: Option<Measured>,
    stride: f64,
    /// The next trial is with fewer.
    fewer: bool,
    pause: u32,
    longest_pause: u32,
    last: Option<Decision>,
}

impl Limiter {
    /// Begins at the lower bound; the first steps double.
    pub fn new(lower: usize, upper: usize) -> Self {
        let upper = upper.max(1);
        let lower = lower.clamp(1, upper);
        Self {
            lower,
            upper,
            limit: lower,
            phase: Phase::Watch,
            settling: None,
            window: None,
            settled: None,
            stride: 1.0,
            fewer: false,
            pause: 0,
            longest_pause: PAUSES.0,
            last: None,
        }
    }

    pub fn limit(&self) -> usize {
        self.limit
    }

    pub fn last(&self) -> Option<&Decision> {
        self.last.as_ref()
    }

    /// Other bounds; what is under way is begun anew.
    pub fn rebound(&mut self, lower: usize, upper: usize) {
        self.upper = upper.max(1);
        self.lower = lower.clamp(1, self.upper);
        if let Phase::Trial { from, .. } = self.phase {
            self.limit = from;
        }
        self.phase = Phase::Watch;
        self.limit = self.limit.clamp(self.lower, self.upper);
        self.window = None;
        self.settling = None;
        self.settled = None;
    }

    /// Takes a sample, every half second or so; says when the size is to be another.
    pub fn sample(&mut self, now: Instant, sample: Sample) -> Option<Decision> {
        if self.lower == self.upper {
            return None;
        }
        if let Some(since) = self.settling {
            let there = match self.phase {
                Phase::Trial { from, .. } if self.limit > from => sample.open >= self.limit,
                _ => sample.open <= self.limit,
            };
            let over = now.saturating_duration_since(since) >= SETTLE;
            if !there && over && matches!(self.phase, Phase::Trial { from, .. } if self.limit > from) {
                return self.back(Reason::Unclear, None);
            }
            if !there && !over {
                return None;
            }
            self.settling = None;
            self.window = None;
        }
        let Some(window) = &mut self.window else {
            self.window = Some(Window { since: now, first: sample, samples: 0, bound: 0 });
            return None;
        };
        window.samples += 1;
        window.bound += u32::from(sample.waiting > 0 && sample.open >= self.limit);
        let (took, n) = (
            now.saturating_duration_since(window.since),
            sample.transactions.saturating_sub(window.first.transactions),
        );
        let care = if self.stride < STRIDE { CARE } else { 1 };
        if took < WINDOW * care || (n < ENOUGH * u64::from(care) && took < PATIENCE) {
            return None;
        }
        let us = sample.server_us.saturating_sub(window.first.server_us);
        let measured = Measured {
            rate: n as f64 / took.as_secs_f64(),
            latency: Duration::from_micros(us / n.max(1)),
            bound: n >= A_FEW && window.bound * 2 > window.samples,
        };
        self.window = Some(Window { since: now, first: sample, samples: 0, bound: 0 });
        match self.phase {
            Phase::Watch => self.watched(now, measured),
            Phase::Trial { from, base } => self.tried(from, base, measured),
        }
    }

    fn watched(&mut self, now: Instant, m: Measured) -> Option<Decision> {
        if !m.bound {
            self.settled = None;
            return None;
        }
        if let Some(old) = self.settled.replace(m)
            && m.rate < old.rate * SLOWER
            && m.latency > old.latency
        {
            self.longest_pause = PAUSES.0;
            // Beyond what it can use, throughput stands still: so much of the size is of use now.
            let usable = crate::number::rounded(self.limit as f64 * m.rate / old.rate) as usize;
            if usable.max(self.lower) < self.limit {
                return self.start(now, usable, m, Reason::Slower);
            }
        }
        if self.pause > 0 {
            self.pause -= 1;
            return None;
        }
        let step = (crate::number::rounded(self.limit as f64 * self.stride) as usize).max(1);
        if !self.fewer && self.limit < self.upper {
            return self.start(now, self.limit + step, m, Reason::TryMore);
        }
        if self.limit > self.lower {
            let step = step.min((self.limit / 4).max(1));
            self.stride = self.stride.min(STRIDE);
            return self.start(now, self.limit - step, m, Reason::TryFewer);
        }
        self.fewer = false;
        self.pause = self.longest_pause;
        None
    }

    fn tried(&mut self, from: usize, base: Measured, m: Measured) -> Option<Decision> {
        let moved = self.limit as f64 / from as f64 - 1.0;
        let gained = m.rate / base.rate - 1.0;
        if self.limit > from {
            if m.bound && gained < moved * WORTH {
                // After a large step that failed a small one may do.
                self.fewer = self.stride <= STRIDE;
                self.shorten();
                return self.back(Reason::NoFaster, Some(m));
            }
            self.longest_pause = PAUSES.0;
            self.stride = if m.bound { (self.stride * 2.5).min(1.0) } else { STRIDE };
            return self.keep(from, base, m, Reason::Faster);
        }
        if !m.bound {
            self.pause = self.longest_pause;
            return self.back(Reason::Unclear, Some(m));
        }
        self.fewer = gained >= moved * FREE;
        if self.fewer {
            self.longest_pause = PAUSES.0;
            self.stride = (self.stride * 2.0).min(STRIDE);
            return self.keep(from, base, m, Reason::NoSlower);
        }
        self.shorten();
        self.pause = self.longest_pause;
        self.longest_pause = (self.longest_pause * 2).min(PAUSES.1);
        self.back(Reason::Needed, Some(m))
    }

    fn shorten(&mut self) {
        self.stride = if self.stride > STRIDE { STRIDE } else { LEAST_STRIDE };
    }

    fn start(&mut self, now: Instant, to: usize, base: Measured, reason: Reason) -> Option<Decision> {
        let from = self.limit;
        if reason == Reason::Slower {
            self.stride = STRIDE;
        }
        self.limit = to.clamp(self.lower, self.upper);
        self.phase = Phase::Trial { from, base };
        self.settling = Some(now);
        self.window = None;
        self.decided(Decision { from, to: self.limit, reason, before: Some(base), after: None })
    }

    fn keep(&mut self, from: usize, base: Measured, m: Measured, reason: Reason) -> Option<Decision> {
        self.phase = Phase::Watch;
        self.settled = m.bound.then_some(m);
        self.decided(Decision { from, to: self.limit, reason, before: Some(base), after: Some(m) })
    }

    fn back(&mut self, reason: Reason, after: Option<Measured>) -> Option<Decision> {
        let Phase::Trial { from, base } = std::mem::replace(&mut self.phase, Phase::Watch) else {
            return None;
        };
        let tried = std::mem::replace(&mut self.limit, from.clamp(self.lower, self.upper));
        self.settling = None;
        self.window = None;
        if after.is_none() {
            self.pause = self.longest_pause;
        }
        self.decided(Decision { from: tried, to: self.limit, reason, before: Some(base), after })
    }

    fn decided(&mut self, d: Decision) -> Option<Decision> {
        self.last = Some(d);
        Some(d)
    }
}

#[cfg(test)]
mod tests;
