//! Relay buffers: held only while bytes are in flight, reused, grown for long results.

use parking_lot::Mutex;

/// How many buffers of each size are kept for reuse, in all.
const KEEP: usize = 256;
/// A long result is read in pieces of this many bytes.
pub const LARGE: usize = 128 * 1024;

/// Where buffers come from and go back to. The last one given back is the next one out, so it is warm.
#[derive(Debug)]
pub struct BufferPool {
    size: usize,
    shards: Box<[Shard]>,
}

/// On a cache line of its own, so that workers do not disturb each other.
#[derive(Debug, Default)]
#[repr(align(128))]
struct Shard {
    small: Mutex<Vec<Vec<u8>>>,
    large: Mutex<Vec<Vec<u8>>>,
}

impl BufferPool {
    pub fn new(size: usize, workers: usize) -> Self {
        Self { size, shards: (0..workers.max(1).next_power_of_two()).map(|_| Shard::default()).collect() }
    }

    pub fn small_size(&self) -> usize {
        self.size
    }

    /// A buffer whose length is its capacity.
    #[inline]
    pub fn take(&self, shard: usize) -> Vec<u8> {
        self.shard(shard).and_then(|s| s.small.lock().pop()).unwrap_or_else(|| vec![0; self.size])
    }

    pub fn take_large(&self, shard: usize) -> Vec<u8> {
        self.shard(shard).and_then(|s| s.large.lock().pop()).unwrap_or_else(|| vec![0; LARGE])
    }

    /// A buffer of any other size is freed.
    #[inline]
    pub fn give(&self, shard: usize, buf: Vec<u8>) {
        let Some(s) = self.shard(shard) else { return };
        let list = match buf.len() {
            n if n == self.size => &s.small,
            LARGE => &s.large,
            _ => return,
        };
        let mut list = list.lock();
        if list.len() < KEEP / self.shards.len().min(KEEP / 8) {
            list.push(buf);
        }
    }

    #[inline]
    fn shard(&self, n: usize) -> Option<&Shard> {
        self.shards.get(n & (self.shards.len() - 1))
    }
}
