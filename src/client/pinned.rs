//! After a transaction that may have left something in its server's session: the server is asked what, and what cannot
//! go with the client keeps the connection with it until it is gone. See [`crate::proto::holdings`].

use super::flow::End;
use super::session::{Goodbye, Session};
use crate::clients::handle::ClientState;
use crate::clock::Clock;
use crate::error::{Error, report};
use crate::pool::Lease;
use crate::pool::pins::Pin;
use crate::proto::encode;
use crate::proto::holdings::Holdings;
use crate::relay::broken::Broken;
use crate::relay::state::{DISCARDED, Pinned};
use crate::session_state::{Kind, list};

impl Session {
    /// Asks what the session holds, gives the connection back if nothing keeps it, and keeps it else.
    pub(super) async fn settle(&mut self, mut lease: Lease) -> Option<Goodbye> {
        let reserved = lease.conn().and_then(|c| c.state.reserved.take());
        let (mut lease, held, kinds) = match self.left(lease).await {
            Ok(left) => left,
            Err(out) => return out,
        };
        if kinds.is_empty() {
            drop(reserved);
            return self.let_go(lease, &held, false).await;
        }
        let pool = lease.pool().clone();
        let pin = match reserved.map_or_else(|| pool.pins.places.take(), Ok) {
            Ok(taken) => Pin::new(&pool, self.ctl.id, &kinds, taken),
            Err(none) => {
                let e = Error::NoPinLeftBehind { kinds, taken: none.taken, bound: none.bound };
                return self.ended(lease, e).await;
            }
        };
        self.rest(&mut lease);
        self.keep(lease, pin, kinds).await
    }

    /// Goes on with a connection that stays this client's until its session holds nothing.
    async fn keep(&mut self, mut lease: Lease, pin: Pin, mut kinds: Vec<Kind>) -> Option<Goodbye> {
        let idle = lease.pool().spec().settings.session.pin_idle;
        loop {
            if let Some(conn) = lease.conn() {
                conn.state.pinned = Some(Box::new(Pinned { kinds, idle, rules: self.hot.session }));
            }
            lease = match Box::pin(self.in_step_again(lease)).await {
                Ok(lease) => lease,
                Err(why) => return why,
            };
            let end = self.relay(&mut lease, true).await;
            self.ctl.set_deadline(0);
            if !matches!(end, End::Check) {
                return Box::pin(self.finish(lease, end)).await;
            }
            let held;
            (lease, held, kinds) = match self.left(lease).await {
                Ok(left) => left,
                Err(out) => return out,
            };
            if kinds.is_empty() {
                drop(pin);
                if let Some(conn) = lease.conn() {
                    conn.state.pinned = None;
                }
                return self.let_go(lease, &held, true).await;
            }
            pin.hold(&kinds);
            self.reset_transaction();
        }
    }

    /// What a transaction has left in the session, and which kinds of it keep the connection with the client. `Err`: the
    /// connection is gone, and this becomes of the session.
    async fn left(&mut self, mut lease: Lease) -> Result<(Lease, Holdings, Vec<Kind>), Option<Goodbye>> {
        let held = match self.ask(&mut lease).await {
            Ok(held) => held,
            Err(why) => return Err(self.not_told(lease, why).await),
        };
        let kinds = self.hot.session.to_reject(&held);
        if !kinds.is_empty() {
            return Err(self.ended(lease, Error::SessionStateRejectedBehind { kinds }).await);
        }
        let shares = self.shares(&mut lease);
        let kinds = self.hot.session.to_pin(&held, shares);
        Ok((lease, held, kinds))
    }

    /// Nothing keeps the connection with its client; what it listens to moves to the listener. `rested`: all that was
    /// done before the last transaction is booked.
    async fn let_go(&mut self, mut lease: Lease, held: &Holdings, rested: bool) -> Option<Goodbye> {
        let fence = if self.shares(&mut lease) {
            match Box::pin(self.share(&mut lease, held)).await {
                Ok(fence) => fence,
                Err(lost) => return Box::pin(self.hears_no_more(lease, &lost)).await,
            }
        } else {
            None
        };
        if rested {
            self.hand_back_rested(lease);
        } else {
            self.hand_back(lease);
        }
        Box::pin(self.await_fence(fence)).await
    }

    /// The client gets its answer first.
    async fn ask(&mut self, lease: &mut Lease) -> Result<Holdings, Broken> {
        self.flush_at_once().await;
        let before = lease.conn().and_then(|c| c.state.marked).filter(|m| *m != DISCARDED);
        let held = self.attribute(lease).await?;
        let after = lease.conn().and_then(|c| c.state.marked);
        if let Some(mark) = before
            && after.is_none()
        {
            // Else it is counted when the connection is given back.
            self.services.shared.count_mark(mark, &self.ctl.application_name());
        }
        let dropped = self.hot.session.to_drop(&held);
        if !dropped.is_empty() {
            self.warn_dropped(&dropped);
        }
        Ok(held)
    }

    /// Tells the client what a setting drops.
    fn warn_dropped(&mut self, kinds: &[Kind]) {
        for kind in kinds {
            self.services.shared.counters.count("session_state_dropped_total", kind.label());
        }
        let text = format!(
            "{} are dropped at the end of the transaction ({} = \"reset\")",
            list(kinds),
            kinds.first().map_or("session_objects", |k| k.setting())
        );
        self.tell(&encode::warning(&text).unwrap_or_default());
    }

    /// The transaction is over and its connection stays: what is booked when a connection is given back is booked now.
    fn rest(&mut self, lease: &mut Lease) {
        let now = Clock::now();
        let (stats, query_us) = self.over(lease, now);
        lease.book_rest(stats, query_us, now);
        self.ctl.set_state(ClientState::Idle, self.services.shared.clock.ms(now));
    }

    /// Behind a rest: all that was done since is booked.
    fn hand_back_rested(&mut self, lease: Lease) {
        let stats = self.reset_transaction();
        lease.release_rested(stats, Clock::now());
        self.set_state(ClientState::Idle);
    }

    /// The connection is closed, and what its session held is gone: the client must not go on as if it had it.
    async fn not_told(&mut self, lease: Lease, why: Broken) -> Option<Goodbye> {
        if !self.hot.session.asks {
            let stats = self.reset_transaction();
            lease.discard(why.label, stats);
            self.set_state(ClientState::Idle);
            return None;
        }
        let e = Error::SessionUnknown { reason: why.words(), limit: self.hot.session.timeout };
        self.ended(lease, e).await
    }

    async fn ended(&mut self, mut lease: Lease, e: Error) -> Option<Goodbye> {
        self.book(&mut lease, Clock::now());
        let stats = self.reset_transaction();
        lease.discard(report(&e).code, stats);
        Some(self.ends_with(&e).await)
    }
}
