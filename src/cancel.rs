//! CancelRequest: finds whose key it is and what that client waits for. It needs no place in a pool, and
//! whatever comes of it, the sender hears nothing but the end of its connection, which comes when the cancel has
//! been delivered (PostgreSQL documentation, 54.2.8): a driver that waits for it may send its next statement.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use subtle::ConstantTimeEq;

use crate::client::ctl::Link;
use crate::services::Services;

/// Acts on one CancelRequest.
pub async fn request(services: &Arc<Services>, pid: i32, key: &[u8]) {
    let mut delivery = None;
    let label = match find(services, pid, key) {
        None => "unknown",
        Some(Link::None) => "idle",
        Some(Link::Console(wait)) => {
            wait.notify_one();
            "waiting"
        }
        Some(Link::Waiting(pool, id)) => {
            pool.cancel_waiter(id);
            "waiting"
        }
        Some(Link::Leased(pool, id, lease)) => {
            let limit = services.config().limits.max_cancels_in_flight as usize;
            let room = |n| (n < limit).then_some(n + 1);
            // Taken before the dial is even spawned: a flood is dealt with faster than its dials begin.
            let in_flight = &services.cancels_in_flight;
            if in_flight.fetch_update(Ordering::Relaxed, Ordering::Relaxed, room).is_err() {
                "dropped"
            } else {
                delivery = pool.cancel_holder(id, lease);
                if delivery.is_none() {
                    in_flight.fetch_sub(1, Ordering::Relaxed);
                }
                if delivery.is_some() { "forwarded" } else { "stale" }
            }
        }
    };
    services.counters.count("cancels_total", label);
    if let Some(task) = delivery {
        let _held = Held::new(services);
        let _ = task.await;
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

fn find(services: &Services, pid: i32, key: &[u8]) -> Option<Link> {
    let id = u64::try_from(pid).ok()?;
    let client = services.clients.get(id)?;
    bool::from(client.secret.as_slice().ct_eq(key)).then(|| client.link())
}
