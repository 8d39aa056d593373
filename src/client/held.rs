//! A session whose BEGIN is held back: see [`crate::routing::held`].

use super::session::{Goodbye, Session};
use crate::config::resolved::PoolMode;
use crate::error::Error;
use crate::pool::Lease;
use crate::proto::encode;
use crate::proto::frame::{self, Header, fe};
use crate::proto::pipeline::TxStatus;
use crate::relay::state::TxStats;
use crate::routing::classify::{Reading, begins_read_only};
use crate::routing::held::{Answer, Held, Step, step};
use crate::server::questions;

/// What became of the message at the front.
pub(super) enum Front {
    /// It is answered, or refused.
    Dealt,
    NeedMore,
    /// It goes its usual way.
    Pass,
}

impl Session {
    /// What the client is told in a ReadyForQuery without a server.
    pub(super) fn status(&self) -> TxStatus {
        self.route.as_ref().map_or(TxStatus::Idle, |r| r.held.status())
    }

    fn may_hold(&self) -> bool {
        let Some(r) = &self.route else { return false };
        if r.held != Held::No {
            return true;
        }
        if !r.routes.routing.defer_begin || self.hot.mode != PoolMode::Transaction {
            return false;
        }
        // Where it says already where it belongs, there is nothing to wait for.
        self.stated(r.stated).role.is_none()
    }

    /// Whether a BEGIN READ ONLY is held back.
    pub(super) fn begun_read_only(&self) -> bool {
        let held = self.route.as_ref().map(|r| &r.held);
        matches!(held, Some(Held::Begun(text)) if begins_read_only(text))
    }

    /// Answers what needs no server because of a BEGIN that is held.
    pub(super) fn front(&mut self, h: Header) -> Front {
        if !matches!(h.tag, fe::QUERY | fe::PARSE) && self.status() != TxStatus::Failed || !self.may_hold() {
            return Front::Pass;
        }
        if h.tag == fe::CLOSE {
            return self.close_failed(h);
        }
        let Some(r) = &mut self.route else { return Front::Pass };
        let reading = Reading { hints: r.routes.routing.hints, ..Reading::default() };
        if h.tag == fe::QUERY && self.hot.no_simple_query && r.held == Held::No {
            return Front::Pass;
        }
        match step(&r.held, self.up.unscanned(), reading) {
            Step::Pass => Front::Pass,
            Step::NeedMore(n) => {
                self.up.reserve(n);
                Front::NeedMore
            }
            Step::Answer(Answer { total, reply, then, unnamed }) => {
                let label = match (&r.held, &then) {
                    (Held::Begun(_), Held::No) => "local",
                    (Held::Failed, _) => "failed",
                    _ => "",
                };
                if !label.is_empty() {
                    self.services.shared.counters.count("deferred_begins_total", label);
                }
                r.held = then;
                let names = &mut self.proto.statements;
                match unnamed {
                    Some(parse) => {
                        names.unnamed_sent(Some(&parse));
                        names.unnamed_done();
                    }
                    None => {
                        names.drop_sent();
                        names.drop_done();
                    }
                }
                self.up.discard(total);
                self.tell(&reply);
                Front::Dealt
            }
            Step::Refuse => {
                let refused = self.services.shared.report(&Error::TransactionFailed);
                self.services.told.in_session(&self.ctl, &Error::TransactionFailed);
                self.tell(&encode::error_response(&refused));
                if matches!(h.tag, fe::QUERY | fe::FUNCTION_CALL) {
                    self.tell(&encode::ready_for_query(TxStatus::Failed));
                } else {
                    self.skip();
                }
                self.up.discard(h.total);
                Front::Dealt
            }
        }
    }

    /// A Close is no command: a transaction that has failed takes it.
    fn close_failed(&mut self, h: Header) -> Front {
        let Some(body) = self.up.unscanned().get(frame::HEADER..h.total) else {
            self.up.reserve(h.total);
            return Front::NeedMore;
        };
        if let Some((name, _)) = body.strip_prefix(b"S").and_then(frame::cstr) {
            if name.is_empty() {
                self.proto.statements.drop_sent();
                self.proto.statements.drop_done();
            } else {
                self.proto.statements.remove(name);
            }
        }
        self.up.discard(h.total);
        self.tell(encode::CLOSE_COMPLETE);
        Front::Dealt
    }

    /// Whether a BEGIN is held back.
    pub(super) fn has_begun(&self) -> bool {
        self.status() == TxStatus::InTransaction
    }

    /// No server could be had for it.
    pub(super) fn fail_held(&mut self) {
        if let Some(r) = &mut self.route
            && let Held::Begun(_) = r.held
        {
            r.held = Held::Failed;
        }
    }

    /// Sends the BEGIN that is held to the server that its transaction has got.
    pub(super) async fn begin_held(&mut self, mut lease: Lease) -> Result<Lease, Option<Goodbye>> {
        let Some(r) = &mut self.route else { return Ok(lease) };
        let Held::Begun(text) = &r.held else { return Ok(lease) };
        let text = String::from_utf8_lossy(text).into_owned();
        let limit = self.services.shared.config().limits.server_repair_timeout;
        let Some(conn) = lease.conn() else { return Err(Some("no_server")) };
        let host = conn.host.to_string();
        let begun = matches!(tokio::time::timeout(limit, questions::ask(conn, &text)).await, Ok(Ok(())));
        if begun && conn.state.pipeline.status() == TxStatus::InTransaction {
            r.held = Held::No;
            self.services.shared.counters.count("deferred_begins_total", "server");
            return Ok(lease);
        }
        lease.discard("begin_failed", TxStats::default());
        let reason = "it went away at the BEGIN that was held back".to_owned();
        Err(self.not_served(Error::ServerUnreachable { host, reason }).await)
    }
}
