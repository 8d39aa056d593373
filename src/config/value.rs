//! The types that settings have: what is allowed, how it is read, how it is written.

use std::net::SocketAddr;
use std::time::Duration;

use super::hidden::{Hidden, PLACEHOLDER};
use super::raw::Raw;
use super::resolved::Budget;
use super::units;

/// The type of a setting, with its range.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Kind {
    Boolean,
    Count {
        min: u32,
        max: u32,
    },
    /// A count of which 0 means that there is no limit.
    Limit {
        max: u32,
    },
    /// A duration that cannot be off.
    Duration {
        min: Duration,
        max: Duration,
    },
    /// A duration of which 0 means off.
    Timeout {
        max: Duration,
    },
    Bytes {
        min: u64,
        max: u64,
    },
    Word(&'static [&'static str]),
    Text,
    Secret,
    /// One statement of SQL, or none.
    Statement,
    /// Several names; one may stand alone. From a variable: separated by commas.
    Names,
    /// Some of these words; one may stand alone. From a variable: separated by commas.
    Words(&'static [&'static str]),
    /// Several statements; one may stand alone, also from a variable.
    Statements,
    /// Parameters of PostgreSQL's with values, as [`Self::Map`].
    Parameters,
    /// Names with values. From a variable: `name=value`, separated by semicolons.
    Map,
    /// `address:port`, several.
    Addresses,
    /// One `address:port`, or `off`.
    Address,
    /// Permission bits, octal.
    Mode,
    /// A part of a whole, in thousandths.
    Share,
    /// A count of connections, or a share of those that a server has.
    Budget,
}

/// A value of one of these types.
#[derive(Clone, PartialEq)]
pub enum Value {
    Boolean(bool),
    Count(u32),
    Limit(Option<u32>),
    Duration(Duration),
    Timeout(Option<Duration>),
    Bytes(u64),
    Word(&'static str),
    Text(String),
    Secret(Hidden),
    List(Vec<String>),
    Map(Vec<(String, String)>),
    Addresses(Vec<SocketAddr>),
    Address(Option<SocketAddr>),
    Mode(u32),
    Share(u32),
    Budget(Budget),
}

const A_YEAR: Duration = Duration::from_secs(365 * 86_400);

impl Kind {
    pub const ON_OFF: Self = Self::Timeout { max: A_YEAR };

    pub const fn at_least(min: Duration) -> Self {
        Self::Duration { min, max: A_YEAR }
    }

    /// What is allowed, for errors and the reference.
    pub fn allowed(&self) -> String {
        match self {
            Self::Boolean => "true or false".to_owned(),
            Self::Count { min, max } => format!("a whole number from {min} to {max}"),
            Self::Limit { max } => format!("a whole number from 1 to {max}, or 0 for no limit"),
            Self::Duration { min, max } => format!(
                "a duration from {} to {}",
                units::render_duration(*min),
                units::render_duration(*max)
            ),
            Self::Timeout { max } => {
                format!("a duration up to {}, or \"0\" for off", units::render_duration(*max))
            }
            Self::Bytes { min, max } => {
                format!("a size from {} to {}", units::render_bytes(*min), units::render_bytes(*max))
            }
            Self::Word(words) => words.iter().map(|w| format!("\"{w}\"")).collect::<Vec<_>>().join(", "),
            Self::Words(words) => {
                let words: Vec<_> = words.iter().map(|w| format!("\"{w}\"")).collect();
                format!("one or an array of {}", words.join(", "))
            }
            Self::Text | Self::Secret => "a string".to_owned(),
            Self::Names => "a string or an array of strings".to_owned(),
            Self::Statement => "an SQL statement".to_owned(),
            Self::Statements => "an SQL statement or an array of them".to_owned(),
            Self::Map | Self::Parameters => "a table of strings, such as { jit = \"off\" }".to_owned(),
            Self::Addresses => {
                "addresses with ports, such as [\"127.0.0.1:6432\", \"[::1]:6432\", \"*:6432\"]".to_owned()
            }
            Self::Address => "an address with a port, such as \"127.0.0.1:9127\", or \"off\"".to_owned(),
            Self::Share => "a share above 0 and up to 1, such as 0.8 or \"80%\"".to_owned(),
            Self::Budget => {
                "a whole number from 1, or a share of max_connections such as 0.8 or \"80%\"".to_owned()
            }
            Self::Mode => "octal permission bits as a string, such as \"0700\"".to_owned(),
        }
    }

    /// What one is in, for the reference; numbers say what they count in their text.
    pub fn unit(&self) -> Option<&'static str> {
        match self {
            Self::Duration { .. } | Self::Timeout { .. } => Some("us, ms, s, min, h, d"),
            Self::Bytes { .. } => Some("B, kB, MB, GB (of 1024)"),
            _ => None,
        }
    }

