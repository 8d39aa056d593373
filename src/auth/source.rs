//! By whose word a secret is a user's, and what is kept of secrets by that word.
//!
//! One name may be a role of several servers, each with a secret of its own, and whoever runs one of them decides what
//! it answers. So nothing is kept by the name of a user alone.

use std::collections::HashMap;
use std::sync::Arc;

use crate::auth::ScramKeys;
use crate::config::resolved::{Lookup, Secret};

/// By whose word.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Source {
    /// The configuration's, or its `auth_file`'s.
    Listed,
    /// A server's: what it answers to this question in this database.
    Asked { database: String, asker: String, query: Option<String> },
    /// A directory's: LDAP or PAM.
    Directory,
}

impl Source {
    /// What a client of `database` is looked up by.
    pub fn asked(how: &Lookup, database: &str) -> Self {
        Self::Asked {
            database: how.database.as_deref().unwrap_or(database).to_owned(),
            asker: how.user.clone().unwrap_or_default(),
            query: how.query.clone(),
        }
    }
}

/// Something of each user, apart for each source. A source that brings ever new users makes room among its own.
#[derive(Debug)]
pub struct BySource<V>(HashMap<Source, HashMap<String, V>>);

impl<V> Default for BySource<V> {
    fn default() -> Self {
        Self(HashMap::new())
    }
}

/// Users of one source that are kept. Which of them goes when there are more does not matter: it is found out anew.
const MOST: usize = 10_000;

impl<V> BySource<V> {
    pub fn get(&self, source: &Source, user: &str) -> Option<&V> {
        self.0.get(source)?.get(user)
    }

    pub fn get_mut(&mut self, source: &Source, user: &str) -> Option<&mut V> {
        self.0.get_mut(source)?.get_mut(user)
    }

    pub fn put(&mut self, source: &Source, user: &str, value: V) {
        if !self.0.contains_key(source) {
            self.0.insert(source.clone(), HashMap::new());
        }
        let Some(users) = self.0.get_mut(source) else { return };
        if users.len() >= MOST
            && !users.contains_key(user)
            && let Some(one) = users.keys().next().cloned()
        {
            users.remove(&one);
        }
        users.insert(user.to_owned(), value);
    }

    pub fn remove(&mut self, source: &Source, user: &str) {
        if let Some(users) = self.0.get_mut(source) {
            users.remove(user);
            if users.is_empty() {
                self.0.remove(source);
            }
        }
    }

    pub fn values_mut(&mut self) -> impl Iterator<Item = &mut V> {
        self.0.values_mut().flat_map(HashMap::values_mut)
    }
}

/// What a client has shown of its secret at its login.
#[derive(Clone)]
pub struct Shown {
    pub secret: Secret,
    /// Where the secret is a SCRAM verifier that the client has proved to know the password of: with these keys a
    /// server that has the same verifier is logged in to.
    pub keys: Option<ScramKeys>,
}

/// What clients have shown, for the server connections of their pools. It belongs to one database and the user that
/// its pool logs in as: only the server of that database is ever answered with it, and no login to another database
/// replaces it. Entries end with their pools.
#[derive(Default)]
pub struct Keyring(HashMap<(Arc<str>, Arc<str>), Shown>);

impl std::fmt::Debug for Keyring {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Keyring({} entries)", self.0.len())
    }
}

impl Keyring {
    pub fn put(&mut self, database: &Arc<str>, user: &Arc<str>, shown: Shown) {
        let key = (database.clone(), user.clone());
        // One who came in without a proof, by a rule that trusts, leaves the keys of the one who gave it.
        let keeps = shown.keys.is_none() && self.0.get(&key).is_some_and(|s| s.secret == shown.secret);
        if !keeps {
            self.0.insert(key, shown);
        }
    }

    pub fn get(&self, database: &Arc<str>, user: &Arc<str>) -> Option<&Shown> {
        self.0.get(&(database.clone(), user.clone()))
    }

    /// Forgets those of database and user for which `still` is false.
    pub fn retain(&mut self, still: impl Fn(&(Arc<str>, Arc<str>)) -> bool) {
        self.0.retain(|key, _| still(key));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::auth::DeriveJob;

    fn keys(password: &[u8], salt: &[u8]) -> ScramKeys {
        DeriveJob::new(password, salt.to_vec(), 1).run()
    }

    #[test]
    fn what_is_kept_of_a_name_is_kept_apart_for_each_source() {
        let how = |query: Option<&str>, place: Option<&str>| Lookup {
            user: Some("asker".to_owned()),
            database: place.map(str::to_owned),
            query: query.map(str::to_owned),
        };
        let a = Source::asked(&how(None, None), "a");
        let b = Source::asked(&how(None, None), "b");
        let other = Source::asked(&how(Some("SELECT 1"), None), "a");
        let shared = Source::asked(&how(None, Some("a")), "b");
        assert_eq!(a, shared, "the same question in the same database");
        let mut kept = BySource::default();
        for (n, source) in [&a, &b, &other, &Source::Listed, &Source::Directory].into_iter().enumerate() {
            kept.put(source, "u", n);
        }
        assert_eq!(
            (kept.get(&a, "u"), kept.get(&b, "u"), kept.get(&other, "u")),
            (Some(&0), Some(&1), Some(&2))
        );
        assert_eq!((kept.get(&Source::Listed, "u"), kept.get(&a, "v")), (Some(&3), None));
        kept.remove(&b, "u");
        assert_eq!((kept.get(&a, "u"), kept.get(&b, "u")), (Some(&0), None));
    }

    /// A tenant whose server knows every name has room for so many, and takes none of another's.
    #[test]
    fn a_source_of_ever_new_names_pushes_out_its_own_alone() {
        let mut kept = BySource::default();
        let other = Source::asked(&Lookup::default(), "b");
        kept.put(&Source::Listed, "owner", 0);
        for n in 0..MOST + 100 {
            kept.put(&other, &format!("u{n}"), n);
        }
        assert_eq!(kept.get(&Source::Listed, "owner"), Some(&0));
        assert_eq!(kept.0[&other].len(), MOST);
        assert!(kept.get(&other, &format!("u{}", MOST + 99)).is_some(), "the newest is there");
    }

    #[test]
    fn a_ring_has_keys_of_each_database_and_keeps_them_where_nobody_proves_anything() {
        let mut ring = Keyring::default();
        let (a, b, u): (Arc<str>, Arc<str>, Arc<str>) = ("a".into(), "b".into(), "u".into());
        let shown = |secret: &str, salt: Option<&[u8]>| Shown {
            secret: Secret::classify(secret),
            keys: salt.map(|s| keys(b"p", s)),
        };
        ring.put(&a, &u, shown("one", Some(b"salt of a")));
        ring.put(&b, &u, shown("two", Some(b"salt of b")));
        let salt = |ring: &Keyring, d: &Arc<str>| {
            ring.get(d, &u).and_then(|s| s.keys.as_ref()).map(|k| k.salt.clone())
        };
        assert_eq!(salt(&ring, &a).as_deref(), Some(&b"salt of a"[..]));
        assert_eq!(salt(&ring, &b).as_deref(), Some(&b"salt of b"[..]));
        ring.put(&a, &u, shown("one", None));
        assert_eq!(salt(&ring, &a).as_deref(), Some(&b"salt of a"[..]), "the same secret, and no proof");
        ring.put(&a, &u, shown("new", None));
        assert_eq!(salt(&ring, &a), None, "keys of another secret are of no use");
        ring.retain(|(d, _)| **d == *"b");
        assert!(ring.get(&a, &u).is_none() && ring.get(&b, &u).is_some());
    }
}
