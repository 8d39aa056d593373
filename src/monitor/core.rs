//! What a host's answers mean: its role, how far a replica is behind, whether it may serve. No I/O; time is an
//! argument.
//!
//! The age of a replica's data is measured on this machine's clock alone. Each answer of the primary is a mark:
//! "at this moment its WAL had come so far". A replica that has replayed up to a mark holds everything that was
//! committed before the question of that mark was sent. An idle primary gives the same mark again and again, so that
//! its replicas are never taken to be behind.

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

/// A place in the WAL.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Lsn(pub u64);

impl Lsn {
    /// `16/B374D848`, as PostgreSQL writes it.
    pub fn parse(text: &str) -> Option<Self> {
        let (high, low) = text.split_once('/')?;
        let part = |t: &str| (t.len() <= 8).then(|| u64::from_str_radix(t, 16).ok()).flatten();
        Some(Self(part(high)? << 32 | part(low)?))
    }

    /// Where the record before this place ends, if nothing but a page's header is between. The primary's insert
    /// position is behind the header of a new page, a replica's replay position before it, and no record ends in
    /// between: without this an idle replica could seem to be behind for ever.
    #[must_use]
    pub fn before_page_header(self, page: u64) -> Self {
        const LONG_HEADER: u64 = 40;
        match self.0.checked_rem(page) {
            Some(into) if into <= LONG_HEADER => Self(self.0 - into),
            _ => self,
        }
    }
}

impl std::fmt::Display for Lsn {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:X}/{:X}", self.0 >> 32, self.0 & 0xffff_ffff)
    }
}

/// What a host says of itself.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Facts {
    pub in_recovery: bool,
    /// Of a primary: up to where it has written; of a replica: up to where it has replayed.
    pub lsn: Lsn,
    pub timeline: u32,
    /// Everything else that was asked, by the column's name.
    pub more: BTreeMap<String, String>,
}

/// Facts, and when they held: not before `asked`, not after `answered`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sample {
    pub asked: Instant,
    pub answered: Instant,
    pub facts: Facts,
}

/// What changed with a sample.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    None,
    /// It could not be asked before.
    Up,
    Promoted,
    Demoted,
    Timeline,
    /// It cannot be asked any more.
    Down,
}

/// Up to where a primary had written when it was asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mark {
    pub lsn: Lsn,
    pub asked: Instant,
}

/// Marks that are kept; older ones are needed only for replicas that are behind by more than all of them.
const MARKS: usize = 4096;

/// What is known of one host.
#[derive(Debug, Default)]
pub struct HostCore {
    sample: Option<Sample>,
    /// Of the last sample there was, also where the host is down now.
    last_role: Option<bool>,
    marks: VecDeque<Mark>,
    /// A pool's connection to it was lost then.
    lost: Option<Instant>,
    failures: u32,
    last_error: Option<String>,
}

impl HostCore {
    pub fn sample(&self) -> Option<&Sample> {
        self.sample.as_ref()
    }

    pub fn last_error(&self) -> Option<&str> {
        self.last_error.as_deref()
    }

    /// `None` where it is not known.
    pub fn in_recovery(&self) -> Option<bool> {
        self.sample.as_ref().map(|s| s.facts.in_recovery)
    }

    pub fn timeline(&self) -> u32 {
        self.sample.as_ref().map_or(0, |s| s.facts.timeline)
    }

    /// An answer.
    pub fn sampled(&mut self, asked: Instant, answered: Instant, facts: Facts) -> Change {
        let change = match (&self.sample, self.last_role) {
            (_, Some(true)) if !facts.in_recovery => Change::Promoted,
            (_, Some(false)) if facts.in_recovery => Change::Demoted,
            (Some(s), _) if s.facts.timeline != facts.timeline => Change::Timeline,
            (None, _) => Change::Up,
            _ => Change::None,
        };
        if change != Change::None {
            self.marks.clear();
        }
        if !facts.in_recovery {
            match self.marks.back_mut() {
                Some(m) if m.lsn == facts.lsn => m.asked = asked,
                // A server that was restored goes back.
                Some(m) if m.lsn > facts.lsn => {
                    self.marks.clear();
                    self.marks.push_back(Mark { lsn: facts.lsn, asked });
                }
                _ => self.marks.push_back(Mark { lsn: facts.lsn, asked }),
            }
            if self.marks.len() > MARKS {
                self.marks.pop_front();
            }
        }
        self.last_role = Some(facts.in_recovery);
        self.failures = 0;
        self.last_error = None;
        self.sample = Some(Sample { asked, answered, facts });
        change
    }

