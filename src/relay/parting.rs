//! Has a client left that nothing is read from, or whose end of the stream has been seen? No I/O; time is an argument.
//!
//! Nothing is read from a client in these states of the relay, and so its end is found in other ways:
//!
//! | state | what ends it |
//! |---|---|
//! | the server takes no more bytes; too much is in flight; the rest waits behind a barrier or for a name | the reactor is asked about the client's end all [`LOOK`], and the client itself after [`PATIENCE`] |
//! | the client takes no more bytes | the same, a failed write, and `client_write_timeout` |
//! | a cancel of our own is under way | it is over or given up within `cancel_wait_timeout` |
//! | it waits for a server, and has sent 64 KiB | the reactor and the client are asked as above; `query_wait_timeout` |
//! | a server is checked, or brought into step with the client | `server_repair_timeout` |
//! | its login waits for a server | `client_login_timeout` |
//! | it has said Terminate | what it sent before runs to its end, within `query_timeout` and `transaction_timeout` |
//! | it has ended, and is gone, with `client_gone = "finish"` | the same |
//!
//! PostgreSQL reads the end of the stream behind everything that was sent before it, and answers all of that first. So
//! does the relay. But a statement may run for long, and nobody may be there any more to read what it answers. TCP does
//! not tell the two apart before something is sent. So after a while the client is sent a ParameterStatus that repeats
//! what it knows: a socket that is closed refuses it, and a client that waits takes no notice.

use std::time::{Duration, Instant};

use crate::net::stream::PeerEnd;
use crate::proto::encode;
use crate::proto::params::ParamSet;

/// A client whose end was seen is asked after so long: what is answered sooner needs no question.
pub const PATIENCE: Duration = Duration::from_secs(1);
/// It is asked again after so long.
const AGAIN: Duration = Duration::from_secs(10);
/// How often the reactor is asked about a client that nothing is read from.
pub const LOOK: Duration = Duration::from_millis(100);
/// The same while the answer to a question is awaited.
const SOON: Duration = Duration::from_millis(25);

/// What to do next about such a client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// Look again at this moment.
    Wait(Instant),
    /// Send it something, and look again soon.
    Ask,
    /// Nothing reaches it any more.
    Gone,
}

/// What is known of a client's end.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Parting {
    /// The end was seen then, though bytes before it may not have been read.
    since: Option<Instant>,
    asked: Option<Instant>,
    /// The end was read: nothing more comes.
    ended: bool,
    /// Nothing has been read since then, although something may be there, and how much had been read by then. The end
    /// of a client is not even sent to us where what it sent before fills the sockets of both sides.
    unread: Option<(Instant, u64)>,
}

impl Parting {
    /// The end of the stream was read.
    pub fn end(&mut self, now: Instant) {
        self.since.get_or_insert(now);
        self.ended = true;
    }

    #[inline]
    pub fn has_ended(&self) -> bool {
        self.ended
    }

    /// Its end was seen, read or not.
    pub fn is_seen(&self) -> bool {
        self.since.is_some()
    }

    /// What to do, by what the reactor says. A client whose end was seen is first asked after `patience`; so is one from
    /// which nothing was read for as long as [`PATIENCE`], while the bytes that moved, `unread_behind`, stayed the same.
    pub fn look(
        &mut self,
        end: PeerEnd,
        patience: Duration,
        unread_behind: Option<u64>,
        now: Instant,
    ) -> Step {
        if end == PeerEnd::Gone {
            return Step::Gone;
        }
        if end == PeerEnd::Silent {
            self.since.get_or_insert(now);
        }
        self.unread = match (self.unread, unread_behind) {
            (Some((t, n)), Some(read)) if n == read => Some((t, n)),
            (_, read) => read.map(|n| (now, n)),
        };
        let seen = self.since.map(|t| t + patience);
        let first = seen.or(self.unread.map(|(t, _)| t + PATIENCE));
        let Some(first) = first else { return Step::Wait(now + LOOK) };
        let due = self.asked.map_or(first, |t| first.max(t + AGAIN));
        if now >= due {
            return Step::Ask;
        }
        let just_asked = self.asked.is_some_and(|t| now < t + LOOK);
        Step::Wait(due.min(now + if just_asked { SOON } else { LOOK }))
    }

    /// It was asked; returns when to look for what became of that.
    pub fn asked(&mut self, now: Instant) -> Instant {
        self.asked = Some(now);
        now + SOON
    }
}

/// A message that tells a client nothing new.
pub fn question(view: &ParamSet) -> Option<Vec<u8>> {
    let name = "server_version";
    let value = std::str::from_utf8(view.get(name)?).ok()?;
    encode::parameter_status(name, value).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn moment() -> Instant {
        crate::clock::Clock::now()
    }

    #[test]
    fn a_silent_client_is_asked_and_one_that_listens_stays() {
        let t0 = moment();
        let at = |ms| t0 + Duration::from_millis(ms);
        let mut p = Parting::default();
        let look = |p: &mut Parting, end, ms| p.look(end, PATIENCE, None, at(ms));
        assert_eq!(look(&mut p, PeerEnd::Open, 0), Step::Wait(at(100)));
        assert!(!p.is_seen());
        assert_eq!(look(&mut p, PeerEnd::Silent, 0), Step::Wait(at(100)));
        assert!(p.is_seen() && !p.has_ended());
        p.end(at(100));
        assert!(p.has_ended());
        assert_eq!(look(&mut p, PeerEnd::Silent, 950), Step::Wait(at(1000)));
        assert_eq!(look(&mut p, PeerEnd::Silent, 1000), Step::Ask);
        assert_eq!(p.asked(at(1000)), at(1025));
        assert_eq!(look(&mut p, PeerEnd::Silent, 1025), Step::Wait(at(1050)));
        assert_eq!(look(&mut p, PeerEnd::Silent, 2000), Step::Wait(at(2100)));
        assert_eq!(look(&mut p, PeerEnd::Silent, 11_000), Step::Ask, "it may have left since");
        assert_eq!(look(&mut p, PeerEnd::Gone, 2000), Step::Gone);
        // The end that TLS announces is not seen by the reactor.
        let mut p = Parting::default();
        p.end(t0);
        assert_eq!(p.look(PeerEnd::Open, Duration::ZERO, None, t0), Step::Ask);
    }

    #[test]
    fn a_client_from_which_nothing_is_read_is_asked() {
        let t0 = moment();
        let at = |ms| t0 + Duration::from_millis(ms);
        let mut p = Parting::default();
        let look = |p: &mut Parting, read, ms| p.look(PeerEnd::Open, PATIENCE, read, at(ms));
        assert_eq!(look(&mut p, Some(7), 0), Step::Wait(at(100)));
        assert_eq!(look(&mut p, Some(8), 990), Step::Wait(at(1090)), "something was read");
        assert_eq!(look(&mut p, Some(8), 1900), Step::Wait(at(1990)));
        assert_eq!(look(&mut p, Some(8), 1990), Step::Ask);
        p.asked(at(1990));
        assert_eq!(look(&mut p, Some(8), 2100), Step::Wait(at(2200)));
        assert_eq!(look(&mut p, None, 2200), Step::Wait(at(2300)), "it is read from again");
        assert_eq!(look(&mut p, Some(8), 2300), Step::Wait(at(2400)));
        assert_eq!(look(&mut p, Some(8), 3300), Step::Wait(at(3400)), "it was asked lately");
        assert_eq!(look(&mut p, Some(8), 11_990), Step::Ask);
    }
}
