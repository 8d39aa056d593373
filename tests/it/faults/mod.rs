//! What happens when a client, a server, the network or the machine fails.

mod client;
mod files;
mod known_bugs_over_time;
mod known_protocol_bugs;
mod known_queue_bugs;
mod life;
mod messages;
mod pool;
mod restart;
mod server;
mod slow;
mod timeouts;
mod wire;
