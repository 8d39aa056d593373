//! The grammar of a `pgbouncer.ini` and the notation of its values.

use std::time::Duration;

use super::setting::Setting;
use super::units;
use super::value::Kind;

/// `key = value`; the key may be in single quotes, in which `''` is a quote. Section keys ignore case.
pub(super) fn key_value(line: &str) -> Option<(String, String)> {
    if let Some(rest) = line.strip_prefix('\'') {
        let (key, rest) = quoted(rest)?;
        return Some((key, rest.trim_start().strip_prefix('=')?.trim().to_owned()));
    }
    let (key, value) = line.split_once('=')?;
    let key = key.trim_end();
    let good = !key.is_empty() && key.bytes().all(|b| b.is_ascii_alphanumeric() || b"_.*-".contains(&b));
    good.then(|| (key.to_owned(), value.trim().to_owned()))
}

/// The rest of a single-quoted text, and what follows it.
fn quoted(text: &str) -> Option<(String, &str)> {
    let mut out = String::new();
    let mut rest = text;
    loop {
        let (before, after) = rest.split_once('\'')?;
        out.push_str(before);
        match after.strip_prefix('\'') {
            Some(more) => {
                out.push('\'');
                rest = more;
            }
            None => return Some((out, after)),
        }
    }
}

/// `key=value` pairs, separated by blanks; a value may be in single quotes and must not be empty.
pub(super) fn connection_string(text: &str) -> Result<Vec<(String, String)>, &'static str> {
    let mut pairs = Vec::new();
    let mut rest = text.trim_start();
    while !rest.is_empty() {
        let (key, after) =
            rest.split_once('=').ok_or("syntax error in connection string: key=value is expected")?;
        let after = after.trim_start();
        let (value, after) = match after.strip_prefix('\'') {
            Some(inner) => quoted(inner).ok_or("syntax error in connection string: a quote is not closed")?,
            None => {
                let end = after.find(char::is_whitespace).unwrap_or(after.len());
                let (value, after) = after.split_at(end);
                (value.to_owned(), after)
            }
        };
        if value.is_empty() {
            return Err("syntax error in connection string: a value is empty");
        }
        pairs.push((key.trim().to_lowercase(), value));
        rest = after.trim_start();
    }
    Ok(pairs)
}

/// As C's `strtol` with base 0: `0x` is hexadecimal, a leading 0 octal.
pub(super) fn integer(text: &str) -> Option<i64> {
    let (negative, digits) = match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    };
    if digits.starts_with(['+', '-']) {
        return None;
    }
    let number = if let Some(hex) = digits.strip_prefix("0x").or_else(|| digits.strip_prefix("0X")) {
        i64::from_str_radix(hex, 16)
    } else if digits.len() > 1 && digits.starts_with('0') {
        i64::from_str_radix(digits, 8)
    } else {
        digits.parse()
    };
    number.ok().map(|n| if negative { -n } else { n })
}

/// From PgBouncer's notation to the native one.
pub(super) fn convert(setting: &Setting, value: &str) -> Result<String, String> {
    let whole = || integer(value).ok_or_else(|| "not a whole number".to_owned());
    match setting.kind {
        Kind::Duration { .. } | Kind::Timeout { .. } => {
            let number: f64 = value.parse().map_err(|_| "not a number".to_owned())?;
            if number == 0.0 {
                return Ok(setting.pgbouncer.zero.unwrap_or("0").to_owned());
            }
            let seconds = if setting.pgbouncer.millis { number / 1000.0 } else { number };
            let d = Duration::try_from_secs_f64(seconds).map_err(|_| "out of range".to_owned())?;
            // Through whole microseconds, so that 0.1 does not become 0.100000001.
            let micros = (d + Duration::from_nanos(500)).as_micros();
            let micros = u64::try_from(micros).map_err(|_| "out of range".to_owned())?;
            Ok(units::render_duration(Duration::from_micros(micros)))
        }
        Kind::Count { .. } | Kind::Limit { .. } => whole().map(|n| match setting.pgbouncer.zero {
            Some(zero) if n == 0 => zero.to_owned(),
            _ => n.to_string(),
        }),
        // PgBouncer takes buffers of a few bytes, too; ours have a least size.
        Kind::Bytes { min, .. } => whole().map(|n| format!("{}B", n.max(i64::try_from(min).unwrap_or(n)))),
        Kind::Mode => whole().map(|n| format!("{n:o}")),
        Kind::Boolean => match whole()? {
            0 => Ok("false".to_owned()),
            1 => Ok("true".to_owned()),
            _ => Err("not 0 or 1".to_owned()),
        },
        Kind::Word(_) if setting.key == "auth_method" => match value {
            "plain" => Ok("password".to_owned()),
            other => Ok(other.to_owned()),
        },
        _ => Ok(value.to_owned()),
    }
}
