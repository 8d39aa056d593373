//! One direction of a relay: bytes that were read, of which a first part may be written.
//!
//! ```text
//! prefix | buf[out..scan) | buf[scan..end) | room
//!  write first   then this    not looked at
//! ```
//! Messages are approved in place by moving `scan`; what must be inserted, changed or left out goes through
//! `prefix`. A message's tail that needs no look is passed (`pass`) or thrown away (`skip`) as it arrives.

use std::io;
use std::task::{Context, Poll};

use super::buffer::{BufferPool, LARGE};
use super::stream::Stream;

/// What was read from a peer and not looked at.
#[derive(Debug, Default)]
pub struct Unread {
    pub bytes: Vec<u8>,
    /// Bytes of a message before them that have not come.
    pub owed: usize,
}

#[derive(Debug, Default)]
pub struct Lane {
    prefix: Vec<u8>,
    prefix_out: usize,
    buf: Vec<u8>,
    out: usize,
    scan: usize,
    end: usize,
    pass: usize,
    skip: usize,
    /// The last read filled the buffer.
    long: bool,
}

impl Lane {
    /// Bytes that were read and not looked at.
    #[inline]
    pub fn unscanned(&self) -> &[u8] {
        self.buf.get(self.scan..self.end).unwrap_or_default()
    }

    /// Bytes that wait to be written.
    pub fn backlog(&self) -> usize {
        self.prefix.len() - self.prefix_out + self.scan - self.out
    }

