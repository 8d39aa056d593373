//! Parameters on their way through: the `options` of a StartupMessage taken apart, names checked, values quoted.

use crate::error::Error;

/// Takes `options` apart as PostgreSQL does (`pg_split_opts`, then `ParseLongOption`): words are separated by
/// white space, a backslash takes the next character as it is; `-c name=value`, `-cname=value` and
/// `--name=value` are understood, and a dash within a name is an underscore. PostgreSQL's other switches
/// are refused, since they cannot be given to a server that runs already.
pub fn parse_options(options: &str) -> Result<Vec<(String, String)>, Error> {
    let mut out = Vec::new();
    let mut words = split(options).into_iter();
    while let Some(word) = words.next() {
        let setting = if word == "-c" {
            words.next().ok_or_else(|| Error::UnsupportedStartupOption(word.clone()))?
        } else if let Some(s) = word.strip_prefix("--").or_else(|| word.strip_prefix("-c")) {
            s.to_owned()
        } else {
            return Err(Error::UnsupportedStartupOption(word));
        };
        let Some((name, value)) = setting.split_once('=') else {
            return Err(Error::UnsupportedStartupOption(setting));
        };
        let name = name.replace('-', "_");
        if !is_valid_guc_name(&name) {
            return Err(Error::UnsupportedStartupOption(name));
        }
        out.push((name, value.to_owned()));
    }
    Ok(out)
}

fn split(options: &str) -> Vec<String> {
    // C's isspace, which has the vertical tab too.
    let is_space = |c: char| c.is_ascii_whitespace() || c == '\x0b';
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut escaped = false;
    for c in options.chars() {
        if escaped {
            escaped = false;
            word.get_or_insert_default().push(c);
        } else if c == '\\' {
            escaped = true;
            // A lone backslash at the end makes an empty word, as in PostgreSQL.
            word.get_or_insert_default();
        } else if is_space(c) {
            words.extend(word.take());
        } else {
            word.get_or_insert_default().push(c);
        }
    }
    words.extend(word);
    words
}

/// Whether this can be the name of a parameter: identifiers of ASCII letters, digits, `_` and `$`, joined by
/// dots. Only such a name may appear unquoted in a SET that Howdah writes.
pub fn is_valid_guc_name(name: &str) -> bool {
    name.split('.').all(|part| {
        let mut bytes = part.bytes();
        bytes.next().is_some_and(|b| b.is_ascii_alphabetic() || b == b'_')
            && bytes.all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'$'))
    })
}

/// A string literal that means `value` whatever `standard_conforming_strings` is.
///
/// With a backslash it is an escape string of ASCII alone, other bytes as `\xNN`: in some client encodings
/// (SJIS, BIG5, GBK) a byte above 127 takes a following backslash as its second half, so that an escaped quote
/// would become the end of the literal. No encoding does so with the quote itself.
pub fn quote_literal(value: &str) -> String {
    let mut out = String::with_capacity(value.len() + 2);
    if !value.contains('\\') {
        out.push('\'');
        out.push_str(&value.replace('\'', "''"));
        out.push('\'');
        return out;
    }
    out.push_str("E'");
    for b in value.bytes() {
        match b {
            b'\\' => out.push_str("\\\\"),
            b'\'' => out.push_str("''"),
            0..=127 => out.push(char::from(b)),
            _ => out.push_str(&format!("\\x{b:02x}")),
        }
    }
    out.push('\'');
    out
}
