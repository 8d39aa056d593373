//! A place in a pool's queue: how it is looked at, and what is served from it.

use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Instant;

use super::core::{Acquire, WaitEnd, WaiterId};
use super::{Lease, Pool};
use crate::clients::handle::{ClientCtl, ClientState};
use crate::clients::link::Link;
use crate::clock::Clock;
use crate::error::Error;

/// A place in a pool's queue; leaves the queue when dropped.
#[derive(Debug)]
pub struct Waiting {
    pool: Arc<Pool>,
    id: Option<WaiterId>,
    since: Instant,
    /// Others that were waiting when it came.
    pub(super) ahead: usize,
    /// What others know of its client says that it waits.
    announced: bool,
}

impl Waiting {
    pub(super) fn new(pool: Arc<Pool>, id: WaiterId, since: Instant) -> Self {
        Self { pool, id: Some(id), since, ahead: 0, announced: false }
    }

    /// Others that were waiting when it came.
    pub fn ahead(&self) -> usize {
        self.ahead
    }

    /// One look at the place. What is between two looks is all here, so that a wait is small.
    pub fn poll(&mut self, cx: &mut Context<'_>, ctl: &Arc<ClientCtl>) -> Poll<Result<Lease, Error>> {
        let Self { pool, id, since, announced, .. } = self;
        // The first look comes at once.
        let mut at = if *announced { Clock::now() } else { *since };
        loop {
            if !*announced {
                *announced = true;
                ctl.set_state(ClientState::Waiting, pool.shared.clock.ms(at));
                if let Some(id) = id {
                    ctl.set_link(Link::Waiting(pool.clone(), *id));
                }
                pool.look_at(at);
            }
            let mut got = match *id {
                None => Err(WaitEnd::Cancelled),
                Some(id) => {
                    let got = pool.inner.lock().core.poll_waiter(at, id, ctl, |old| match old {
                        Some(w) if w.will_wake(cx.waker()) => w,
                        _ => cx.waker().clone(),
                    });
                    ready!(got.map_or(Poll::Pending, Poll::Ready))
                }
            };
            *id = None;
            loop {
                let grant = match got {
                    Ok(grant) => grant,
                    Err(end) => {
                        ctl.set_link(Link::None);
                        return Poll::Ready(Err(pool.wait_error(end, *since)));
                    }
                };
                if let Some(lease) = pool.accept(grant, ctl, at) {
                    pool.inner.lock().totals.wait.add(Clock::us(*since, at));
                    return Poll::Ready(Ok(lease));
                }
                // It has died on the way: another one, or a place at the front of the queue.
                let again = pool.inner.lock().core.acquire_again(at, *since, ctl);
                got = match again {
                    Acquire::Granted(another) => Ok(another),
                    Acquire::Refused(end) => Err(end),
                    Acquire::Queued(place) => {
                        (*id, *announced) = (Some(place), false);
                        at = Clock::now();
                        break;
                    }
                };
            }
        }
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        if let Some(id) = self.id.take() {
            let fx = self.pool.inner.lock().core.abandon(Clock::now(), id);
            self.pool.apply(fx);
        }
    }
}
