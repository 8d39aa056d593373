//! Who guesses passwords: failed logins by address and user, each with an allowance that fills again within a minute.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::time::Instant;

/// Names and addresses are the clients' choice: no more of them are remembered.
const MOST: usize = 10_000;
/// In which an allowance that was used up is whole again.
const WINDOW: f64 = 60.0;

/// `None` is the Unix socket.
type Who = (Option<IpAddr>, String);

fn who(address: Option<IpAddr>, user: &str) -> Who {
    (address.map(network), user.to_owned())
}

/// Whoever has one address of IPv6 commonly has its /64, and could guess from a new one each time: they count as one.
/// One of IPv4 that arrived on a socket of IPv6 is itself.
fn network(address: IpAddr) -> IpAddr {
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

#[derive(Debug, Default)]
pub struct Failures(HashMap<Who, Entry>);

impl Failures {
    /// Whether another login may be tried; `limit` is the number of failures in a minute, 0 is no limit.
    pub fn may_try(&self, now: Instant, limit: u32, address: Option<IpAddr>, user: &str) -> bool {
        limit == 0
            || self.0.is_empty()
            || self.0.get(&who(address, user)).is_none_or(|e| e.level(now, limit) + 1.0 <= f64::from(limit))
    }

    /// One has failed.
    pub fn failed(&mut self, now: Instant, limit: u32, address: Option<IpAddr>, user: &str) {
        if limit == 0 {
            return;
        }
        let who = who(address, user);
        if self.0.len() >= MOST && !self.0.contains_key(&who) {
            self.0.retain(|_, e| e.level(now, limit) > 0.0);
            // Full of those that failed just now: the one that matters least goes.
            if self.0.len() >= MOST {
                let least =
                    self.0.iter().min_by(|a, b| a.1.level(now, limit).total_cmp(&b.1.level(now, limit)));
                if let Some(who) = least.map(|(w, _)| w.clone()) {
                    self.0.remove(&who);
                }
            }
        }
        let e = self.0.entry(who).or_insert(Entry { level: 0.0, at: now });
        *e = Entry { level: e.level(now, limit) + 1.0, at: now };
    }

    /// A login has succeeded: who has the secret does not guess.
    pub fn succeeded(&mut self, address: Option<IpAddr>, user: &str) {
        if !self.0.is_empty() {
            self.0.remove(&who(address, user));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::clock::Clock;

    #[test]
    fn an_allowance_is_used_up_and_fills_again() {
        let (mut f, now) = (Failures::default(), Clock::now());
        let here = Some("10.0.0.1".parse().unwrap());
        for _ in 0..6 {
            assert!(f.may_try(now, 6, here, "u"));
            f.failed(now, 6, here, "u");
        }
        assert!(!f.may_try(now, 6, here, "u"));
        assert!(f.may_try(now, 6, here, "v") && f.may_try(now, 6, None, "u"), "of one address and one user");
        assert!(f.may_try(now, 0, here, "u"), "without a limit");
        let later = now + Duration::from_secs(10);
        assert!(f.may_try(later, 6, here, "u"), "one is forgotten");
        f.failed(later, 6, here, "u");
        assert!(!f.may_try(later, 6, here, "u"));
        f.succeeded(here, "u");
        assert!(f.may_try(later, 6, here, "u"));
    }

    #[test]
    fn a_network_of_ipv6_is_one_guesser() {
        let (mut f, now) = (Failures::default(), Clock::now());
        let at = |a: &str| Some(a.parse().unwrap());
        for n in 0..4 {
            f.failed(now, 4, at(&format!("2001:db8:0:1:{n:x}::{n:x}")), "u");
            f.failed(now, 4, at("::ffff:10.0.0.1"), "u");
        }
        assert!(
            !f.may_try(now, 4, at("2001:db8:0:1:ffff:ffff:ffff:ffff"), "u"),
            "one that has not been seen"
        );
        assert!(f.may_try(now, 4, at("2001:db8:0:2::"), "u"), "the network beside it");
        assert!(!f.may_try(now, 4, at("10.0.0.1"), "u"), "the same of IPv4");
        assert!(f.may_try(now, 4, at("::ffff:10.0.0.2"), "u"), "addresses of IPv4 are not one network");
        let told = ["2001:db8:0:1::9", "::ffff:10.0.0.1", "10.0.0.2"].map(|a| origin(at(a)));
        assert_eq!(told, ["2001:db8:0:1::/64", "10.0.0.1", "10.0.0.2"]);
        assert_eq!(origin(None), "the Unix socket");
        f.succeeded(at("2001:db8:0:1::9"), "u");
        assert!(f.may_try(now, 4, at("2001:db8:0:1::"), "u"));
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let (mut f, now) = (Failures::default(), Clock::now());
        for n in 0..3 {
            f.failed(now, 5, None, "worst");
            f.failed(now + Duration::from_millis(n), 5, None, "worst");
        }
        for n in 0..MOST + 100 {
            f.failed(now, 5, None, &format!("u{n}"));
        }
        assert!(f.0.len() <= MOST);
        assert!(!f.may_try(now, 5, None, "worst"), "who guesses most is remembered");
        f.failed(now + Duration::from_secs(200), 5, None, "new");
        assert_eq!(f.0.len(), 1, "the old ones are forgotten");
    }
}
