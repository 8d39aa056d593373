//! Who guesses passwords: failed logins by address, user and the source of its secret, each with an allowance that fills again within a minute.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::time::{Duration, Instant};

use super::source::Source;

/// Names and addresses are the clients' choice: no more of them are remembered.
const MOST: usize = 10_000;
/// In which an allowance that was used up is whole again.
const WINDOW: f64 = 60.0;
/// For how long it is known that a user has come in from an address.
const KNOWN_FOR: Duration = Duration::from_secs(24 * 3600);

/// Whose secret somebody says to have, and from where.
///
/// By whose word the secret is right belongs to it: one name has other secrets elsewhere, and who knows one of them has
/// proved nothing of the others.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Claim {
    /// `None` is the Unix socket.
    address: Option<IpAddr>,
    source: Source,
    user: String,
}

impl Claim {
    pub fn new(address: Option<IpAddr>, source: &Source, user: &str) -> Self {
        Self { address: address.map(network), source: source.clone(), user: user.to_owned() }
    }
}

/// Whoever has one address of IPv6 commonly has its /64, and could guess from a new one each time: they count as one.
/// One of IPv4 that arrived on a socket of IPv6 is itself.
pub fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(a) => Ipv6Addr::from_bits(a.to_bits() & !u128::from(u64::MAX)).into(),
        v4 @ IpAddr::V4(_) => v4,
    }
}

/// Who counts as one, for people: an address, a network, or everybody on this machine.
pub fn origin(address: Option<IpAddr>) -> String {
    match address.map(network) {
        None => "the Unix socket".to_owned(),
        Some(IpAddr::V4(a)) => a.to_string(),
        Some(IpAddr::V6(a)) => format!("{a}/64"),
    }
}

#[derive(Debug, Clone, Copy)]
struct Entry {
    /// Failures that are not forgotten yet.
    level: f64,
    at: Instant,
}

impl Entry {
    /// What is left of it by now, at `limit` failures that are forgotten in a minute.
    fn level(&self, now: Instant, limit: u32) -> f64 {
        let forgotten = now.saturating_duration_since(self.at).as_secs_f64() * f64::from(limit) / WINDOW;
        (self.level - forgotten).max(0.0)
    }
}

/// Whether a login may be tried.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    Free,
    /// There were too many failures, and nobody is asked for a secret.
    LockedOut,
    /// There were too many failures, but this user has come in from there before: who has the secret comes in. Somebody
    /// who guesses behind the same address would keep the owner out otherwise, with one guess every few seconds.
    LockedOutButKnown,
}

#[derive(Debug, Default)]
pub struct Failures {
    failed: HashMap<Claim, Entry>,
    /// Who has come in with a secret, and when last.
    known: HashMap<Claim, Instant>,
}

impl Failures {
    /// `limit` is the number of failures in a minute, 0 is no limit.
    pub fn standing(&self, now: Instant, limit: u32, who: &Claim) -> Standing {
        let free =
            limit == 0 || self.failed.get(who).is_none_or(|e| e.level(now, limit) + 1.0 <= f64::from(limit));
        // A directory is asked about each guess, and locks accounts by a count of its own.
        let may_be_known = who.source != Source::Directory;
        let recent = |at: &Instant| now.saturating_duration_since(*at) < KNOWN_FOR;
        match free {
            true => Standing::Free,
            false if may_be_known && self.known.get(who).is_some_and(recent) => Standing::LockedOutButKnown,
            false => Standing::LockedOut,
        }
    }

    /// One has failed.
    pub fn failed(&mut self, now: Instant, limit: u32, who: &Claim) {
        if limit == 0 {
            return;
        }
        if self.failed.len() >= MOST && !self.failed.contains_key(who) {
            self.failed.retain(|_, e| e.level(now, limit) > 0.0);
            // Full of those that failed just now: the one that matters least goes.
            if self.failed.len() >= MOST {
                let least =
                    self.failed.iter().min_by(|a, b| a.1.level(now, limit).total_cmp(&b.1.level(now, limit)));
                if let Some(who) = least.map(|(w, _)| w.clone()) {
                    self.failed.remove(&who);
                }
            }
        }
        let e = self.failed.entry(who.clone()).or_insert(Entry { level: 0.0, at: now });
        // What is let through to be compared is not a debt that grows.
        let level = (e.level(now, limit) + 1.0).min(f64::from(limit));
        *e = Entry { level, at: now };
    }