    /// Reads a value; the error is the reason where it says more than what is allowed.
    pub(super) fn read(&self, raw: &Raw) -> Result<Value, String> {
        match self {
            Self::Boolean => boolean(raw).map(Value::Boolean),
            Self::Count { min, max } => count(raw, *min, *max).map(Value::Count),
            Self::Limit { max } => match raw {
                Raw::Loose(t) if t == "off" => Ok(Value::Limit(None)),
                _ => count(raw, 0, *max).map(|n| Value::Limit((n > 0).then_some(n))),
            },
            Self::Duration { min, max } => {
                let d = duration(raw)?;
                if d < *min || d > *max { Err("out of range".to_owned()) } else { Ok(Value::Duration(d)) }
            }
            Self::Timeout { max } => match raw {
                Raw::Text(t) | Raw::Loose(t) if t == "off" => Ok(Value::Timeout(None)),
                _ => match duration(raw)? {
                    d if d > *max => Err("out of range".to_owned()),
                    d => Ok(Value::Timeout((!d.is_zero()).then_some(d))),
                },
            },
            Self::Bytes { min, max } => {
                let bytes = unit_text(raw).and_then(|t| units::parse_bytes(&t))?;
                if bytes < *min || bytes > *max {
                    return Err("out of range".to_owned());
                }
                Ok(Value::Bytes(bytes))
            }
            Self::Word(words) => {
                let t = text(raw)?;
                words
                    .iter()
                    .find(|w| **w == t)
                    .map(|w| Value::Word(w))
                    .ok_or_else(|| "not one of the known values".to_owned())
            }
            Self::Text | Self::Statement => match text(raw)? {
                t if t.contains('\0') => Err("must not contain a zero byte".to_owned()),
                t => Ok(Value::Text(t)),
            },
            Self::Secret => text(raw).map(|t| Value::Secret(t.into())),
            Self::Names => strings(raw, true).map(Value::List),
            Self::Words(words) => {
                let stated = strings(raw, true)?;
                if stated.is_empty() {
                    return Err("there is no word in it".to_owned());
                }
                match stated.iter().find(|w| !words.contains(&w.as_str())) {
                    Some(w) => Err(format!("\"{}\" is not one of the known words", w.escape_debug())),
                    None => Ok(Value::List(stated)),
                }
            }
            Self::Statements => strings(raw, false).map(Value::List),
            Self::Map | Self::Parameters => map(raw).map(Value::Map),
            Self::Addresses => {
                strings(raw, true)?.iter().map(|t| address(t)).collect::<Result<_, _>>().map(Value::Addresses)
            }
            Self::Address => match text(raw)?.as_str() {
                "off" => Ok(Value::Address(None)),
                t => address(t).map(|a| Value::Address(Some(a))),
            },
            Self::Share => share(raw).map(Value::Share),
            Self::Budget => budget(raw).map(Value::Budget),
            Self::Mode => {
                let t = text(raw)?;
                let bits = u32::from_str_radix(t.trim_start_matches("0o"), 8);
                bits.ok().filter(|b| *b <= 0o777).map(Value::Mode).ok_or_else(|| "not octal".to_owned())
            }
        }
    }
}

impl Value {
    /// As TOML; a secret is not shown.
    pub fn to_toml(&self) -> String {
        let quoted = |t: &str| toml::Value::String(t.to_owned()).to_string();
        let list = |items: Vec<String>| format!("[{}]", items.join(", "));
        match self {
            Self::Boolean(b) => b.to_string(),
            Self::Count(n) => n.to_string(),
            Self::Limit(n) => n.unwrap_or(0).to_string(),
            Self::Duration(d) => quoted(&units::render_duration(*d)),
            Self::Timeout(d) => quoted(&units::render_duration(d.unwrap_or_default())),
            Self::Bytes(b) => quoted(&units::render_bytes(*b)),
            Self::Word(w) => quoted(w),
            Self::Text(t) => quoted(t),
            Self::Secret(_) => quoted(PLACEHOLDER),
            Self::List(l) => list(l.iter().map(|t| quoted(t)).collect()),
            Self::Map(m) => {
                let pairs: Vec<_> = m.iter().map(|(k, v)| format!("{} = {}", quoted(k), quoted(v))).collect();
                if pairs.is_empty() { "{}".to_owned() } else { format!("{{ {} }}", pairs.join(", ")) }
            }
            Self::Addresses(a) => list(a.iter().map(|a| quoted(&a.to_string())).collect()),
            Self::Address(a) => quoted(&a.map_or_else(|| "off".to_owned(), |a| a.to_string())),
            Self::Share(n) | Self::Budget(Budget::Share(n)) => format!("{:?}", f64::from(*n) / 1000.0),
            Self::Budget(Budget::Connections(n)) => n.to_string(),
            Self::Mode(bits) => quoted(&format!("{bits:04o}")),
        }
    }
}

fn text(raw: &Raw) -> Result<String, String> {
    match raw {
        Raw::Text(t) | Raw::Loose(t) => Ok(t.clone()),
        _ => Err("not a string".to_owned()),
    }
}

