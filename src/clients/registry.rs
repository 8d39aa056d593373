//! All clients that are logged in, and the places that they take.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use parking_lot::Mutex;

use super::handle::ClientCtl;
use crate::shared::{MOST_NAMES, OTHER_NAMES};

/// All clients that are logged in, by number; the number is the pid that they were told.
#[derive(Debug, Default)]
pub struct Clients {
    map: Mutex<HashMap<u64, Arc<ClientCtl>>>,
    next: AtomicU64,
    /// Connections that have been accepted and not ended.
    pub connected: AtomicUsize,
    /// Those of them that have not finished their login.
    pub logging_in: AtomicUsize,
    /// Descriptors that there are for clients, however many max_client_connections allows; 0 is not known.
    pub descriptors: AtomicUsize,
    /// Those that have proved who they are: `max_client_connections` bounds them.
    entered: AtomicUsize,
    per_database: Taken,
    per_user: Taken,
    /// Logins that succeeded, by database; only of names that are configured, or that matched a pattern.
    logins: Mutex<HashMap<String, u64>>,
}

/// The places of a client among those of its database and of its user; gives them back when dropped. The names are one
/// with those of all clients that have the same.
#[derive(Debug)]
pub struct Places {
    clients: Arc<Clients>,
    pub database: Arc<str>,
    pub user: Arc<str>,
}

impl Drop for Places {
    fn drop(&mut self) {
        self.clients.entered.fetch_sub(1, Ordering::Relaxed);
        give_back(&self.clients.per_database, &self.database);
        give_back(&self.clients.per_user, &self.user);
    }
}

/// How many places there are, and all are taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Full {
    All(usize),
    Database(usize),
    User(usize),
}

type Taken = Mutex<HashMap<Arc<str>, usize>>;

impl Clients {
    /// A number that fits a pid on the wire and is not in use.
    pub fn next_id(&self) -> u64 {
        let map = self.map.lock();
        loop {
            let id = self.next.fetch_add(1, Ordering::Relaxed) % (i32::MAX as u64) + 1;
            if !map.contains_key(&id) {
                return id;
            }
        }
    }

    /// Clients that have proved who they are.
    pub fn entered(&self) -> usize {
        self.entered.load(Ordering::Relaxed)
    }

    pub fn insert(&self, c: Arc<ClientCtl>) {
        self.map.lock().insert(c.id, c);
    }

    pub fn remove(&self, id: u64) {
        self.map.lock().remove(&id);
    }

    pub fn get(&self, id: u64) -> Option<Arc<ClientCtl>> {
        self.map.lock().get(&id).cloned()
    }

    /// Calls `f` for each client, with the map locked: `f` must be short.
    pub fn each(&self, mut f: impl FnMut(&ClientCtl)) {
        for c in self.map.lock().values() {
            f(c);
        }
    }

    pub fn all(&self) -> Vec<Arc<ClientCtl>> {
        self.map.lock().values().cloned().collect()
    }

    pub fn len(&self) -> usize {
        self.map.lock().len()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Somebody has proved who they are.
    pub fn count_login(&self, database: &str) {
        let mut logins = self.logins.lock();
        // Where a pattern takes any name, names are the clients' choice.
        let database =
            if logins.len() >= MOST_NAMES && !logins.contains_key(database) { OTHER_NAMES } else { database };
        match logins.get_mut(database) {
            Some(n) => *n += 1,
            None => drop(logins.insert(database.to_owned(), 1)),
        }
    }

    pub fn logins_of(&self, database: &str) -> u64 {
        self.logins.lock().get(database).copied().unwrap_or(0)
    }

    /// Clients of one database, its console apart.
    pub fn of_database(&self, database: &str) -> usize {
        self.per_database.lock().get(database).copied().unwrap_or(0)
    }

    pub fn of_user(&self, user: &str) -> usize {
        self.per_user.lock().get(user).copied().unwrap_or(0)
    }
}

impl Places {
    /// One place of all, one of the database and one of the user, each with its limit.
    pub fn take(
        clients: &Arc<Clients>,
        most_of_all: Option<u32>,
        (database, most): (&str, Option<u32>),
        (user, most_of_user): (&str, Option<u32>),
    ) -> Result<Self, Full> {
        let room = |n| most_of_all.is_none_or(|most| n < most as usize).then_some(n + 1);
        clients.entered.fetch_update(Ordering::Relaxed, Ordering::Relaxed, room).map_err(Full::All)?;
        let named = take(&clients.per_database, database, most).map_err(Full::Database).and_then(
            |database| match take(&clients.per_user, user, most_of_user) {
                Ok(user) => Ok((database, user)),
                Err(taken) => {
                    give_back(&clients.per_database, &database);
                    Err(Full::User(taken))
                }
            },
        );
        let (database, user) = named.inspect_err(|_| {
            clients.entered.fetch_sub(1, Ordering::Relaxed);
        })?;
        Ok(Self { clients: clients.clone(), database, user })
    }
}

fn take(taken: &Taken, name: &str, limit: Option<u32>) -> Result<Arc<str>, usize> {
    let mut taken = taken.lock();
    let known = taken.get_key_value(name).map(|(name, n)| (name.clone(), *n));
    let (name, n) = known.unwrap_or_else(|| (name.into(), 0));
    if limit.is_some_and(|l| n >= l as usize) {
        return Err(n);
    }
    taken.insert(name.clone(), n + 1);
    Ok(name)
}

fn give_back(taken: &Taken, name: &Arc<str>) {
    let mut taken = taken.lock();
    if let Some(n) = taken.get_mut(name) {
        *n -= 1;
        if *n == 0 {
            taken.remove(name);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_databases_are_kept_up_to_a_number() {
        let clients = Arc::new(Clients::default());
        for n in 0..MOST_NAMES + 500 {
            clients.count_login(&format!("d{n}"));
        }
        assert_eq!(clients.logins.lock().len(), MOST_NAMES + 1);
        assert_eq!(clients.logins_of(OTHER_NAMES), 500);
        clients.count_login("d1");
        assert_eq!(clients.logins_of("d1"), 2);
    }

    #[test]
    fn places_are_counted_and_their_names_shared() {
        let clients = Arc::new(Clients::default());
        let counted = || (clients.of_database("d"), clients.of_user("u"));
        let take = |most: u32, most_of_user: u32| {
            Places::take(&clients, Some(2), ("d", Some(most)), ("u", Some(most_of_user)))
        };
        let first = take(2, 2).expect("room");
        let second = take(2, 2).expect("room");
        assert!(Arc::ptr_eq(&first.database, &second.database) && Arc::ptr_eq(&first.user, &second.user));
        assert_eq!(counted(), (2, 2));
        // Whom one of the two refuses has no place in the other.
        assert_eq!((take(9, 9).err(), clients.entered()), (Some(Full::All(2)), 2));
        drop(second);
        assert_eq!(take(1, 3).err(), Some(Full::Database(1)));
        assert_eq!(take(3, 1).err(), Some(Full::User(1)));
        assert_eq!((counted(), clients.entered()), ((1, 1), 1));
        drop(first);
        assert_eq!(take(1, 0).err(), Some(Full::User(0)));
        assert_eq!((counted(), clients.entered()), ((0, 0), 0));
        assert!(clients.per_database.lock().is_empty() && clients.per_user.lock().is_empty());
    }
}
