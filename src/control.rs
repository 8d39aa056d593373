//! What the operator has put in force while the process runs, and what is asked of it from inside: databases that
//! are paused or disabled, and orders that only [`crate::app`] can carry out.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use parking_lot::Mutex;
use tokio::sync::{Notify, mpsc, oneshot};

use crate::config::Config;
use crate::error::Standstill;

/// Whether connections are given out and opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Hold {
    #[default]
    No,
    /// Who asks waits; nothing is opened; what comes back is kept.
    Suspended,
    /// The same, but what comes back is closed.
    Paused,
}

/// How the process is to end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ShutDown {
    Now,
    /// When no client uses a server any more.
    WaitForServers,
    /// When the last client has left.
    WaitForClients,
}

/// What became of a configuration: the settings that need a restart to come into force, or why it was refused whole.
pub type Outcome = Result<Vec<&'static str>, String>;

/// For the loop that also hears the signals.
#[derive(Debug)]
pub enum Order {
    /// Read the configuration again; the answer is why it was not put in force.
    Reload(oneshot::Sender<Outcome>),
    /// Put this configuration in force.
    Apply(Box<Config>, oneshot::Sender<Outcome>),
    ShutDown(ShutDown),
}

#[derive(Debug, Default)]
struct State {
    /// For all databases.
    halt: Hold,
    /// And whether it was KILL that paused them.
    paused: BTreeMap<Arc<str>, bool>,
    disabled: BTreeSet<Arc<str>>,
}

#[derive(Debug, Default)]
pub struct Control {
    state: Mutex<State>,
    orders: Mutex<Option<mpsc::UnboundedSender<Order>>>,
    /// Raised by the janitor: whoever waits for something that no event tells looks again.
    pub tick: Notify,
    /// Commands that the console was given.
    pub console_queries: AtomicU64,
}

impl Control {
    /// The orders from now on; whoever called this before gets no more.
    pub fn listen(&self) -> mpsc::UnboundedReceiver<Order> {
        let (send, receive) = mpsc::unbounded_channel();
        *self.orders.lock() = Some(send);
        receive
    }

    /// False where nobody is there to carry it out.
    pub fn order(&self, order: Order) -> bool {
        self.orders.lock().as_ref().is_some_and(|o| o.send(order).is_ok())
    }

    pub fn halt(&self) -> Hold {
        self.state.lock().halt
    }

    pub fn set_halt(&self, halt: Hold) {
        self.state.lock().halt = halt;
    }

    /// The database itself is paused, whatever holds for all of them.
    pub fn is_paused(&self, database: &str) -> bool {
        self.state.lock().paused.contains_key(database)
    }

    pub fn any_paused(&self) -> bool {
        !self.state.lock().paused.is_empty()
    }

    /// What holds for the pools of this database.
    pub fn hold(&self, database: &str) -> Hold {
        let state = self.state.lock();
        if state.paused.contains_key(database) { Hold::Paused } else { state.halt }
    }

    pub fn set_paused(&self, database: &str, paused: bool) {
        let all = &mut self.state.lock().paused;
        if paused {
            all.entry(database.into()).or_insert(false);
        } else {
            all.remove(database);
        }
    }

    /// Paused by KILL.
    pub fn set_killed(&self, database: &str) {
        self.state.lock().paused.insert(database.into(), true);
    }

    /// By what order no pool gives out anything.
    pub fn held_all(&self) -> Option<Standstill> {
        match self.halt() {
            Hold::Paused => Some(Standstill::Paused { all: true }),
            Hold::Suspended => Some(Standstill::Suspended),
            Hold::No => None,
        }
    }

    /// By what order the pools of this database give out nothing.
    pub fn held(&self, database: &str) -> Option<Standstill> {
        let state = self.state.lock();
        match state.paused.get(database) {
            Some(true) => Some(Standstill::Killed),
            Some(false) => Some(Standstill::Paused { all: false }),
            None => {
                drop(state);
                self.held_all()
            }
        }
    }

    pub fn is_disabled(&self, database: &str) -> bool {
        self.state.lock().disabled.contains(database)
    }

    pub fn set_disabled(&self, database: &str, disabled: bool) {
        let set = &mut self.state.lock().disabled;
        if disabled {
            set.insert(database.into());
        } else {
            set.remove(database);
        }
    }
}
