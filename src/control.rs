//! What the operator has put in force while the process runs, and what is asked of it from inside: databases that
//! are paused or disabled, and orders that only [`crate::app`] can carry out.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use parking_lot::Mutex;
use tokio::sync::{Notify, mpsc, oneshot};

use crate::config::Config;
use crate::pool::core::Hold;

/// How the process is to end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ShutDown {
    Now,
    /// When no client uses a server any more.
    WaitForServers,
    /// When the last client has left.
    WaitForClients,
}

/// For the loop that also hears the signals.
#[derive(Debug)]
pub enum Order {
    /// Read the configuration again; the answer is why it was not put in force.
    Reload(oneshot::Sender<Result<(), String>>),
    /// Put this configuration in force.
    Apply(Box<Config>, oneshot::Sender<Result<(), String>>),
    ShutDown(ShutDown),
}

#[derive(Debug, Default)]
struct State {
    /// For all databases.
    halt: Hold,
    paused: BTreeSet<Arc<str>>,
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
        self.state.lock().paused.contains(database)
    }

    pub fn any_paused(&self) -> bool {
        !self.state.lock().paused.is_empty()
    }

    /// What holds for the pools of this database.
    pub fn hold(&self, database: &str) -> Hold {
        let state = self.state.lock();
        if state.paused.contains(database) { Hold::Paused } else { state.halt }
    }

    /// Returns whether that changed anything.
    pub fn set_paused(&self, database: &str, paused: bool) -> bool {
        let set = &mut self.state.lock().paused;
        if paused { set.insert(database.into()) } else { set.remove(database) }
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
