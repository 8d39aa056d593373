//! Patterns of names in `pg_hba.conf`, which begin with a slash (PostgreSQL 16 and later; documentation, 9.7.3). They are
//! PostgreSQL's regular expressions as far as the crate `regex` reads them in the same way; what it does not, or reads as
//! something else, is refused: a rule that means another thing lets the wrong client in.

use regex::{Regex, RegexBuilder};

/// What a pattern may take of memory when it has been read.
const MAX_SIZE: usize = 1024 * 1024;

#[derive(Debug, Clone)]
pub struct Pattern(Regex);

impl PartialEq for Pattern {
    fn eq(&self, other: &Self) -> bool {
        self.0.as_str() == other.0.as_str()
    }
}

impl Eq for Pattern {}

impl Pattern {
    /// What stands behind the slash.
    pub fn read(text: &str) -> Result<Self, String> {
        let told = |why: &str| format!("a pattern: {why}");
        let translated = translated(text).map_err(told)?;
        let mut builder = RegexBuilder::new(&translated);
        let built = builder.dot_matches_new_line(true).size_limit(MAX_SIZE).build();
        built.map(Self).map_err(|e| {
            // The crate's own text shows the pattern; its last line says what is wrong, without it.
            let text = e.to_string();
            told(text.rsplit_once("error: ").map_or("is not one, or too large", |(_, why)| why))
        })
    }

    /// Whether it is found in the name, at whatever place.
    pub fn fits(&self, name: &str) -> bool {
        self.0.is_match(name)
    }
}

/// The same in the crate's words. Classes are those of ASCII, for PostgreSQL compares here without a locale.
fn translated(text: &str) -> Result<String, &'static str> {
    const GROUP: &str = "(? begins what is not supported here, other than (?:";
    if text.starts_with("***") {
        return Err("*** at its begin is not supported here");
    }
    let (mut out, mut chars) = (String::new(), text.chars().peekable());
    // What stands before can be repeated: an atom, and not a place, an opening or a repetition.
    let mut atom = false;
    while let Some(c) = chars.next() {
        let counts = c == '{' && chars.peek().is_some_and(char::is_ascii_digit);
        if counts || matches!(c, '*' | '+' | '?') {
            if !atom {
                return Err("*, +, ? and {} repeat a character, a bracket or a group, and once");
            }
            atom = false;
            out.push(c);
            if counts {
                for c in chars.by_ref() {
                    out.push(c);
                    if c == '}' {
                        break;
                    }
                }
            }
            // As few as will do.
            out.extend(chars.next_if_eq(&'?'));
            continue;
        }
        atom = !matches!(c, '^' | '$' | '|' | '(');
        match c {
            '\\' => out.push_str(&escaped(chars.next(), false)?),
            '[' => brackets(&mut chars, &mut out)?,
            '(' if chars.next_if_eq(&'?').is_some() => match chars.next_if_eq(&':') {
                Some(_) => out.push_str("(?:"),
                None => return Err(GROUP),
            },
            '{' if !chars.peek().is_some_and(char::is_ascii_digit) => {
                return Err("{ is a character where no count follows: write \\{");
            }
            _ => out.push(c),
        }
    }
    Ok(out)
}

/// What a backslash and this stand for.
fn escaped(c: Option<char>, within_brackets: bool) -> Result<String, &'static str> {
    let (class, negated) = match c {
        Some('d') => ("0-9", false),
        Some('w') => ("0-9A-Za-z_", false),
        Some('s') => ("[:space:]", false),
        Some('D') => ("0-9", true),
        Some('W') => ("0-9A-Za-z_", true),
        Some('S') => ("[:space:]", true),
        Some(c) if c.is_ascii_punctuation() && !matches!(c, '<' | '>') => return Ok(format!("\\{c}")),
        _ => {
            return Err(
                "an escape other than \\d, \\w, \\s, their opposites and those of punctuation is not supported here",
            );
        }
    };
    match (within_brackets, negated) {
        (true, true) => Err("\\D, \\W and \\S have no place within brackets"),
        (true, false) => Ok(class.to_owned()),
        (false, true) => Ok(format!("[^{class}]")),
        (false, false) => Ok(format!("[{class}]")),
    }
}

/// Those of POSIX, which both read alike.
const CLASSES: [&str; 12] = [
    "alnum", "alpha", "blank", "cntrl", "digit", "graph", "lower", "print", "punct", "space", "upper",
    "xdigit",
];
const DASH: &str = "a class is no end of a range: put the - first or last within the brackets";

