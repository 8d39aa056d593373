//! How long Howdah may answer a client's Parse with what another client has had parsed.
//!
//! PostgreSQL fixes the types of a statement's parameters when it is parsed, and its columns when it is first described:
//! after a change of the tables it makes a new plan, but keeps the types (PostgreSQL documentation, "PREPARE"). So a
//! statement that was parsed before an ALTER TABLE is not what a new Parse of the same text would give. Howdah sees DDL
//! that goes through it by the completion tags; it cannot see other DDL. Therefore it trusts a shared text for one second
//! after a server has parsed it, and only while some client has it.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};

use super::super::frame;

/// Milliseconds for which a text is trusted.
const TRUSTED: u64 = 1000;

/// When a Parse was sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Moment {
    /// In milliseconds of [`crate::clock::Clock`].
    pub ms: u64,
    /// How many transactions with DDL had gone through Howdah by then.
    pub changes: u64,
}

/// What a server says of a statement: the types of its parameters, and its columns.
#[derive(Debug, PartialEq, Eq)]
pub struct Shape {
    /// The body of its ParameterDescription, which ends a Parse message in the same form.
    types: Box<[u8]>,
    /// A hash of its RowDescription, 0 for NoData. `None`: it was too long to be looked at.
    columns: Option<u64>,
}

impl Shape {
    pub fn new(types: Box<[u8]>, columns: Option<u64>) -> Self {
        Self { types, columns }
    }

    pub fn types(&self) -> &[u8] {
        &self.types
    }

    /// Whether both are known to be the same.
    fn is(&self, other: &Self) -> bool {
        self.columns.is_some() && self == other
    }
}

/// Of a RowDescription what PostgreSQL compares before it runs a statement again: names, types, lengths and modifiers. Which
/// table a column comes from may change. `None`: it is malformed.
pub(super) fn columns_of(description: &[u8]) -> Option<Vec<u8>> {
    let (n, mut rest) = description.split_first_chunk::<2>()?;
    let mut columns = n.to_vec();
    for _ in 0..u16::from_be_bytes(*n) {
        let (name, after) = frame::cstr(rest)?;
        // The table's OID and the column's number, the type's OID, its length and modifier, the format.
        let (fields, after) = after.split_first_chunk::<18>()?;
        columns.extend_from_slice(name);
        columns.push(0);
        columns.extend_from_slice(fields.get(6..16)?);
        rest = after;
    }
    Some(columns)
}

/// Of one statement.
#[derive(Debug)]
pub(super) struct Trust {
    ms: AtomicU64,
    changes: AtomicU64,
    /// How many clients' names stand for it.
    names: AtomicUsize,
    shape: OnceLock<Shape>,
    stale: AtomicBool,
}

impl Trust {
    pub(super) fn new(sent: Moment) -> Self {
        Self {
            ms: AtomicU64::new(sent.ms),
            changes: AtomicU64::new(sent.changes),
            names: AtomicUsize::new(0),
            shape: OnceLock::new(),
            stale: AtomicBool::new(false),
        }
    }

    /// Whether Howdah may answer a Parse of the text itself.
    pub(super) fn holds(&self, now: Moment) -> bool {
        self.is_of(now)
            && now.ms < self.ms.load(Ordering::Relaxed) + TRUSTED
            && self.names.load(Ordering::Relaxed) > 0
    }

    /// Whether no DDL has gone through Howdah between the two.
    pub(super) fn is_of(&self, sent: Moment) -> bool {
        self.changes.load(Ordering::Relaxed) == sent.changes
    }

    /// Whether DDL has gone through Howdah between `sent` and its own Parse.
    pub(super) fn is_later(&self, sent: Moment) -> bool {
        self.changes.load(Ordering::Relaxed) > sent.changes
    }

    /// A Parse of the same text, sent at that moment, has given the same shape.
    pub(super) fn renew(&self, sent: Moment) {
        self.ms.fetch_max(sent.ms, Ordering::Relaxed);
    }

    pub(super) fn shape(&self) -> Option<&Shape> {
        self.shape.get()
    }

    pub(super) fn is_shaped(&self, shape: &Shape) -> bool {
        self.shape.get().is_some_and(|s| s.is(shape))
    }

    pub(super) fn has_other_columns(&self, shape: &Shape) -> bool {
        self.shape.get().is_some_and(|s| s.columns != shape.columns)
    }

    /// Whether both are known, and differ.
    pub(super) fn is_known_to_differ(&self, columns: Option<u64>) -> bool {
        self.shape.get().is_some_and(|s| s.columns.is_some() && s.columns != columns)
    }

    /// The first one counts.
    pub(super) fn learn(&self, shape: Shape) {
        let _ = self.shape.set(shape);
    }

    pub(super) fn is_stale(&self) -> bool {
        self.stale.load(Ordering::Relaxed)
    }

    pub(super) fn make_stale(&self) {
        self.stale.store(true, Ordering::Relaxed);
    }

    pub(super) fn named(&self) {
        self.names.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn unnamed(&self) {
        self.names.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_is_trusted_for_a_second_while_a_client_has_it_and_nothing_was_changed() {
        let at = |ms, changes| Moment { ms, changes };
        let t = Trust::new(at(100, 3));
        assert!(!t.holds(at(100, 3)), "nobody has it");
        t.named();
        assert!(t.holds(at(100, 3)) && t.holds(at(1099, 3)));
        assert!(!t.holds(at(1100, 3)) && !t.holds(at(100, 4)));
        t.renew(at(900, 3));
        assert!(t.holds(at(1899, 3)) && !t.holds(at(1900, 3)));
        t.renew(at(200, 3));
        assert!(t.holds(at(1899, 3)), "an older answer that comes late takes nothing back");
        t.unnamed();
        assert!(!t.holds(at(1000, 3)));
    }

    #[test]
    fn columns_are_names_and_types_and_not_where_they_come_from() {
        let column = |name: &[u8], table: u32, oid: u32, modifier: i32| {
            let oids = [table.to_be_bytes().as_slice(), &[0, 1], &oid.to_be_bytes(), &[0, 4]].concat();
            [name, &[0], &oids, &modifier.to_be_bytes(), &[0, 0]].concat()
        };
        let of = |c: &[u8]| columns_of(&[&[0, 1], c].concat());
        let one = of(&column(b"a", 7, 23, -1));
        assert!(one.is_some());
        assert_eq!(one, of(&column(b"a", 8, 23, -1)), "the table was created anew");
        assert_ne!(one, of(&column(b"b", 7, 23, -1)));
        assert_ne!(one, of(&column(b"a", 7, 25, -1)));
        assert_ne!(one, of(&column(b"a", 7, 23, 34)));
        assert_eq!(of(&column(b"a", 7, 23, -1)[..5]), None);
    }

    #[test]
    fn what_is_too_long_to_be_looked_at_is_the_same_as_nothing() {
        let shape = |columns| Shape::new(Box::new([0, 0]), columns);
        let t = Trust::new(Moment { ms: 0, changes: 0 });
        t.learn(shape(None));
        assert!(!t.is_shaped(&shape(None)));
        let t = Trust::new(Moment { ms: 0, changes: 0 });
        t.learn(shape(Some(1)));
        assert!(t.is_shaped(&shape(Some(1))) && !t.is_shaped(&shape(Some(2))));
        assert!(t.has_other_columns(&shape(Some(2))));
    }
}
