//! The channels of one listener and its clients: who listens to what, what must be said to the server, and who hears a
//! notification. No I/O.
//!
//! A client changes between its own server connection and the listener without a gap and without a copy of anything.
//! PostgreSQL gives all notifications of a database one order, which is that of the commits, and each session that
//! listens hears its part in that order. Wherever a client changes over, its server connection sends a *mark*: a
//! notification on a channel of Howdah's own, which the server connection and the listener both hear at the same place of
//! that order. What is before the mark is heard by the one, and what is behind it by the other.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustc_hash::FxHashMap;

use crate::proto::sql::write_identifier;

/// A channel as the server spells it, in the encoding of its database.
pub type Name = Arc<[u8]>;

/// A channel that nobody has wanted for so long is given up. Clients that come and go would have it changed for each.
pub const LAG: Duration = Duration::from_secs(10);

/// Channels of one statement to the server, which has a socket's buffer for it.
const AT_ONCE: usize = 200;

/// What becomes of a client at its mark.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Turn {
    /// From here on it hears from the listener.
    Begins,
    /// From here on it hears on its own server connection.
    Ends,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Change {
    Listen(Name),
    Unlisten(Name),
}

#[derive(Debug)]
struct Channel<I> {
    /// The server has answered the LISTEN.
    had: bool,
    /// Clients that want it, whether they hear here or on connections of their own.
    wanted: usize,
    /// Clients that hear here, with their inboxes.
    hearing: FxHashMap<u64, I>,
    /// Clients whose answer waits for the server's.
    waiting: Vec<u64>,
    /// Nobody has wanted it since.
    unwanted: Option<Instant>,
}

#[derive(Debug)]
struct Client<I, D> {
    inbox: I,
    channels: Vec<Name>,
    /// It hears here.
    hears: bool,
    /// Its channels that the server has not confirmed, and whom to tell when it has.
    missing: usize,
    done: Option<D>,
}

/// One listener. `I` is a client's inbox, `D` tells a client that something is done.
#[derive(Debug)]
pub struct Hub<I, D> {
    channels: FxHashMap<Name, Channel<I>>,
    clients: FxHashMap<u64, Client<I, D>>,
    turns: FxHashMap<u64, (u64, Turn, D)>,
    due: VecDeque<Change>,
    /// Said to the server, whose answer is to come.
    sent: Vec<Change>,
}

impl<I, D> Default for Hub<I, D> {
    fn default() -> Self {
        Self {
            channels: FxHashMap::default(),
            clients: FxHashMap::default(),
            turns: FxHashMap::default(),
            due: VecDeque::new(),
            sent: Vec::new(),
        }
    }
}

impl<I: Clone, D> Hub<I, D> {
    /// These are the client's channels from now on; it does not hear here now. `done` comes back as soon as the server
    /// listens to all of them.
    pub fn want(&mut self, client: u64, inbox: I, channels: &[Name], done: D, now: Instant) -> Option<D> {
        self.forget(client, now);
        let mut missing = 0;
        for name in channels {
            let channel = self.channels.entry(name.clone()).or_insert_with(|| {
                self.due.push_back(Change::Listen(name.clone()));
                Channel {
                    had: false,
                    wanted: 0,
                    hearing: FxHashMap::default(),
                    waiting: Vec::new(),
                    unwanted: None,
                }
            });
            channel.wanted += 1;
            channel.unwanted = None;
            if !channel.had {
                channel.waiting.push(client);
                missing += 1;
            }
        }
        let (done, now_done) = if missing == 0 { (None, Some(done)) } else { (Some(done), None) };
        let channels = channels.to_vec();
        self.clients.insert(client, Client { inbox, channels, hears: false, missing, done });
        now_done
    }

    /// The client is no more, or wants nothing any more.
    pub fn forget(&mut self, client: u64, now: Instant) {
        let Some(was) = self.clients.remove(&client) else { return };
        for name in &was.channels {
            let Some(channel) = self.channels.get_mut(name) else { continue };
            channel.hearing.remove(&client);
            if was.missing > 0 {
                channel.waiting.retain(|c| *c != client);
            }
            channel.wanted -= 1;
            if channel.wanted == 0 {
                channel.unwanted = Some(now);
            }
        }
        self.turns.retain(|_, (c, ..)| *c != client);
    }

    /// The client's server connection is about to send this mark.
    pub fn expect(&mut self, mark: u64, client: u64, turn: Turn, done: D) {
        self.turns.insert(mark, (client, turn, done));
    }

