//! Text of strangers in a line of a log: names, addresses, errors of servers. Nobody else may begin a line or a field, move
//! a terminal's cursor, or turn the direction of writing.

use std::fmt::{self, Write as _};

/// Whether a character does something other than to be seen: controls (also U+0080 to U+009F), separators of lines, and
/// what turns the direction of writing.
fn acts(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// The text with what acts escaped; tabs stay, and lines where they may go on begin with one, as PgBouncer's do.
pub(super) fn shown(text: &str, lines: bool) -> String {
    let mut shown = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '\n' if lines => shown.push_str("\n\t"),
            '\t' => shown.push(c),
            c if acts(c) => shown.extend(c.escape_default()),
            c => shown.push(c),
        }
    }
    shown
}

/// The value of a field: bare where it cannot be taken for anything else, otherwise in quotes.
pub(super) fn value(out: &mut String, text: &str) -> fmt::Result {
    let plain = |b: u8| b.is_ascii_graphic() && !matches!(b, b'"' | b'\\' | b'=');
    if !text.is_empty() && text.bytes().all(plain) {
        return out.write_str(text);
    }
    quoted(out, text)
}

pub(super) fn quoted(out: &mut String, text: &str) -> fmt::Result {
    out.push('"');
    for c in text.chars() {
        match c {
            '"' | '\\' => out.extend(['\\', c]),
            c if acts(c) => out.extend(c.escape_default()),
            c => out.push(c),
        }
    }
    out.push('"');
    Ok(())
}

/// JSON in which what acts is escaped as JSON has it; it can stand in strings only.
pub(super) fn json(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        if acts(c) && c != '\n' {
            let mut units = [0; 2];
            for unit in c.encode_utf16(&mut units) {
                let _ = write!(out, "\\u{unit:04x}");
            }
        } else {
            out.push(c);
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_stays_where_it_is() {
        assert_eq!(shown("a\tb\nc\r\u{1b}[31m\u{9b}é", true), "a\tb\n\tc\\r\\u{1b}[31m\\u{9b}é");
        assert_eq!(shown("a\nb\u{202e}c\u{2028}d", false), "a\\nb\\u{202e}c\\u{2028}d");
    }

    #[test]
    fn a_value_cannot_become_another_field() {
        let of = |text: &str| {
            let mut out = String::new();
            value(&mut out, text).unwrap();
            out
        };
        assert_eq!(of("app/app/primary"), "app/app/primary");
        assert_eq!(of("10.0.0.1:5432"), "10.0.0.1:5432");
        assert_eq!(of(""), "\"\"");
        assert_eq!(of("x code=ok"), "\"x code=ok\"");
        assert_eq!(of("x\" code=\"ok"), "\"x\\\" code=\\\"ok\"");
        assert_eq!(of("a\nb\u{9b}"), "\"a\\nb\\u{9b}\"");
        assert_eq!(of("é"), "\"é\"");
    }

    #[test]
    fn json_stays_json_and_acts_on_nothing() {
        let text = "{\"user\":\"a\u{9b}b\u{7f}c\u{202e}d\u{85}é\"}\n";
        let safe = json(text);
        assert_eq!(safe, "{\"user\":\"a\\u009bb\\u007fc\\u202ed\\u0085é\"}\n");
        let value = |t: &str| serde_json::from_str::<serde_json::Value>(t).unwrap();
        assert_eq!(value(&safe), value(text));
    }
}
