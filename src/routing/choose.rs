//! One replica of several: by outstanding work or in turn, by weight, near ones first.

use crate::config::routing::Balance;

/// A replica that may serve.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Candidate {
    /// Where it stands in the list of the configuration.
    pub index: usize,
    pub weight: u32,
    /// Transactions that run on it for this pool or wait for it.
    pub outstanding: usize,
    /// In Howdah's own zone.
    pub near: bool,
}

/// The index of the one to take. `turn` counts up with each choice and breaks ties, so that none is preferred for
/// its place in the list.
pub fn choose(balance: Balance, turn: u64, candidates: &[Candidate]) -> Option<usize> {
    let near = candidates.iter().any(|c| c.near);
    let all = || candidates.iter().filter(move |c| c.near || !near);
    let n = all().count();
    match balance {
        Balance::RoundRobin => {
            let sum: u64 = all().map(|c| u64::from(c.weight.max(1))).sum();
            let mut at = turn.checked_rem(sum)?;
            for c in all() {
                let w = u64::from(c.weight.max(1));
                if at < w {
                    return Some(c.index);
                }
                at -= w;
            }
            None
        }
        Balance::LeastOutstanding => {
            let from = usize::try_from(turn.checked_rem(n as u64)?).ok()?;
            // What it would have with one more, for each unit of weight.
            let load = |c: &Candidate| (c.outstanding as u64 + 1) * 1000 / u64::from(c.weight.max(1));
            all().cycle().skip(from).take(n).min_by_key(|c| load(c)).map(|c| c.index)
        }
    }
}