    /// The mark has come. What was heard before it is with the client, or was not for it.
    pub fn mark(&mut self, mark: u64) -> Option<D> {
        let (id, turn, done) = self.turns.remove(&mark)?;
        let client = self.clients.get_mut(&id)?;
        client.hears = turn == Turn::Begins;
        for name in &client.channels {
            let Some(channel) = self.channels.get_mut(name) else { continue };
            match turn {
                Turn::Begins => channel.hearing.insert(id, client.inbox.clone()),
                Turn::Ends => channel.hearing.remove(&id),
            };
        }
        Some(done)
    }

    /// Who hears a notification on this channel.
    pub fn hearing(&self, channel: &[u8]) -> impl Iterator<Item = &I> {
        self.channels.get(channel).into_iter().flat_map(|c| c.hearing.values())
    }

    /// What is to be said to the server, if nothing is under way: one text of several statements.
    pub fn say(&mut self) -> Option<Vec<u8>> {
        if !self.sent.is_empty() || self.due.is_empty() {
            return None;
        }
        let mut text = Vec::new();
        while let Some(change) = self.due.pop_front() {
            let (word, name): (&[u8], _) = match &change {
                Change::Listen(name) => (b"LISTEN ", name),
                Change::Unlisten(name) => (b"UNLISTEN ", name),
            };
            text.extend_from_slice(word);
            write_identifier(&mut text, name);
            text.push(b';');
            self.sent.push(change);
            if self.sent.len() == AT_ONCE {
                break;
            }
        }
        Some(text)
    }

    /// The server has done what it was told. Returns whom to tell.
    pub fn answered(&mut self) -> Vec<D> {
        let mut all = Vec::new();
        for change in std::mem::take(&mut self.sent) {
            let Change::Listen(name) = change else { continue };
            let Some(channel) = self.channels.get_mut(&name) else { continue };
            channel.had = true;
            for id in std::mem::take(&mut channel.waiting) {
                let Some(client) = self.clients.get_mut(&id) else { continue };
                client.missing -= 1;
                if client.missing == 0 {
                    all.extend(client.done.take());
                }
            }
        }
        all
    }

    /// Gives up what nobody has wanted for [`LAG`].
    pub fn sweep(&mut self, now: Instant) {
        let due = &mut self.due;
        self.channels.retain(|name, channel| {
            let old = channel.unwanted.is_some_and(|since| now.saturating_duration_since(since) >= LAG);
            let goes = channel.had && old;
            if goes {
                due.push_back(Change::Unlisten(name.clone()));
            }
            !goes
        });
    }

    /// The listener is lost: the inboxes of those who hear through it, or are about to. Others hear on their own server
    /// connections, and can go on.
    pub fn lost(self) -> Vec<I> {
        let mut turning: Vec<u64> = self.turns.into_values().map(|(client, ..)| client).collect();
        turning.sort_unstable();
        let affected =
            |id: &u64, c: &Client<I, D>| c.hears || c.missing > 0 || turning.binary_search(id).is_ok();
        self.clients.into_iter().filter(|(id, c)| affected(id, c)).map(|(_, c)| c.inbox).collect()
    }

    pub fn channels(&self) -> usize {
        self.channels.len()
    }

