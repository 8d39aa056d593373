//! A text that is a secret, or may be one, from where it is read on.

use std::fmt;
use std::ops::Deref;

use zeroize::Zeroizing;

/// What stands where a secret would.
pub const PLACEHOLDER: &str = "…";

/// Cannot be printed: `Debug` and `Display` show [`PLACEHOLDER`]. Its memory is wiped when it goes.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Hidden(Zeroizing<String>);

impl Hidden {
    /// The text itself, for who compares it, hashes it or sends it.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Hidden {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(PLACEHOLDER)
    }
}

impl fmt::Display for Hidden {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(PLACEHOLDER)
    }
}

impl Deref for Hidden {
    type Target = str;

    fn deref(&self) -> &str {
        &self.0
    }
}

impl From<String> for Hidden {
    fn from(text: String) -> Self {
        Self(Zeroizing::new(text))
    }
}

impl From<&str> for Hidden {
    fn from(text: &str) -> Self {
        text.to_owned().into()
    }
}

impl FromIterator<char> for Hidden {
    fn from_iter<T: IntoIterator<Item = char>>(chars: T) -> Self {
        chars.into_iter().collect::<String>().into()
    }
}

impl std::str::FromStr for Hidden {
    type Err = std::convert::Infallible;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Ok(text.into())
    }
}

/// A text in which somebody may have written a secret where none belongs, such as a URL as a host: the password of a
/// URL's `user:password@`, and the value of `password=`, are left out.
pub fn without_passwords(text: &str) -> String {
    let mut out = text.to_owned();
    let mut from = 0;
    while let Some(at) = out.get(from..).and_then(|t| t.find("://")).map(|i| from + i + 3) {
        let rest = out.get(at..).unwrap_or_default();
        // A password may hold any sign; what follows the host cannot hold an @.
        let end = rest.find(char::is_whitespace).unwrap_or(rest.len());
        let host = rest.get(..end).and_then(|authority| authority.rfind('@'));
        let password = host.and_then(|host| Some((rest.get(..host)?.find(':')?, host)));
        if let Some((colon, host)) = password {
            out.replace_range(at + colon + 1..at + host, PLACEHOLDER);
        }
        from = at;
    }
    from = 0;
    while let Some(at) = out.get(from..).and_then(|t| t.to_ascii_lowercase().find("password")) {
        let name_end = from + at + "password".len();
        let rest = out.get(name_end..).unwrap_or_default();
        let value = rest.trim_start();
        let Some(value) = value.strip_prefix('=').map(str::trim_start) else {
            from = name_end;
            continue;
        };
        let start = out.len() - value.len();
        let end = match value.strip_prefix('\'') {
            Some(quoted) => quoted.find('\'').map_or(out.len(), |i| start + i + 2),
            None => start + value.find([' ', '\t', '&', '"']).unwrap_or(value.len()),
        };
        out.replace_range(start..end, PLACEHOLDER);
        from = start + PLACEHOLDER.len();
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_prints_a_placeholder_and_nothing_else() {
        let h = Hidden::from("hunter2");
        assert_eq!((h.to_string(), format!("{h:?}")), (PLACEHOLDER.to_owned(), PLACEHOLDER.to_owned()));
        assert_eq!(h.as_str(), "hunter2");
    }

    #[test]
    fn passwords_that_stand_in_other_values_are_left_out() {
        for (text, shown) in [
            ("postgres://app:hunter2@db:5432/x", "postgres://app:…@db:5432/x"),
            ("postgres://app:hun:t@er2@db/x", "postgres://app:…@db/x"),
            ("postgres://app:hunt/er2@db/x", "postgres://app:…@db/x"),
            ("postgres://app@db/x", "postgres://app@db/x"),
            ("postgres://db/x?user=a&password=hunter2&x=1", "postgres://db/x?user=a&password=…&x=1"),
            ("host=db password = 'hunt er2' x=1", "host=db password = … x=1"),
            ("host=db PASSWORD=hunter2", "host=db PASSWORD=…"),
            ("password", "password"),
            ("10.0.0.1:5432", "10.0.0.1:5432"),
        ] {
            assert_eq!(without_passwords(text), shown);
        }
    }
}
