//! The channels of one listener and its clients: who listens to what, what must be said to the server, and who gets a
//! notification. No I/O.
//!
//! A client changes over between its own server connection and the listener, and must neither miss a notification nor get
//! one twice. PostgreSQL puts all notifications of a database in one order, that of the commits, and every session that
//! listens receives them in that order. So when a client changes over, its server connection sends a *fence*: a
//! notification on a channel of Howdah's own. The server connection and the listener both receive it at the same place in
//! the order. The client gets what comes before the fence from the one, and what comes after it from the other.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustc_hash::FxHashMap;

use crate::proto::sql::write_identifier;

/// A channel as the server spells it, in the encoding of its database.
pub type Name = Arc<[u8]>;

/// A channel is given up when no client has wanted it for this long. Giving it up at once would cost an UNLISTEN and a
/// LISTEN for every client that comes and goes.
pub const LAG: Duration = Duration::from_secs(10);

/// The most changes in one text to the server, so that it fits the socket's buffer.
const AT_ONCE: usize = 200;

/// What changes for a client at its fence.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Turn {
    /// The listener serves it from here on.
    Begins,
    /// Its own server connection serves it from here on.
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
    /// How many clients want it, whether the listener or their own server connection serves them now.
    wanted: usize,
    /// The clients that the listener serves now, with their inboxes.
    hearing: FxHashMap<u64, I>,
    /// Clients that wait for the server to confirm the LISTEN.
    waiting: Vec<u64>,
    /// Since when no client has wanted it.
    unwanted: Option<Instant>,
}

#[derive(Debug)]
struct Client<I, D> {
    inbox: I,
    channels: Vec<Name>,
    /// The listener serves it now.
    hears: bool,
    /// How many of its channels the server has not confirmed, and whom to tell when it has.
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
    /// Sent to the server, which has not answered yet.
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
    /// Sets the client's channels. The listener does not serve it yet. Returns `done` if the server listens to all of them
    /// already; otherwise [`Self::answered`] returns it later.
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

    /// Forgets a client that has left, or that listens to no channel any more.
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

    /// Announces a fence that the client's server connection is about to send.
    pub fn expect(&mut self, fence: u64, client: u64, turn: Turn, done: D) {
        self.turns.insert(fence, (client, turn, done));
    }

    /// The fence has arrived: the client's turn begins or ends. Returns whom to tell.
    pub fn fence(&mut self, fence: u64) -> Option<D> {
        let (id, turn, done) = self.turns.remove(&fence)?;
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

    /// The inboxes that get a notification on this channel.
    pub fn hearing(&self, channel: &[u8]) -> impl Iterator<Item = &I> {
        self.channels.get(channel).into_iter().flat_map(|c| c.hearing.values())
    }

    /// The next text for the server, of one or more statements; `None` while the server has one to answer.
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

    /// The server has answered the last text. Returns the clients to tell.
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

    /// The listener is lost. Returns the inboxes of the clients that it served or was about to serve. The others are served
    /// by their own server connections, and can go on.
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
    fn a_client_hears_between_its_fences_and_only_when_the_server_has_its_channels() {
        let (mut hub, now) = (Numbers::default(), Clock::now());
        assert_eq!(hub.want(1, 1, &[name("a"), name("b\"c")], "one", now), None);
        assert_eq!(said(&mut hub), "LISTEN \"a\";LISTEN \"b\"\"c\";");
        assert_eq!(said(&mut hub), "", "one text at a time");
        assert_eq!(hub.want(2, 2, &[name("a")], "two", now), None);
        assert_eq!(hub.answered(), ["two", "one"], "the second one's channels were complete first");
        hub.expect(7, 1, Turn::Begins, "turned");
        assert!(heard(&hub, "a").is_empty());
        assert_eq!(hub.fence(8), None, "somebody else's");
        assert_eq!(hub.fence(7), Some("turned"));
        assert_eq!((heard(&hub, "a"), heard(&hub, "b\"c"), heard(&hub, "c")), (vec![1], vec![1], vec![]));
        hub.expect(9, 1, Turn::Ends, "back");
        assert_eq!(heard(&hub, "a"), [1]);
        assert_eq!(hub.fence(9), Some("back"));
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
            hub.fence(client);
        }
        hub.expect(20, 2, Turn::Ends, "");
        hub.fence(20);
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

    /// Any order of events: a notification between a client's fences reaches it exactly once, and none else does.
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
                    let came = hub.fence(step).is_some();
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
