//! Conversions between types of numbers. What does not fit becomes the nearest value that does; nothing wraps.
//!
//! They are for what is counted, measured and shown. A length on the wire is the business of
//! [`crate::proto::frame::length`].

use std::time::Duration;

/// How many things there are in memory.
#[inline]
pub fn count(things: usize) -> u32 {
    u32::try_from(things).unwrap_or(u32::MAX)
}

/// So many things of a list.
#[inline]
pub fn size(number: u64) -> usize {
    usize::try_from(number).unwrap_or(usize::MAX)
}

/// What was worked out with more digits than it has.
#[inline]
pub fn narrow<N: TryInto<u32>>(number: N) -> u32 {
    number.try_into().unwrap_or(u32::MAX)
}

/// Whole milliseconds; `u64` has room for 500 million years of them.
#[inline]
pub fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

/// Whole microseconds.
#[inline]
pub fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}

/// The nearest whole number; 0 for what is below it or is no number.
#[inline]
pub fn rounded(number: f64) -> u32 {
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a cast from a float does not wrap: it gives the nearest value, and 0 for what is no number"
    )]
    let whole = number.round() as u32;
    whole
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_does_not_fit_is_the_nearest_that_does() {
        assert_eq!([7, 1 << 32, usize::MAX].map(count), [7, u32::MAX, u32::MAX]);
        assert_eq!(
            (size(7), narrow(7_u64), narrow(u64::MAX), narrow(1_u128 << 32)),
            (7, 7, u32::MAX, u32::MAX)
        );
        assert_eq!((millis(Duration::from_secs(2)), millis(Duration::MAX)), (2000, u64::MAX));
        assert_eq!((micros(Duration::from_secs(2)), micros(Duration::MAX)), (2_000_000, u64::MAX));
        assert_eq!([2.5, -3.0, f64::NAN, f64::INFINITY].map(rounded), [3, 0, 0, u32::MAX]);
    }
}
