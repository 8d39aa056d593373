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
            let Some(between) = self.text.get(from..begin) else { return false };
            let Some((head, after)) = rest.split_at_checked(between.len()) else { return false };
            if !same(head, between) {
                return false;
            }
            let n = match hole {
                Hole::Number(..) => match digits(after) {
                    0 => return false,
                    n => n,
                },
                Hole::Text(..) => match memchr::memchr2(b'\'', b'\\', after) {
                    Some(n) => n,
                    None => return false,
                },
            };
            rest = after.get(n..).unwrap_or_default();
            from = end;
        }
        let end = self.text.get(from..).unwrap_or_default();
        end.len() == rest.len() && same(end, rest)
    }
}

/// Whether two texts of one length are equal. What stands between constants is mostly short, and a call would cost
/// more than the comparison.
#[inline]
fn same(a: &[u8], b: &[u8]) -> bool {
    if let (Some(a0), Some(b0), Some(a1), Some(b1)) =
        (a.first_chunk::<8>(), b.first_chunk::<8>(), a.last_chunk::<8>(), b.last_chunk::<8>())
    {
        return a0 == b0 && a1 == b1 && (a.len() <= 16 || a == b);
    }
    if let (Some(a0), Some(b0), Some(a1), Some(b1)) =
        (a.first_chunk::<4>(), b.first_chunk::<4>(), a.last_chunk::<4>(), b.last_chunk::<4>())
    {
        return a0 == b0 && a1 == b1;
    }
    a.iter().eq(b)
}

/// How many digits a text begins with.
#[inline]
fn digits(text: &[u8]) -> usize {
    if let Some(eight) = text.first_chunk::<8>() {
        // A digit is 0 to 9 without the bits of b'0'; 0x76 more does not reach the highest bit then. A carry spoils
        // only what stands behind the first other byte.
        let bytes = u64::from_le_bytes(*eight) ^ 0x3030_3030_3030_3030;
        let others = (bytes.wrapping_add(0x7676_7676_7676_7676) | bytes) & 0x8080_8080_8080_8080;
        if others != 0 {
            return others.trailing_zeros() as usize / 8;
        }
    }
    text.iter().position(|b| !b.is_ascii_digit()).unwrap_or(text.len())
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
    fn words_and_digits() {
        for n in 0..40 {
            let text = vec![b'x'; n];
            assert!(same(&text, &text.clone()));
            for at in 0..n {
                let mut other = text.clone();
                other[at] = b'y';
                assert!(!same(&text, &other), "{n} {at}");
            }
            for b in 0..=u8::MAX {
                let text: Vec<u8> = (0..n).map(|i| b'0' + (i % 10) as u8).chain([b, b'9', b' ']).collect();
                let wanted = text.iter().take_while(|b| b.is_ascii_digit()).count();
                assert_eq!(digits(&text), wanted, "{n} {b}");
            }
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
