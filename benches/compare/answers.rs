//! What the canned backend says: replies are made once, a query only selects one.

use crate::wire::{cstring, message};

/// What a statement asks for, told from its first words.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) enum Kind {
    #[default]
    OneRow,
    Rows(u32),
    Begin,
    Commit,
    Rollback,
    Set,
    Other(&'static str),
    CopyIn,
    CopyOut,
    Empty,
}

fn starts(text: &[u8], word: &str) -> bool {
    text.get(..word.len()).is_some_and(|head| head.eq_ignore_ascii_case(word.as_bytes()))
}

/// The number after `marker`, as in `generate_series(1, 1000)` or `rows 1000`.
fn number_after(text: &[u8], marker: &[u8]) -> Option<u32> {
    let at = memchr::memmem::find(text, marker)? + marker.len();
    let digits = text[at..].iter().take_while(|byte| byte.is_ascii_digit());
    let digits: String = digits.map(|&byte| char::from(byte)).collect();
    digits.parse().ok()
}

pub(crate) fn classify(text: &[u8]) -> Kind {
    let text = text.trim_ascii();
    if starts(text, "select") {
        // The plain `SELECT 17` must cost next to nothing: look for rows in long texts only.
        if text.len() > 24 || starts(text, "select rows") {
            let rows = number_after(text, b"generate_series(1, ").or_else(|| number_after(text, b"rows "));
            return rows.map_or(Kind::OneRow, Kind::Rows);
        }
        return Kind::OneRow;
    }
    let first = text.first().map_or(0, u8::to_ascii_lowercase);
    match first {
        0 => Kind::Empty,
        b'b' | b's' if starts(text, "begin") || starts(text, "start transaction") => Kind::Begin,
        b'c' | b'e' if starts(text, "commit") || starts(text, "end") => Kind::Commit,
        b'r' | b'a' if starts(text, "rollback") || starts(text, "abort") => Kind::Rollback,
        b's' if starts(text, "set") => Kind::Set,
        b'r' if starts(text, "reset") => Kind::Other("RESET"),
        b'd' if starts(text, "discard") => Kind::Other("DISCARD ALL"),
        b'd' if starts(text, "deallocate") => Kind::Other("DEALLOCATE"),
        b'c' if starts(text, "copy") => {
            let to = memchr::memmem::find(text, b"STDOUT").is_some();
            if to { Kind::CopyOut } else { Kind::CopyIn }
        }
        _ => Kind::OneRow,
    }
}

/// The new value a `SET name = value` would be reported with, if the parameter is a reported one.
pub(crate) fn reported_set(text: &[u8]) -> Option<(String, String)> {
    let text = std::str::from_utf8(text).ok()?.trim();
    let rest = text.get(4..)?;
    let rest = rest.strip_prefix("SESSION ").unwrap_or(rest);
    let (name, value) = rest.split_once('=').or_else(|| rest.split_once(" TO "))?;
    let (name, value) = (name.trim(), value.trim().trim_matches('\''));
    let known = PARAMETERS.iter().find(|(known, _)| known.eq_ignore_ascii_case(name))?;
    Some((known.0.to_owned(), value.to_owned()))
}

/// Name and value of a `set_config('name', 'value', …)`. Poolers ask for what came of it, in hexadecimal digits: a server
/// that answers something else seems to have set something else, and is told again with each client.
pub(crate) fn config(text: &[u8]) -> Option<(String, String)> {
    let text = std::str::from_utf8(text).ok()?;
    let (_, rest) = text.split_once("set_config('")?;
    let (name, rest) = rest.split_once("', '")?;
    let (value, _) = rest.split_once('\'')?;
    Some((name.to_owned(), value.to_owned()))
}

/// The answer to that: the report, where there is news, one row, and the tag.
pub(crate) fn configured(out: &mut Vec<u8>, canned: &Canned, name: &str, value: &str) {
    let known = PARAMETERS.iter().find(|(known, _)| known.eq_ignore_ascii_case(name));
    out.extend_from_slice(&canned.text_description);
    let digits: String = value.bytes().map(|b| format!("{b:02x}")).collect();
    out.extend_from_slice(&row(digits.as_bytes()));
    complete(out, "SELECT 1");
    if let Some((known, _)) = known.filter(|(_, default)| *default != value) {
        parameter(out, known, value);
    }
}

fn row(value: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    message(&mut out, b'D', |body| {
        body.extend_from_slice(&1_u16.to_be_bytes());
        body.extend_from_slice(&(value.len() as u32).to_be_bytes());
        body.extend_from_slice(value);
    });
    out
}

/// What PostgreSQL 15 reports at login, in its order.
const PARAMETERS: &[(&str, &str)] = &[
    ("application_name", ""),
    ("client_encoding", "UTF8"),
    ("DateStyle", "ISO, MDY"),
    ("default_transaction_read_only", "off"),
    ("in_hot_standby", "off"),
    ("integer_datetimes", "on"),
    ("IntervalStyle", "postgres"),
    ("is_superuser", "off"),
    ("server_encoding", "UTF8"),
    ("server_version", "15.8"),
    ("session_authorization", ""),
    ("standard_conforming_strings", "on"),
    ("TimeZone", "Etc/UTC"),
];

