//! CancelRequest: finds whose key it is and what that client waits for. It needs no place in a pool, and
//! whatever comes of it, the sender hears nothing but the end of its connection, which comes when the cancel has
//! been delivered (PostgreSQL documentation, 54.2.8): a driver that waits for it may send its next statement.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use subtle::ConstantTimeEq;

use crate::clients::link::Link;
use crate::config::compat::Peers;
use crate::proto::encode;
use crate::server::connect::dial;
use crate::services::Services;

/// Acts on one CancelRequest.
pub async fn request(services: &Arc<Services>, pid: i32, key: &[u8]) {
    let mut delivery = None;
    let peers = services.config().compat.peers.clone();
    let found = if peers.own == 0 {
        find(services, pid, key)
    } else {
        match PeerKey::read(pid, key) {
            Some(k) if k.peer() != peers.own => {
                // A connection to a peer is one as well, and keys can be made up.
                let label = match Claim::take(services) {
                    Some(_claim) => {
                        let _held = Held::new(services);
                        forward(services, &peers, k).await
                    }
                    None => "dropped",
                };
                services.counters.count("cancels_total", label);
                return;
            }
            Some(k) => find_of_peer(services, k),
            None => None,
        }
    };
    let label = match found {
        None => "unknown",
        Some(Link::None) => "idle",
        Some(Link::Console(wait)) => {
            wait.notify_one();
            "waiting"
        }
        Some(Link::Own(connection)) => {
            if claim(services) {
                delivery = Some(connection.cancel());
                "forwarded"
            } else {
                "dropped"
            }
        }
        Some(Link::Waiting(pool, id)) => {
            pool.cancel_waiter(id);
            "waiting"
        }
        Some(Link::Leased(pool, id, lease)) => {
            if claim(services) {
                delivery = pool.cancel_holder(id, lease);
                if delivery.is_none() {
                    services.cancels_in_flight.fetch_sub(1, Ordering::Relaxed);
                }
                if delivery.is_some() { "forwarded" } else { "stale" }
            } else {
                "dropped"
            }
        }
    };
    services.counters.count("cancels_total", label);
    if let Some(task) = delivery {
        let _held = Held::new(services);
        let _ = task.await;
    }
}

/// One more cancel in flight, if there may be one. Taken before the dial is even spawned: a flood is dealt with
/// faster than its dials begin.
fn claim(services: &Services) -> bool {
    let limit = services.config().limits.max_cancels_in_flight as usize;
    let room = |n| (n < limit).then_some(n + 1);
    services.cancels_in_flight.fetch_update(Ordering::Relaxed, Ordering::Relaxed, room).is_ok()
}

/// The same for as long as it is held.
struct Claim<'a>(&'a Services);

impl<'a> Claim<'a> {
    fn take(services: &'a Services) -> Option<Self> {
        // Made only where it was claimed: it is given back when it is dropped.
        claim(services).then(|| Self(services))
    }
}

impl Drop for Claim<'_> {
    fn drop(&mut self) {
        self.0.cancels_in_flight.fetch_sub(1, Ordering::Relaxed);
    }
}

/// The sender of a cancel that is being delivered: counted among the cancels in flight, which have a limit of their
/// own, and not among the clients. A server that hangs would else keep clients out.
struct Held<'a>(&'a Services);

impl<'a> Held<'a> {
    fn new(services: &'a Services) -> Self {
        services.clients.connected.fetch_sub(1, Ordering::Relaxed);
        services.clients.logging_in.fetch_sub(1, Ordering::Relaxed);
        Self(services)
    }
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        self.0.clients.connected.fetch_add(1, Ordering::Relaxed);
        self.0.clients.logging_in.fetch_add(1, Ordering::Relaxed);
    }
}

/// A cancel key among peers, as PgBouncer's have it: the bytes 1 and 2 name the process that the client is
/// connected to, and the last two bits count down how often the request may still be passed on.
#[derive(Debug, Clone, Copy)]
pub struct PeerKey([u8; 8]);

impl PeerKey {
    const TTL: u8 = 3;

