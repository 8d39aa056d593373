//! A small histogram with logarithmic buckets: four for each doubling, so that a percentile is right within a tenth.

const BUCKETS: usize = 128;

/// From one microsecond to more than an hour.
#[derive(Debug, Clone)]
pub(super) struct LogHistogram {
    counts: [u32; BUCKETS],
}

impl Default for LogHistogram {
    fn default() -> Self {
        Self { counts: [0; BUCKETS] }
    }
}

/// The number of the bucket: the position of the highest bit and the two below it.
#[inline]
fn bucket(us: u64) -> usize {
    let us = us.max(4);
    let high = us.ilog2();
    let quarter = (us >> (high - 2)) & 3;
    ((high as usize - 2) * 4 + quarter as usize).min(BUCKETS - 1)
}

/// The middle of a bucket.
fn middle(bucket: usize) -> u64 {
    let (high, quarter) = (crate::number::count(bucket) / 4 + 2, bucket as u64 % 4);
    let width = 1_u64 << (high - 2);
    (4 + quarter) * width + width / 2
}

impl LogHistogram {
    #[inline]
    pub(super) fn add(&mut self, us: u64) {
        if let Some(c) = self.counts.get_mut(bucket(us)) {
            *c = c.saturating_add(1);
        }
    }

    /// The value that `percent` of `count` values do not exceed. Values that were not added are taken as zero.
    pub(super) fn percentile(&self, percent: u64, count: u64) -> u64 {
        let added: u64 = self.counts.iter().map(|c| u64::from(*c)).sum();
        let count = count.max(added);
        let wanted = (count * percent).div_ceil(100).max(1);
        let mut below = count - added;
        if below >= wanted {
            return 0;
        }
        for (i, c) in self.counts.iter().enumerate() {
            below += u64::from(*c);
            if below >= wanted {
                return middle(i);
            }
        }
        middle(BUCKETS - 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_is_in_a_bucket_whose_middle_is_near() {
        for us in (4..10_000).chain([123_456, 9_999_999, 3_600_000_000]) {
            let m = middle(bucket(us));
            assert!(m.abs_diff(us) * 8 <= us + 8, "{us} {m}");
        }
        assert_eq!(bucket(u64::MAX), BUCKETS - 1);
        assert!((0..100_000).is_sorted_by_key(bucket));
    }

    #[test]
    fn percentiles_count_what_was_not_added_as_zero() {
        let mut h = LogHistogram::default();
        assert_eq!(h.percentile(95, 0), middle(BUCKETS - 1));
        for us in 1..=100 {
            h.add(us * 1000);
        }
        assert!(h.percentile(95, 100).abs_diff(95_000) < 10_000);
        assert!(h.percentile(99, 100).abs_diff(99_000) < 10_000);
        assert_eq!(h.percentile(50, 1000), 0);
        assert!(h.percentile(99, 1000) > 80_000);
    }
}
