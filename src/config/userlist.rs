//! PgBouncer's user list: lines of `"user" "secret"`; `""` is a quote within quotes, `;` starts a comment,
//! and the rest of a line after the secret is ignored.

use std::sync::Arc;

use super::problem::ConfigError;
use super::raw::Source;
use super::resolved::Secret;

/// The users of the list, in its order; an empty secret is no secret.
pub(super) fn parse(
    text: &str,
    path: &Arc<str>,
    errors: &mut Vec<ConfigError>,
) -> Vec<(String, Option<Secret>)> {
    let mut users = Vec::new();
    for (i, line) in text.lines().enumerate() {
        let line = line.trim_start();
        if line.is_empty() || line.starts_with(';') {
            continue;
        }
        match entry(line) {
            Some((user, secret)) => {
                let secret = (!secret.is_empty()).then(|| Secret::classify(&secret));
                users.push((user, secret));
            }
            None => {
                let source = Source::File { path: path.clone(), line: Some(i + 1) };
                // Not the line itself: there is a secret in it.
                errors.push(
                    ConfigError::new(&source, "", "not an entry of a user list")
                        .allowed("\"user\" \"secret\""),
                );
            }
        }
    }
    users
}

fn entry(line: &str) -> Option<(String, String)> {
    let (user, rest) = quoted(line)?;
    let (secret, _) = quoted(rest.trim_start())?;
    (!user.is_empty()).then_some((user, secret))
}

/// A quoted text at the start, and what follows it.
fn quoted(text: &str) -> Option<(String, &str)> {
    let mut rest = text.strip_prefix('"')?;
    let mut out = String::new();
    loop {
        let (before, after) = rest.split_once('"')?;
        out.push_str(before);
        match after.strip_prefix('"') {
            Some(more) => {
                out.push('"');
                rest = more;
            }
            None => return Some((out, after)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> (Vec<(String, Option<Secret>)>, Vec<ConfigError>) {
        let mut errors = Vec::new();
        let users = parse(text, &Arc::from("list.txt"), &mut errors);
        (users, errors)
    }

    #[test]
    fn reads_entries_comments_and_quotes() {
        let (users, errors) = read(
            "; users\n\n\"a\" \"x\"\n  \"b\"\"c\" \"y\"\"z\" ignored \"rest\n\"d\" \"\"\n\
             \"e\" \"md50123456789abcdef0123456789abcdef\"\n\"f\" \"SCRAM-SHA-256$4096:c2FsdA==$a:b\"\n",
        );
        assert_eq!(errors, []);
        assert_eq!(
            users,
            [
                ("a".to_owned(), Some(Secret::classify("x"))),
                ("b\"c".to_owned(), Some(Secret::classify("y\"z"))),
                ("d".to_owned(), None),
                ("e".to_owned(), Some(Secret::classify("md50123456789abcdef0123456789abcdef"))),
                ("f".to_owned(), Some(Secret::classify("SCRAM-SHA-256$4096:c2FsdA==$a:b"))),
            ]
        );
    }

    #[test]
    fn tells_the_line_and_no_secret() {
        let (_, errors) = read("\"a\" \"x\"\n\"b\" hunter2\nhunter2\n");
        assert_eq!(errors.iter().map(ConfigError::line).collect::<Vec<_>>(), [Some(2), Some(3)]);
        assert!(errors.iter().all(|e| !e.to_string().contains("hunter2")));
    }
}