/// Whether a range follows, and not a last -.
fn begins_range(chars: &std::iter::Peekable<std::str::Chars<'_>>) -> bool {
    let mut next = chars.clone();
    next.next() == Some('-') && next.next() != Some(']')
}

/// A set of characters, whose opening bracket has been read.
fn brackets(
    chars: &mut std::iter::Peekable<std::str::Chars<'_>>,
    out: &mut String,
) -> Result<(), &'static str> {
    out.push('[');
    if chars.next_if_eq(&'^').is_some() {
        out.push('^');
    }
    if chars.next_if_eq(&']').is_some() {
        out.push_str("\\]");
    }
    let mut before = None;
    while let Some(c) = chars.next() {
        // The first is a character, and so is the last.
        let after_dash = before == Some('-');
        before = before.map_or(Some(' '), |_| Some(c));
        match c {
            ']' => {
                out.push(']');
                return Ok(());
            }
            '\\' => {
                let class = chars.peek().is_some_and(|c| matches!(c, 'd' | 'w' | 's'));
                if class && after_dash {
                    return Err(DASH);
                }
                out.push_str(&escaped(chars.next(), true)?);
                if class && begins_range(chars) {
                    return Err(DASH);
                }
            }
            '[' if chars.next_if_eq(&':').is_some() => {
                let name: String = std::iter::from_fn(|| chars.next_if(char::is_ascii_lowercase)).collect();
                if !CLASSES.contains(&name.as_str()) || chars.next() != Some(':') || chars.next() != Some(']')
                {
                    return Err("[: begins a class that is not known here");
                }
                if after_dash || begins_range(chars) {
                    return Err(DASH);
                }
                out.push_str(&format!("[:{name}:]"));
            }
            '[' => return Err("[ within brackets is not supported here, other than [:class:]"),
            '&' | '~' | '-' if chars.peek() == Some(&c) => {
                return Err("&&, ~~ and -- within brackets are not supported here");
            }
            _ => out.push(c),
        }
    }
    Err("brackets that are not closed")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_means_the_same_is_read() {
        for (pattern, fits, does_not) in [
            ("^app[0-9]$", "app7", "app77"),
            ("pp", "apple", "aple"),
            ("^(a|b),c$", "b,c", "a"),
            (r"^\w+\.\d$", "a_b.1", "a-b.1"),
            (r"^\d$", "7", "٧"),
            (r"^[^\d]$", "٧", "7"),
            (r"^\D\S$", "ab", "1b"),
            ("^a.b$", "a\nb", "ab"),
            ("^[]x]+$", "]x", "y"),
            ("^[[:alpha:]_-]{2,3}$", "a-", "ab12"),
            ("^(?:ab)*$", "abab", "aba"),
            (r"^a\{$", "a{", "a"),
            ("^a+?b{2,}?$", "aabb", "ab"),
            (r"^[-\d]+$", "-7", "a"),
            ("^[[:digit:]-]+$", "7-", "a"),
            (r"^[\d-]+$", "7-", "a"),
            ("^[]-]+$", "]-", "a"),
        ] {
            let read = Pattern::read(pattern).unwrap();
            assert!(read.fits(fits) && !read.fits(does_not), "{pattern}");
        }
    }

    #[test]
    fn what_means_something_else_is_refused() {
        for pattern in [
            "***=a.b",
            "(?i)app",
            "(?=a)",
            "(?<n>a)",
            r"\bapp",
            r"\y",
            r"\mapp",
            r"\<app",
            r"\x41",
            r"\1",
            "a{,3}",
            "a{x",
            "[a&&b]",
            "[a--b]",
            "[a~~b]",
            "[[=a=]]",
            "[[.-.]]",
            "[a[b]]",
            r"[\W]",
            "[a",
            "(a",
            "*",
            "a\\",
            "a{99999}",
            "^*",
            "$*",
            "a**",
            "a{2}{3}",
            "(*a)",
            "a|*",
            "a+*",
            "[[:alpha]]",
            "[[:foo:]]",
            r"[+-\d]",
            r"[\w-z]",
            "[a-[:digit:]]",
            "[[:digit:]-z]",
        ] {
            assert!(Pattern::read(pattern).is_err(), "{pattern}");
        }
    }
}