    /// Nothing to write, nothing to look at.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.scan == self.end && !self.has_output()
    }

    #[inline]
    pub fn has_output(&self) -> bool {
        self.out != self.scan || self.prefix_out != self.prefix.len()
    }

    /// Bytes of the current message that have not come.
    pub fn owed_bytes(&self) -> usize {
        self.pass + self.skip
    }

    /// Inside of a message: a part of it has been passed or thrown away, the rest has not come.
    #[inline]
    pub fn mid_message(&self) -> bool {
        self.pass > 0 || self.skip > 0
    }

    /// A part of a message has been approved for writing and the rest has not come.
    pub fn mid_pass(&self) -> bool {
        self.pass > 0
    }

    /// Approves a message of `total` bytes, whose rest may still be to come.
    #[inline]
    pub fn forward(&mut self, total: usize) {
        let n = total.min(self.end - self.scan);
        self.scan += n;
        self.pass = total - n;
    }

    /// Throws a message of `total` bytes away, whose rest may still be to come.
    pub fn discard(&mut self, total: usize) {
        let n = total.min(self.end - self.scan);
        self.flush_to_prefix();
        self.scan += n;
        self.out = self.scan;
        self.skip = total - n;
    }

    /// Approves a message with a new beginning: `write` gets the first `head` bytes, which must be there, and
    /// writes what replaces them; `tail` more bytes follow as they are.
    pub fn replace_head(&mut self, head: usize, tail: usize, write: impl FnOnce(&[u8], &mut Vec<u8>)) {
        self.flush_to_prefix();
        let old = self.buf.get(self.scan..self.scan + head).unwrap_or_default();
        write(old, &mut self.prefix);
        self.scan += head;
        self.out = self.scan;
        self.forward(tail);
    }

    /// Continues a message that was only partly there.
    #[inline]
    pub fn continue_message(&mut self) {
        if self.pass > 0 {
            let total = self.pass;
            self.forward(total);
        } else if self.skip > 0 {
            let total = self.skip;
            self.discard(total);
        }
    }

    fn flush_to_prefix(&mut self) {
        if self.out != self.scan {
            let (a, b) = (self.out, self.scan);
            self.prefix.extend_from_slice(self.buf.get(a..b).unwrap_or_default());
            self.out = b;
        }
    }

    /// Where to write bytes of our own, in order behind all that was approved before.
    #[inline]
    pub fn insert(&mut self) -> &mut Vec<u8> {
        self.flush_to_prefix();
        &mut self.prefix
    }

    /// Puts bytes in that were read elsewhere; the lane must be empty.
    pub fn preload(&mut self, bytes: &[u8]) {
        self.buf = bytes.to_vec();
        self.out = 0;
        self.scan = 0;
        self.end = bytes.len();
    }

    /// Puts bytes back in front of those that were not looked at. Nothing may be waiting to be written.
    pub fn unread(&mut self, bytes: &[u8]) {
        let mut all = bytes.to_vec();
        all.extend_from_slice(self.unscanned());
        self.out = 0;
        self.scan = 0;
        self.end = all.len();
        self.buf = all;
    }

    /// Takes out what was read and not looked at, and how many bytes of the current message have not come. What
    /// was approved stays, and so does the knowledge that it ends in the middle of a message.
    pub fn take_unread(&mut self) -> Unread {
        let unread = Unread { bytes: self.unscanned().to_vec(), owed: self.owed_bytes() };
        self.end = self.scan;
        unread
    }

    /// Drops what waits to be written.
    pub fn drop_output(&mut self) {
        self.prefix.clear();
        self.prefix_out = 0;
        self.out = self.scan;
    }

    /// Drops everything.
    pub fn clear(&mut self) {
        self.prefix.clear();
        self.prefix_out = 0;
        self.out = 0;
        self.scan = 0;
        self.end = 0;
        self.pass = 0;
        self.skip = 0;
    }

    /// Bytes that the buffer could hold.
    pub fn capacity(&self) -> usize {
        self.buf.len()
    }

    /// Makes the buffer large enough for a message that must be seen whole.
    pub fn reserve(&mut self, total: usize) {
        if self.buf.len() < total {
            self.flush_to_prefix();
            let mut bigger = Vec::with_capacity(total);
            bigger.extend_from_slice(self.unscanned());
            self.end = bigger.len();
            bigger.resize(total, 0);
            self.buf = bigger;
            self.out = 0;
            self.scan = 0;
        }
    }

    /// Reads once. `Ok(0)` is the end of the stream. Cancel safe.
    #[inline]
    pub fn poll_fill(
        &mut self,
        cx: &mut Context<'_>,
        from: &mut Stream,
        pool: &BufferPool,
        shard: usize,
    ) -> Poll<io::Result<usize>> {
        if self.scan == self.end && self.out == self.scan {
            self.out = 0;
            self.scan = 0;
            self.end = 0;
            if self.buf.len() != LARGE && self.long {
                pool.give(shard, std::mem::replace(&mut self.buf, pool.take_large(shard)));
            } else if self.buf.len() < pool.small_size() {
                // Ask the reactor first: an idle connection holds no buffer.
                if !from.may_read() && from.poll_read_ready(cx).is_pending() {
                    return Poll::Pending;
                }
                self.buf = pool.take(shard);
            }
        } else if self.end == self.buf.len() {
            if !from.may_read() && from.poll_read_ready(cx).is_pending() {
                return Poll::Pending;
            }
            if self.out > 0 {
                self.buf.copy_within(self.out..self.end, 0);
                self.scan -= self.out;
                self.end -= self.out;
                self.out = 0;
            }
            if self.end == self.buf.len() {
                // A message that must be seen whole does not fit: its limit was checked by whoever waits for it.
                let bigger = (self.buf.len() * 2).max(pool.small_size());
                self.buf.resize(bigger, 0);
            }
        }
        let end = self.end;
        let room = self.buf.get_mut(end..).unwrap_or_default();
        let size = room.len();
        match from.poll_read(cx, room) {
            Poll::Ready(Ok(n)) => {
                self.end += n;
                self.long = n == size && self.end == self.buf.len();
                Poll::Ready(Ok(n))
            }
            other => other,
        }
    }

    /// Writes what was approved; `Ready` when nothing of it is left. Cancel safe.
    #[inline]
    pub fn poll_flush(&mut self, cx: &mut Context<'_>, to: &mut Stream) -> Poll<io::Result<usize>> {
        let mut total = 0;
        while self.has_output() {
            let a = self.prefix.get(self.prefix_out..).unwrap_or_default();
            let b = self.buf.get(self.out..self.scan).unwrap_or_default();
            let first = a.len();
            match to.poll_write2(cx, a, b) {
                Poll::Ready(Ok(n)) => {
                    total += n;
                    self.prefix_out += n.min(first);
                    self.out += n.saturating_sub(first);
                }
                Poll::Ready(Err(e)) => return Poll::Ready(Err(e)),
                Poll::Pending => return Poll::Pending,
            }
        }
        if self.prefix_out > 0 {
            self.prefix_out = 0;
            self.prefix.clear();
            if self.prefix.capacity() > LARGE {
                self.prefix = Vec::new();
            }
        }
        Poll::Ready(Ok(total))
    }

    /// Gives the buffers back when nothing is in them.
    #[inline]
    pub fn release(&mut self, pool: &BufferPool, shard: usize) {
        if self.is_empty() && !self.buf.is_empty() {
            self.out = 0;
            self.scan = 0;
            self.end = 0;
            self.long = false;
            pool.give(shard, std::mem::take(&mut self.buf));
            self.prefix = Vec::new();
        }
    }

    /// For a long wait: keeps just the bytes that are there.
    pub fn shrink(&mut self, pool: &BufferPool, shard: usize) {
        if self.out == self.scan && self.buf.len() > (self.end - self.scan) * 2 {
            let exact = self.unscanned().to_vec();
            self.scan = 0;
            self.out = 0;
            self.end = exact.len();
            pool.give(shard, std::mem::replace(&mut self.buf, exact));
        }
    }

    /// Puts bytes in as a read would.
    #[cfg(test)]
    pub(crate) fn push(&mut self, bytes: &[u8]) {
        if self.scan == self.end && self.out == self.scan {
            self.out = 0;
            self.scan = 0;
            self.end = 0;
        }
        self.buf.truncate(self.end);
        self.buf.extend_from_slice(bytes);
        self.end = self.buf.len();
    }

    /// Takes out what a write would.
    #[cfg(test)]
    pub(crate) fn take_output(&mut self) -> Vec<u8> {
        let mut v = self.prefix.split_off(self.prefix_out);
        v.extend_from_slice(self.buf.get(self.out..self.scan).unwrap_or_default());
        self.prefix.clear();
        self.prefix_out = 0;
        self.out = self.scan;
        v
    }
}
