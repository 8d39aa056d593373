//! Numbers by which the pool knows a connection and a place in its queue.

/// A tracked connection; `generation` tells a reused slot from its predecessor.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ConnId {
    pub index: u32,
    pub generation: u32,
}

/// A place in the queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct WaiterId {
    pub index: u32,
    pub generation: u32,
}
