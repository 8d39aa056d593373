//! Durations and byte sizes as people write them: `30s`, `64kB`. What is rendered parses to the same value.

use std::time::Duration;

/// From the largest to the smallest, in microseconds; rendering takes the first that divides the value.
const DURATION_UNITS: &[(&str, u64)] = &[
    ("d", 86_400_000_000),
    ("h", 3_600_000_000),
    ("min", 60_000_000),
    ("s", 1_000_000),
    ("ms", 1_000),
    ("us", 1),
];

/// PostgreSQL's units: a kB is 1024 bytes. `GB` and the like come before `GiB`, so they are what is rendered.
const BYTE_UNITS: &[(&str, u64)] = &[
    ("GB", 1 << 30),
    ("MB", 1 << 20),
    ("kB", 1 << 10),
    ("GiB", 1 << 30),
    ("MiB", 1 << 20),
    ("KiB", 1 << 10),
    ("kiB", 1 << 10),
    ("B", 1),
];

/// `number unit`, exactly; the error is the reason, for people.
fn parse(text: &str, units: &[(&str, u64)], example: &str) -> Result<u64, String> {
    let text = text.trim();
    let split = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (digits, unit) = text.split_at(split);
    let unit = unit.trim_start();
    if digits.is_empty() {
        return Err(format!("expected a whole number and a unit, such as \"{example}\""));
    }
    let number: u64 = digits.parse().map_err(|_| "the number is too large".to_owned())?;
    if unit.is_empty() {
        if number == 0 {
            return Ok(0);
        }
        return Err(format!("a unit is missing; write for example \"{number}{}\"", default_unit(units)));
    }
    let known = || units.iter().map(|(u, _)| *u).collect::<Vec<_>>().join(", ");
    let (_, factor) = units
        .iter()
        .find(|(u, _)| *u == unit)
        .ok_or_else(|| format!("unknown unit; units are {}", known()))?;
    number.checked_mul(*factor).ok_or_else(|| "the number is too large".to_owned())
}

/// What a bare number most likely meant.
fn default_unit(units: &[(&str, u64)]) -> &'static str {
    if units.len() == DURATION_UNITS.len() { "s" } else { "kB" }
}

fn render(value: u64, units: &[(&str, u64)]) -> String {
    if value == 0 {
        return "0".to_owned();
    }
    let (unit, factor) = units
        .iter()
        .find(|(_, f)| value.is_multiple_of(*f))
        .expect("the smallest unit is 1, which divides all");
    format!("{}{unit}", value / factor)
}

/// Reads `500ms`, `30s`, `5min`, `1h`, `1d` or `0`.
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    parse(text, DURATION_UNITS, "30s").map(Duration::from_micros)
}

/// Writes the duration in the largest unit that holds it exactly; below a microsecond it is cut off.
pub fn render_duration(duration: Duration) -> String {
    render(u64::try_from(duration.as_micros()).unwrap_or(u64::MAX), DURATION_UNITS)
}

/// Reads `64kB`, `1MB`, `1MiB` or `0`.
pub fn parse_bytes(text: &str) -> Result<u64, String> {
    parse(text, BYTE_UNITS, "64kB")
}

/// Writes the size in the largest unit that holds it exactly.
pub fn render_bytes(bytes: u64) -> String {
    render(bytes, BYTE_UNITS)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn reads_what_people_write() {
        for (text, ms) in [
            ("500ms", 500),
            ("30s", 30_000),
            ("5min", 300_000),
            ("1h", 3_600_000),
            ("1 d", 86_400_000),
            ("0", 0),
        ] {
            assert_eq!(parse_duration(text), Ok(Duration::from_millis(ms)), "{text}");
        }
        for (text, bytes) in
            [("64kB", 65_536), ("1MiB", 1 << 20), ("1MB", 1 << 20), ("1GB", 1 << 30), ("7B", 7)]
        {
            assert_eq!(parse_bytes(text), Ok(bytes), "{text}");
        }
    }

    #[test]
    fn refuses_with_a_reason() {
        assert!(parse_duration("30").unwrap_err().contains("\"30s\""));
        assert!(parse_bytes("64").unwrap_err().contains("\"64kB\""));
        assert!(parse_duration("5m").unwrap_err().contains("min"));
        for text in ["", "s", "-1s", "1.5s", "99999999999999999999s", "18446744073709551615d"] {
            assert!(parse_duration(text).is_err(), "{text}");
        }
    }

    proptest! {
        #[test]
        fn durations_survive(us in any::<u64>()) {
            let d = Duration::from_micros(us);
            prop_assert_eq!(parse_duration(&render_duration(d)), Ok(d));
        }

        #[test]
        fn round_durations_survive(n in 0..100_000_u64, unit in prop::sample::select(DURATION_UNITS)) {
            let d = Duration::from_micros(n * unit.1);
            prop_assert_eq!(parse_duration(&render_duration(d)), Ok(d));
        }

        #[test]
        fn sizes_survive(bytes in any::<u64>()) {
            prop_assert_eq!(parse_bytes(&render_bytes(bytes)), Ok(bytes));
        }

        #[test]
        fn nothing_panics(text in ".*") {
            let _ = (parse_duration(&text), parse_bytes(&text));
        }
    }
}