    pub fn clients(&self) -> usize {
        self.clients.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Clock;

    fn name(n: &str) -> Name {
        n.as_bytes().into()
    }

    type Numbers = Hub<u64, &'static str>;

    fn said(hub: &mut Numbers) -> String {
        String::from_utf8(hub.say().unwrap_or_default()).expect("text")
    }

    fn heard(hub: &Numbers, channel: &str) -> Vec<u64> {
        let mut all: Vec<u64> = hub.hearing(channel.as_bytes()).copied().collect();
        all.sort_unstable();
        all
    }

    #[test]
    fn a_client_hears_between_its_marks_and_only_when_the_server_has_its_channels() {
        let (mut hub, now) = (Numbers::default(), Clock::now());
        assert_eq!(hub.want(1, 1, &[name("a"), name("b\"c")], "one", now), None);
        assert_eq!(said(&mut hub), "LISTEN \"a\";LISTEN \"b\"\"c\";");
        assert_eq!(said(&mut hub), "", "one text at a time");
        assert_eq!(hub.want(2, 2, &[name("a")], "two", now), None);
        assert_eq!(hub.answered(), ["two", "one"], "the second one's channels were complete first");
        hub.expect(7, 1, Turn::Begins, "turned");
        assert!(heard(&hub, "a").is_empty());
        assert_eq!(hub.mark(8), None, "somebody else's");
        assert_eq!(hub.mark(7), Some("turned"));
        assert_eq!((heard(&hub, "a"), heard(&hub, "b\"c"), heard(&hub, "c")), (vec![1], vec![1], vec![]));
        hub.expect(9, 1, Turn::Ends, "back");
        assert_eq!(heard(&hub, "a"), [1]);
        assert_eq!(hub.mark(9), Some("back"));
        assert!(heard(&hub, "a").is_empty());
        assert_eq!(hub.want(1, 1, &[name("a")], "at once", now), Some("at once"));
    }

    #[test]
    fn a_channel_is_given_up_when_nobody_has_wanted_it_for_long() {
        let (mut hub, now) = (Numbers::default(), Clock::now());
        hub.want(1, 1, &[name("a")], "", now);
        hub.forget(1, now);
        hub.sweep(now + LAG);
        assert_eq!(said(&mut hub), "LISTEN \"a\";", "what is not answered yet stays");
        assert!(hub.answered().is_empty());
        hub.sweep(now + LAG - Duration::from_millis(1));
        assert_eq!(said(&mut hub), "");
        hub.sweep(now + LAG);
        // It is wanted again before that is said.
        assert_eq!(hub.want(2, 2, &[name("a")], "again", now), None);
        assert_eq!(said(&mut hub), "UNLISTEN \"a\";LISTEN \"a\";");
        assert_eq!(hub.answered(), ["again"]);
        hub.sweep(now + LAG + LAG);
        assert_eq!((said(&mut hub).as_str(), hub.channels(), hub.clients()), ("", 1, 1));
    }

    #[test]
    fn a_loss_ends_those_who_hear_or_are_about_to() {
        let (mut hub, now) = (Numbers::default(), Clock::now());
        for client in 1..=4 {
            hub.want(client, client, &[name("a")], "", now);
        }
        hub.say();
        hub.answered();
        hub.want(5, 5, &[name("b")], "", now);
        for client in 1..=2 {
            hub.expect(client, client, Turn::Begins, "");
            hub.mark(client);
        }
        hub.expect(20, 2, Turn::Ends, "");
        hub.mark(20);
        hub.expect(30, 3, Turn::Begins, "");
        let mut lost = hub.lost();
        lost.sort_unstable();
        assert_eq!(lost, [1, 3, 5]);
    }

    #[test]
    fn many_channels_are_said_in_parts() {
        let (mut hub, now) = (Numbers::default(), Clock::now());
        let all: Vec<Name> = (0..250).map(|n| name(&n.to_string())).collect();
        assert_eq!(hub.want(1, 1, &all, "all", now), None);
        assert_eq!(said(&mut hub).matches("LISTEN").count(), 200);
        assert!(hub.answered().is_empty());
        assert_eq!(said(&mut hub).matches("LISTEN").count(), 50);
        assert_eq!(hub.answered(), ["all"]);
    }

    /// Any order of events: a notification between a client's marks reaches it exactly once, and none else does.
    #[test]
    fn whatever_happens_each_notification_is_heard_once_or_on_the_clients_own_connection() {
        let mut state = 1_u64;
        let mut random = |n: u64| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 33) % n
        };
        let (mut hub, now) = (Numbers::default(), Clock::now());
        // Of each client: its channels, and whether it hears here.
        let mut model: FxHashMap<u64, (Vec<Name>, bool)> = FxHashMap::default();
        for step in 0..20_000 {
            let client = random(5);
            match random(6) {
                0 => {
                    let all: Vec<Name> =
                        (0..random(4)).map(|n| name(&(n + random(3) * 10).to_string())).collect();
                    hub.want(client, client, &all, "", now);
                    model.insert(client, (all, false));
                }
                1 => {
                    hub.forget(client, now);
                    model.remove(&client);
                }
                2 | 3 => {
                    let turn = if random(2) == 0 { Turn::Begins } else { Turn::Ends };
                    hub.expect(step, client, turn, "");
                    let came = hub.mark(step).is_some();
                    assert_eq!(came, model.contains_key(&client));
                    if let Some(m) = model.get_mut(&client) {
                        m.1 = turn == Turn::Begins;
                    }
                }
                4 => hub.sweep(now + LAG),
                _ => {
                    if hub.say().is_some() {
                        hub.answered();
                    }
                }
            }
            for n in ["0", "1", "2", "10", "11", "20", "22"] {
                let hears = |(_, m): &(&u64, &(Vec<Name>, bool))| m.1 && m.0.contains(&name(n));
                let mut expected: Vec<u64> = model.iter().filter(hears).map(|(c, _)| *c).collect();
                expected.sort_unstable();
                assert_eq!(heard(&hub, n), expected);
            }
        }
    }
}
