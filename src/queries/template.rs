//! A statement's text as it came, with the places of its constants: the next text that differs in them only is known
//! by comparing bytes, which costs a fraction of reading it.

use std::sync::Arc;

use super::Entry;
use crate::proto::sql::lexer::{Lexer, Token};

/// Longer texts are read each time.
const LONGEST: usize = 512;
/// So are those with more constants.
const HOLES: usize = 16;

/// A constant that may differ without any other token changing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Hole {
    /// Digits alone.
    Number(usize, usize),
    /// What stands between single quotes, without a quote or a backslash in it.
    Text(usize, usize),
}

/// See the module.
#[derive(Debug)]
pub(super) struct Template {
    text: Box<[u8]>,
    holes: Box<[Hole]>,
    pub(super) entry: Arc<Entry>,
}

impl Template {
    pub(super) fn new(sql: &[u8], entry: &Arc<Entry>) -> Option<Self> {
        if sql.len() > LONGEST {
            return None;
        }
        let mut lexer = Lexer::new(sql);
        let mut holes = Vec::new();
        loop {
            lexer.take_blank();
            let from = sql.len() - lexer.rest().len();
            let Some(token) = lexer.next_token() else { break };
            let to = sql.len() - lexer.rest().len();
            let seen = sql.get(from..to).unwrap_or_default();
            match token {
                Token::Other(b'0'..=b'9') if seen.iter().all(u8::is_ascii_digit) => {
                    holes.push(Hole::Number(from, to));
                }
                Token::Literal => {
                    if let [b'\'', inside @ .., b'\''] = seen
                        && memchr::memchr2(b'\'', b'\\', inside).is_none()
                    {
                        holes.push(Hole::Text(from + 1, to - 1));
                    }
                }
                _ => {}
            }
        }
        let fits = lexer.ambiguous_from().is_none() && holes.len() <= HOLES;
        fits.then(|| Self { text: sql.into(), holes: holes.into(), entry: entry.clone() })
    }

    /// Whether `sql` is this statement with other constants. What lies between the constants is the same, byte by
    /// byte, and so each token ends where it did.
    #[inline]
    pub(super) fn fits(&self, sql: &[u8]) -> bool {
        let (mut rest, mut from) = (sql, 0);
        for hole in &self.holes {
            let (Hole::Number(begin, end) | Hole::Text(begin, end)) = *hole;
            let Some(after) = self.text.get(from..begin).and_then(|between| rest.strip_prefix(between))
            else {
                return false;
            };
            let n = match hole {
                Hole::Number(..) => {
                    let digits = after.iter().take_while(|b| b.is_ascii_digit()).count();
                    if digits == 0 {
                        return false;
                    }
                    digits
                }
                Hole::Text(..) => match memchr::memchr2(b'\'', b'\\', after) {
                    Some(n) => n,
                    None => return false,
                },
            };
            rest = after.get(n..).unwrap_or_default();
            from = end;
        }
        self.text.get(from..) == Some(rest)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::{Scope, Store};
    use super::*;
    use crate::proto::sql::fingerprint::fingerprint;

    fn template(sql: &str) -> Option<Template> {
        let scope = Scope::new(Arc::new(Store::new(10)), "app".into());
        Template::new(sql.as_bytes(), &scope.entry(1, || sql.as_bytes()))
    }

    #[test]
    fn only_constants_may_differ() {
        let t = template("SELECT a1 FROM t WHERE id = 12 AND name = 'x'").unwrap();
        for same in [
            "SELECT a1 FROM t WHERE id = 9 AND name = ''",
            "SELECT a1 FROM t WHERE id = 123456 AND name = 'y z'",
        ] {
            assert!(t.fits(same.as_bytes()), "{same}");
        }
        for other in [
            "SELECT a2 FROM t WHERE id = 12 AND name = 'x'",
            "SELECT a1 FROM t WHERE id =  AND name = 'x'",
            "SELECT a1 FROM t WHERE id = 1.5 AND name = 'x'",
            "SELECT a1 FROM t WHERE id = 12 AND name = 'it''s'",
            r"SELECT a1 FROM t WHERE id = 12 AND name = '\'",
            "SELECT a1 FROM t WHERE id = 12 AND name = 'x' ",
            "SELECT a1 FROM t WHERE id = 12 AND name = 'x",
            "SELECT a1 FROM t WHERE id = 12",
            "",
        ] {
            assert!(!t.fits(other.as_bytes()), "{other}");
        }
    }

    #[test]
    fn what_fits_is_the_same_statement() {
        let part = "(SELECT|a|b1|1|22|'x'|'yz'|''|'it''s'|E'q'|-|\\+|,|\\(|\\)| |\\$1|\\$\\$1\\$\\$|1\\.5|1e5|/\\*7\\*/|--8|\n|;|IN|VALUES|\"3\"|\\\\)";
        let text = proptest::collection::vec(proptest::string::string_regex(part).unwrap(), 1..12);
        proptest!(ProptestConfig::with_cases(3000), |(parts in text, n in 0..1000_u32, s in "[a-z' 0-9]{0,3}")| {
            let one: String = parts.concat();
            let other: String =
                parts.iter().map(|p| match p.as_str() {
                    "1" | "22" => n.to_string(),
                    "'x'" | "'yz'" => format!("'{s}'"),
                    p => p.to_owned(),
                }).collect();
            if let Some(t) = template(&one) {
                prop_assert!(t.fits(one.as_bytes()), "{one}");
                if t.fits(other.as_bytes()) {
                    prop_assert_eq!(fingerprint(one.as_bytes()), fingerprint(other.as_bytes()), "{}\n{}", one, other);
                }
            }
        });
    }
}
