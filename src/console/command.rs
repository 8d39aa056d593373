//! The console's grammar: one statement of one or two words, or a SET; without I/O.

use crate::config::hidden::PLACEHOLDER;
use crate::config::{self, Hidden};
use crate::error::Refusal;

/// Longest argument, as PostgreSQL's names.
const MAX_ARGUMENT: usize = 63;

/// One statement as it was written; which words mean something is for [`super::table`] to say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Statement {
    Empty,
    /// A first word in capitals and an argument in the case that it was written in.
    Words {
        verb: String,
        argument: Option<String>,
    },
    Set {
        key: String,
        /// It may be of a setting that is secret.
        value: Hidden,
    },
    /// SHOW of something about a text in single quotes, perhaps of one database.
    ShowAbout {
        name: String,
        database: Option<String>,
        text: String,
    },
}

/// Reads one statement; the error names it.
pub(super) fn parse(text: &str) -> Result<Statement, Refusal> {
    let invalid = || invalid(text);
    let tokens = tokens(text).ok_or_else(invalid)?;
    let words: Vec<&Token> = match tokens.split_last() {
        Some((Token::Semicolon, rest)) => rest.iter().collect(),
        _ => tokens.iter().collect(),
    };
    let statement = match words.as_slice() {
        [] => Statement::Empty,
        [Token::Word(set), Token::Word(key), rest @ ..] if set.eq_ignore_ascii_case("set") => {
            let value = match rest {
                [Token::Equals, Token::Word(v) | Token::Quoted(v) | Token::Text(v)] => v.clone(),
                // Nothing behind the sign is the empty value.
                [Token::Equals] => String::new(),
                [Token::Word(to), Token::Word(v) | Token::Quoted(v) | Token::Text(v)]
                    if to.eq_ignore_ascii_case("to") =>
                {
                    v.clone()
                }
                _ => return Err(invalid()),
            };
            // Names of sections are in their case.
            let key = match key.rsplit_once('.') {
                Some((section, key)) => format!("{section}.{}", key.to_lowercase()),
                None => key.to_lowercase(),
            };
            Statement::Set { key, value: value.into() }
        }
        [Token::Word(show), Token::Word(name), of @ .., Token::Text(text)]
            if show.eq_ignore_ascii_case("show") && of.len() <= 1 =>
        {
            let database = match of {
                [] => None,
                [Token::Word(d) | Token::Quoted(d)] => Some(d.clone()),
                _ => return Err(invalid()),
            };
            Statement::ShowAbout { name: name.to_uppercase(), database, text: text.clone() }
        }
        [Token::Word(verb)] => Statement::Words { verb: verb.to_uppercase(), argument: None },
        [Token::Word(verb), Token::Word(a) | Token::Quoted(a)] => {
            Statement::Words { verb: verb.to_uppercase(), argument: Some(a.clone()) }
        }
        _ => return Err(invalid()),
    };
    if let Statement::Words { argument: Some(a), .. } = &statement
        && a.len() > MAX_ARGUMENT
    {
        return Err(Refusal::BadArguments { limit: MAX_ARGUMENT });
    }
    Ok(statement)
}

/// What is no command, as it was written; of a SET of what may be a secret, without its value.
pub(super) fn invalid(text: &str) -> Refusal {
    let mut words = text.split(|c: char| c.is_whitespace() || c == '=').filter(|w| !w.is_empty());
    let set = words.next().is_some_and(|w| w.eq_ignore_ascii_case("set"));
    let text = match words.next() {
        Some(key) if set && config::may_hold_secret(&key.to_lowercase()) => {
            format!("SET {key} = {PLACEHOLDER}")
        }
        _ => text.to_owned(),
    };
    Refusal::InvalidCommand { text }
}

#[derive(Debug, PartialEq, Eq)]
enum Token {
    Word(String),
    /// In double quotes: a name.
    Quoted(String),
    /// In single quotes: a value.
    Text(String),
    Equals,
    Semicolon,
}

