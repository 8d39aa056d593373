//! Kinds of state that a session has besides its parameters, and what can become of each between two transactions: words
//! that configuration, errors, the relay and the pool share.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// A kind of state that outlives the transaction that made it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// Prepared by the statement PREPARE.
    Statement,
    /// A channel of LISTEN.
    Channel,
    /// A temporary table, view, sequence, type or function.
    Temporary,
    /// A cursor WITH HOLD.
    Cursor,
    /// An advisory lock of the session.
    Lock,
}

impl Kind {
    /// The label of metrics.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Statement => "statement",
            Self::Channel => "channel",
            Self::Temporary => "temporary",
            Self::Cursor => "cursor",
            Self::Lock => "lock",
        }
    }

    /// For people.
    pub const fn words(self) -> &'static str {
        match self {
            Self::Statement => "statements of PREPARE",
            Self::Channel => "channels of LISTEN",
            Self::Temporary => "temporary objects",
            Self::Cursor => "cursors WITH HOLD",
            Self::Lock => "advisory locks of its session",
        }
    }

    /// The setting that states its way.
    pub const fn setting(self) -> &'static str {
        match self {
            Self::Statement => "session_statements",
            Self::Channel => "session_listen",
            Self::Temporary | Self::Cursor | Self::Lock => "session_objects",
        }
    }
}

/// What becomes of a kind of state between the transactions of its client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// It goes with its client to the next connection.
    Follow,
    /// A listener hears for all clients: see `listener`. For channels alone.
    Share,
    /// Its client keeps the connection until the state is gone.
    Pin,
    /// It is dropped, and the client is warned.
    Reset,
    /// A statement that makes it is refused.
    Reject,
}

/// The ways of one pool.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ways {
    pub parameters: Way,
    pub statements: Way,
    pub listen: Way,
    pub objects: Way,
}

impl Ways {
    /// Nothing follows and nothing pins: session state is reset, or stays where `reset_state` is off.
    pub const RESET: Self =
        Self { parameters: Way::Reset, statements: Way::Reset, listen: Way::Reset, objects: Way::Reset };

    pub const fn of(&self, kind: Kind) -> Way {
        match kind {
            Kind::Statement => self.statements,
            Kind::Channel => self.listen,
            Kind::Temporary | Kind::Cursor | Kind::Lock => self.objects,
        }
    }
}

/// Kinds in words, for a sentence.
pub fn list(kinds: &[Kind]) -> String {
    kinds.iter().map(|k| k.words()).collect::<Vec<_>>().join(" and ")
}

/// How many clients of a pool may keep a connection between their transactions, and do.
#[derive(Debug, Default)]
pub struct PinPlaces {
    /// With those that are reserved.
    taken: AtomicUsize,
    /// `max_pins`, or what follows from the pool's size.
    bound: AtomicUsize,
}

/// There is no place left.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NoneLeft {
    pub taken: usize,
    pub bound: usize,
}

/// One of the places; it is given back when this is dropped.
#[derive(Debug)]
pub struct PinPlace(Arc<PinPlaces>);

impl PinPlaces {
    pub fn set_bound(&self, bound: usize) {
        self.bound.store(bound, Ordering::Relaxed);
    }

    pub fn taken(&self) -> usize {
        self.taken.load(Ordering::Relaxed)
    }

    /// No client may keep a connection.
    pub fn is_closed(&self) -> bool {
        self.bound.load(Ordering::Relaxed) == 0
    }

    /// Takes one, so that a statement that is sent to its server finds it when it is done.
    pub fn take(self: &Arc<Self>) -> Result<PinPlace, NoneLeft> {
        let bound = self.bound.load(Ordering::Relaxed);
        let one_more = |taken: usize| (taken < bound).then_some(taken + 1);
        match self.taken.fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_more) {
            Ok(_) => Ok(PinPlace(self.clone())),
            Err(taken) => Err(NoneLeft { taken, bound }),
        }
    }
}

impl Drop for PinPlace {
    fn drop(&mut self) {
        self.0.taken.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_more_places_are_taken_than_there_are() {
        let places = Arc::new(PinPlaces::default());
        places.set_bound(1);
        let first = places.take().expect("a place");
        assert_eq!(places.take().err(), Some(NoneLeft { taken: 1, bound: 1 }));
        drop(first);
        assert_eq!(places.taken(), 0);
        assert!(places.take().is_ok());
    }
}
