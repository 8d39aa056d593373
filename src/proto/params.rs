//! Sets of run-time parameters. [`super::session`] says what a client's and a server connection's sets mean.
//!
//! Sets are interned, so that the usual case, a connection that is as its next client wants it, is two pointers
//! compared.

use std::collections::HashSet;
use std::sync::{Arc, Weak};

use parking_lot::Mutex;

/// Parameters that are kept of one connection: PostgreSQL reports some fifteen.
pub const MOST: usize = 1000;
/// Their names and values with what each entry costs.
pub const MOST_BYTES: usize = 64 * 1024;
/// What an entry costs beside the bytes of its name and its value.
const ENTRY: usize = 64;

/// A server reports more parameters than are kept of one connection.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "it reports {count} parameters that take {bytes} bytes, and at most {MOST} parameters and {MOST_BYTES} bytes are \
     kept of one connection"
)]
pub struct Excess {
    pub count: usize,
    pub bytes: usize,
}

/// Parameters by name; names compare without case, as in PostgreSQL. Sorted.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct ParamSet(Vec<(Box<str>, Box<[u8]>)>);

fn key(name: &str) -> impl Iterator<Item = u8> + '_ {
    name.bytes().map(|b| b.to_ascii_lowercase())
}

impl ParamSet {
    fn position(&self, name: &str) -> Result<usize, usize> {
        self.0.binary_search_by(|(n, _)| key(n).cmp(key(name)))
    }

    pub fn get(&self, name: &str) -> Option<&[u8]> {
        self.position(name).ok().and_then(|i| self.0.get(i)).map(|(_, v)| &**v)
    }

    pub fn set(&mut self, name: &str, value: &[u8]) {
        match self.position(name) {
            Ok(i) => {
                if let Some(e) = self.0.get_mut(i) {
                    e.1 = value.into();
                }
            }
            Err(i) => self.0.insert(i, (name.into(), value.into())),
        }
    }

    /// Sets it, if the set stays within what may be kept of one connection. A server can report names without end.
    pub fn set_within(&mut self, name: &str, value: &[u8]) -> Result<(), Excess> {
        let known = self.get(name);
        let count = self.len() + usize::from(known.is_none());
        let others: usize = self.iter().map(|(n, v)| ENTRY + n.len() + v.len()).sum();
        let replaced = known.map_or(0, |v| ENTRY + name.len() + v.len());
        let bytes = others - replaced + ENTRY + name.len() + value.len();
        if count > MOST || bytes > MOST_BYTES {
            return Err(Excess { count, bytes });
        }
        self.set(name, value);
        Ok(())
    }

    pub fn remove(&mut self, name: &str) {
        if let Ok(i) = self.position(name) {
            self.0.remove(i);
        }
    }

    pub fn iter(&self) -> impl Iterator<Item = (&str, &[u8])> {
        self.0.iter().map(|(n, v)| (&**n, &**v))
    }

    pub fn len(&self) -> usize {
        self.0.len()
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// Equal sets are one allocation, so that equality is `Arc::ptr_eq`.
#[derive(Debug, Default)]
pub struct ParamInterner {
    sets: Mutex<HashSet<Entry>>,
}

#[derive(Debug)]
struct Entry(Weak<ParamSet>, u64);

impl PartialEq for Entry {
    fn eq(&self, other: &Self) -> bool {
        self.1 == other.1
            && match (self.0.upgrade(), other.0.upgrade()) {
                (Some(a), Some(b)) => a == b,
                _ => Weak::ptr_eq(&self.0, &other.0),
            }
    }
}
impl Eq for Entry {}
impl std::hash::Hash for Entry {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        state.write_u64(self.1);
    }
}

fn fingerprint(set: &ParamSet) -> u64 {
    use std::hash::{Hash, Hasher};
    let mut h = std::collections::hash_map::DefaultHasher::new();
    set.hash(&mut h);
    h.finish()
}

impl ParamInterner {
    pub fn intern(&self, set: ParamSet) -> Arc<ParamSet> {
        let f = fingerprint(&set);
        let new = Arc::new(set);
        let probe = Entry(Arc::downgrade(&new), f);
        let mut sets = self.sets.lock();
        if let Some(found) = sets.get(&probe).and_then(|e| e.0.upgrade()) {
            return found;
        }
        if sets.len() >= 64 && sets.len().is_power_of_two() {
            sets.retain(|e| e.0.strong_count() > 0);
        }
        sets.insert(probe);
        new
    }
}

/// Reported, but not to be set by anybody.
pub fn is_fixed(name: &str) -> bool {
    const FIXED: [&str; 7] = [
        "in_hot_standby",
        "integer_datetimes",
        "is_superuser",
        "server_encoding",
        "server_version",
        "session_authorization",
        "max_identifier_length",
    ];
    FIXED.iter().any(|f| f.eq_ignore_ascii_case(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(pairs: &[(&str, &str)]) -> ParamSet {
        let mut s = ParamSet::default();
        for (n, v) in pairs {
            s.set(n, v.as_bytes());
        }
        s
    }

    #[test]
    fn names_compare_without_case() {
        let s = set(&[("TimeZone", "UTC"), ("DateStyle", "ISO, MDY")]);
        assert_eq!(s.get("timezone"), Some(&b"UTC"[..]));
        assert_eq!(s.get("DATESTYLE"), Some(&b"ISO, MDY"[..]));
    }

    #[test]
    fn what_is_kept_of_a_connection_is_bounded_in_number_and_in_bytes() {
        let mut many = ParamSet::default();
        let refused = (0..).find_map(|n| many.set_within(&format!("p{n}"), b"").err()).expect("a bound");
        assert_eq!(
            (refused.count, many.len()),
            (966, 965),
            "of the shortest names the bytes are too many first"
        );
        assert!(refused.bytes > MOST_BYTES, "{refused}");

        let mut large = ParamSet::default();
        for n in 0..3 {
            large.set_within(&format!("p{n}"), &[b'x'; 20_000]).expect("room");
        }
        let refused = large.set_within("p3", &[b'x'; 20_000]).expect_err("no room");
        assert_eq!((refused.count, large.len()), (4, 3));
        // A value in place of another counts once.
        for _ in 0..1000 {
            large.set_within("P1", &[b'y'; 20_000]).expect("room for what was there");
        }
        assert_eq!(large.get("p1").map(<[u8]>::len), Some(20_000));
    }

    #[test]
    fn equal_sets_are_one() {
        let i = ParamInterner::default();
        let a = i.intern(set(&[("a", "1")]));
        let b = i.intern(set(&[("a", "1")]));
        let c = i.intern(set(&[("a", "2")]));
        assert!(Arc::ptr_eq(&a, &b));
        assert!(!Arc::ptr_eq(&a, &c));
    }
}