    /// From random bytes.
    pub fn new(mut bytes: [u8; 8], own: u16) -> Self {
        bytes[0] &= 0x7f;
        bytes[1..3].copy_from_slice(&own.to_le_bytes());
        bytes[7] |= Self::TTL;
        Self(bytes)
    }

    fn read(pid: i32, key: &[u8]) -> Option<Self> {
        let whole: Vec<u8> = [&pid.to_be_bytes()[..], key].concat();
        whole.try_into().ok().map(Self)
    }

    pub fn bytes(self) -> [u8; 8] {
        self.0
    }

    fn peer(self) -> u16 {
        u16::from_le_bytes([self.0[1], self.0[2]])
    }

    /// As it was given out.
    fn original(self) -> [u8; 8] {
        Self::new(self.0, self.peer()).0
    }

    /// For the next process; `None` when it has been passed on often enough.
    fn passed_on(mut self) -> Option<Self> {
        let ttl = self.0[7] & Self::TTL;
        self.0[7] = (self.0[7] & !Self::TTL) | ttl.checked_sub(1)?;
        Some(self)
    }
}

/// The client of this key. Cancels are seldom, so no index is kept for them.
fn find_of_peer(services: &Services, key: PeerKey) -> Option<Link> {
    let wanted = key.original();
    let client = services.clients.all().into_iter().find(|c| bool::from(c.secret.as_slice().ct_eq(&wanted)));
    client.map(|c| c.link())
}

/// Hands the request to the process that it is for, and waits until that has closed the connection.
async fn forward(services: &Services, peers: &Peers, key: PeerKey) -> &'static str {
    let Some(host) = peers.others.get(&key.peer()) else {
        tracing::warn!(peer = key.peer(), "could not find peer to forward request to");
        return "unknown";
    };
    let Some(next) = key.passed_on() else {
        tracing::warn!(peer = key.peer(), "failed to forward cancel request because its TTL was exhausted");
        return "dropped";
    };
    let config = services.config();
    let send = async {
        let mut stream = dial(host, &config.pool.keepalive).await?;
        let [a, b, c, d, rest @ ..] = next.bytes();
        let packet = encode::cancel_request(i32::from_be_bytes([a, b, c, d]), &rest)
            .map_err(|e| std::io::Error::other(e.to_string()))?;
        stream.write_all(&packet).await?;
        let mut sink = Vec::new();
        while stream.read_some(&mut sink).await? > 0 {
            sink.clear();
        }
        Ok::<(), std::io::Error>(())
    };
    match tokio::time::timeout(config.pool.cancel_wait_timeout, send).await {
        Ok(Ok(())) => "peer",
        Ok(Err(e)) => {
            tracing::warn!(peer = key.peer(), %host, error = %e, "a cancel request could not be forwarded");
            "peer_failed"
        }
        Err(_) => {
            tracing::warn!(peer = key.peer(), %host, "cancel_wait_timeout: a peer did not answer a cancel request");
            "peer_failed"
        }
    }
}

fn find(services: &Services, pid: i32, key: &[u8]) -> Option<Link> {
    let id = u64::try_from(pid).ok()?;
    let client = services.clients.get(id)?;
    bool::from(client.secret.as_slice().ct_eq(key)).then(|| client.link())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_names_its_process_and_is_passed_on_three_times() {
        let key = PeerKey::new([0xff; 8], 0x0102);
        assert_eq!(key.bytes(), [0x7f, 2, 1, 0xff, 0xff, 0xff, 0xff, 0xff]);
        assert_eq!(key.peer(), 0x0102);
        let pid = i32::from_be_bytes([0x7f, 2, 1, 0xff]);
        let mut read = PeerKey::read(pid, &key.bytes()[4..]).unwrap();
        for left in [2, 1, 0] {
            read = read.passed_on().unwrap();
            assert_eq!(read.bytes()[7] & 3, left);
            assert_eq!(read.original(), key.bytes());
        }
        assert!(read.passed_on().is_none());
        assert!(PeerKey::read(pid, &[0; 32]).is_none());
    }
}
