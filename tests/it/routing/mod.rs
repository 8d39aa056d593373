//! Reads on replicas, writes on the primary.

mod dns;
mod failover;
mod own_writes;
mod reads;
