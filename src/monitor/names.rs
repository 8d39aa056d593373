//! What the names of hosts mean: a name that leads elsewhere than before takes its servers with it. No I/O.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

/// What a look-up has found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Found {
    /// Nothing that was not known, or a name that is new.
    Same,
    /// Some of its addresses are others: new connections go there, the old ones stay.
    Changed,
    /// None of its addresses is one that it had.
    Moved,
}

/// The addresses of names when they were last found. A look-up that fails changes nothing.
#[derive(Debug, Default)]
pub struct Names(BTreeMap<String, BTreeSet<IpAddr>>);

impl Names {
    pub fn found(&mut self, name: &str, now: BTreeSet<IpAddr>) -> Found {
        if now.is_empty() {
            return Found::Same;
        }
        match self.0.insert(name.to_owned(), now.clone()) {
            None => Found::Same,
            Some(before) if before == now => Found::Same,
            Some(before) if before.is_disjoint(&now) => Found::Moved,
            Some(_) => Found::Changed,
        }
    }

    /// Forgets all names but these.
    pub fn keep(&mut self, names: &BTreeSet<String>) {
        self.0.retain(|n, _| names.contains(n));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(all: &[&str]) -> BTreeSet<IpAddr> {
        all.iter().map(|a| a.parse().expect("an address")).collect()
    }

    #[test]
    fn a_name_moves_when_none_of_its_addresses_stays() {
        let mut n = Names::default();
        assert_eq!(n.found("db", set(&["10.0.0.1", "10.0.0.2"])), Found::Same);
        assert_eq!(n.found("db", set(&["10.0.0.2", "10.0.0.1"])), Found::Same);
        assert_eq!(n.found("db", set(&["10.0.0.2", "10.0.0.3"])), Found::Changed);
        assert_eq!(n.found("db", set(&[])), Found::Same, "no address is no news");
        assert_eq!(n.found("db", set(&["10.0.0.4"])), Found::Moved);
        assert_eq!(n.found("db", set(&["10.0.0.4"])), Found::Same);
        n.keep(&BTreeSet::new());
        assert_eq!(n.found("db", set(&["10.0.0.5"])), Found::Same, "it was taken out of the configuration");
    }
}
