//! A statement's text as it came, with the places of its constants: the next text that differs in them only is known
//! by comparing bytes, which costs a fraction of reading it.

use std::sync::Arc;

use super::Entry;
use crate::proto::sql::lexer::{Lexer, Token};
use crate::proto::sql::needs_look;

/// Longer texts are read each time.
const LONGEST: usize = 512;
/// So are those with more constants.
const HOLES: usize = 16;

/// A constant that may differ without any other token changing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Hole {
    /// Bytes between the constant before, or the beginning, and this one.
    before: u16,
    kind: Kind,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// Digits alone.
    Number,
    /// What stands between single quotes, without a quote or a backslash in it.
    Text,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Template {
    /// All but the constants.
    fixed: Box<[u8]>,
    holes: Box<[Hole]>,
    pub(super) entry: Arc<Entry>,
    /// Whether [`needs_look`] says so of this text. A constant cannot change what a statement is, so that what this
    /// text cannot do no other that fits can.
    pub(super) needs_look: bool,
}

impl Template {
    pub(super) fn new(sql: &[u8], entry: &Arc<Entry>) -> Option<Self> {
        if sql.len() > LONGEST {
            return None;
        }
        let mut lexer = Lexer::new(sql);
        let (mut fixed, mut holes) = (Vec::new(), Vec::new());
        let mut end = 0;
        let mut hole = |from: usize, to: usize, kind| {
            let between = sql.get(end..from).unwrap_or_default();
            fixed.extend_from_slice(between);
            holes.push(Hole { before: u16::try_from(between.len()).unwrap_or(u16::MAX), kind });
            end = to;
        };
        loop {
            lexer.take_blank();
            let from = sql.len() - lexer.rest().len();
            let Some(token) = lexer.next_token() else { break };
            let to = sql.len() - lexer.rest().len();
            let seen = sql.get(from..to).unwrap_or_default();
            match token {
                Token::Other(b'0'..=b'9') if seen.iter().all(u8::is_ascii_digit) => {
                    hole(from, to, Kind::Number);
                }
                Token::Literal => {
                    if let [b'\'', inside @ .., b'\''] = seen
                        && memchr::memchr2(b'\'', b'\\', inside).is_none()
                    {
                        hole(from + 1, to - 1, Kind::Text);
                    }
                }
                _ => {}
            }
        }
        fixed.extend_from_slice(sql.get(end..).unwrap_or_default());
        let fits = lexer.ambiguous_from().is_none() && holes.len() <= HOLES;
        fits.then(|| Self {
            fixed: fixed.into(),
            holes: holes.into(),
            entry: entry.clone(),
            needs_look: needs_look(sql),
        })
    }

    /// Whether `sql` is this statement with other constants. What lies between the constants is the same, byte by
    /// byte, and so each token ends where it did.
    #[inline(always)]
    pub(super) fn fits(&self, sql: &[u8]) -> bool {
        let (mut fixed, mut rest) = (&*self.fixed, sql);
        for hole in &self.holes {
            let n = usize::from(hole.before);
            let (Some((wanted, later)), Some((found, after))) =
                (fixed.split_at_checked(n), rest.split_at_checked(n))
            else {
                return false;
            };
            if !same(wanted, found) {
                return false;
            }
            let n = match hole.kind {
                Kind::Number => match digits(after) {
                    0 => return false,
                    n => n,
                },
                Kind::Text => match memchr::memchr2(b'\'', b'\\', after) {
                    Some(n) => n,
                    None => return false,
                },
            };
            (fixed, rest) = (later, after.get(n..).unwrap_or_default());
        }
        fixed.len() == rest.len() && same(fixed, rest)
    }
}

/// Whether two texts of one length are equal. What stands between constants is mostly short, and a call would cost
/// more than the comparison.
#[inline(always)]
pub(super) fn same(a: &[u8], b: &[u8]) -> bool {
    let ends = |t: &[u8]| Some((u64::from_le_bytes(*t.first_chunk()?), u64::from_le_bytes(*t.last_chunk()?)));
    if let (Some(a8), Some(b8)) = (ends(a), ends(b)) {
        return a8 == b8 && (a.len() <= 16 || a == b);
    }
    let ends = |t: &[u8]| Some((u32::from_le_bytes(*t.first_chunk()?), u32::from_le_bytes(*t.last_chunk()?)));
    match (ends(a), ends(b)) {
        (Some(a4), Some(b4)) => a4 == b4,
        _ => a.iter().eq(b),
    }
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
    use crate::proto::sql::{deallocate_name, effects};

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
        let part = "(SELECT|SET|RESET|INTO|TEMP|CREATE|DECLARE|HOLD|DEALLOCATE|a|b1|1|22|'x'|'yz'|''|'it''s'|E'q'|-|\\+|,|\\(|\\)| |\\$1|\\$\\$1\\$\\$|1\\.5|1e5|/\\*7\\*/|--8|\n|;|IN|VALUES|\"3\"|\\\\)";
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
                    // Whatever is found in the one is found in the other, so that one look does for both.
                    let found = |t: &str| (effects(t.as_bytes(), &|_| false), deallocate_name(t.as_bytes()));
                    prop_assert_eq!(found(&one), found(&other), "{}\n{}", one, other);
                }
            }
        });
    }
}