/// `None` where a quote does not end, or something stands behind a semicolon.
fn tokens(text: &str) -> Option<Vec<Token>> {
    let mut found = Vec::new();
    let mut rest = text.trim_matches(|c: char| c.is_ascii_whitespace() || c == '\0');
    while let Some(first) = rest.chars().next() {
        if found.last() == Some(&Token::Semicolon) {
            return None;
        }
        rest = match first {
            '"' | '\'' => {
                let (name, after) = quoted(rest, first)?;
                found.push(if first == '"' { Token::Quoted(name) } else { Token::Text(name) });
                after
            }
            '=' => {
                found.push(Token::Equals);
                rest.get(1..)?
            }
            ';' => {
                found.push(Token::Semicolon);
                rest.get(1..)?
            }
            _ => {
                let ends = |c: char| c.is_ascii_whitespace() || matches!(c, '"' | '\'' | '=' | ';' | '\0');
                let end = rest.find(ends).filter(|e| *e > 0).unwrap_or(rest.len());
                let (word, after) = rest.split_at(end);
                if word.contains('\0') {
                    return None;
                }
                found.push(Token::Word(word.to_owned()));
                after
            }
        }
        .trim_start_matches(|c: char| c.is_ascii_whitespace());
    }
    Some(found)
}

/// A quoted text at the start of `text`, its doubled quotes made single, and what follows it.
fn quoted(text: &str, quote: char) -> Option<(String, &str)> {
    let mut name = String::new();
    let mut rest = text.get(1..)?;
    loop {
        let end = rest.find(quote)?;
        name.push_str(rest.get(..end)?);
        rest = rest.get(end + 1..)?;
        match rest.strip_prefix(quote) {
            Some(after) => {
                name.push(quote);
                rest = after;
            }
            None => return Some((name, rest)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn words(verb: &str, argument: Option<&str>) -> Result<Statement, Refusal> {
        Ok(Statement::Words { verb: verb.to_owned(), argument: argument.map(str::to_owned) })
    }

    fn set(key: &str, value: &str) -> Result<Statement, Refusal> {
        Ok(Statement::Set { key: key.to_owned(), value: value.into() })
    }

    #[test]
    fn reads_what_operators_write() {
        for (text, expected) in [
            ("show pools", words("SHOW", Some("pools"))),
            ("  SHOW\tPools ; ", words("SHOW", Some("Pools"))),
            ("RELOAD;", words("RELOAD", None)),
            ("pause \"my \"\"db\"\"\"", words("PAUSE", Some("my \"db\""))),
            ("pause my-db", words("PAUSE", Some("my-db"))),
            ("kill_client 17", words("KILL_CLIENT", Some("17"))),
            ("set query_timeout=5", set("query_timeout", "5")),
            ("SET Query_Timeout TO 2.5;", set("query_timeout", "2.5")),
            ("set ignore_startup_parameters = 'a, b''c'", set("ignore_startup_parameters", "a, b'c")),
            ("set stats_users = ''", set("stats_users", "")),
            ("", Ok(Statement::Empty)),
            (" ; ", Ok(Statement::Empty)),
        ] {
            assert_eq!(parse(text), expected, "{text}");
        }
    }

    #[test]
    fn refuses_the_rest() {
        for text in [
            "show pools x",
            "set a",
            "set a = 1 2",
            "set a b",
            "show \"pools",
            "show pools; show lists",
            "= 3",
            "\"show\" pools",
            "show 'pools'",
        ] {
            let expected = Err(Refusal::InvalidCommand { text: text.to_owned() });
            assert_eq!(parse(text), expected, "{text}");
        }
        let long = format!("pause {}", "x".repeat(64));
        assert_eq!(parse(&long), Err(Refusal::BadArguments { limit: 63 }));
    }

    proptest! {
        #[test]
        fn nothing_panics(text in ".*") {
            let _ = parse(&text);
        }

        #[test]
        fn a_quoted_name_survives(name in "[^\0]{1,40}") {
            prop_assume!(name.len() <= MAX_ARGUMENT);
            let text = format!("PAUSE \"{}\"", name.replace('"', "\"\""));
            prop_assert_eq!(parse(&text), words("PAUSE", Some(&name)));
        }
    }
}