    /// A login has succeeded: who has the secret does not guess.
    pub fn succeeded(&mut self, now: Instant, limit: u32, who: &Claim) {
        if limit == 0 {
            return;
        }
        if !self.failed.is_empty() {
            self.failed.remove(who);
        }
        if self.known.len() >= MOST && !self.known.contains_key(who) {
            self.known.retain(|_, at| now.saturating_duration_since(*at) < KNOWN_FOR);
            if self.known.len() >= MOST
                && let Some(oldest) = self.known.iter().min_by_key(|(_, at)| **at).map(|(w, _)| w.clone())
            {
                self.known.remove(&oldest);
            }
        }
        match self.known.get_mut(who) {
            Some(at) => *at = now,
            None => drop(self.known.insert(who.clone(), now)),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::clock::Clock;

    fn at(address: &str, user: &str) -> Claim {
        Claim::new(Some(address.parse().expect("an address")), &Source::Listed, user)
    }

    fn may_try(f: &Failures, now: Instant, limit: u32, who: &Claim) -> bool {
        f.standing(now, limit, who) != Standing::LockedOut
    }

    #[test]
    fn an_allowance_is_used_up_and_fills_again() {
        let (mut f, now) = (Failures::default(), Clock::now());
        let here = at("10.0.0.1", "u");
        for _ in 0..6 {
            assert_eq!(f.standing(now, 6, &here), Standing::Free);
            f.failed(now, 6, &here);
        }
        assert_eq!(f.standing(now, 6, &here), Standing::LockedOut);
        let socket = Claim::new(None, &Source::Listed, "u");
        assert!(
            may_try(&f, now, 6, &at("10.0.0.1", "v")) && may_try(&f, now, 6, &socket),
            "of one address and one user"
        );
        assert!(may_try(&f, now, 0, &here), "without a limit");
        let later = now + Duration::from_secs(10);
        assert!(may_try(&f, later, 6, &here), "one is forgotten");
        f.failed(later, 6, &here);
        assert!(!may_try(&f, later, 6, &here));
    }

    /// Guesses go on for an hour; the owner's logins are compared all the time, and nobody else's.
    #[test]
    fn who_has_come_in_from_an_address_is_not_kept_out_by_guesses_from_there() {
        let (mut f, mut now) = (Failures::default(), Clock::now());
        let (owner, elsewhere) = (at("10.0.0.1", "u"), at("10.0.0.2", "u"));
        f.succeeded(now, 3, &owner);
        for _ in 0..3600 {
            f.failed(now, 3, &owner);
            f.failed(now, 3, &elsewhere);
            now += Duration::from_secs(1);
        }
        assert_eq!(f.standing(now, 3, &owner), Standing::LockedOutButKnown);
        assert_eq!(f.standing(now, 3, &elsewhere), Standing::LockedOut);
        // Of another word for the same name nothing is known.
        let asked = Source::Asked { database: "b".to_owned(), asker: "a".to_owned(), query: None };
        let there = Claim::new(Some("10.0.0.1".parse().expect("an address")), &asked, "u");
        for _ in 0..3 {
            f.failed(now, 3, &there);
        }
        assert_eq!(f.standing(now, 3, &there), Standing::LockedOut);
        f.succeeded(now, 3, &there);
        assert_eq!(
            f.standing(now, 3, &owner),
            Standing::LockedOutButKnown,
            "nor does it forget guesses here"
        );
        let much_later = now + KNOWN_FOR;
        for _ in 0..3 {
            f.failed(much_later, 3, &owner);
        }
        assert_eq!(f.standing(much_later, 3, &owner), Standing::LockedOut, "a record is not for ever");
        let directory = Claim::new(None, &Source::Directory, "u");
        f.succeeded(now, 3, &directory);
        for _ in 0..3 {
            f.failed(now, 3, &directory);
        }
        assert_eq!(f.standing(now, 3, &directory), Standing::LockedOut, "a directory locks accounts itself");
    }

    #[test]
    fn a_network_of_ipv6_is_one_guesser() {
        let (mut f, now) = (Failures::default(), Clock::now());
        for n in 0..4 {
            f.failed(now, 4, &at(&format!("2001:db8:0:1:{n:x}::{n:x}"), "u"));
            f.failed(now, 4, &at("::ffff:10.0.0.1", "u"));
        }
        assert!(
            !may_try(&f, now, 4, &at("2001:db8:0:1:ffff:ffff:ffff:ffff", "u")),
            "one that has not been seen"
        );
        assert!(may_try(&f, now, 4, &at("2001:db8:0:2::", "u")), "the network beside it");
        assert!(!may_try(&f, now, 4, &at("10.0.0.1", "u")), "the same of IPv4");
        assert!(may_try(&f, now, 4, &at("::ffff:10.0.0.2", "u")), "addresses of IPv4 are not one network");
        let told = ["2001:db8:0:1::9", "::ffff:10.0.0.1", "10.0.0.2"]
            .map(|a| origin(Some(a.parse().expect("an address"))));
        assert_eq!(told, ["2001:db8:0:1::/64", "10.0.0.1", "10.0.0.2"]);
        assert_eq!(origin(None), "the Unix socket");
        f.succeeded(now, 4, &at("2001:db8:0:1::9", "u"));
        assert!(may_try(&f, now, 4, &at("2001:db8:0:1::", "u")));
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let (mut f, now) = (Failures::default(), Clock::now());
        let socket = |user: &str| Claim::new(None, &Source::Listed, user);
        for n in 0..3 {
            f.failed(now, 5, &socket("worst"));
            f.failed(now + Duration::from_millis(n), 5, &socket("worst"));
        }
        for n in 0..MOST + 100 {
            f.failed(now, 5, &socket(&format!("u{n}")));
            f.succeeded(now + Duration::from_micros(n as u64), 5, &socket(&format!("k{n}")));
        }
        assert!(f.failed.len() <= MOST && f.known.len() <= MOST);
        assert!(!may_try(&f, now, 5, &socket("worst")), "who guesses most is remembered");
        f.failed(now + Duration::from_secs(200), 5, &socket("new"));
        assert_eq!(f.failed.len(), 1, "the old ones are forgotten");
    }
}
