//! Latencies in buckets of constant relative width (about 1.6 %): recording allocates nothing.

use std::time::Duration;

const SUB_BITS: u32 = 6;
const SUB: u64 = 1 << SUB_BITS;

pub(crate) struct Histogram {
    buckets: Vec<u64>,
    total: u64,
}

impl Histogram {
    pub(crate) fn new() -> Self {
        Self { buckets: vec![0; (64 << SUB_BITS) as usize], total: 0 }
    }

    pub(crate) fn record(&mut self, latency: Duration) {
        let nanos = latency.as_nanos() as u64;
        self.buckets[index(nanos)] += 1;
        self.total += 1;
    }

    /// The upper edge, in µs, of the bucket in which `share` of all records is reached.
    pub(crate) fn quantile(&self, share: f64) -> f64 {
        let wanted = ((self.total as f64 * share).ceil() as u64).max(1);
        let mut seen = 0;
        for (at, count) in self.buckets.iter().enumerate() {
            seen += count;
            if seen >= wanted {
                return upper(at as u64) as f64 / 1_000.0;
            }
        }
        0.0
    }
}

fn index(nanos: u64) -> usize {
    if nanos < SUB {
        return nanos as usize;
    }
    let shift = nanos.ilog2() - SUB_BITS;
    ((u64::from(shift + 1) << SUB_BITS) + ((nanos >> shift) - SUB)) as usize
}

fn upper(at: u64) -> u64 {
    if at < SUB {
        return at;
    }
    let shift = (at >> SUB_BITS) - 1;
    (((at & (SUB - 1)) + SUB + 1) << shift) - 1
}