pub(crate) fn parameter(out: &mut Vec<u8>, name: &str, value: &str) {
    message(out, b'S', |body| {
        cstring(body, name.as_bytes());
        cstring(body, value.as_bytes());
    });
}

/// Everything after the startup message of a trusted login.
pub(crate) fn greeting(user: &str, application_name: &str, pid: u32) -> Vec<u8> {
    let mut out = Vec::with_capacity(512);
    message(&mut out, b'R', |body| body.extend_from_slice(&[0; 4]));
    for (name, value) in PARAMETERS {
        let value = match *name {
            "application_name" => application_name,
            "session_authorization" => user,
            _ => value,
        };
        parameter(&mut out, name, value);
    }
    message(&mut out, b'K', |body| {
        body.extend_from_slice(&pid.to_be_bytes());
        body.extend_from_slice(&(pid ^ 0x5bd1_e995).to_be_bytes());
    });
    ready(&mut out, b'I');
    out
}

pub(crate) fn ready(out: &mut Vec<u8>, status: u8) {
    message(out, b'Z', |body| body.push(status));
}

pub(crate) fn complete(out: &mut Vec<u8>, tag: &str) {
    message(out, b'C', |body| cstring(body, tag.as_bytes()));
}

fn description(name: &str, oid: u32, size: i16) -> Vec<u8> {
    let mut out = Vec::new();
    message(&mut out, b'T', |body| {
        body.extend_from_slice(&1_u16.to_be_bytes());
        cstring(body, name.as_bytes());
        body.extend_from_slice(&[0; 6]);
        body.extend_from_slice(&oid.to_be_bytes());
        body.extend_from_slice(&size.to_be_bytes());
        body.extend_from_slice(&(-1_i32).to_be_bytes());
        body.extend_from_slice(&[0; 2]);
    });
    out
}

/// The replies that never change.
pub(crate) struct Canned {
    pub(crate) int_description: Vec<u8>,
    pub(crate) text_description: Vec<u8>,
    int_row: Vec<u8>,
    text_row: Vec<u8>,
    copy_out: Vec<u8>,
}

const INT4: u32 = 23;
const TEXT: u32 = 25;
const COPY_ROWS: u32 = 1_000;

impl Canned {
    pub(crate) fn new() -> Self {
        let mut copy_out = Vec::new();
        message(&mut copy_out, b'H', |body| body.extend_from_slice(&[0, 0, 1, 0, 0]));
        for _ in 0..COPY_ROWS {
            message(&mut copy_out, b'd', copy_line);
        }
        message(&mut copy_out, b'c', |_| {});
        Self {
            int_description: description("answer", INT4, 4),
            text_description: description("line", TEXT, -1),
            int_row: row(b"17"),
            text_row: row(&[b'x'; 100]),
            copy_out,
        }
    }

    pub(crate) fn describe(&self, out: &mut Vec<u8>, kind: Kind) {
        match kind {
            Kind::OneRow => out.extend_from_slice(&self.int_description),
            Kind::Rows(_) => out.extend_from_slice(&self.text_description),
            _ => message(out, b'n', |_| {}),
        }
    }

    /// The rows and the command tag of one execution, without description or readiness.
    pub(crate) fn execute(&self, out: &mut Vec<u8>, kind: Kind, status: &mut u8) {
        match kind {
            Kind::OneRow => {
                out.extend_from_slice(&self.int_row);
                complete(out, "SELECT 1");
            }
            Kind::Rows(rows) => {
                for _ in 0..rows {
                    out.extend_from_slice(&self.text_row);
                }
                complete(out, &format!("SELECT {rows}"));
            }
            Kind::Begin => {
                *status = b'T';
                complete(out, "BEGIN");
            }
            Kind::Commit | Kind::Rollback => {
                *status = b'I';
                complete(out, if kind == Kind::Commit { "COMMIT" } else { "ROLLBACK" });
            }
            Kind::Set => complete(out, "SET"),
            Kind::Other(tag) => complete(out, tag),
            Kind::CopyOut => {
                out.extend_from_slice(&self.copy_out);
                complete(out, "COPY 1000");
            }
            Kind::CopyIn => message(out, b'G', |body| body.extend_from_slice(&[0, 0, 1, 0, 0])),
            Kind::Empty => message(out, b'I', |_| {}),
        }
    }
}

/// A line of 100 bytes with its end, as the COPY workloads carry it.
pub(crate) fn copy_line(body: &mut Vec<u8>) {
    body.extend_from_slice(&[b'x'; 99]);
    body.push(b'\n');
}

/// What a client sends once it may copy in.
pub(crate) fn copy_in_stream() -> Vec<u8> {
    let mut out = Vec::new();
    for _ in 0..COPY_ROWS {
        message(&mut out, b'd', copy_line);
    }
    message(&mut out, b'c', |_| {});
    out
}
