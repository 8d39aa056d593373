//! What happened lately, for people: a bounded ring of events that are rare.

use std::collections::VecDeque;
use std::time::SystemTime;

use parking_lot::Mutex;

/// Older ones make room.
const KEPT: usize = 200;

/// One event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    pub at: SystemTime,
    pub kind: &'static str,
    pub text: String,
}

/// See the module.
#[derive(Debug, Default)]
pub struct Events {
    ring: Mutex<VecDeque<Event>>,
}

impl Events {
    pub fn add(&self, at: SystemTime, kind: &'static str, text: String) {
        let mut ring = self.ring.lock();
        if ring.len() >= KEPT {
            ring.pop_front();
        }
        ring.push_back(Event { at, kind, text });
    }

    /// The newest first.
    pub fn recent(&self) -> Vec<Event> {
        self.ring.lock().iter().rev().cloned().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_events_are_kept() {
        let events = Events::default();
        for n in 0..KEPT + 10 {
            events.add(SystemTime::UNIX_EPOCH, "reload", n.to_string());
        }
        let recent = events.recent();
        assert_eq!(recent.len(), KEPT);
        assert_eq!((recent[0].text.as_str(), recent[KEPT - 1].text.as_str()), ("209", "10"));
    }
}