/// A share in thousandths: a fraction, or a percentage as text.
fn share(raw: &Raw) -> Result<u32, String> {
    let text = match raw {
        Raw::Text(t) | Raw::Loose(t) | Raw::Other(t) => t.trim().to_owned(),
        Raw::Integer(i) => i.to_string(),
        _ => return Err("not a share".to_owned()),
    };
    let (number, factor) = match text.strip_suffix('%') {
        Some(percent) => (percent.trim(), 10.0),
        None => (text.as_str(), 1000.0),
    };
    let number: f64 = number.parse().map_err(|_| "not a share".to_owned())?;
    let thousandths = number * factor;
    if !(1.0..=1000.0).contains(&thousandths) {
        return Err("out of range".to_owned());
    }
    Ok(crate::number::rounded(thousandths))
}

fn budget(raw: &Raw) -> Result<Budget, String> {
    let whole = match raw {
        Raw::Integer(i) => Some(*i),
        Raw::Loose(t) => t.trim().parse().ok(),
        _ => None,
    };
    match whole {
        Some(n) => u32::try_from(n)
            .ok()
            .filter(|n| (1..=1_000_000).contains(n))
            .map(Budget::Connections)
            .ok_or_else(|| "out of range".to_owned()),
        None => share(raw).map(Budget::Share),
    }
}

fn boolean(raw: &Raw) -> Result<bool, String> {
    match raw {
        Raw::Boolean(b) => Ok(*b),
        Raw::Loose(t) => match t.as_str() {
            "true" | "on" | "yes" | "1" => Ok(true),
            "false" | "off" | "no" | "0" => Ok(false),
            _ => Err("not true or false".to_owned()),
        },
        _ => Err("not true or false".to_owned()),
    }
}

fn count(raw: &Raw, min: u32, max: u32) -> Result<u32, String> {
    let number = match raw {
        Raw::Integer(i) => *i,
        Raw::Loose(t) => t.trim().parse().map_err(|_| "not a whole number".to_owned())?,
        Raw::Text(t) if t.parse::<i64>().is_ok() => {
            return Err("a number is written without quotes".to_owned());
        }
        _ => return Err("not a whole number".to_owned()),
    };
    u32::try_from(number).ok().filter(|n| (min..=max).contains(n)).ok_or_else(|| "out of range".to_owned())
}

/// The text of a number with a unit; a bare integer is passed on for the hint about its unit.
fn unit_text(raw: &Raw) -> Result<String, String> {
    match raw {
        Raw::Text(t) | Raw::Loose(t) => Ok(t.clone()),
        Raw::Integer(i) => Ok(i.to_string()),
        _ => Err("not a number with a unit".to_owned()),
    }
}

fn duration(raw: &Raw) -> Result<Duration, String> {
    units::parse_duration(&unit_text(raw)?)
}

fn strings(raw: &Raw, split: bool) -> Result<Vec<String>, String> {
    match raw {
        Raw::Text(t) => Ok(vec![t.clone()]),
        Raw::Loose(t) if split => {
            Ok(t.split(',').map(|p| p.trim().to_owned()).filter(|p| !p.is_empty()).collect())
        }
        Raw::Loose(t) => Ok(Some(t.clone()).filter(|t| !t.is_empty()).into_iter().collect()),
        Raw::List(l) => l.iter().map(|n| text(&n.raw)).collect(),
        _ => Err("not a string or an array of strings".to_owned()),
    }
}

fn map(raw: &Raw) -> Result<Vec<(String, String)>, String> {
    let pairs: Vec<(String, String)> = match raw {
        Raw::Table(t) => t
            .iter()
            .map(|(k, n)| match &n.raw {
                Raw::Text(v) | Raw::Loose(v) => Ok((k.clone(), v.clone())),
                Raw::Integer(v) => Ok((k.clone(), v.to_string())),
                Raw::Boolean(v) => Ok((k.clone(), if *v { "on" } else { "off" }.to_owned())),
                _ => Err("one of its values is not a string".to_owned()),
            })
            .collect::<Result<_, _>>()?,
        Raw::Loose(t) => t
            .split(';')
            .filter(|p| !p.trim().is_empty())
            .map(|p| match p.split_once('=') {
                Some((k, v)) => Ok((k.trim().to_owned(), v.trim().to_owned())),
                None => Err("not of the form name=value; name=value".to_owned()),
            })
            .collect::<Result<_, _>>()?,
        _ => return Err("not a table".to_owned()),
    };
    if pairs.iter().any(|(k, v)| k.is_empty() || k.contains('\0') || v.contains('\0')) {
        return Err("a name is empty, or something contains a zero byte".to_owned());
    }
    Ok(pairs)
}

/// An address without asking any name service: numbers, `localhost`, or `*` for every IPv4 address.
fn address(text: &str) -> Result<SocketAddr, String> {
    let numeric = match text.rsplit_once(':') {
        Some(("localhost", port)) => format!("127.0.0.1:{port}"),
        Some(("*", port)) => format!("0.0.0.0:{port}"),
        _ => text.to_owned(),
    };
    numeric.parse().map_err(|_| "not an IP address with a port".to_owned())
}
