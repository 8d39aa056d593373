//! Notifications that wait for one client. The listener puts them in, and the client's session takes them out.

use std::collections::VecDeque;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use parking_lot::Mutex;

/// Wakes the client's task.
pub type Wake = Box<dyn Fn() + Send + Sync>;

/// Why a client gets no more notifications.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ended {
    /// The listener's connection was lost; the text says why.
    Lost(Arc<str>),
    /// The client read too slowly.
    Slow { messages: usize, bytes: usize, limit: usize },
}

pub struct Inbox {
    wake: Wake,
    /// `listen_buffer`.
    limit: usize,
    /// There are messages to take, or the inbox has ended.
    stirred: AtomicBool,
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    /// Whole messages. All inboxes share the bytes of a notification.
    messages: VecDeque<Bytes>,
    bytes: usize,
    ended: Option<Ended>,
}

impl fmt::Debug for Inbox {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Inbox").field("limit", &self.limit).finish_non_exhaustive()
    }
}

impl Inbox {
    pub fn new(wake: Wake, limit: usize) -> Self {
        Self { wake, limit, stirred: AtomicBool::new(false), inner: Mutex::default() }
    }

    /// Returns false if the inbox has ended, be it because this message was too much.
    pub fn put(&self, message: &Bytes) -> bool {
        let mut inner = self.inner.lock();
        if inner.ended.is_some() {
            return false;
        }
        let bytes = inner.bytes + message.len();
        if bytes > self.limit {
            let messages = inner.messages.len() + 1;
            inner.messages = VecDeque::new();
            inner.bytes = 0;
            inner.ended = Some(Ended::Slow { messages, bytes, limit: self.limit });
        } else {
            inner.bytes = bytes;
            inner.messages.push_back(message.clone());
        }
        let taken = inner.ended.is_none();
        drop(inner);
        self.stir(!taken);
        taken
    }

    /// Nothing more will come.
    pub fn end(&self, why: Ended) {
        self.inner.lock().ended.get_or_insert(why);
        self.stir(true);
    }

    /// Wakes the client. A client that has not taken earlier messages yet is awake already, and is woken for an end only.
    fn stir(&self, at_any_rate: bool) {
        if !self.stirred.swap(true, Ordering::AcqRel) || at_any_rate {
            (self.wake)();
        }
    }

    #[inline]
    pub fn has_stirred(&self) -> bool {
        self.stirred.load(Ordering::Acquire)
    }

    /// Moves messages to `out` until it has grown by `most` bytes.
    pub fn take(&self, out: &mut Vec<u8>, most: usize) {
        let mut inner = self.inner.lock();
        let begin = out.len();
        while out.len() - begin < most
            && let Some(message) = inner.messages.pop_front()
        {
            inner.bytes -= message.len();
            out.extend_from_slice(&message);
        }
        if inner.messages.is_empty() {
            inner.messages = VecDeque::new();
            self.stirred.store(inner.ended.is_some(), Ordering::Release);
        }
    }

    /// Why the inbox has ended, once all earlier messages have been taken.
    pub fn ended(&self) -> Option<Ended> {
        let inner = self.inner.lock();
        inner.ended.clone().filter(|_| inner.messages.is_empty())
    }
}