    /// The monitor's connection is lost, or there is none: nothing that was known holds.
    pub fn failed(&mut self, why: String) -> Change {
        self.failures = self.failures.saturating_add(1);
        self.last_error = Some(why);
        self.marks.clear();
        if self.sample.take().is_some() { Change::Down } else { Change::None }
    }

    /// A pool has lost a connection to it: it may have been restarted, or another host may answer in its place.
    pub fn connection_lost(&mut self, now: Instant) {
        self.lost = Some(now);
    }

    /// How long to wait before the next question: `interval`, and more and more of it while the host is down.
    pub fn pause(&self, interval: Duration) -> Duration {
        const MOST: Duration = Duration::from_secs(10);
        let grown = interval.saturating_mul(2u32.saturating_pow(self.failures.saturating_sub(1).min(8)));
        grown.min(MOST.max(interval))
    }

    /// The first mark whose question was sent after `then`: everything committed by then is before it.
    pub fn mark_after(&self, then: Instant) -> Option<Mark> {
        let at = self.marks.partition_point(|m| m.asked <= then);
        self.marks.get(at).copied()
    }

    /// The youngest mark that a replica at `lsn` has reached.
    fn mark_reached(&self, lsn: Lsn) -> Option<Mark> {
        let n = self.marks.partition_point(|m| m.lsn <= lsn);
        self.marks.get(n.checked_sub(1)?).copied()
    }
}

/// How old a replica's data may be.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Limits {
    pub lag: Option<Duration>,
    pub lag_bytes: Option<u64>,
}

/// Whether a host may serve reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    Eligible,
    /// It is down, was never asked, or is no replica.
    Unconfirmed,
    /// It is behind by too much, or nobody can tell by how much.
    Lag,
}

/// How far behind a replica is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lag {
    pub bytes: u64,
    /// At the moment of its last answer.
    pub time: Duration,
    /// Now: it may have stood still since.
    pub at_most: Duration,
}

/// What of a replica is measured against its primary; a copy, so that no two hosts are locked at a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    in_recovery: bool,
    lsn: Lsn,
    timeline: u32,
    answered: Instant,
}

impl HostCore {
    /// Where it stood when it last answered.
    pub fn place(&self) -> Option<Place> {
        let s = self.sample.as_ref()?;
        let Facts { in_recovery, lsn, timeline, .. } = s.facts;
        Some(Place { in_recovery, lsn, timeline, answered: s.answered })
    }
}

/// `None` where it is not known: one of them is down, or they are on different timelines.
pub fn lag(replica: Option<Place>, primary: Option<&HostCore>, now: Instant) -> Option<Lag> {
    let (r, p) = (replica?, primary?);
    let head = p.sample()?;
    if r.timeline != head.facts.timeline {
        return None;
    }
    let reached = p.mark_reached(r.lsn)?;
    Some(Lag {
        bytes: head.facts.lsn.0.saturating_sub(r.lsn.0),
        time: r.answered.saturating_duration_since(reached.asked),
        at_most: now.saturating_duration_since(reached.asked),
    })
}

/// Whether a host may serve reads now.
pub fn standing(
    replica: Option<Place>,
    primary: Option<&HostCore>,
    limits: Limits,
    now: Instant,
) -> Standing {
    if !replica.is_some_and(|r| r.in_recovery) {
        return Standing::Unconfirmed;
    }
    if limits == Limits::default() {
        return Standing::Eligible;
    }
    let Some(lag) = lag(replica, primary, now) else { return Standing::Lag };
    let over = limits.lag.is_some_and(|l| lag.at_most > l) || limits.lag_bytes.is_some_and(|l| lag.bytes > l);
    if over { Standing::Lag } else { Standing::Eligible }
}

/// Whether a replica has replayed what was written up to `bound` on `timeline`, and since when that is known:
/// it counts only for connections that were open then.
pub fn replayed(replica: &HostCore, timeline: u32, bound: Lsn) -> Option<Instant> {
    let s = replica.sample()?;
    let valid = s.facts.in_recovery
        && s.facts.timeline == timeline
        && s.facts.lsn >= bound
        && replica.lost.is_none_or(|lost| s.asked > lost);
    valid.then_some(s.asked)
}

#[cfg(test)]
mod tests;
